/** Records read from the cluster store and decoded. */
import type { RecordCodec } from '../protocol/records.js';
import type { ClusterStore } from './cluster-store.js';

export interface StoredRecord<T> {
  readonly key: string;
  readonly value: T;
  readonly revision: number;
}

/** The record at `key`; null when there is none. Fails as the store does, and with CORRUPT when it is malformed. */
export async function readRecord<T>(
  store: ClusterStore,
  key: string,
  codec: RecordCodec<T>,
): Promise<StoredRecord<T> | null> {
  const entry = await store.get(key);
  return entry && { key, value: codec.decode(key, entry.value), revision: entry.revision };
}

/** All records below `prefix`, in key order, as of one `revision` (to watch from). Fails as `readRecord` does. */
export async function listRecords<T>(
  store: ClusterStore,
  prefix: string,
  codec: RecordCodec<T>,
): Promise<{ readonly records: readonly StoredRecord<T>[]; readonly revision: number }> {
  const { entries, revision } = await store.list(prefix);
  return {
    records: entries.map((entry) => ({
      key: entry.key,
      value: codec.decode(entry.key, entry.value),
      revision: entry.revision,
    })),
    revision,
  };
}

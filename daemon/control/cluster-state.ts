/**
 * The cluster store with types: reads records, composes transactions. Holds no state of its own and takes no decisions.
 */
import { assert } from '../base/assert.js';
import { BraidError } from '../base/errors.js';
import type { DriveId, NodeId, VolumeId } from '../base/ids.js';
import type { ClusterStore, LeaseId, StoreCompare, StoreOperation, StoreWatch } from '../ports/cluster-store.js';
import { listRecords, readRecord, type StoredRecord } from '../ports/stored-records.js';
import {
  records,
  type AttachmentRecord,
  type ClusterRecord,
  type DriveRecord,
  type EventRecord,
  type NodeAliveRecord,
  type NodeRecord,
  type OwnerRecord,
  type RecordCodec,
  type SegmentRecord,
  type VolumeRecord,
  type VolumeStatusRecord,
} from '../protocol/records.js';
import { storeKeys } from '../protocol/store.js';
import { controlLimits } from './limits.js';

/**
 * `creating/<volumeId>`, under the creator's lease: its segments exist, its volume record does not yet. Segments with neither are garbage
 * of a creation that did not end.
 */
export const CREATING_PREFIX = 'creating/';
export const creatingKey = (id: VolumeId): string => `${CREATING_PREFIX}${id}`;

/** Everything about a volume but its segments. */
export interface VolumeFacts {
  readonly volume: VolumeRecord;
  readonly owner: OwnerRecord | null;
  readonly attachment: AttachmentRecord | null;
  readonly status: VolumeStatusRecord | null;
}

/** What most decisions need, read at about one time. */
export interface ClusterSnapshot {
  readonly nodes: ReadonlyMap<string, NodeRecord>;
  /** Incarnation of each node whose lease is held. */
  readonly alive: ReadonlyMap<string, string>;
  /** This and the other maps are by id. */
  readonly drives: ReadonlyMap<string, DriveRecord>;
  readonly volumes: readonly VolumeFacts[];
}

export class ClusterState {
  readonly store: ClusterStore;

  constructor(store: ClusterStore) {
    this.store = store;
  }

  cluster(): Promise<StoredRecord<ClusterRecord> | null> {
    return readRecord(this.store, storeKeys.cluster, records.cluster);
  }

  node(id: NodeId): Promise<StoredRecord<NodeRecord> | null> {
    return readRecord(this.store, storeKeys.node(id), records.node);
  }

  nodeAlive(id: NodeId): Promise<StoredRecord<NodeAliveRecord> | null> {
    return readRecord(this.store, storeKeys.alive(id), records.nodeAlive);
  }

  drive(id: DriveId): Promise<StoredRecord<DriveRecord> | null> {
    return readRecord(this.store, storeKeys.drive(id), records.drive);
  }

  volume(id: VolumeId): Promise<StoredRecord<VolumeRecord> | null> {
    return readRecord(this.store, storeKeys.volume(id), records.volume);
  }

  owner(id: VolumeId): Promise<StoredRecord<OwnerRecord> | null> {
    return readRecord(this.store, storeKeys.owner(id), records.owner);
  }

  attachment(id: VolumeId): Promise<StoredRecord<AttachmentRecord> | null> {
    return readRecord(this.store, storeKeys.attachment(id), records.attachment);
  }

  status(id: VolumeId): Promise<StoredRecord<VolumeStatusRecord> | null> {
    return readRecord(this.store, storeKeys.status(id), records.volumeStatus);
  }

  async nodes(): Promise<readonly StoredRecord<NodeRecord>[]> {
    return (await listRecords(this.store, storeKeys.nodes, records.node)).records;
  }

  async drives(): Promise<readonly StoredRecord<DriveRecord>[]> {
    return (await listRecords(this.store, storeKeys.drives, records.drive)).records;
  }

  async volumes(): Promise<readonly StoredRecord<VolumeRecord>[]> {
    return (await listRecords(this.store, storeKeys.volumes, records.volume)).records;
  }

  async attachments(): Promise<readonly StoredRecord<AttachmentRecord>[]> {
    return (await listRecords(this.store, storeKeys.attachments, records.attachment)).records;
  }

  async segments(id: VolumeId): Promise<readonly StoredRecord<SegmentRecord>[]> {
    return (await listRecords(this.store, storeKeys.segments(id), records.segment)).records;
  }

  /** Oldest first, with their ids. */
  async events(): Promise<(EventRecord & EventIdentity)[]> {
    const { records: found } = await listRecords(this.store, storeKeys.events, records.event);
    return found.map(({ key, value }) => ({
      ...value,
      id: idOf(key),
      nodeId: value.nodeId as NodeId,
      severity: value.severity as 'info',
    }));
  }

  async putEvent({ id, ...event }: EventRecord & { readonly id: string }): Promise<void> {
    await this.store.txn([], [putRecord(`${storeKeys.events}${id}`, records.event, event)]);
  }

  /** The volume with this name; null when there is none. One that is being deleted has given up its name. */
  async volumeByName(name: string): Promise<StoredRecord<VolumeRecord> | null> {
    const id = await readRecord(this.store, storeKeys.name(name), records.name);
    return id === null ? null : this.volume(id.value as VolumeId);
  }

  async snapshot(): Promise<ClusterSnapshot> {
    const [nodes, alive, drives, volumes, owners, attachments, statuses] = await Promise.all([
      this.#mapOf(storeKeys.nodes, records.node),
      this.#mapOf(storeKeys.aliveAll, records.nodeAlive),
      this.#mapOf(storeKeys.drives, records.drive),
      this.#mapOf(storeKeys.volumes, records.volume),
      this.#mapOf(storeKeys.owners, records.owner),
      this.#mapOf(storeKeys.attachments, records.attachment),
      this.#mapOf(storeKeys.statuses, records.volumeStatus),
    ]);
    return {
      nodes,
      alive: new Map([...alive].map(([id, { incarnation }]) => [id, incarnation])),
      drives,
      volumes: [...volumes].map(([id, volume]) => ({
        volume,
        owner: owners.get(id) ?? null,
        attachment: attachments.get(id) ?? null,
        status: statuses.get(id) ?? null,
      })),
    };
  }

  /** False when a compare did not hold; nothing is changed then. */
  async commit(compares: readonly StoreCompare[], operations: readonly StoreOperation[]): Promise<boolean> {
    return (await this.store.txn(compares, operations)).committed;
  }

  /** Deletes many keys, in several transactions; those that do not exist count as deleted. */
  async deleteKeys(keys: readonly string[]): Promise<void> {
    for (const batch of batches(keys, controlLimits.txnOperationsMax)) await this.store.txn([], batch.map(deleteKey));
  }

  /**
   * Calls `onChange` with the ids below `prefix` that change from now on. Whoever reads everything after this has resolved, and again what
   * is reported, misses nothing.
   */
  async watchIds(prefix: string, onChange: (ids: readonly string[]) => void): Promise<StoreWatch> {
    const { revision } = await this.store.list(prefix);
    return this.store.watch(prefix, revision, (events) => {
      onChange(events.map((event) => idOf(event.type === 'put' ? event.entry.key : event.key)));
    });
  }

  async #mapOf<T>(prefix: string, codec: RecordCodec<T>): Promise<Map<string, T>> {
    const { records: found } = await listRecords(this.store, prefix, codec);
    return new Map(found.map(({ key, value }) => [idOf(key), value]));
  }
}

interface EventIdentity {
  readonly id: string;
  readonly nodeId: NodeId;
  readonly severity: 'info' | 'warning' | 'error';
}

export function putRecord<T>(key: string, codec: RecordCodec<T>, record: T, lease?: LeaseId): StoreOperation {
  const value = codec.encode(record);
  return lease === undefined ? { type: 'put', key, value } : { type: 'put', key, value, lease };
}

export function deleteKey(key: string): StoreOperation {
  return { type: 'delete', key };
}

export function unchanged(record: { readonly key: string; readonly revision: number }): StoreCompare {
  return { key: record.key, revision: record.revision };
}

export function absent(key: string): StoreCompare {
  return { key, revision: 0 };
}

/** What follows the last slash. */
export function idOf(key: string): string {
  return key.slice(key.lastIndexOf('/') + 1);
}

export function batches<T>(items: readonly T[], sizeMax: number): T[][] {
  assert(sizeMax > 0, 'batches hold something');
  return Array.from({ length: Math.ceil(items.length / sizeMax) }, (_, index) =>
    items.slice(index * sizeMax, (index + 1) * sizeMax),
  );
}

/** Repeats an optimistic transaction until it commits; `attempt` answers undefined when it lost a race. */
export async function retryRaces<T>(what: string, attempt: () => Promise<T | undefined>): Promise<T> {
  for (let i = 0; i < controlLimits.casAttemptsMax; i++) {
    const result = await attempt();
    if (result !== undefined) return result;
  }
  throw new BraidError('ABORTED', `${what}: others keep changing it at the same time; try again`);
}

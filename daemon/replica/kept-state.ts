/** Reads what a drive keeps for rebuilding the cluster store (DISK.md), from its metadata alone. */
import { BraidError } from '../base/errors.js';
import type { VolumeId } from '../base/ids.js';
import { isSameSegment, segmentOfKey, TABLE, tablePrefix, volumeOfKey } from '../format/keys.js';
import { decodeEpoch, decodeLayout, extentStamp } from '../format/records.js';
import type { KeptCopy, KeptDrive } from '../ports/kept-drive.js';
import type { MetaStore, MetaStoreOpener } from '../ports/meta-store.js';
import { records, type SegmentRecord, type VolumeRecord } from '../protocol/records.js';
import { readSuperblock, replicaKey } from './drive-loader.js';

/** Rejects with `BraidError` DRIVE or CORRUPT: it is no drive, is in use, or is damaged. */
export async function readKeptState(metas: MetaStoreOpener, directory: string): Promise<KeptDrive> {
  const meta = await metas.open(`${directory}/meta`, { create: false });
  try {
    const { clusterId, driveId, slotCount, createdMs } = readSuperblock(meta, { directory });
    return { clusterId, driveId, slotCount, createdMs, ...readVolumes(meta, directory) };
  } finally {
    await meta.close();
  }
}

function readVolumes(meta: MetaStore, directory: string): Pick<KeptDrive, 'volumes' | 'copies'> {
  const epochs = new Map<VolumeId, number>();
  const kept = new Map<VolumeId, VolumeRecord>();
  const layouts = new Map<string, { readonly volumeId: VolumeId; readonly layout: SegmentRecord }>();
  meta.scan(tablePrefix(TABLE.EPOCH), (key, value) => {
    const id = volumeOfKey(key);
    epochs.set(id, readable(decodeEpoch(value), `the epoch of volume ${id}`, directory));
  });
  meta.scan(tablePrefix(TABLE.VOLUME), (key, value) => {
    const id = volumeOfKey(key);
    kept.set(id, records.volume.decode(`of volume ${id} on ${directory}`, value.slice()));
  });
  meta.scan(tablePrefix(TABLE.LAYOUT), (key, value) => {
    const [volumeId, index] = [volumeOfKey(key), segmentOfKey(key)];
    const name = `of segment ${index} of volume ${volumeId}`;
    const { segment } = readable(decodeLayout(value), `the layout ${name}`, directory);
    const layout = records.segment.decode(`${name} on ${directory}`, segment);
    layouts.set(replicaKey(volumeId, index), { volumeId, layout });
  });
  const stamps = highestStamps(meta);
  return {
    volumes: [...epochs].map(([id, epoch]) => ({ id, epoch, record: kept.get(id) ?? null })),
    copies: [...layouts].map(([key, copy]): KeptCopy => ({ ...copy, highestStamp: stamps.get(key) ?? 0 })),
  };
}

function readable<T>(value: T | null, what: string, directory: string): T {
  if (value !== null) return value;
  throw new BraidError('CORRUPT', `${what} on ${directory} is malformed: go on without the drive, and replace it`);
}

/** By `replicaKey`. There may be millions of extents: looked at one by one, without garbage. */
function highestStamps(meta: MetaStore): ReadonlyMap<string, number> {
  const stamps = new Map<string, number>();
  let segmentKey = new Uint8Array(0);
  let highest = 0;
  const segmentEnds = (): void => {
    if (segmentKey.length > 0) stamps.set(replicaKey(volumeOfKey(segmentKey), segmentOfKey(segmentKey)), highest);
  };
  meta.scan(tablePrefix(TABLE.EXTENT), (key, value) => {
    if (segmentKey.length === 0 || !isSameSegment(key, segmentKey)) {
      segmentEnds();
      segmentKey = key.slice();
      highest = 0;
    }
    highest = Math.max(highest, extentStamp(value));
  });
  segmentEnds();
  return stamps;
}

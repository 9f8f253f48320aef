/**
 * Reads a drive's metadata when it is opened (DISK.md): one scan of the extents fills the head maps and the map of used slots.
 * Refuses what does not belong here or cannot be right, and says what to do.
 */
import { BraidError } from '../base/errors.js';
import type { VolumeId } from '../base/ids.js';
import { limits } from '../base/limits.js';
import { EXTENT_BYTES, EXTENTS_PER_REGION, formatSize } from '../base/units.js';
import {
  isKnownKey,
  isSameSegment,
  itemOfKey,
  segmentOfKey,
  slotOfFreedKey,
  SUPERBLOCK_KEY,
  TABLE,
  tablePrefix,
  UUID_BYTES,
  volumeOfKey,
} from '../format/keys.js';
import {
  decodeEpoch,
  decodeLayout,
  decodeSuperblock,
  EXTENT_RECORD_BYTES,
  extentSlot,
  extentStamp,
  FORMAT_VERSION,
  SLOTS_MAX,
  type Superblock,
} from '../format/records.js';
import type { MetaStore } from '../ports/meta-store.js';
import { Replica } from './replica.js';
import { SlotAllocator } from './slot-allocator.js';

export interface DriveContents {
  readonly allocator: SlotAllocator;
  /** By `replicaKey`. */
  readonly replicas: Map<string, Replica>;
  /** Unmapped, perhaps not yet punched. */
  readonly freedSlots: readonly number[];
  readonly hotRegions: readonly { readonly replica: Replica; readonly region: number; readonly bootId: Uint8Array }[];
}

export interface DriveExpectation {
  readonly directory: string;
  /** This and the id of the drive are checked when given. */
  readonly clusterId?: string | undefined;
  readonly driveId?: string | undefined;
}

export function replicaKey(volumeId: string, segment: number): string {
  return `${volumeId}/${segment}`;
}

export function readSuperblock(meta: MetaStore, expected: DriveExpectation): Superblock {
  const { directory, clusterId, driveId } = expected;
  const bytes = meta.get(SUPERBLOCK_KEY);
  if (bytes === null) {
    throw new BraidError(
      'DRIVE',
      `${directory} has no superblock: it was never given to a pool; add it as a new drive`,
    );
  }
  const superblock = decodeSuperblock(bytes);
  if (superblock === 'foreign') {
    throw new BraidError(
      'DRIVE',
      `${directory} holds metadata of something else than Braid; point to another directory`,
    );
  }
  if (superblock === 'damaged') {
    throw new BraidError(
      'CORRUPT',
      `the superblock of ${directory} is damaged; remove the drive from the pool and replace it`,
    );
  }
  if (superblock.formatVersion !== FORMAT_VERSION) throw wrongVersion(directory, superblock.formatVersion);
  if (clusterId !== undefined && superblock.clusterId !== clusterId) {
    throw new BraidError(
      'DRIVE',
      `${directory} belongs to cluster ${superblock.clusterId}, not ${clusterId}; empty it to use it here`,
    );
  }
  if (driveId !== undefined && superblock.driveId !== driveId) {
    throw new BraidError(
      'DRIVE',
      `${directory} holds drive ${superblock.driveId}, not ${driveId}; correct the path of the drive`,
    );
  }
  if (superblock.slotCount < 2 || superblock.slotCount > SLOTS_MAX) {
    throw new BraidError(
      'CORRUPT',
      `the superblock of ${directory} counts ${superblock.slotCount} slots; replace the drive`,
    );
  }
  return superblock;
}

function wrongVersion(directory: string, version: number): BraidError {
  const what = `${directory} has format version ${version}, and this software reads ${FORMAT_VERSION}`;
  const isNewer = version > FORMAT_VERSION;
  const advice = isNewer
    ? 'the drive is newer than this software: upgrade the agent'
    : 'no software that was released has written that: replace the drive';
  return new BraidError('UNSUPPORTED', `${what}; ${advice}`);
}

export function checkDataArea(superblock: Superblock, sizeBytes: number, directory: string): void {
  const wantedBytes = superblock.slotCount * EXTENT_BYTES;
  if (sizeBytes >= wantedBytes) return;
  throw new BraidError(
    'DRIVE',
    `the data area of ${directory} has ${formatSize(sizeBytes)}, its superblock says ${formatSize(wantedBytes)}; ` +
      'what was cut off is lost: remove the drive from the pool and add it as a new one',
  );
}

export function loadContents(meta: MetaStore, superblock: Superblock, directory: string): DriveContents {
  const allocator = new SlotAllocator(superblock.slotCount);
  const replicas = new Map<string, Replica>();
  const corrupt = (what: string) =>
    new BraidError(
      'CORRUPT',
      `the metadata of ${directory} is damaged: ${what}; remove the drive from the pool and replace it`,
    );

  const scan = (table: number, visit: (key: Uint8Array, value: Uint8Array) => void): void => {
    meta.scan(tablePrefix(table), (key, value) => {
      if (!isKnownKey(key)) throw corrupt(`a key of ${key.length} bytes in table ${table}`);
      visit(key, value);
    });
  };
  const replicaOf = (volumeId: VolumeId, segment: number): Replica => {
    if (segment >= limits.segmentsPerVolumeMax) throw corrupt(`segment ${segment} of volume ${volumeId}`);
    const name = replicaKey(volumeId, segment);
    const found = replicas.get(name) ?? new Replica(volumeId, segment);
    replicas.set(name, found);
    return found;
  };
  scan(TABLE.EPOCH, (key, value) => {
    if (decodeEpoch(value) === null) throw corrupt(`the epoch of volume ${volumeOfKey(key)}`);
  });
  scan(TABLE.LAYOUT, (key, value) => {
    const replica = replicaOf(volumeOfKey(key), segmentOfKey(key));
    if (decodeLayout(value) === null) throw corrupt(`the layout of segment ${replica.segment}`);
  });

  let lastKey = new Uint8Array(0);
  let replica: Replica | null = null;
  const extentsMax = limits.segmentBytesMax / EXTENT_BYTES;
  scan(TABLE.EXTENT, (key, value) => {
    if (replica === null || !isSameSegment(key, lastKey)) {
      lastKey = key.slice();
      replica = replicaOf(volumeOfKey(key), segmentOfKey(key));
    }
    const extent = itemOfKey(key);
    if (extent >= extentsMax || value.length !== EXTENT_RECORD_BYTES) throw corrupt(`the record of extent ${extent}`);
    const slot = extentSlot(value);
    const stamp = extentStamp(value);
    if (slot !== 0 && !allocator.claim(slot)) throw corrupt(`slot ${slot} is out of range or used twice`);
    if (stamp === 0) throw corrupt(`extent ${extent} has no stamp`);
    replica.reserve(extent + 1);
    replica.setHead(extent, slot, stamp, false);
  });

  const freedSlots: number[] = [];
  scan(TABLE.FREED, (key) => {
    const slot = slotOfFreedKey(key);
    if (!allocator.claim(slot)) throw corrupt(`freed slot ${slot} is out of range or in use`);
    freedSlots.push(slot);
  });

  const hotRegions: { replica: Replica; region: number; bootId: Uint8Array }[] = [];
  scan(TABLE.ACTIVITY, (key, value) => {
    const region = itemOfKey(key);
    if (value.length !== UUID_BYTES) throw corrupt(`the boot id of region ${region} in the activity log`);
    const active = replicaOf(volumeOfKey(key), segmentOfKey(key));
    if ((region + 1) * EXTENTS_PER_REGION > extentsMax) throw corrupt(`region ${region} in the activity log`);
    active.reserve((region + 1) * EXTENTS_PER_REGION);
    hotRegions.push({ replica: active, region, bootId: value.slice() });
  });
  return { allocator, replicas, freedSlots, hotRegions };
}

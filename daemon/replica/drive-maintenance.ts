/**
 * The slow paths of a drive: opening and deleting replicas, cooling regions, purging tombstones. Each is a few metadata commits of bounded size.
 */
import { assert } from '../base/assert.js';
import type { VolumeId } from '../base/ids.js';
import { limits } from '../base/limits.js';
import { EXTENTS_PER_REGION } from '../base/units.js';
import { activityKey, epochKey, extentKey, freedKey, layoutKey, volumeRecordKey } from '../format/keys.js';
import { decodeEpoch, decodeLayout, encodeEpoch, encodeLayout, type Layout } from '../format/records.js';
import type { MetaOperation } from '../ports/meta-store.js';
import { STATUS, type Status } from '../protocol/frame.js';
import type { ActivityLog, RenewedRegion } from './activity-log.js';
import type { ChecksumTable } from './checksums.js';
import type { Committer } from './committer.js';
import type { DriveIo } from './drive-io.js';
import { replicaKey } from './drive-loader.js';
import type { FreedSlots } from './freed-slots.js';
import type { BlankExtent, MapAhead } from './map-ahead.js';
import { REGION, Replica } from './replica.js';

export interface MaintenanceParts {
  /** A record of the drive's metadata; null when it is absent, or cannot be read: the drive fails then. */
  readonly read: (key: Uint8Array) => Uint8Array | null;
  /** What is stored cannot be right: the drive fails. */
  readonly onCorrupt: (what: string) => void;
  readonly io: DriveIo;
  readonly committer: Committer;
  readonly activity: ActivityLog;
  readonly checksums: ChecksumTable;
  readonly freed: FreedSlots;
  readonly ahead: MapAhead;
  readonly replicas: Map<string, Replica>;
}

export interface SegmentToOpen {
  readonly index: number;
  readonly sizeBytes: number;
  readonly generation: number;
  /** Encoded `Segment` record. */
  readonly layout: Uint8Array;
  /** It has everything: what its activity log says of lost power is over. */
  readonly certain: boolean;
}

/** What an OPEN says of the volume as a whole. */
export interface VolumeToOpen {
  readonly id: VolumeId;
  /** The 16 bytes of the id. */
  readonly bytes: Uint8Array;
  readonly epoch: number;
  /** Encoded `Volume` record; empty when the owner did not send it. */
  readonly record: Uint8Array;
}

export interface RegionsToCool {
  readonly replica: Replica;
  readonly regions: readonly number[];
}

export class DriveMaintenance {
  readonly #parts: MaintenanceParts;
  /** Resumes a DELETE that waits for freed slots to become free. */
  #waitingForFreed: (() => void)[] = [];

  constructor(parts: MaintenanceParts) {
    this.#parts = parts;
  }

  /** The highest epoch that this drive has seen of the volume; 0: none. */
  epochOf(volume: Uint8Array): number {
    const value = this.#parts.read(epochKey(volume));
    if (value === null) return 0;
    const epoch = decodeEpoch(value);
    if (epoch === null) this.#parts.onCorrupt('the epoch of a volume is damaged');
    return epoch ?? 0;
  }

  async raiseEpoch(volume: Uint8Array, epoch: number): Promise<boolean> {
    if (this.epochOf(volume) >= epoch) return true;
    return this.#parts.committer.commit((operations) => {
      operations.push({ key: epochKey(volume), value: encodeEpoch(epoch) });
    });
  }

  /**
   * Makes durable that the volume is at its epoch (invariant 2), its record, each segment's layout, and the replicas that are not here yet, empty.
   * Returns the replicas; null for a segment whose size contradicts what is stored; or null when the drive has failed.
   */
  async openReplicas(
    { id: volumeId, bytes: volume, epoch, record }: VolumeToOpen,
    segments: readonly SegmentToOpen[],
  ): Promise<(Replica | null)[] | null> {
    const { activity, read, committer, replicas } = this.#parts;
    const seen = this.epochOf(volume);
    assert(seen <= epoch, 'a lower epoch was refused before (invariant 2)');
    const opened = segments.map((segment) => {
      const replica = replicas.get(replicaKey(volumeId, segment.index)) ?? new Replica(volumeId, segment.index, volume);
      return replica.setSize(segment.sizeBytes) ? replica : null;
    });
    const renewed: RenewedRegion[] = [];
    const isDurable = await committer.commit((operations) => {
      const put = (key: Uint8Array, value: Uint8Array): void => {
        if (!isEqual(read(key), value)) operations.push({ key, value });
      };
      if (seen < epoch) operations.push({ key: epochKey(volume), value: encodeEpoch(epoch) });
      if (record.length > 0) put(volumeRecordKey(volume), record);
      for (const [index, segment] of segments.entries()) {
        const replica = opened[index] ?? null;
        if (replica === null) continue;
        if (segment.certain) renewed.push(...activity.renew(replica, operations));
        put(layoutKey(volume, segment.index), encodeLayout(segment.generation, segment.layout));
      }
    });
    if (!isDurable) return null;
    for (const { replica, region } of renewed) replica.markCertain(region);
    for (const replica of opened) if (replica) replicas.set(replicaKey(volumeId, replica.segment), replica);
    return opened;
  }

  layoutOf(replica: Replica): Layout | null {
    const value = this.#parts.read(layoutKey(replica.volume, replica.segment));
    if (value === null) return null;
    const layout = decodeLayout(value);
    if (layout === null) this.#parts.onCorrupt(`the layout of segment ${replica.segment} is damaged`);
    return layout;
  }

  /** Flushes the drive, then persists the regions' checksums, unmaps what was mapped ahead in vain, and takes them out of the activity log in one commit (invariant 7). */
  async cool(requests: readonly RegionsToCool[]): Promise<Status> {
    const { activity, ahead, committer, io } = this.#parts;
    const cooling: { replica: Replica; region: number; unmapped: readonly BlankExtent[] }[] = [];
    for (const { replica, regions } of requests) {
      for (const region of new Set(regions)) {
        if (region >= replica.regionCount || replica.regionWrites[region] !== 0) return STATUS.BAD_REQUEST;
        const state = replica.regionStates[region];
        assert(state !== REGION.ACTIVATING, 'a region activates for a write in flight');
        if (state === REGION.HOT) cooling.push({ replica, region, unmapped: [] });
      }
    }
    if (cooling.length === 0) return STATUS.OK;
    for (const { replica, region } of cooling) activity.startCooling(replica, region);
    const result = await new Promise<number>((resolve) => io.flush(resolve));
    if (result !== 0) return STATUS.IO_ERROR;
    const isDurable = await committer.commit(
      (operations) => {
        for (const one of cooling) {
          one.unmapped = ahead.unmapRegion(one.replica, one.region, operations);
          this.#persistRegion(one.replica, one.region, operations);
        }
      },
      () => {
        for (const { replica, region, unmapped } of cooling) {
          ahead.unmapped(replica, unmapped);
          activity.cooled(replica, region);
        }
      },
    );
    if (isDurable && cooling.some(({ unmapped }) => unmapped.length > 0)) committer.pump();
    return isDurable ? STATUS.OK : STATUS.IO_ERROR;
  }

  /** Removes the replica's tombstones: no replica of the segment is stale any more. */
  async purgeTombstones(replica: Replica, generation: number): Promise<Status> {
    if (replica.isUntouched) return STATUS.OK;
    for (let from = 0; from < replica.extentCount; from += limits.extentsPerCommitMax) {
      const to = Math.min(from + limits.extentsPerCommitMax, replica.extentCount);
      const isDurable = await this.#parts.committer.commit((operations) => {
        for (let extent = from; extent < to; extent++) {
          const stamp = replica.stampOf(extent);
          if (replica.slotOf(extent) !== 0 || stamp === 0 || stamp > generation) continue;
          replica.setHead(extent, 0, 0, false);
          operations.push({ key: extentKey(replica.volume, replica.segment, extent), value: null });
        }
      });
      if (!isDurable) return STATUS.IO_ERROR;
    }
    return STATUS.OK;
  }

  /** The extent's checksums, from its owner, who keeps writes away from it: those that are not known count from now on. */
  async learn(replica: Replica, extent: number, sums: Uint32Array): Promise<Status> {
    const { checksums, committer } = this.#parts;
    const isDurable = await committer.commit((operations) => {
      if (replica.slotOf(extent) === 0) return;
      checksums.learn(replica, extent, sums);
      // Cooling persists those of all other regions.
      if (replica.stateOf(extent) !== REGION.COLD) return;
      const key = extentKey(replica.volume, replica.segment, extent);
      operations.push({ key, value: checksums.encodeRecord(replica, extent) });
    });
    return isDurable ? STATUS.OK : STATUS.IO_ERROR;
  }

  /** Frees everything of a replica that no session uses. Can be repeated after a crash: the layout record goes last. */
  async deleteReplica(replica: Replica): Promise<Status> {
    const { committer, activity, checksums, freed, replicas } = this.#parts;
    assert(replica.operations === 0, 'a replica in use is not deleted');
    for (let from = replica.isUntouched ? replica.extentCount : 0; from < replica.extentCount;) {
      if (freed.isFull) await new Promise<void>((resolve) => this.#waitingForFreed.push(resolve));
      const to = Math.min(from + limits.extentsPerCommitMax, replica.extentCount);
      const slots: number[] = [];
      const start = from;
      const isDurable = await committer.commit(
        (operations) => this.#unmapExtents(replica, start, to, operations, slots),
        () => slots.forEach((slot) => freed.unmapped(slot)),
      );
      if (!isDurable) return STATUS.IO_ERROR;
      from = to;
    }
    const isDurable = await committer.commit((operations) => {
      for (const region of replica.hotRegions()) {
        operations.push({ key: activityKey(replica.volume, replica.segment, region), value: null });
      }
      operations.push({ key: layoutKey(replica.volume, replica.segment), value: null });
      // With its last replica the drive forgets the volume, but for its epoch.
      const isLast = ![...replicas.values()].some((other) => other !== replica && other.volumeId === replica.volumeId);
      if (isLast) operations.push({ key: volumeRecordKey(replica.volume), value: null });
    });
    if (!isDurable) return STATUS.IO_ERROR;
    checksums.drop(replica);
    activity.forget(replica);
    replicas.delete(replicaKey(replica.volumeId, replica.segment));
    committer.pump();
    return STATUS.OK;
  }

  /** Freed slots have become free, or the drive has failed. */
  onFreed(): void {
    const waiting = this.#waitingForFreed;
    this.#waitingForFreed = [];
    for (const resume of waiting) resume();
  }

  #persistRegion(replica: Replica, region: number, operations: MetaOperation[]): void {
    const { activity, checksums } = this.#parts;
    const end = Math.min((region + 1) * EXTENTS_PER_REGION, replica.extentCount);
    for (let extent = region * EXTENTS_PER_REGION; extent < end; extent++) {
      if (replica.slotOf(extent) === 0 || !checksums.isDirty(replica, extent)) continue;
      assert(!replica.isChanging(extent), 'nothing changes an extent of a cooling region');
      const key = extentKey(replica.volume, replica.segment, extent);
      operations.push({ key, value: checksums.encodeRecord(replica, extent) });
    }
    activity.leave(replica, region, operations);
  }

  #unmapExtents(replica: Replica, from: number, to: number, operations: MetaOperation[], slots: number[]): void {
    for (let extent = from; extent < to; extent++) {
      const slot = replica.slotOf(extent);
      if (slot === 0 && replica.stampOf(extent) === 0) continue;
      replica.setHead(extent, 0, 0, false);
      operations.push({ key: extentKey(replica.volume, replica.segment, extent), value: null });
      if (slot === 0) continue;
      operations.push({ key: freedKey(slot), value: new Uint8Array(0) });
      slots.push(slot);
    }
  }
}

function isEqual(stored: Uint8Array | null, value: Uint8Array): boolean {
  return stored !== null && stored.length === value.length && value.every((byte, index) => stored[index] === byte);
}

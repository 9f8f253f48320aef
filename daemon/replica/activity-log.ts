/**
 * The drive's activity log: which regions may differ between replicas after a crash. The durable form is one key per region.
 *
 * Invariants (assertConsistent):
 * - `count` is the number of regions that are not cold, on all replicas of the drive, at most `regionsMax` (more only when it was opened so);
 * - a region that is not cold has its checksums pinned;
 * - a region leaves the log only by the owner's order (invariant 7) or with its replica.
 */
import { assert } from '../base/assert.js';
import { activityKey } from '../format/keys.js';
import type { MetaOperation } from '../ports/meta-store.js';
import type { ChecksumTable } from './checksums.js';
import { REGION, type Replica } from './replica.js';

export interface RenewedRegion {
  readonly replica: Replica;
  readonly region: number;
}

export class ActivityLog {
  readonly regionsMax: number;
  readonly #checksums: ChecksumTable;
  /** Boot of this node; an entry's value is the boot it was made in. */
  readonly #bootId: Uint8Array;
  #count = 0;
  /** Regions that became hot since the drive was opened. */
  activations = 0;

  constructor(regionsMax: number, checksums: ChecksumTable, bootId: Uint8Array) {
    this.#bootId = bootId;
    this.regionsMax = regionsMax;
    this.#checksums = checksums;
  }

  get count(): number {
    return this.#count;
  }

  get isFull(): boolean {
    return this.#count >= this.regionsMax;
  }

  /** The region was in the log when the drive was opened. */
  restore(replica: Replica, region: number, bootId: Uint8Array): void {
    if (bootId.join() !== this.#bootId.join()) replica.markUncertain(region);
    this.#move(replica, region, REGION.COLD, REGION.HOT);
    this.#count++;
    this.#checksums.pinUnknown(replica, region);
  }

  /** Puts a cold region into the log with this commit. */
  activate(replica: Replica, region: number, operations: MetaOperation[]): void {
    this.#move(replica, region, REGION.COLD, REGION.ACTIVATING);
    this.#count++;
    this.activations++;
    this.#checksums.pin(replica, region);
    operations.push({ key: activityKey(replica.volume, replica.segment, region), value: this.#bootId });
  }

  /** The commit that put it there is durable. */
  activated(replica: Replica, region: number): void {
    if (replica.regionStates[region] === REGION.ACTIVATING) replica.setRegionState(region, REGION.HOT);
  }

  /** With this commit the replica's entries from earlier boots become entries of this one: it was made equal since. */
  renew(replica: Replica, operations: MetaOperation[]): RenewedRegion[] {
    const regions = replica.uncertainRegions().filter((region) => replica.regionStates[region] === REGION.HOT);
    for (const region of regions) {
      operations.push({ key: activityKey(replica.volume, replica.segment, region), value: this.#bootId });
    }
    return regions.map((region) => ({ replica, region }));
  }

  /** The owner orders it to cool; writes that come now wait until it is cold. */
  startCooling(replica: Replica, region: number): void {
    assert(replica.regionWrites[region] === 0, 'no write is in flight in a region that cools (invariant 7)');
    this.#move(replica, region, REGION.HOT, REGION.COOLING);
  }

  /** Takes a cooling region out of the log with this commit, which also persists its checksums. */
  leave(replica: Replica, region: number, operations: MetaOperation[]): void {
    assert(replica.regionStates[region] === REGION.COOLING, 'a region leaves the log after its drive was flushed');
    operations.push({ key: activityKey(replica.volume, replica.segment, region), value: null });
  }

  /** The commit that took it out is durable. */
  cooled(replica: Replica, region: number): void {
    this.#move(replica, region, REGION.COOLING, REGION.COLD);
    replica.markCertain(region);
    this.#count--;
    this.#checksums.unpin(replica, region);
  }

  /** The replica is deleted with all its regions; its checksums are dropped by the caller. */
  forget(replica: Replica): void {
    this.#count -= replica.hotRegions().length;
    replica.forgetRegions();
  }

  assertConsistent(replicas: Iterable<Replica>): void {
    let count = 0;
    for (const replica of replicas) {
      for (const region of replica.hotRegions()) {
        count++;
        assert(replica.checksumEntries[region] !== 0, 'a region that is not cold has its checksums pinned');
      }
    }
    assert(count === this.#count, 'the number of regions in the log is the number that are not cold');
  }

  #move(replica: Replica, region: number, from: number, to: number): void {
    assert(replica.regionStates[region] === from, 'regions go cold, activating, hot, cooling, cold');
    replica.setRegionState(region, to);
  }
}

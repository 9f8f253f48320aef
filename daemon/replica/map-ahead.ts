/**
 * Slots for a sequential stream before it asks: when a write allocates an extent that follows written ones, the next extents of
 * its region get their slots in the same commit, as many as were written in a row. A stream then commits some five times per region.
 *
 * Until it is written, such an extent is as good as unmapped: it is not listed, not counted, and read without I/O; so nothing is ever in flight at its slot,
 * which is still durably zero. When its region cools, or another extent finds no slot, it loses the slot again by a commit alone.
 *
 * Invariants (Replica.assertConsistent):
 * - only extents without slot and stamp are mapped ahead, in a region that is hot or becomes so in the same commit;
 * - what a commit changes here is settled when it is durable, before any operation proceeds.
 */
import { assert } from '../base/assert.js';
import { limits } from '../base/limits.js';
import { EXTENTS_PER_REGION } from '../base/units.js';
import { extentKey } from '../format/keys.js';
import type { MetaOperation } from '../ports/meta-store.js';
import type { ChecksumTable } from './checksums.js';
import { REGION, regionOf, type Replica } from './replica.js';
import type { SlotAllocator } from './slot-allocator.js';

export class MapAhead {
  readonly #allocator: SlotAllocator;
  readonly #checksums: ChecksumTable;
  readonly #replicas: ReadonlyMap<string, Replica>;
  /** Slots that stay free of this. */
  readonly #freeSlotsMin: number;
  /** What the commit being prepared or under way changes beside its operations' own extents. */
  readonly #changed: { readonly replica: Replica; readonly extent: number }[] = [];

  constructor(allocator: SlotAllocator, checksums: ChecksumTable, replicas: ReadonlyMap<string, Replica>) {
    this.#allocator = allocator;
    this.#checksums = checksums;
    this.#replicas = replicas;
    this.#freeSlotsMin = Math.ceil(allocator.slotCount * limits.mapAheadFreeShareMin);
  }

  /** Slots that can be had back at any time. */
  get slots(): number {
    let count = 0;
    for (const replica of this.#replicas.values()) count += replica.aheadCount;
    return count;
  }

  /** `extent` gets its slot in this commit, for a write: maps what follows it, if it follows a stream. */
  map(replica: Replica, extent: number, stamp: number, operations: MetaOperation[]): void {
    const regionEnd = Math.min((regionOf(extent) + 1) * EXTENTS_PER_REGION, replica.extentCount);
    const end = Math.min(extent + 1 + writtenBefore(replica, extent), regionEnd);
    for (let next = extent + 1; next < end; next++) {
      if (replica.slotOf(next) !== 0 || replica.stampOf(next) !== 0 || replica.isChanging(next)) return;
      if (this.#allocator.freeSlots <= this.#freeSlotsMin) return;
      const slot = this.#allocator.allocate(replica.slotHint(next));
      assert(slot !== 0, 'there is a free slot while a share of them is');
      this.#checksums.reset(replica, next);
      replica.setHead(next, slot, stamp, true);
      replica.markAhead(next);
      this.#changed.push({ replica, extent: next });
      const key = extentKey(replica.volume, replica.segment, next);
      operations.push({ key, value: this.#checksums.encodeRecord(replica, next) });
    }
  }

  /** Takes a slot from an extent that is mapped ahead, in this commit; 0: there is none. For when no slot is free. */
  takeSlot(operations: MetaOperation[]): number {
    for (const replica of this.#replicas.values()) {
      if (replica.aheadCount === 0) continue;
      for (let extent = 0; extent < replica.extentCount; extent++) {
        // A cooling region's commit may be the one being prepared, or come later: it finds the extent unmapped.
        if (!replica.isAhead(extent) || replica.isChanging(extent)) continue;
        this.#changed.push({ replica, extent });
        return unmap(replica, extent, operations);
      }
    }
    return 0;
  }

  /** The region leaves the log with this commit: its extents that are still blank lose their slots, which are returned. */
  unmapRegion(replica: Replica, region: number, operations: MetaOperation[]): readonly BlankExtent[] {
    assert(replica.regionStates[region] === REGION.COOLING, 'nothing is written to a region that cools');
    const unmapped: BlankExtent[] = [];
    if (replica.aheadMasks[region] === 0) return unmapped;
    const end = Math.min((region + 1) * EXTENTS_PER_REGION, replica.extentCount);
    for (let extent = region * EXTENTS_PER_REGION; extent < end; extent++) {
      if (replica.isAhead(extent)) unmapped.push({ extent, slot: unmap(replica, extent, operations) });
    }
    return unmapped;
  }

  /** The commit of `unmapRegion` is durable: the slots were never written, hence are zero, hence free. */
  unmapped(replica: Replica, extents: readonly BlankExtent[]): void {
    for (const { extent, slot } of extents) {
      replica.settle(extent);
      this.#allocator.free(slot);
    }
  }

  /** The commit is durable. */
  settle(): void {
    if (this.#changed.length === 0) return;
    for (const { replica, extent } of this.#changed) replica.settle(extent);
    this.#changed.length = 0;
  }
}

export interface BlankExtent {
  readonly extent: number;
  readonly slot: number;
}

/** How many extents right before this one were written, up to a region's worth; the stream may come from the region before. */
function writtenBefore(replica: Replica, extent: number): number {
  let count = 0;
  while (count < EXTENTS_PER_REGION && count < extent && !replica.isBlank(extent - 1 - count)) count++;
  return count;
}

function unmap(replica: Replica, extent: number, operations: MetaOperation[]): number {
  const slot = replica.slotOf(extent);
  replica.setHead(extent, 0, 0, true);
  operations.push({ key: extentKey(replica.volume, replica.segment, extent), value: null });
  return slot;
}

/**
 * One replica's head map in memory: where each extent is, its generation stamp, and the state of each region. Eight bytes per
 * extent, in typed arrays; looking up an extent costs no allocation.
 *
 * Invariants (assertConsistent):
 * - an extent with a slot has a stamp of at least 1; one with a stamp and no slot is a tombstone;
 * - `allocated` is the number of extents with a slot;
 * - an extent is marked "changing" only while a metadata commit that changes it is under way;
 * - an extent that is mapped ahead has a slot that was never written, and `aheadCount` is the number of those.
 */
import { assert } from '../base/assert.js';
import type { VolumeId } from '../base/ids.js';
import { limits } from '../base/limits.js';
import { BLOCK_BYTES, EXTENT_BYTES, EXTENTS_PER_REGION } from '../base/units.js';
import { uuidToBytes } from '../format/keys.js';

/** State of a region. Everything but cold is in the activity log, or about to be. */
export const REGION = {
  COLD: 0,
  /** The commit that puts it into the log is under way. */
  ACTIVATING: 1,
  HOT: 2,
  /** Ordered to cool: the flush and then the commit that removes it from the log are under way. */
  COOLING: 3,
} as const;

const CHANGING = 0x8000_0000;
const SLOT = 0x7fff_ffff;
const EXTENTS_MAX = limits.segmentBytesMax / EXTENT_BYTES;
const REGION_SHIFT = Math.log2(EXTENTS_PER_REGION);

export function regionOf(extent: number): number {
  return extent >>> REGION_SHIFT;
}

export class Replica {
  /** Regions in the activity log from before the node's last boot: unflushed writes may be missing there. */
  readonly uncertainRegions = new Set<number>();
  readonly volumeId: VolumeId;
  /** The 16 bytes of the volume's UUID. */
  readonly volume: Uint8Array;
  readonly segment: number;
  /** 0 until a session has said it. */
  sizeBytes = 0;
  extentCount = 0;
  /** Extents with a slot. */
  allocated = 0;
  /** Of those, extents that are mapped ahead of a stream and as good as unmapped for everyone else (map-ahead.ts). */
  aheadCount = 0;
  /** Where the next extent is best placed after; 0 when nothing was allocated since the drive was opened. */
  lastSlot = 0;
  /** Requests being served. */
  operations = 0;

  #slots = new Uint32Array(0);
  #stamps = new Uint32Array(0);
  regionStates = new Uint8Array(0);
  /** WRITE, TRIM and ZERO requests being served, per region. */
  regionWrites = new Uint16Array(0);
  /** Entry in the drive's checksum table, per region; 0: none. */
  checksumEntries = new Uint16Array(0);
  /** Per region, a bit per extent: mapped ahead, never written. */
  aheadMasks = new Uint32Array(0);

  constructor(volumeId: VolumeId, segment: number) {
    this.volumeId = volumeId;
    this.volume = uuidToBytes(volumeId);
    this.segment = segment;
  }

  slotOf(extent: number): number {
    return (this.#slots[extent] as number) & SLOT;
  }

  stampOf(extent: number): number {
    return this.#stamps[extent] as number;
  }

  isChanging(extent: number): boolean {
    return (this.#slots[extent] as number) >= CHANGING;
  }

  isAhead(extent: number): boolean {
    return (((this.aheadMasks[extent >>> REGION_SHIFT] as number) >>> (extent % EXTENTS_PER_REGION)) & 1) === 1;
  }

  /** The extent has just been given a slot that no request asked for. */
  markAhead(extent: number): void {
    assert(this.slotOf(extent) !== 0 && !this.isAhead(extent), 'an extent is mapped ahead once, with its slot');
    const region = extent >>> REGION_SHIFT;
    this.aheadMasks[region] = (this.aheadMasks[region] as number) | (1 << (extent % EXTENTS_PER_REGION));
    this.aheadCount++;
  }

  /** A request is about to write to the extent, or it loses its slot. */
  endAhead(extent: number): void {
    if (!this.isAhead(extent)) return;
    const region = extent >>> REGION_SHIFT;
    this.aheadMasks[region] = (this.aheadMasks[region] as number) & ~(1 << (extent % EXTENTS_PER_REGION));
    this.aheadCount--;
  }

  /** Whether the extent reads as zeros without looking: it has no slot, or one that was never written. */
  isBlank(extent: number): boolean {
    return this.slotOf(extent) === 0 || this.isAhead(extent);
  }

  stateOf(extent: number): number {
    return this.regionStates[extent >>> REGION_SHIFT] as number;
  }

  /** Whether data may be written to the extent under `generation` with no metadata commit (invariants 7 and 8). */
  isReady(extent: number, generation: number): boolean {
    const slot = this.#slots[extent] as number;
    return (
      slot !== 0 &&
      slot < CHANGING &&
      (this.#stamps[extent] as number) >= generation &&
      this.regionStates[extent >>> REGION_SHIFT] === REGION.HOT
    );
  }

  /** Sets an extent's head. `changing` until the commit that says the same is durable. */
  setHead(extent: number, slot: number, stamp: number, changing: boolean): void {
    if (this.slotOf(extent) !== 0) this.allocated--;
    if (slot !== 0) {
      this.allocated++;
      this.lastSlot = slot;
    } else this.endAhead(extent);
    this.#slots[extent] = changing ? slot + CHANGING : slot;
    this.#stamps[extent] = stamp;
  }

  /** The commit that changed the extent is durable. */
  settle(extent: number): void {
    this.#slots[extent] = this.slotOf(extent);
  }

  /** Where a new slot for the extent is best placed; 0: anywhere. */
  slotHint(extent: number): number {
    const previous = extent > 0 ? this.slotOf(extent - 1) : 0;
    const after = previous !== 0 ? previous : this.lastSlot;
    return after === 0 ? 0 : after + 1;
  }

  /** Makes room for extents below `extentCount` while a drive is loaded, when no session has told the size yet. */
  reserve(extentCount: number): void {
    assert(extentCount <= EXTENTS_MAX, 'a segment has at most limits.segmentBytesMax');
    if (extentCount <= this.extentCount) return;
    this.#resize(Math.min(EXTENTS_MAX, Math.max(extentCount, 2 * this.extentCount, EXTENTS_PER_REGION)));
  }

  /** Takes over the segment's size from a session; false when extents are in use beyond it. */
  setSize(sizeBytes: number): boolean {
    assert(
      sizeBytes > 0 && sizeBytes <= limits.segmentBytesMax && sizeBytes % BLOCK_BYTES === 0,
      'a valid segment size',
    );
    const extentCount = Math.ceil(sizeBytes / EXTENT_BYTES);
    for (let extent = extentCount; extent < this.extentCount; extent++) {
      if (this.slotOf(extent) !== 0 || this.stampOf(extent) !== 0) return false;
    }
    for (let region = Math.ceil(extentCount / EXTENTS_PER_REGION); region < this.regionStates.length; region++) {
      if (this.regionStates[region] !== REGION.COLD || this.checksumEntries[region] !== 0) return false;
    }
    if (extentCount !== this.extentCount) this.#resize(extentCount);
    this.sizeBytes = sizeBytes;
    return true;
  }

  /** Regions in the activity log. */
  hotRegions(): number[] {
    const regions: number[] = [];
    for (const [region, state] of this.regionStates.entries()) if (state !== REGION.COLD) regions.push(region);
    return regions;
  }

  /** Whether the range is the whole of its extent, as far as that is inside the segment. */
  isWholeExtent(offsetBytes: number, lengthBytes: number): boolean {
    if (offsetBytes % EXTENT_BYTES !== 0) return false;
    return lengthBytes === EXTENT_BYTES || offsetBytes + lengthBytes === this.sizeBytes;
  }

  assertConsistent(): void {
    let allocated = 0;
    for (let extent = 0; extent < this.extentCount; extent++) {
      if (this.slotOf(extent) === 0) continue;
      allocated++;
      assert(this.stampOf(extent) >= 1, 'an extent with a slot has a stamp');
    }
    assert(allocated === this.allocated, 'allocated is the number of extents with a slot');
    let ahead = 0;
    for (let extent = 0; extent < this.extentCount; extent++) {
      if (!this.isAhead(extent)) continue;
      ahead++;
      assert(this.slotOf(extent) !== 0, 'an extent that is mapped ahead has a slot');
      assert(this.stateOf(extent) !== REGION.COLD, 'an extent is mapped ahead only while its region is hot');
    }
    assert(ahead === this.aheadCount, 'aheadCount is the number of extents that are mapped ahead');
  }

  #resize(extentCount: number): void {
    const regionCount = Math.ceil(extentCount / EXTENTS_PER_REGION);
    this.#slots = resized(this.#slots, new Uint32Array(extentCount));
    this.#stamps = resized(this.#stamps, new Uint32Array(extentCount));
    this.regionStates = resized(this.regionStates, new Uint8Array(regionCount));
    this.regionWrites = resized(this.regionWrites, new Uint16Array(regionCount));
    this.checksumEntries = resized(this.checksumEntries, new Uint16Array(regionCount));
    this.aheadMasks = resized(this.aheadMasks, new Uint32Array(regionCount));
    this.extentCount = extentCount;
  }
}

function resized<T extends Uint8Array | Uint16Array | Uint32Array>(from: T, to: T): T {
  to.set(from.subarray(0, to.length));
  return to;
}

/**
 * One replica's head map in memory: where each extent is, its generation stamp, and the state of each region. Eight bytes per
 * extent, in typed arrays; looking up an extent costs no allocation. A replica gets arrays of its own when the first thing changes in
 * them, and reads until then what all such replicas share: zeros. So a volume costs memory for the segments that were written.
 *
 * Invariants (assertConsistent):
 * - what is shared is never written;
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
/** 64 MiB. From here segments grow fourfold while they are loaded. */
const EXTENTS_RESERVED_MIN = 16 * EXTENTS_PER_REGION;
const REGION_SHIFT = Math.log2(EXTENTS_PER_REGION);

export function regionOf(extent: number): number {
  return extent >>> REGION_SHIFT;
}

const REGIONS_MAX = EXTENTS_MAX / EXTENTS_PER_REGION;
/** What an empty map reads, in a segment of any size. */
const NO_EXTENTS = new Uint32Array(EXTENTS_MAX);
const ALL_COLD = new Uint8Array(REGIONS_MAX);
const NO_COUNTS = new Uint16Array(REGIONS_MAX);
const NO_MASKS = new Uint32Array(REGIONS_MAX);
const SHARED = [NO_EXTENTS, ALL_COLD, NO_COUNTS, NO_MASKS] as const;

export class Replica {
  readonly volumeId: VolumeId;
  /** The 16 bytes of the volume's UUID. */
  readonly volume: Uint8Array;
  readonly segment: number;
  /** 0 until a session has said it. */
  sizeBytes = 0;
  extentCount = 0;
  regionCount = 0;
  /** Extents with a slot. */
  allocated = 0;
  /** Of those, extents that are mapped ahead of a stream and as good as unmapped for everyone else (map-ahead.ts). */
  aheadCount = 0;
  /** Where the next extent is best placed after; 0 when nothing was allocated since the drive was opened. */
  lastSlot = 0;
  /** Requests being served. */
  operations = 0;

  // Where the arrays are its own they have `extentCount` or `regionCount` elements.
  #slots = NO_EXTENTS;
  #stamps = NO_EXTENTS;
  #regionStates = ALL_COLD;
  #regionWrites = NO_COUNTS;
  #checksumEntries = NO_COUNTS;
  /** Per region, a bit per extent: mapped ahead, never written. */
  #aheadMasks = NO_MASKS;
  /** Regions in the activity log from before the node's last boot: unflushed writes may be missing there. Null: none ever. */
  #uncertainRegions: Set<number> | null = null;

  /** `volume`: the 16 bytes of the id, which the replicas of a volume share. */
  constructor(volumeId: VolumeId, segment: number, volume: Uint8Array = uuidToBytes(volumeId)) {
    this.volumeId = volumeId;
    this.volume = volume;
    this.segment = segment;
  }

  /** WRITE, TRIM and ZERO requests being served, per region. */
  get regionWrites(): Readonly<Uint16Array> {
    return this.#regionWrites;
  }

  get regionStates(): Readonly<Uint8Array> {
    return this.#regionStates;
  }

  /** Entry in the drive's checksum table, per region; 0: none. */
  get checksumEntries(): Readonly<Uint16Array> {
    return this.#checksumEntries;
  }

  get aheadMasks(): Readonly<Uint32Array> {
    return this.#aheadMasks;
  }

  /** It may lack writes that were acknowledged and not flushed when its node lost power. */
  get isUncertain(): boolean {
    return this.#uncertainRegions !== null && this.#uncertainRegions.size > 0;
  }

  uncertainRegions(): number[] {
    return [...(this.#uncertainRegions ?? [])];
  }

  markUncertain(region: number): void {
    this.#uncertainRegions ??= new Set();
    this.#uncertainRegions.add(region);
  }

  markCertain(region: number): void {
    this.#uncertainRegions?.delete(region);
  }

  setRegionState(region: number, state: number): void {
    if (this.#regionStates === ALL_COLD) this.#ownRegions();
    this.#regionStates[region] = state;
  }

  setChecksumEntry(region: number, entry: number): void {
    if (this.#checksumEntries === NO_COUNTS) this.#ownRegions();
    this.#checksumEntries[region] = entry;
  }

  writeStarted(region: number): void {
    if (this.#regionWrites === NO_COUNTS) this.#ownRegions();
    this.#regionWrites[region] = (this.#regionWrites[region] as number) + 1;
  }

  writeEnded(region: number): void {
    assert((this.#regionWrites[region] as number) > 0, 'a write that ends was counted');
    this.#regionWrites[region] = (this.#regionWrites[region] as number) - 1;
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
    return (((this.#aheadMasks[extent >>> REGION_SHIFT] as number) >>> (extent % EXTENTS_PER_REGION)) & 1) === 1;
  }

  /** The extent has just been given a slot that no request asked for. */
  markAhead(extent: number): void {
    assert(this.slotOf(extent) !== 0 && !this.isAhead(extent), 'an extent is mapped ahead once, with its slot');
    const region = extent >>> REGION_SHIFT;
    if (this.#aheadMasks === NO_MASKS) this.#ownRegions();
    this.#aheadMasks[region] = (this.#aheadMasks[region] as number) | (1 << (extent % EXTENTS_PER_REGION));
    this.aheadCount++;
  }

  /** A request is about to write to the extent, or it loses its slot. */
  endAhead(extent: number): void {
    if (!this.isAhead(extent)) return;
    const region = extent >>> REGION_SHIFT;
    this.#aheadMasks[region] = (this.#aheadMasks[region] as number) & ~(1 << (extent % EXTENTS_PER_REGION));
    this.aheadCount--;
  }

  /** Whether the extent reads as zeros without looking: it has no slot, or one that was never written. */
  isBlank(extent: number): boolean {
    return this.slotOf(extent) === 0 || this.isAhead(extent);
  }

  stateOf(extent: number): number {
    return this.#regionStates[extent >>> REGION_SHIFT] as number;
  }

  /** Whether data may be written to the extent under `generation` with no metadata commit (invariants 7 and 8). */
  isReady(extent: number, generation: number): boolean {
    const slot = this.#slots[extent] as number;
    return (
      slot !== 0 &&
      slot < CHANGING &&
      (this.#stamps[extent] as number) >= generation &&
      this.#regionStates[extent >>> REGION_SHIFT] === REGION.HOT
    );
  }

  /** Sets an extent's head. `changing` until the commit that says the same is durable. */
  setHead(extent: number, slot: number, stamp: number, changing: boolean): void {
    if (this.#slots === NO_EXTENTS) this.#ownExtents();
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
    this.#resize(Math.min(EXTENTS_MAX, Math.max(extentCount, 4 * this.extentCount, EXTENTS_RESERVED_MIN)));
  }

  /** Takes over the segment's size from a session; false when extents are in use beyond it. */
  setSize(sizeBytes: number): boolean {
    assert(
      sizeBytes > 0 && sizeBytes <= limits.segmentBytesMax && sizeBytes % BLOCK_BYTES === 0,
      'a valid segment size',
    );
    const extentCount = Math.ceil(sizeBytes / EXTENT_BYTES);
    if (!this.#isEmptyFrom(extentCount)) return false;
    if (extentCount !== this.extentCount) this.#resize(extentCount);
    this.sizeBytes = sizeBytes;
    return true;
  }

  /** Regions in the activity log. */
  hotRegions(): number[] {
    if (this.#regionStates === ALL_COLD) return [];
    const regions: number[] = [];
    for (const [region, state] of this.#regionStates.entries()) if (state !== REGION.COLD) regions.push(region);
    return regions;
  }

  /** The replica is deleted: none of its regions is in the activity log any more. */
  forgetRegions(): void {
    if (this.#regionStates !== ALL_COLD) this.#regionStates.fill(REGION.COLD);
    this.#uncertainRegions = null;
  }

  /** No extent has had a slot or a stamp since the drive was opened: no use in looking at each. */
  get isUntouched(): boolean {
    return this.#slots === NO_EXTENTS;
  }

  /** Whether the range is the whole of its extent, as far as that is inside the segment. */
  isWholeExtent(offsetBytes: number, lengthBytes: number): boolean {
    if (offsetBytes % EXTENT_BYTES !== 0) return false;
    return lengthBytes === EXTENT_BYTES || offsetBytes + lengthBytes === this.sizeBytes;
  }

  assertConsistent(): void {
    for (const shared of SHARED) {
      const own = shared.subarray(0, this.extentCount);
      assert(
        own.every((value) => value === 0),
        'what untouched replicas share is zeros',
      );
    }
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

  #isEmptyFrom(extentCount: number): boolean {
    if (this.#slots !== NO_EXTENTS) {
      for (let extent = extentCount; extent < this.extentCount; extent++) {
        if (this.slotOf(extent) !== 0 || this.stampOf(extent) !== 0) return false;
      }
    }
    if (this.#regionStates === ALL_COLD) return true;
    for (let region = Math.ceil(extentCount / EXTENTS_PER_REGION); region < this.regionCount; region++) {
      if (this.#regionStates[region] !== REGION.COLD || this.#checksumEntries[region] !== 0) return false;
    }
    return true;
  }

  #resize(extentCount: number): void {
    this.extentCount = extentCount;
    this.regionCount = Math.ceil(extentCount / EXTENTS_PER_REGION);
    if (this.#slots !== NO_EXTENTS) this.#ownExtents();
    if (this.#regionStates !== ALL_COLD) this.#ownRegions();
  }

  /** Arrays of its own, of the size that it has now, with what was in those before. */
  #ownExtents(): void {
    this.#slots = resized(this.#slots, new Uint32Array(this.extentCount));
    this.#stamps = resized(this.#stamps, new Uint32Array(this.extentCount));
  }

  #ownRegions(): void {
    this.#regionStates = resized(this.#regionStates, new Uint8Array(this.regionCount));
    this.#regionWrites = resized(this.#regionWrites, new Uint16Array(this.regionCount));
    this.#checksumEntries = resized(this.#checksumEntries, new Uint16Array(this.regionCount));
    this.#aheadMasks = resized(this.#aheadMasks, new Uint32Array(this.regionCount));
  }
}

function resized<T extends Uint8Array | Uint16Array | Uint32Array>(from: T, to: T): T {
  to.set(from.subarray(0, to.length));
  return to;
}

/**
 * Which regions of a volume have been written recently, so that the owner can order them cooled (invariant 7), and which must be
 * reconciled before they are served (invariant 10).
 *
 * Invariants
 * - A region with a write in flight is hot: `inFlight > 0` implies `hot`.
 * - A region is in `hotList` exactly when it is hot, and its `position` says where.
 */
import { assert } from '../base/assert.js';
import { REGION_BYTES } from '../base/units.js';

export class RegionTracker {
  readonly regionsPerSegment: number;
  readonly #inFlight: Uint16Array;
  /** Position in the hot list plus one; 0: not hot. */
  readonly #position: Uint32Array;
  /** Tick of the last write. */
  readonly #lastWrite: Uint32Array;
  #hotList: Uint32Array = new Uint32Array(256);
  #hotCount = 0;
  readonly #dirty = new Set<number>();
  /** Coarse time, advanced by the owner of this object. */
  tick = 0;

  constructor(segmentCount: number, regionsPerSegment: number) {
    this.regionsPerSegment = regionsPerSegment;
    const regions = segmentCount * regionsPerSegment;
    this.#inFlight = new Uint16Array(regions);
    this.#position = new Uint32Array(regions);
    this.#lastWrite = new Uint32Array(regions);
  }

  get hotCount(): number {
    return this.#hotCount;
  }

  get dirtyCount(): number {
    return this.#dirty.size;
  }

  /** Number of the region that holds `offsetBytes` of `segment`, over the whole volume. */
  regionOf(segment: number, offsetBytes: number): number {
    return segment * this.regionsPerSegment + Math.floor(offsetBytes / REGION_BYTES);
  }

  segmentOf(region: number): number {
    return Math.floor(region / this.regionsPerSegment);
  }

  indexInSegment(region: number): number {
    return region % this.regionsPerSegment;
  }

  writeStarted(region: number): void {
    this.#inFlight[region] = (this.#inFlight[region] ?? 0) + 1;
    this.markHot(region);
  }

  writeEnded(region: number): void {
    const inFlight = this.#inFlight[region] ?? 0;
    assert(inFlight > 0, 'writes that end have started');
    this.#inFlight[region] = inFlight - 1;
  }

  markHot(region: number): void {
    this.#lastWrite[region] = this.tick;
    if (this.#position[region] !== 0) return;
    if (this.#hotCount === this.#hotList.length) {
      const larger = new Uint32Array(this.#hotList.length * 2);
      larger.set(this.#hotList);
      this.#hotList = larger;
    }
    this.#hotList[this.#hotCount++] = region;
    this.#position[region] = this.#hotCount;
  }

  /** Takes up to `limit` hot regions that have had no write for `idleTicks` and have none in flight, and that `eligible` accepts; they are no longer hot. */
  takeIdle(idleTicks: number, limit: number, eligible: (region: number) => boolean): number[] {
    const taken: number[] = [];
    for (let index = 0; index < this.#hotCount && taken.length < limit;) {
      const region = this.#hotList[index] ?? 0;
      const idle = this.#inFlight[region] === 0 && this.tick - (this.#lastWrite[region] ?? 0) >= idleTicks;
      if (idle && !this.#dirty.has(region) && eligible(region)) {
        this.#removeHot(region); // another one takes its place in the list
        taken.push(region);
      } else index++;
    }
    return taken;
  }

  #removeHot(region: number): void {
    const position = this.#position[region] ?? 0;
    assert(position > 0, 'a hot region has a position');
    const last = this.#hotList[--this.#hotCount] ?? 0;
    this.#hotList[position - 1] = last;
    this.#position[last] = position;
    this.#position[region] = 0;
  }

  markDirty(region: number): void {
    this.#dirty.add(region);
    this.markHot(region);
  }

  isDirty(region: number): boolean {
    return this.#dirty.size > 0 && this.#dirty.has(region);
  }

  markClean(region: number): void {
    this.#dirty.delete(region);
  }

  /** The region stays dirty, but `anyDirty` names all others first. */
  postpone(region: number): void {
    if (this.#dirty.delete(region)) this.#dirty.add(region);
  }

  hasDirty(segment: number): boolean {
    for (const region of this.#dirty) if (this.segmentOf(region) === segment) return true;
    return false;
  }

  anyDirty(): number | null {
    for (const region of this.#dirty) return region;
    return null;
  }

  assertConsistent(): void {
    for (let region = 0; region < this.#position.length; region++) {
      const position = this.#position[region] ?? 0;
      if (position > 0) assert(this.#hotList[position - 1] === region, 'the hot list and its positions agree');
      else assert(this.#inFlight[region] === 0, 'a region with a write in flight is hot (invariant 7)');
    }
  }
}

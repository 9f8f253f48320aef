/**
 * What no in-sync copy can give: blocks that fail their checksum, or cannot be read, wherever they should be. Tells the operator once, and
 * remembers which extents a syncing copy still lacks because of them.
 *
 * Such a copy has everything else, and gets every new write, but it stays syncing: it would answer reads of those blocks with other data than
 * the in-sync copies, which refuse them. It joins when the blocks were written anew, or can be read again.
 */
import { limits } from '../base/limits.js';
import { BLOCK_BYTES, EXTENTS_PER_REGION } from '../base/units.js';
import type { Clock } from '../ports/clock.js';
import type { Replica } from './segment.js';

interface Wait {
  readonly extents: readonly number[];
  readonly delayMs: number;
  readonly dueMs: number;
}

export interface DamageOptions {
  readonly clock: Clock;
  readonly report: (message: string) => void;
  readonly offsetInVolume: (segment: number, offsetBytes: number) => number;
}

export class Damage {
  readonly #options: DamageOptions;
  readonly #waits = new WeakMap<Replica, Wait>();
  /** Extents that were reported, by their offset in the volume. */
  readonly #reported = new Set<number>();

  constructor(options: DamageOptions) {
    this.#options = options;
  }

  /** The replica lacks these extents only, and waits for them. */
  wait(replica: Replica, extents: readonly number[]): void {
    const delayMs = Math.min(
      2 * (this.#waits.get(replica)?.delayMs ?? limits.damagedRetryMsMin / 2),
      limits.damagedRetryMsMax,
    );
    this.#waits.set(replica, { extents, delayMs, dueMs: this.#options.clock.nowMs() + delayMs });
  }

  extentsOf(replica: Replica): readonly number[] {
    return this.#waits.get(replica)?.extents ?? [];
  }

  forget(replica: Replica): void {
    this.#waits.delete(replica);
  }

  /** Whether it is time to try the replica's extents again. */
  isDue(replica: Replica): boolean {
    const wait = this.#waits.get(replica);
    return wait !== undefined && replica.state === 'syncing' && this.#options.clock.nowMs() >= wait.dueMs;
  }

  /** Whether all of the region is as on the in-sync copies, although the replica is not one of them. */
  hasRegion(replica: Replica, region: number): boolean {
    const wait = this.#waits.get(replica);
    if (wait === undefined || replica.state !== 'syncing') return false;
    return !wait.extents.some((extent) => Math.floor(extent / EXTENTS_PER_REGION) === region);
  }

  /** `blocks` are offsets in the segment, in order, all in the extent at `extentBytes`. */
  found(segment: number, extentBytes: number, blocks: readonly number[]): void {
    const { offsetInVolume, report } = this.#options;
    const extent = offsetInVolume(segment, extentBytes);
    if (this.#reported.has(extent) || this.#reported.size >= limits.damagedExtentsMax) return;
    this.#reported.add(extent);
    const offsets = blocks.map((offsetBytes) => offsetInVolume(segment, offsetBytes));
    report(
      `${blocks.length} block(s) of ${BLOCK_BYTES} bytes at offset ${offsets.join(', ')} cannot be read from any in-sync copy, or fail their checksum; ` +
        'reads of them fail with an I/O error, and a copy that comes back waits for them: write these blocks anew, whole, for example from a backup',
    );
  }

  /** The extent is equal on all copies: if it is damaged again, that is news. */
  healed(segment: number, extentBytes: number): void {
    if (this.#reported.size > 0) this.#reported.delete(this.#options.offsetInVolume(segment, extentBytes));
  }
}

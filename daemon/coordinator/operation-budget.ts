/**
 * Bounds the client pieces in flight in all volumes of a shard, so that what its coordinators have out at one peer fits that peer's queue.
 * Every volume always has `assured` pieces of its own; the rest is shared, first come first served.
 *
 * Invariants
 * - `shared` is the sum, over the volumes, of the pieces in flight beyond `assured`, and at most `sharedMax`.
 * - While somebody waits, only those whose turn it is take shared room.
 */
import { assert } from '../base/assert.js';
import { limits } from '../base/limits.js';

export class OperationBudget {
  readonly #assured: number;
  readonly #sharedMax: number;
  #shared = 0;
  /** Volumes that were refused, in turn. */
  readonly #waiting = new Set<() => void>();
  #isWaking = false;
  /** Pieces started so far. */
  starts = 0;

  constructor(assured: number = limits.operationsAssuredPerVolume, sharedMax: number = limits.operationsSharedMax) {
    this.#assured = assured;
    this.#sharedMax = sharedMax;
  }

  /** Whether a volume with `inFlight` pieces may start one more; if not, `onRoom` is called when it is its turn. */
  admits(inFlight: number, onRoom: () => void): boolean {
    if (inFlight < this.#assured) return true;
    if (this.#shared < this.#sharedMax && (this.#isWaking || this.#waiting.size === 0)) return true;
    this.#waiting.add(onRoom);
    return false;
  }

  /** A volume has started a piece and has `inFlight` now. */
  started(inFlight: number): void {
    this.starts++;
    if (inFlight <= this.#assured) return;
    this.#shared++;
    assert(this.#shared <= this.#sharedMax, 'a volume asks before it starts a piece');
  }

  /** A piece has ended in a volume that has `inFlight` left. */
  ended(inFlight: number): void {
    if (inFlight >= this.#assured) this.#shared--;
  }

  /** Lets those who wait start pieces, as far as there is room. */
  wake(): void {
    if (this.#isWaking) return;
    this.#isWaking = true;
    for (const onRoom of this.#waiting) {
      if (this.#shared >= this.#sharedMax) break;
      this.#waiting.delete(onRoom); // refused again, it stands at the end of the line
      onRoom();
    }
    this.#isWaking = false;
  }

  forget(onRoom: () => void): void {
    this.#waiting.delete(onRoom);
  }
}

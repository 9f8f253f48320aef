/**
 * Decides when the copiers of a shard may start their next extent: as fast as they can while clients are quiet, in the gaps while
 * they are not, and never faster than the operator allows.
 *
 * - **Bandwidth**: every copy pays for its bytes at the configured rate; the next one waits until it is paid for.
 * - **Foreground latency**: while clients start operations, copies go one after the other, and after each one the copier rests
 *   `limits.copyRestFactor` times as long as it took. The slower drives and network answer, the longer it rests.
 * - **Guaranteed rate**: it rests no longer than `limits.copyBytesPerSecondMin` allows, and a copy that hangs holds the next one up no longer
 *   either: clients that never pause slow a copy down, and cannot stop it.
 *
 * Invariants
 * - Those who wait are served in the order in which they came: the copiers of all volumes share what there is.
 * - While somebody waits, either a copy is under way whose end looks again, or a timer is armed.
 */
import { assert } from '../base/assert.js';
import { limits } from '../base/limits.js';
import type { Clock, Timer } from '../ports/clock.js';

/** Timers are good to a millisecond: what is due that soon starts now, and the next one pays for it. */
const AHEAD_MS = 2;

interface Waiting {
  readonly bytes: number;
  readonly start: () => void;
}

export class CopyPacer {
  readonly #clock: Clock;
  /** Client operations that have been started so far, in all volumes of the shard. */
  readonly #clientStarts: () => number;
  readonly #waiting: Waiting[] = [];
  #bytesPerSecond: number | null = null;
  /** Until then earlier copies use up the bandwidth. */
  #paidUntilMs = 0;
  #lastStartMs = 0;
  /** While clients are busy, nothing starts before. */
  #restUntilMs = 0;
  #startsSeen = 0;
  #busyUntilMs = Number.NEGATIVE_INFINITY;
  #timer: Timer | null = null;

  constructor(clock: Clock, clientStarts: () => number) {
    this.#clock = clock;
    this.#clientStarts = clientStarts;
  }

  /** For all copiers of the shard together; null: no bound. */
  setBandwidth(bytesPerSecond: number | null): void {
    assert(bytesPerSecond === null || bytesPerSecond > 0, 'a bandwidth lets something through');
    this.#bytesPerSecond = bytesPerSecond;
    this.#paidUntilMs = 0;
    this.#pump();
  }

  /** Runs `copy`, which moves so many bytes, when it is its turn. */
  async run<T>(bytes: number, copy: () => Promise<T>): Promise<T> {
    await new Promise<void>((start) => {
      this.#waiting.push({ bytes, start });
      this.#pump();
    });
    const startedMs = this.#lastStartMs;
    try {
      return await copy();
    } finally {
      this.#ended(startedMs);
    }
  }

  #ended(startedMs: number): void {
    const nowMs = this.#clock.nowMs();
    // Rests after the latest copy; earlier ones that end late change nothing.
    if (startedMs === this.#lastStartMs)
      this.#restUntilMs = Math.min(this.#restUntilMs, nowMs + limits.copyRestFactor * (nowMs - startedMs));
    this.#pump();
  }

  #pump(): void {
    this.#timer?.cancel();
    this.#timer = null;
    for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) {
      const nowMs = this.#clock.nowMs();
      const paidMs = this.#bytesPerSecond === null ? nowMs : this.#paidUntilMs - AHEAD_MS;
      const dueMs = this.#isBusy(nowMs) ? Math.max(paidMs, this.#restUntilMs) : paidMs;
      if (dueMs > nowMs) {
        this.#timer = this.#clock.after(dueMs - nowMs, () => {
          this.#pump();
        });
        return;
      }
      this.#waiting.shift();
      this.#lastStartMs = nowMs;
      this.#restUntilMs = nowMs + (first.bytes * 1_000) / limits.copyBytesPerSecondMin;
      if (this.#bytesPerSecond !== null)
        this.#paidUntilMs = Math.max(nowMs, this.#paidUntilMs) + (first.bytes * 1_000) / this.#bytesPerSecond;
      first.start();
    }
  }

  /**
   * By what they start, not by what is under way: writes that are held until copies are in sync again would otherwise hold up the very copy
   * that they wait for.
   */
  #isBusy(nowMs: number): boolean {
    const starts = this.#clientStarts();
    if (starts !== this.#startsSeen) this.#busyUntilMs = nowMs + limits.copyBusyMs;
    this.#startsSeen = starts;
    return nowMs < this.#busyUntilMs;
  }
}

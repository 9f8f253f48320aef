/** The system's clocks behind the `Clock` port. */
import { performance } from 'node:perf_hooks';
import { type Clock, tickAt, type Timer } from '../ports/clock.js';

/** What `performance.now` must be added to for CLOCK_MONOTONIC; both run on that clock, so the difference never changes. */
const ORIGIN_MS = Number(process.hrtime.bigint()) / 1e6 - performance.now();

export class SystemClock implements Clock {
  /** CLOCK_MONOTONIC: the same for all processes of a host, never set back. */
  nowMs(): number {
    return performance.now() + ORIGIN_MS;
  }

  tickUs(): number {
    return tickAt(this.nowMs());
  }

  wallMs(): number {
    return Date.now();
  }

  after(delayMs: number, callback: () => void): Timer {
    const timer = setTimeout(callback, delayMs);
    return { cancel: () => clearTimeout(timer) };
  }
}

/**
 * The clock of a data-plane thread: during a batch of events it stands still at the batch's start, so that asking it for every
 * operation costs nothing. Batches are microseconds to milliseconds long.
 */
export class BatchClock extends SystemClock {
  readonly #batchMs: Float64Array;
  readonly #betweenMs = new Float64Array(1);

  /** `batchMs[0]`: CLOCK_MONOTONIC at the start of the batch under way in milliseconds, 0 between batches. */
  constructor(batchMs: Float64Array) {
    super();
    this.#batchMs = batchMs;
  }

  /** Whichever time it is comes out of a typed array, as that keeps the number from being boxed. */
  override nowMs(): number {
    if (this.#batchMs[0] !== 0) return this.#batchMs[0] as number;
    this.#betweenMs[0] = super.nowMs();
    return this.#betweenMs[0];
  }

  override tickUs(): number {
    const batchMs = this.#batchMs[0] ?? 0;
    return batchMs === 0 ? super.tickUs() : tickAt(batchMs);
  }
}

/** The system's clocks behind the `Clock` port. */
import { performance } from 'node:perf_hooks';
import type { Clock, Timer } from '../ports/clock.js';

/** What `performance.now` must be added to for CLOCK_MONOTONIC; both run on that clock, so the difference never changes. */
const ORIGIN_MS = Number(process.hrtime.bigint()) / 1e6 - performance.now();

export class SystemClock implements Clock {
  /** CLOCK_MONOTONIC: the same for all processes of a host, never set back. */
  nowMs(): number {
    return performance.now() + ORIGIN_MS;
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
  /** Start of the batch under way; 0 between batches. A typed array keeps the number from being boxed. */
  readonly #batchMs = new Float64Array(1);

  startBatch(): void {
    this.#batchMs[0] = super.nowMs();
  }

  endBatch(): void {
    this.#batchMs[0] = 0;
  }

  override nowMs(): number {
    const batchMs = this.#batchMs[0] ?? 0;
    return batchMs === 0 ? super.nowMs() : batchMs;
  }
}

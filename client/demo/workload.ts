/** Something that keeps writing to the volume and knows every byte that was acknowledged. */

export interface WorkloadStatus {
  readonly bytesWritten: number;
  readonly writes: number;
  /** Longest time that one write took to be durable since `resetStall`, those still under way included. */
  readonly longestStallMs: number;
  /** Why it has stopped by itself; empty while all is well. */
  readonly error: string;
}

export interface Verification {
  readonly bytes: number;
  /** What differs from what was written; empty when every byte is right. */
  readonly mismatches: readonly string[];
}

export interface Workload {
  /** Starts writing, or goes on after `pause`. */
  write(): Promise<void>;
  /** Stops writing; what is under way ends first. */
  pause(): Promise<void>;
  status(): Promise<WorkloadStatus>;
  resetStall(): Promise<void>;
  /** Reads everything back from the volume, past any cache of this host. Only while paused. */
  verify(): Promise<Verification>;
  /** Lets go of the volume (the next `verify` or `write` takes it up again). */
  disconnect(): Promise<void>;
  stop(): Promise<void>;
}

/** Longest write so far, those under way included. */
export class StallMeter {
  readonly #startedAt = new Map<symbol, number>();
  #longestMs = 0;

  async measure<T>(operation: () => Promise<T>): Promise<T> {
    const key = Symbol();
    this.#startedAt.set(key, performance.now());
    try {
      return await operation();
    } finally {
      this.#longestMs = this.longestMs;
      this.#startedAt.delete(key);
    }
  }

  get longestMs(): number {
    const nowMs = performance.now();
    return Math.max(this.#longestMs, ...[...this.#startedAt.values()].map((startedAt) => nowMs - startedAt));
  }

  reset(): void {
    this.#longestMs = 0;
  }
}

/** Spreads bytes over time, so that a demo does not wear out a drive: `take` waits until its bytes may go. */
export class Pace {
  readonly #bytesPerSecond: number;
  #freeAtMs = 0;

  constructor(bytesPerSecond: number) {
    this.#bytesPerSecond = bytesPerSecond;
  }

  async take(bytes: number): Promise<void> {
    const nowMs = performance.now();
    this.#freeAtMs = Math.max(this.#freeAtMs, nowMs) + (bytes / this.#bytesPerSecond) * 1_000;
    const waitMs = this.#freeAtMs - nowMs - (bytes / this.#bytesPerSecond) * 1_000;
    if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
  }
}

/** What a volume's coordinator needs of its shard. */
import type { NodeId } from '../base/ids.js';
import type { Clock, Timer } from '../ports/clock.js';
import type { ClusterStore } from '../ports/cluster-store.js';
import type { Log } from '../ports/log.js';
import type { ScrubSettings } from '../ports/shard.js';
import { NO_BUFFER, POOL_INTERNAL, type BufferId, type Slab } from '../ports/slab.js';
import type { CopyPacer } from './copy-pacer.js';
import type { OperationBudget } from './operation-budget.js';
import type { PeerPool } from './peers.js';

export type Severity = 'info' | 'warning' | 'error';

export interface CoordinatorContext {
  readonly store: ClusterStore;
  readonly peers: PeerPool;
  readonly slab: Slab;
  readonly clock: Clock;
  /** Every `VOLUME_TICK_MS`. */
  readonly ticker: Ticker;
  readonly log: Log;
  readonly nodeId: NodeId;
  readonly shardIndex: number;
  readonly incarnation: string;
  /** Invariant 11: false from `limits.leaseMarginMs` before the node's lease could have ended. */
  readonly leaseValid: () => boolean;
  /** Tells the operator. `subject` as in the store's Event record. */
  readonly report: (severity: Severity, subject: string, message: string) => void;
  readonly buffers: InternalBuffers;
  readonly budget: OperationBudget;
  readonly scrub: ScrubSettings;
  /** The volumes of a shard are scrubbed one extent after the other, all together at the rate that is set. */
  readonly scrubTurns: Serial;
  readonly pacer: CopyPacer;
}

/** Buffers for copies: waits in line when the internal pool is used up. */
export class InternalBuffers {
  readonly #slab: Slab;
  readonly #waiting: { lengthBytes: number; resolve: (buffer: BufferId) => void }[] = [];

  constructor(slab: Slab) {
    this.#slab = slab;
  }

  alloc(lengthBytes: number): Promise<BufferId> {
    const buffer = this.#waiting.length === 0 ? this.#slab.alloc(lengthBytes, POOL_INTERNAL) : NO_BUFFER;
    if (buffer !== NO_BUFFER) return Promise.resolve(buffer);
    return new Promise((resolve) => {
      this.#waiting.push({ lengthBytes, resolve });
    });
  }

  onAvailable(): void {
    while (this.#waiting.length > 0) {
      const first = this.#waiting[0];
      if (first === undefined) return;
      const buffer = this.#slab.alloc(first.lengthBytes, POOL_INTERNAL);
      if (buffer === NO_BUFFER) return;
      this.#waiting.shift();
      first.resolve(buffer);
    }
  }
}

export const VOLUME_TICK_MS = 1_000;

/** Calls all that were added from one timer: an idle shard wakes up as often for fifty volumes as for one. */
export class Ticker {
  readonly #clock: Clock;
  readonly #periodMs: number;
  readonly #callbacks = new Set<() => void>();
  #timer: Timer | null = null;

  constructor(clock: Clock, periodMs: number) {
    this.#clock = clock;
    this.#periodMs = periodMs;
  }

  /** Calls `callback` every period, the first time within one, until it is cancelled. */
  add(callback: () => void): Timer {
    this.#callbacks.add(callback);
    if (this.#timer === null) this.#arm();
    return { cancel: () => this.#remove(callback) };
  }

  #remove(callback: () => void): void {
    this.#callbacks.delete(callback);
    if (this.#callbacks.size > 0) return;
    this.#timer?.cancel();
    this.#timer = null;
  }

  #arm(): void {
    this.#timer = this.#clock.after(this.#periodMs, () => {
      this.#arm();
      for (const callback of [...this.#callbacks]) callback();
    });
  }
}

/** Runs asynchronous steps one after the other. */
export class Serial {
  #tail: Promise<unknown> = Promise.resolve();

  run<T>(step: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(step);
    this.#tail = result.catch(() => undefined);
    return result;
  }
}

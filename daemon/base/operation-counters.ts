/**
 * Counters and latency histograms of operations by kind, in typed arrays: counting allocates nothing.
 * A kind is a small integer of the user's own.
 */

/** Up to 2^31 microseconds, 36 minutes; the last bucket takes all that is slower. */
export const LATENCY_BUCKETS = 32;

export interface OperationCounters {
  /** That have ended, failed ones included. */
  readonly operations: number;
  /** Of those that did not fail. */
  readonly bytes: number;
  readonly errors: number;
  /** Entry i counts operations that took less than 2^i microseconds, and no less than half of that. */
  readonly latencyBuckets: readonly number[];
  readonly latencySumUs: number;
}

export class OperationCounts {
  readonly #operations: Float64Array;
  readonly #bytes: Float64Array;
  readonly #errors: Float64Array;
  readonly #latencyBuckets: Float64Array;
  readonly #latencySumUs: Float64Array;

  constructor(kinds: number) {
    this.#operations = new Float64Array(kinds);
    this.#bytes = new Float64Array(kinds);
    this.#errors = new Float64Array(kinds);
    this.#latencyBuckets = new Float64Array(kinds * LATENCY_BUCKETS);
    this.#latencySumUs = new Float64Array(kinds);
  }

  /** An operation has ended, after `latencyUs` (an integer below 2^31). */
  add(kind: number, lengthBytes: number, isError: boolean, latencyUs: number): void {
    this.#operations[kind] = (this.#operations[kind] as number) + 1;
    if (isError) this.#errors[kind] = (this.#errors[kind] as number) + 1;
    else this.#bytes[kind] = (this.#bytes[kind] as number) + lengthBytes;
    this.#latencySumUs[kind] = (this.#latencySumUs[kind] as number) + latencyUs;
    // 32 - clz32(n) is the number of bits of n: the smallest i with n < 2^i.
    const bucket = kind * LATENCY_BUCKETS + Math.min(32 - Math.clz32(latencyUs), LATENCY_BUCKETS - 1);
    this.#latencyBuckets[bucket] = (this.#latencyBuckets[bucket] as number) + 1;
  }

  counters(kind: number): OperationCounters {
    const from = kind * LATENCY_BUCKETS;
    return {
      operations: this.#operations[kind] ?? 0,
      bytes: this.#bytes[kind] ?? 0,
      errors: this.#errors[kind] ?? 0,
      latencyBuckets: [...this.#latencyBuckets.subarray(from, from + LATENCY_BUCKETS)],
      latencySumUs: this.#latencySumUs[kind] ?? 0,
    };
  }
}

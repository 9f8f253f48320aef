/** Counters of one export by type of request, in typed arrays. */
import { CMD } from './protocol.js';

const TYPES = 8;
/** Up to 2^31 microseconds, 36 minutes; the last bucket takes all that is slower. */
export const LATENCY_BUCKETS = 32;

/** Bucket i counts requests that took less than 2^i microseconds (and no less than half of that). */
export interface RequestCounters {
  readonly operations: number;
  readonly bytes: number;
  readonly errors: number;
  readonly inFlight: number;
  readonly latencyBuckets: readonly number[];
  readonly latencySumUs: number;
}

export interface ExportStats {
  readonly name: string;
  readonly uuid: string;
  readonly connections: number;
  readonly inFlight: number;
  readonly read: RequestCounters;
  readonly write: RequestCounters;
  readonly flush: RequestCounters;
  readonly trim: RequestCounters;
  readonly writeZeroes: RequestCounters;
  readonly blockStatus: RequestCounters;
}

export class RequestStats {
  readonly #operations = new Float64Array(TYPES);
  readonly #bytes = new Float64Array(TYPES);
  readonly #errors = new Float64Array(TYPES);
  readonly #inFlight = new Int32Array(TYPES);
  readonly #latencyBuckets = new Float64Array(TYPES * LATENCY_BUCKETS);
  readonly #latencySumUs = new Float64Array(TYPES);

  /** Types that do not exist count as NBD_CMD_CACHE, which is refused like them. */
  begin(type: number): void {
    const row = type < TYPES ? type : CMD.CACHE;
    this.#inFlight[row] = (this.#inFlight[row] as number) + 1;
  }

  end(type: number, lengthBytes: number, error: number, latencyMs: number): void {
    const row = type < TYPES ? type : CMD.CACHE;
    this.#inFlight[row] = (this.#inFlight[row] as number) - 1;
    this.#operations[row] = (this.#operations[row] as number) + 1;
    if (error === 0) this.#bytes[row] = (this.#bytes[row] as number) + lengthBytes;
    else this.#errors[row] = (this.#errors[row] as number) + 1;
    const latencyUs = latencyMs * 1000;
    this.#latencySumUs[row] = (this.#latencySumUs[row] as number) + latencyUs;
    // 32 - clz32(n) is the number of bits of n: the smallest i with n < 2^i.
    const bits = latencyUs >= 0x7fffffff ? LATENCY_BUCKETS - 1 : 32 - Math.clz32(latencyUs);
    const bucket = row * LATENCY_BUCKETS + Math.min(bits, LATENCY_BUCKETS - 1);
    this.#latencyBuckets[bucket] = (this.#latencyBuckets[bucket] as number) + 1;
  }

  /** The request has ended with its connection. */
  drop(type: number): void {
    const row = type < TYPES ? type : CMD.CACHE;
    this.#inFlight[row] = (this.#inFlight[row] as number) - 1;
  }

  get inFlight(): number {
    let sum = 0;
    for (const count of this.#inFlight) sum += count;
    return sum;
  }

  counters(type: number): RequestCounters {
    const from = type * LATENCY_BUCKETS;
    return {
      operations: this.#operations[type] ?? 0,
      bytes: this.#bytes[type] ?? 0,
      errors: this.#errors[type] ?? 0,
      inFlight: this.#inFlight[type] ?? 0,
      latencyBuckets: [...this.#latencyBuckets.subarray(from, from + LATENCY_BUCKETS)],
      latencySumUs: this.#latencySumUs[type] ?? 0,
    };
  }
}

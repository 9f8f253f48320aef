/** Counters of one export by type of request, in typed arrays. */
import { type OperationCounters, OperationCounts } from '../../base/operation-counters.js';
import { CMD } from './protocol.js';

const TYPES = 8;

export interface RequestCounters extends OperationCounters {
  readonly inFlight: number;
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
  readonly #inFlight = new Int32Array(TYPES);
  readonly #ended = new OperationCounts(TYPES);

  /** Types that do not exist count as NBD_CMD_CACHE, which is refused like them. */
  begin(type: number): void {
    const row = type < TYPES ? type : CMD.CACHE;
    this.#inFlight[row] = (this.#inFlight[row] as number) + 1;
  }

  end(type: number, lengthBytes: number, error: number, latencyUs: number): void {
    const row = type < TYPES ? type : CMD.CACHE;
    this.#inFlight[row] = (this.#inFlight[row] as number) - 1;
    this.#ended.add(row, lengthBytes, error !== 0, latencyUs);
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
    return { ...this.#ended.counters(type), inFlight: this.#inFlight[type] ?? 0 };
  }
}

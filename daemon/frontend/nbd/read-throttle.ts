/**
 * Bounds what clients that ask and do not take can hold of the slab: a READ piece starts while what its connection has being read, held, or
 * queued to be sent is less than `limits.nbdUnsentBytesPerConnectionMax`; `limits.nbdUnsentBytesAssured` while more than half of the pool is in
 * use, so that many such clients leave room for others. READs that may not go on wait here, in the order in which they were stopped, until the
 * connection's pieces have ended without data, the client has taken some, or others have.
 *
 * Why none waits for ever: while the limit is reached, either a piece is under way, whose end is a reason to look again; or something is queued,
 * and when it falls below half of the limit the transport says so, and below that a timer looks again; or a READ that is sent as a whole holds
 * pieces, and such a READ, once begun, is not stopped.
 */
import { assert } from '../../base/assert.js';
import { limits } from '../../base/limits.js';
import type { Clock } from '../../ports/clock.js';
import type { NbdTransport } from '../../ports/nbd-transport.js';
import { POOL_FRONTEND, type Slab } from '../../ports/slab.js';
import type { NbdConnection } from './connection.js';
import { NONE, REPLY, REQUEST_STATE, type RequestSlots } from './slots.js';

export interface ReadThrottleOptions {
  readonly transport: NbdTransport;
  readonly slab: Slab;
  readonly clock: Clock;
  /** Size of the slab's front-end pool. */
  readonly frontendBytes: number;
  /** It is time to look at every connection again. */
  readonly onTick: () => void;
}

export class ReadThrottle {
  readonly #options: ReadThrottleOptions;
  readonly #requests: RequestSlots<NbdConnection>;
  #isTicking = false;

  constructor(options: ReadThrottleOptions, requests: RequestSlots<NbdConnection>) {
    this.#options = options;
    this.#requests = requests;
  }

  /** Whether the next piece of a READ may start. */
  mayStart(connection: NbdConnection, row: number): boolean {
    if (this.#isBelowLimit(connection)) return true;
    const r = this.#requests;
    return r.reply[row] === REPLY.WHOLE && (r.inFlight[row] !== 0 || r.held[row] !== 0);
  }

  /** Takes a READ that is in no other list. */
  stop(connection: NbdConnection, row: number): void {
    const r = this.#requests;
    assert(r.state[row] === REQUEST_STATE.RUNNING, 'a READ is stopped when no list holds it');
    r.state[row] = REQUEST_STATE.THROTTLED;
    if (connection.throttledTail === NONE) connection.throttledHead = row;
    else r.link[connection.throttledTail] = row;
    connection.throttledTail = row;
    this.#lookAgain(connection);
  }

  /** The next READ that may go on, RUNNING again, or NONE. `isOver`: whether it may or not. */
  next(connection: NbdConnection, isOver: boolean): number {
    const r = this.#requests;
    const row = connection.throttledHead;
    if (row === NONE) return NONE;
    if (!isOver && !this.#isBelowLimit(connection)) {
      this.#lookAgain(connection);
      return NONE;
    }
    connection.throttledHead = r.link[row] as number;
    if (connection.throttledHead === NONE) connection.throttledTail = NONE;
    r.state[row] = REQUEST_STATE.RUNNING;
    r.link[row] = NONE;
    return row;
  }

  #isBelowLimit(connection: NbdConnection): boolean {
    const heldBytes = this.#heldBytes(connection);
    if (heldBytes < limits.nbdUnsentBytesAssured) return true;
    if (heldBytes >= limits.nbdUnsentBytesPerConnectionMax) return false;
    const { slab, frontendBytes } = this.#options;
    return slab.usedBytes(POOL_FRONTEND) <= frontendBytes / 2;
  }

  #heldBytes(connection: NbdConnection): number {
    return connection.readBytes + this.#options.transport.unsentBytes(connection.id);
  }

  /** A connection that the pool stops far below its own limit hears nothing when the client takes what is left, or others do. */
  #lookAgain(connection: NbdConnection): void {
    const isTold = this.#heldBytes(connection) >= limits.nbdUnsentBytesPerConnectionMax / 2;
    if (this.#isTicking || isTold) return;
    this.#isTicking = true;
    this.#options.clock.after(limits.nbdThrottleTickMs, () => {
      this.#isTicking = false;
      this.#options.onTick();
    });
  }
}

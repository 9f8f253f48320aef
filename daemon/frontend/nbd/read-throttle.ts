/**
 * Bounds what a client that asks and does not take can hold of the slab: a READ piece starts while less than
 * `limits.nbdUnsentBytesPerConnectionMax` of its connection is being read, held, or queued to be sent. READs that may not go on wait here, in
 * the order in which they were stopped, until the connection's pieces have ended without data or the client has taken some.
 *
 * Why none waits for ever: while the limit is reached, either a piece is under way, whose end is a reason to look again; or something is queued,
 * and when it falls below half of the limit the transport says so; or a READ that is sent as a whole holds pieces, and such a READ, once begun,
 * is not stopped.
 */
import { assert } from '../../base/assert.js';
import { limits } from '../../base/limits.js';
import type { NbdTransport } from '../../ports/nbd-transport.js';
import type { NbdConnection } from './connection.js';
import { NONE, REPLY, REQUEST_STATE, type RequestSlots } from './slots.js';

export class ReadThrottle {
  readonly #transport: NbdTransport;
  readonly #requests: RequestSlots<NbdConnection>;

  constructor(transport: NbdTransport, requests: RequestSlots<NbdConnection>) {
    this.#transport = transport;
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
  }

  /** The next READ that may go on, RUNNING again, or NONE. `isOver`: whether it may or not. */
  next(connection: NbdConnection, isOver: boolean): number {
    const r = this.#requests;
    const row = connection.throttledHead;
    if (row === NONE || !(isOver || this.#isBelowLimit(connection))) return NONE;
    connection.throttledHead = r.link[row] as number;
    if (connection.throttledHead === NONE) connection.throttledTail = NONE;
    r.state[row] = REQUEST_STATE.RUNNING;
    r.link[row] = NONE;
    return row;
  }

  #isBelowLimit(connection: NbdConnection): boolean {
    const unsentBytes = this.#transport.unsentBytes(connection.id);
    return connection.readBytes + unsentBytes < limits.nbdUnsentBytesPerConnectionMax;
  }
}

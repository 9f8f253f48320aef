/**
 * Who may use a connection's simple replies when. A simple reply is a header and all of its payload with nothing between, so a READ of
 * several pieces, whose payload comes bit by bit, must have the connection's replies to itself. ("Simple reply message")
 *
 * It waits until the connection's other READs have ended, and READs that come later wait for it. So, while it streams, no buffer is held
 * by a reply that cannot be sent, and the stream never waits for space that only the end of the stream would free. Other requests
 * go on; their replies, which hold nothing, follow the stream.
 *
 * Invariants (of a connection without structured replies):
 * - `stream` is admitted, and then it is the only admitted READ.
 * - READs pass the gate in the order in which they came.
 * - Nothing is deferred unless a stream is being sent.
 */
import { assert } from '../../base/assert.js';
import type { NbdConnection } from './connection.js';
import { NONE, REPLY, REQUEST_STATE, type RequestSlots } from './slots.js';

export class ReplyOrder {
  readonly #requests: RequestSlots<NbdConnection>;

  constructor(requests: RequestSlots<NbdConnection>) {
    this.#requests = requests;
  }

  /** Whether a new READ may start; if not it waits behind the gate. */
  enter(connection: NbdConnection, row: number): boolean {
    if (connection.structured) return true;
    if (connection.gateHead === NONE && this.#fits(connection, row)) {
      this.#admit(connection, row);
      return true;
    }
    const r = this.#requests;
    r.state[row] = REQUEST_STATE.GATED;
    if (connection.gateTail === NONE) connection.gateHead = row;
    else r.link[connection.gateTail] = row;
    connection.gateTail = row;
    return false;
  }

  /** An admitted READ has ended. */
  leave(connection: NbdConnection, row: number): void {
    connection.readsAdmitted--;
    if (connection.stream !== row) return;
    connection.stream = NONE;
    connection.isStreaming = false;
  }

  /** The next READ that may pass the gate now, or NONE. */
  next(connection: NbdConnection): number {
    const r = this.#requests;
    const row = connection.gateHead;
    if (row === NONE || !this.#fits(connection, row)) return NONE;
    connection.gateHead = r.link[row] as number;
    if (connection.gateHead === NONE) connection.gateTail = NONE;
    this.#toRunning(row);
    this.#admit(connection, row);
    return row;
  }

  mustDefer(connection: NbdConnection, row: number): boolean {
    return connection.isStreaming && connection.stream !== row;
  }

  defer(connection: NbdConnection, row: number): void {
    const r = this.#requests;
    r.state[row] = REQUEST_STATE.DEFERRED;
    if (connection.deferredTail === NONE) connection.deferredHead = row;
    else r.link[connection.deferredTail] = row;
    connection.deferredTail = row;
  }

  /** The next request whose reply was deferred and can be sent now, or NONE. */
  nextDeferred(connection: NbdConnection): number {
    const row = connection.deferredHead;
    if (row === NONE || connection.isStreaming) return NONE;
    connection.deferredHead = this.#requests.link[row] as number;
    if (connection.deferredHead === NONE) connection.deferredTail = NONE;
    this.#toRunning(row);
    return row;
  }

  /** Empties the gate; the READs that waited are RUNNING and not admitted. */
  clearGate(connection: NbdConnection): void {
    this.#clear(connection.gateHead);
    connection.gateHead = NONE;
    connection.gateTail = NONE;
  }

  clearDeferred(connection: NbdConnection): void {
    this.#clear(connection.deferredHead);
    connection.deferredHead = NONE;
    connection.deferredTail = NONE;
  }

  assertConsistent(connection: NbdConnection): void {
    const { stream, readsAdmitted } = connection;
    assert(stream === NONE || readsAdmitted === 1, 'a stream is the only admitted READ');
    assert(!connection.isStreaming || stream !== NONE, 'what is being sent is the stream');
    assert(connection.deferredHead === NONE || connection.isStreaming, 'replies are deferred by a stream only');
    assert(connection.gateHead === NONE || readsAdmitted > 0, 'READs wait for admitted READs only');
    assert(!connection.structured || (readsAdmitted === 0 && stream === NONE), 'structured replies need no order');
  }

  #fits(connection: NbdConnection, row: number): boolean {
    if (connection.stream !== NONE) return false;
    return this.#requests.reply[row] !== REPLY.STREAM || connection.readsAdmitted === 0;
  }

  #admit(connection: NbdConnection, row: number): void {
    this.#requests.isAdmitted[row] = 1;
    connection.readsAdmitted++;
    if (this.#requests.reply[row] === REPLY.STREAM) connection.stream = row;
  }

  #toRunning(row: number): void {
    this.#requests.state[row] = REQUEST_STATE.RUNNING;
    this.#requests.link[row] = NONE;
  }

  #clear(head: number): void {
    let row = head;
    while (row !== NONE) {
      const next = this.#requests.link[row] as number;
      this.#toRunning(row);
      row = next;
    }
  }
}

/**
 * Flushes in flight: which sessions still owe each FLUSH an answer.
 *
 * Invariants
 * - A FLUSH ends when every session that has a target (an in-sync, syncing or joining replica) and had unflushed writes when the FLUSH came
 *   has answered, or has no target any more. A syncing copy counts: it may join before the next FLUSH, after its own flush of what was copied.
 *   What a copy missed because it was stale when the FLUSH came is copied, and flushed, before it joins.
 * - `writesFlushed` of a session never exceeds the writes that were acknowledged on it before the FLUSH was sent.
 */
import { NO_BUFFER } from '../ports/slab.js';
import { Frame, OPCODE } from '../protocol/frame.js';
import type { OperationTable } from './operations.js';
import type { Session } from './segment.js';

const NOT_AWAITED = -1;
/** Awaited, and to be sent when the session has all its copies again. */
const UNSENT = 0;

export class FlushTable {
  readonly #table: OperationTable;
  readonly #sessions: readonly Session[];
  readonly #epoch: number;
  readonly #frame = new Frame();
  /** Per session and row: writes acknowledged on the session when the FLUSH was sent, or NOT_AWAITED. */
  #covered: Float64Array;

  constructor(table: OperationTable, sessions: readonly Session[], epoch: number) {
    this.#table = table;
    this.#sessions = sessions;
    this.#epoch = epoch;
    this.#covered = new Float64Array(table.capacity * sessions.length).fill(NOT_AWAITED);
  }

  #cell(row: number, session: Session): number {
    return session.index * this.#table.capacity + row;
  }

  /** Sends FLUSH wherever there is something to flush. */
  start(row: number): void {
    if (this.#covered.length < this.#table.capacity * this.#sessions.length) this.#grow();
    for (const session of this.#sessions) {
      if (session.writesAcked === session.writesFlushed || !this.#hasTarget(session)) continue;
      this.#covered[this.#cell(row, session)] = UNSENT;
      this.send(row, session);
    }
  }

  /** Not while the session lacks one of its targets: its answer would not speak for that one. */
  send(row: number, session: Session): void {
    if (!this.#isComplete(session)) {
      this.#covered[this.#cell(row, session)] = UNSENT; // an earlier one may have been lost with its connection
      return;
    }
    this.#covered[this.#cell(row, session)] = session.writesAcked;
    const frame = this.#frame.request(OPCODE.FLUSH, this.#table.tag(row, 0), session.handle, 0);
    frame.epoch = this.#epoch;
    session.peer.send(frame, NO_BUFFER, 0, NO_BUFFER);
  }

  awaits(row: number, session: Session): boolean {
    return (this.#covered[this.#cell(row, session)] ?? NOT_AWAITED) !== NOT_AWAITED;
  }

  answered(row: number, session: Session): void {
    const cell = this.#cell(row, session);
    session.writesFlushed = Math.max(session.writesFlushed, this.#covered[cell] ?? 0);
    this.#covered[cell] = NOT_AWAITED;
  }

  /** Stops waiting for sessions without a target. */
  dropStale(row: number): void {
    for (const session of this.#sessions)
      if (!this.#hasTarget(session)) this.#covered[this.#cell(row, session)] = NOT_AWAITED;
    for (const session of this.#sessions)
      if (this.#covered[this.#cell(row, session)] === UNSENT) this.send(row, session);
  }

  done(row: number): boolean {
    for (const session of this.#sessions) if (this.awaits(row, session)) return false;
    return true;
  }

  clear(row: number): void {
    for (const session of this.#sessions) this.#covered[this.#cell(row, session)] = NOT_AWAITED;
  }

  /** Sessions have come with copies on other nodes. */
  #grow(): void {
    const larger = new Float64Array(this.#table.capacity * this.#sessions.length).fill(NOT_AWAITED);
    larger.set(this.#covered);
    this.#covered = larger;
  }

  #isComplete(session: Session): boolean {
    return session.open && session.shutCopies === 0;
  }

  #hasTarget(session: Session): boolean {
    return session.targetCopies > 0;
  }
}

/**
 * Table of a volume's operations in flight: one row per client piece or internal extent lock, in typed arrays, so that the hot path
 * allocates nothing. A row's tag names it on the wire.
 *
 * Invariants
 * - A row is either on the free list (`phase` FREE) or in use by exactly one operation.
 * - `again` and `noSpace` are subsets of what was ever pending; `again` is a subset of `pending`.
 * - A reply is accepted only if its tag carries the row's current serial, so a late reply never touches a later operation.
 */
import { assert } from '../base/assert.js';

export const KIND = { READ: 1, WRITE: 2, TRIM: 3, ZERO: 4, FLUSH: 5, LOCK: 6 } as const;

export const PHASE = {
  FREE: 0,
  /** Waits for its region to be reconciled (invariant 10); not yet in the lock's queue. */
  DIRTY: 1,
  /** Waits for the range lock. */
  QUEUED: 2,
  /** Requests are out at the replicas, or wait for a suspect replica. */
  ACTIVE: 3,
  /** Done at every target, but fewer than minInSync copies are in sync (invariant 12). */
  HELD: 4,
  /** A read that no replica can serve now. */
  PARKED: 5,
  /** Waits for a slab buffer. */
  STARVED: 6,
  /** Reads what an unaligned write leaves unchanged. */
  MERGING: 7,
  /** Undoes a write that not every replica had space for. */
  RESTORING: 8,
} as const;

const SERIAL_MASK = 0xffff;
const NONE = -1;

export class OperationTable {
  readonly capacity: number;
  readonly kind: Uint8Array;
  readonly phase: Uint8Array;
  /** FLAG bits for the wire (FUA). */
  readonly flags: Uint8Array;
  readonly ticket: Int32Array;
  readonly segment: Uint32Array;
  /** Block-aligned range in the segment. */
  readonly offset: Uint32Array;
  readonly length: Uint32Array;
  /** The client's part of that range: bytes to skip, and bytes. */
  readonly skip: Uint32Array;
  readonly clientLength: Uint32Array;
  readonly buffer: Uint32Array;
  readonly generation: Uint32Array;
  readonly serial: Uint16Array;
  /** Replica slots (bits) whose answer is awaited; to be asked again under the current generation; without space; already tried. */
  readonly pending: Uint8Array;
  readonly again: Uint8Array;
  readonly noSpace: Uint8Array;
  /** Replicas that have carried it out, under whichever generation: what was there before is gone. */
  readonly took: Uint8Array;
  readonly tried: Uint8Array;
  /** Replicas that could not vouch for what they have read. */
  readonly unsure: Uint8Array;
  /** Slot that a read was sent to. */
  readonly source: Uint8Array;
  /** Range lock: how many conflicting operations are ahead; whether it yields to extent locks (see RangeLock). */
  readonly blockers: Uint16Array;
  readonly yielded: Uint8Array;
  readonly next: Int32Array;
  readonly previous: Int32Array;
  #freeHead = NONE;
  #used = 0;
  #clientUsed = 0;
  readonly #clientMax: number;

  /** `clientMax` rows for clients, `internalMax` more for extent locks, so that healing never waits for clients' rows. */
  constructor(clientMax: number, internalMax: number) {
    const capacity = clientMax + internalMax;
    assert(capacity <= 8192, 'an operation index fits 13 bits of the tag');
    this.capacity = capacity;
    this.#clientMax = clientMax;
    this.kind = new Uint8Array(capacity);
    this.phase = new Uint8Array(capacity);
    this.flags = new Uint8Array(capacity);
    this.ticket = new Int32Array(capacity);
    this.segment = new Uint32Array(capacity);
    this.offset = new Uint32Array(capacity);
    this.length = new Uint32Array(capacity);
    this.skip = new Uint32Array(capacity);
    this.clientLength = new Uint32Array(capacity);
    this.buffer = new Uint32Array(capacity);
    this.generation = new Uint32Array(capacity);
    this.serial = new Uint16Array(capacity);
    this.pending = new Uint8Array(capacity);
    this.again = new Uint8Array(capacity);
    this.noSpace = new Uint8Array(capacity);
    this.took = new Uint8Array(capacity);
    this.tried = new Uint8Array(capacity);
    this.unsure = new Uint8Array(capacity);
    this.source = new Uint8Array(capacity);
    this.blockers = new Uint16Array(capacity);
    this.yielded = new Uint8Array(capacity);
    this.next = new Int32Array(capacity).fill(NONE);
    this.previous = new Int32Array(capacity).fill(NONE);
    for (let index = capacity - 1; index >= 0; index--) {
      this.next[index] = this.#freeHead;
      this.#freeHead = index;
    }
  }

  get used(): number {
    return this.#used;
  }

  get clientUsed(): number {
    return this.#clientUsed;
  }

  clientHasRoom(): boolean {
    return this.#clientUsed < this.#clientMax;
  }

  /** Takes a row; the caller has checked that there is room (`clientHasRoom`) or bounds its internal operations. */
  take(kind: number): number {
    const index = this.#freeHead;
    assert(index !== NONE, 'an operation row is free');
    this.#freeHead = this.next[index] ?? NONE;
    this.next[index] = NONE;
    this.previous[index] = NONE;
    this.kind[index] = kind;
    this.flags[index] = 0;
    this.skip[index] = 0;
    this.buffer[index] = 0;
    this.pending[index] = 0;
    this.again[index] = 0;
    this.noSpace[index] = 0;
    this.took[index] = 0;
    this.tried[index] = 0;
    this.unsure[index] = 0;
    this.blockers[index] = 0;
    this.yielded[index] = 0;
    this.phase[index] = PHASE.QUEUED;
    this.#used++;
    if (kind !== KIND.LOCK) this.#clientUsed++;
    return index;
  }

  free(index: number): void {
    assert(this.phase[index] !== PHASE.FREE, 'a row is freed once');
    if (this.kind[index] !== KIND.LOCK) this.#clientUsed--;
    this.#used--;
    this.phase[index] = PHASE.FREE;
    this.serial[index] = ((this.serial[index] ?? 0) + 1) & SERIAL_MASK;
    this.next[index] = this.#freeHead;
    this.#freeHead = index;
  }

  /** Bits 0-1: replica slot; 2-14: row; 15-30: serial; 31: clear (set for the peers' own calls). */
  tag(index: number, slot: number): number {
    return (((this.serial[index] ?? 0) << 15) | (index << 2) | slot) >>> 0;
  }

  /** The row that a reply's tag names, or -1 if that operation has ended. */
  rowOf(tag: number): number {
    const index = (tag >>> 2) & 0x1fff;
    if (index >= this.capacity || this.phase[index] === PHASE.FREE) return NONE;
    return this.serial[index] === ((tag >>> 15) & SERIAL_MASK) ? index : NONE;
  }
}

export function slotOf(tag: number): number {
  return tag & 3;
}

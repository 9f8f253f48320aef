/**
 * The requests that a replica server is serving, one slot of these typed arrays each: nothing is allocated per request.
 * A slot's number is also the tag of its drive I/O.
 *
 * Invariants (assertConsistent):
 * - a slot is free or in use, and `inUse` counts the latter;
 * - a free slot holds no buffer and names no replica or owner.
 */
import { assert } from '../base/assert.js';
import { NO_BUFFER } from '../ports/slab.js';
import type { Replica } from './replica.js';

/** What a request is waiting for. */
export const OPERATION = {
  FREE: 0,
  /** Validated; on its way to one of the below. */
  STARTED: 1,
  /** A metadata commit to join (activity log full, or another commit under way). */
  QUEUED: 2,
  /** The metadata commit that it joined. */
  COMMITTING: 3,
  /** The drive. */
  DRIVE: 4,
  /** A buffer of the slab. */
  BUFFER: 5,
  /** A slow path: a control request. */
  CONTROL: 6,
  /** Answered because its drive failed, but the drive has not let go of it. */
  ABANDONED: 7,
} as const;

export const NO_OPERATION = -1;

/** Who started a request: it is not begun, nor taken further, once that has ended (invariants 2 and 6). */
export interface OperationOwner {
  readonly isCurrent: boolean;
}

export class OperationTable {
  readonly capacity: number;
  readonly state: Uint8Array;
  readonly opcode: Uint8Array;
  readonly flags: Uint16Array;
  readonly tag: Uint32Array;
  readonly session: Uint32Array;
  readonly segment: Uint32Array;
  readonly generation: Uint32Array;
  readonly epoch: Uint32Array;
  /** Bytes from the start of the segment. */
  readonly offset: Float64Array;
  readonly length: Uint32Array;
  /** One reference of ours, or NO_BUFFER. */
  readonly buffer: Float64Array;
  readonly extent: Uint32Array;
  /** A slot that the operation's commit frees; 0: none. */
  readonly freedSlot: Uint32Array;
  /** Drives that have yet to finish their part of a FLUSH. */
  readonly pending: Uint16Array;
  /** Status so far of an operation with several parts. */
  readonly status: Uint16Array;
  /** Next in whatever list the operation is in. */
  readonly next: Int32Array;
  readonly replica: (Replica | null)[];
  readonly owner: (OperationOwner | null)[];
  #firstFree = 0;
  #inUse = 0;

  constructor(capacity: number) {
    this.capacity = capacity;
    this.state = new Uint8Array(capacity);
    this.opcode = new Uint8Array(capacity);
    this.flags = new Uint16Array(capacity);
    this.tag = new Uint32Array(capacity);
    this.session = new Uint32Array(capacity);
    this.segment = new Uint32Array(capacity);
    this.generation = new Uint32Array(capacity);
    this.epoch = new Uint32Array(capacity);
    this.offset = new Float64Array(capacity);
    this.length = new Uint32Array(capacity);
    this.buffer = new Float64Array(capacity);
    this.extent = new Uint32Array(capacity);
    this.freedSlot = new Uint32Array(capacity);
    this.pending = new Uint16Array(capacity);
    this.status = new Uint16Array(capacity);
    this.next = new Int32Array(capacity);
    this.replica = new Array<Replica | null>(capacity).fill(null);
    this.owner = new Array<OperationOwner | null>(capacity).fill(null);
    for (let op = 0; op < capacity; op++) this.next[op] = op + 1 < capacity ? op + 1 : NO_OPERATION;
  }

  get inUse(): number {
    return this.#inUse;
  }

  get free(): number {
    return this.capacity - this.#inUse;
  }

  /** A slot, or NO_OPERATION. */
  take(): number {
    const op = this.#firstFree;
    if (op === NO_OPERATION) return op;
    this.#firstFree = this.next[op] as number;
    this.next[op] = NO_OPERATION;
    this.state[op] = OPERATION.STARTED;
    this.freedSlot[op] = 0;
    this.pending[op] = 0;
    this.status[op] = 0;
    this.#inUse++;
    return op;
  }

  release(op: number): void {
    assert(this.state[op] !== OPERATION.FREE, 'an operation is released once');
    assert(this.buffer[op] === NO_BUFFER, 'an operation gives its buffer back before it ends');
    this.state[op] = OPERATION.FREE;
    this.replica[op] = null;
    this.owner[op] = null;
    this.next[op] = this.#firstFree;
    this.#firstFree = op;
    this.#inUse--;
  }

  assertConsistent(): void {
    let free = 0;
    for (let op = this.#firstFree; op !== NO_OPERATION; op = this.next[op] as number) {
      free++;
      assert(free <= this.capacity && this.state[op] === OPERATION.FREE, 'the free list holds free slots, once');
      assert(this.buffer[op] === NO_BUFFER && this.replica[op] === null, 'a free slot holds nothing');
    }
    assert(free === this.free, 'every slot is free or in use');
  }
}

/** A first-in, first-out list of operations, threaded through `next`. */
export class OperationList {
  readonly #operations: OperationTable;
  #head = NO_OPERATION;
  #tail = NO_OPERATION;

  constructor(operations: OperationTable) {
    this.#operations = operations;
  }

  get head(): number {
    return this.#head;
  }

  get isEmpty(): boolean {
    return this.#head === NO_OPERATION;
  }

  push(op: number): void {
    assert(this.#operations.next[op] === NO_OPERATION && op !== this.#tail, 'an operation is in one list');
    if (this.#tail === NO_OPERATION) this.#head = op;
    else this.#operations.next[this.#tail] = op;
    this.#tail = op;
  }

  /** The first, removed; NO_OPERATION when empty. */
  shift(): number {
    const op = this.#head;
    if (op === NO_OPERATION) return op;
    this.#head = this.#operations.next[op] as number;
    if (this.#head === NO_OPERATION) this.#tail = NO_OPERATION;
    this.#operations.next[op] = NO_OPERATION;
    return op;
  }

  /** Moves all of `other` to the end of this. */
  append(other: OperationList): void {
    if (other.#head === NO_OPERATION) return;
    if (this.#tail === NO_OPERATION) this.#head = other.#head;
    else this.#operations.next[this.#tail] = other.#head;
    this.#tail = other.#tail;
    other.#head = NO_OPERATION;
    other.#tail = NO_OPERATION;
  }
}

/**
 * The range lock (invariants 3 and 4): orders operations of a volume that overlap and of which at least one changes data.
 * Operations queue per extent, first come first served. Extent locks (KIND.LOCK, taken by copies) exclude everything in their extent
 * and go ahead of operations that only wait.
 *
 * An operation that is done at every target but cannot be acknowledged yet (PHASE.HELD) has no I/O in flight; it `yield`s: extent
 * locks ignore it from then on, or a resync could never restore the redundancy that the held write waits for. Should it be issued
 * again while such a lock is held, it writes bytes that every in-sync copy, hence the copied extent, already has.
 *
 * Invariants
 * - `blockers` of a queued operation is the number of operations it still has to wait for; it starts exactly when that is 0.
 * - Two started operations of one extent never conflict, yielded ones and extent locks aside.
 */
import { assert } from '../base/assert.js';
import { EXTENT_BYTES } from '../base/units.js';
import { KIND, PHASE, type OperationTable } from './operations.js';

const NONE = -1;
const BUCKETS = 4096;

export class RangeLock {
  readonly #table: OperationTable;
  readonly #extentsPerSegment: number;
  /** Lists per bucket: operations, and extent locks. */
  readonly #operationHead = new Int32Array(BUCKETS).fill(NONE);
  readonly #operationTail = new Int32Array(BUCKETS).fill(NONE);
  readonly #lockHead = new Int32Array(BUCKETS).fill(NONE);
  readonly #lockTail = new Int32Array(BUCKETS).fill(NONE);
  /** Called when a queued row may start. May be called within `release` and `yield`, never within `enqueue`. */
  readonly #onGranted: (row: number) => void;

  constructor(table: OperationTable, extentsPerSegment: number, onGranted: (row: number) => void) {
    this.#table = table;
    this.#extentsPerSegment = extentsPerSegment;
    this.#onGranted = onGranted;
  }

  /** Puts the row in line; returns true if it may start at once. */
  enqueue(row: number): boolean {
    const table = this.#table;
    const bucket = this.#bucketOf(row);
    const isLock = table.kind[row] === KIND.LOCK;
    let blockers = this.#countConflicts(this.#lockHead[bucket] ?? NONE, row, false);
    if (isLock) {
      blockers += this.#countConflicts(this.#operationHead[bucket] ?? NONE, row, true);
      this.#adjustQueued(this.#operationHead[bucket] ?? NONE, row, 1);
      this.#append(this.#lockHead, this.#lockTail, bucket, row);
    } else {
      blockers += this.#countConflicts(this.#operationHead[bucket] ?? NONE, row, false);
      this.#append(this.#operationHead, this.#operationTail, bucket, row);
    }
    table.blockers[row] = blockers;
    table.phase[row] = blockers === 0 ? PHASE.ACTIVE : PHASE.QUEUED;
    return blockers === 0;
  }

  /** Takes the row out of line and starts those that waited only for it. */
  release(row: number): void {
    const table = this.#table;
    const bucket = this.#bucketOf(row);
    const successor = table.next[row] ?? NONE;
    if (table.kind[row] === KIND.LOCK) {
      this.#unlink(this.#lockHead, this.#lockTail, bucket, row);
      this.#adjustQueued(successor, row, -1);
      this.#adjustQueued(this.#operationHead[bucket] ?? NONE, row, -1);
    } else {
      this.#unlink(this.#operationHead, this.#operationTail, bucket, row);
      this.#adjustQueued(successor, row, -1);
      if (table.yielded[row] === 0) this.#adjustQueued(this.#lockHead[bucket] ?? NONE, row, -1);
    }
  }

  /** From now on extent locks ignore this started row. */
  yield(row: number): void {
    const table = this.#table;
    if (table.yielded[row] === 1) return;
    table.yielded[row] = 1;
    this.#adjustQueued(this.#lockHead[this.#bucketOf(row)] ?? NONE, row, -1);
  }

  #bucketOf(row: number): number {
    const extent = Math.floor((this.#table.offset[row] ?? 0) / EXTENT_BYTES);
    return ((this.#table.segment[row] ?? 0) * this.#extentsPerSegment + extent) % BUCKETS;
  }

  #conflict(a: number, b: number): boolean {
    const { kind, segment, offset, length } = this.#table;
    if (segment[a] !== segment[b]) return false;
    if (kind[a] === KIND.READ && kind[b] === KIND.READ) return false;
    const startA = offset[a] ?? 0;
    const startB = offset[b] ?? 0;
    return startA < startB + (length[b] ?? 0) && startB < startA + (length[a] ?? 0);
  }

  #countConflicts(head: number, row: number, startedOnly: boolean): number {
    const table = this.#table;
    let count = 0;
    for (let other = head; other !== NONE; other = table.next[other] ?? NONE) {
      if (startedOnly && (table.phase[other] === PHASE.QUEUED || table.yielded[other] === 1)) continue;
      if (this.#conflict(other, row)) count++;
    }
    return count;
  }

  /** Adds `delta` to the blockers of every queued row from `head` on that conflicts with `row`, and starts those that reach 0. */
  #adjustQueued(head: number, row: number, delta: 1 | -1): void {
    const table = this.#table;
    let other = head;
    while (other !== NONE) {
      const following = table.next[other] ?? NONE;
      if (table.phase[other] === PHASE.QUEUED && this.#conflict(other, row)) {
        const blockers = (table.blockers[other] ?? 0) + delta;
        assert(blockers >= 0, 'a row never has fewer than 0 blockers');
        table.blockers[other] = blockers;
        if (blockers === 0) {
          table.phase[other] = PHASE.ACTIVE;
          this.#granted.push(other);
        }
      }
      other = following;
    }
    this.#drainGranted();
  }

  /** Starting a row may end it and re-enter this class; grants are therefore delivered one after the other, outside list walks. */
  readonly #granted: number[] = [];
  #draining = false;

  #drainGranted(): void {
    if (this.#granted.length === 0 || this.#draining) return;
    this.#draining = true;
    for (let index = 0; index < this.#granted.length; index++) this.#onGranted(this.#granted[index] ?? NONE);
    this.#granted.length = 0;
    this.#draining = false;
  }

  #append(heads: Int32Array, tails: Int32Array, bucket: number, row: number): void {
    const table = this.#table;
    const tail = tails[bucket] ?? NONE;
    table.previous[row] = tail;
    table.next[row] = NONE;
    if (tail === NONE) heads[bucket] = row;
    else table.next[tail] = row;
    tails[bucket] = row;
  }

  #unlink(heads: Int32Array, tails: Int32Array, bucket: number, row: number): void {
    const table = this.#table;
    const previous = table.previous[row] ?? NONE;
    const next = table.next[row] ?? NONE;
    if (previous === NONE) heads[bucket] = next;
    else table.next[previous] = next;
    if (next === NONE) tails[bucket] = previous;
    else table.previous[next] = previous;
    table.next[row] = NONE;
    table.previous[row] = NONE;
  }

  /** Executes the invariants at the head of this file; for tests and the simulator. */
  assertConsistent(): void {
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      const started: number[] = [];
      const table = this.#table;
      for (let row = this.#operationHead[bucket] ?? NONE; row !== NONE; row = table.next[row] ?? NONE) {
        assert(table.phase[row] !== PHASE.FREE, 'rows in line are in use');
        if (table.phase[row] === PHASE.QUEUED) {
          assert((table.blockers[row] ?? 0) > 0, 'a queued row waits for something');
          continue;
        }
        for (const other of started)
          assert(!this.#conflict(row, other), 'started operations never conflict (invariant 3)');
        started.push(row);
      }
    }
  }
}

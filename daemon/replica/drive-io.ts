/**
 * The data area of one drive: tags, flushes shared by everyone who waits for one, counters, and a watch on operations that never end.
 *
 * Invariants:
 * - a tag is in flight at most once: operations use their slot's number, internal work the numbers above;
 * - one flush is in flight at a time; it answers only those who asked before it was issued;
 * - after `fail` nothing is submitted, every waiter has been told, and what still completes is only counted.
 */
import { assert, must } from '../base/assert.js';
import { limits } from '../base/limits.js';
import { type OperationCounters, OperationCounts } from '../base/operation-counters.js';
import { EXTENT_BYTES } from '../base/units.js';
import { type Clock, elapsedUs } from '../ports/clock.js';
import type { Disk } from '../ports/disk.js';
import type { BufferId } from '../ports/slab.js';

/** How often `tick` is called. */
export const DRIVE_TICK_MS = 1_000;
const TIMEOUT_TICKS = Math.ceil(limits.driveTimeoutMs / DRIVE_TICK_MS) + 1;
const PUNCH_TAG = limits.replicaOperationsMax;
const FLUSH_TAG = PUNCH_TAG + limits.punchesPerDriveMax;
const SCRUB_TAG = FLUSH_TAG + 1;
const TAGS = SCRUB_TAG + limits.scrubReadsPerDriveMax;
const EIO = -5;

/** What an operation counts as. */
const KIND = { READ: 0, WRITE: 1, FLUSH: 2, TRIM: 3 } as const;
type Kind = (typeof KIND)[keyof typeof KIND];
const KINDS = 4;

/** Everything asked of the data area since it was attached, for whomever, each from submission to completion. */
export interface DriveIoStats {
  readonly inFlight: number;
  readonly read: OperationCounters;
  readonly write: OperationCounters;
  readonly flush: OperationCounters;
  /** Ranges punched or zeroed. */
  readonly trim: OperationCounters;
}

export interface DriveIoHandler {
  /** A read, write, zero or punch of an operation ended. */
  onOperationIo(op: number, result: number): void;
  /** A flush that covers everything that completed before the operation asked ended. */
  onOperationFlushed(op: number, result: number): void;
  /** A flush failed, whoever asked for it: before they are told. */
  onFlushFailed(result: number): void;
}

type Callback = (result: number) => void;

export class DriveIo {
  readonly #handler: DriveIoHandler;
  readonly #clock: Clock;
  #disk: Disk | null = null;
  #failed = false;
  #inFlight = 0;
  /** Per tag, when it was submitted; 0: not in flight. */
  readonly #startedTick = new Uint32Array(TAGS);
  #tick = 1;
  /** Per tag in flight, for the counters: ticks are too coarse for these. */
  readonly #startedUs = new Int32Array(TAGS);
  readonly #kind = new Uint8Array(TAGS);
  readonly #lengthBytes = new Uint32Array(TAGS);
  readonly #ended = new OperationCounts(KINDS);

  readonly #punchDone = new Array<Callback | null>(limits.punchesPerDriveMax).fill(null);
  readonly #scrubDone = new Array<Callback | null>(limits.scrubReadsPerDriveMax).fill(null);
  #flushWaiting: Callback[] = [];
  #flushing: Callback[] = [];
  #operationsWaiting: number[] = [];
  #operationsFlushing: number[] = [];
  /** Lists whose flush has been told: the next ones need no new ones. */
  readonly #spareOperations: number[][] = [];
  readonly #spareCallbacks: Callback[][] = [];
  #onIdle: (() => void) | null = null;

  constructor(handler: DriveIoHandler, clock: Clock) {
    this.#handler = handler;
    this.#clock = clock;
  }

  attach(disk: Disk): void {
    assert(this.#disk === null, 'a drive has one data area');
    this.#disk = disk;
  }

  stats(): DriveIoStats {
    return {
      inFlight: this.#inFlight,
      read: this.#ended.counters(KIND.READ),
      write: this.#ended.counters(KIND.WRITE),
      flush: this.#ended.counters(KIND.FLUSH),
      trim: this.#ended.counters(KIND.TRIM),
    };
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  isInFlight(op: number): boolean {
    return this.#startedTick[op] !== 0;
  }

  get #open(): Disk {
    assert(!this.#failed, 'nothing is submitted to a failed drive');
    return must(this.#disk, 'the data area');
  }

  read(op: number, offsetBytes: number, lengthBytes: number, buffer: BufferId): void {
    this.#start(op, KIND.READ, lengthBytes);
    this.#open.read(op, offsetBytes, lengthBytes, buffer, 0);
  }

  write(op: number, offsetBytes: number, lengthBytes: number, buffer: BufferId, isDurable: boolean): void {
    this.#start(op, KIND.WRITE, lengthBytes);
    this.#open.write(op, offsetBytes, lengthBytes, buffer, 0, isDurable);
  }

  zero(op: number, offsetBytes: number, lengthBytes: number): void {
    this.#start(op, KIND.TRIM, lengthBytes);
    this.#open.zero(op, offsetBytes, lengthBytes);
  }

  punch(op: number, offsetBytes: number, lengthBytes: number): void {
    this.#start(op, KIND.TRIM, lengthBytes);
    this.#open.punch(op, offsetBytes, lengthBytes);
  }

  /** Punches `count` slots; at most limits.punchesPerDriveMax at once. */
  punchSlots(slot: number, count: number, done: Callback): void {
    const index = this.#punchDone.indexOf(null);
    assert(index >= 0, 'punches in flight are bounded');
    this.#punchDone[index] = done;
    this.#start(PUNCH_TAG + index, KIND.TRIM, count * EXTENT_BYTES);
    this.#open.punch(PUNCH_TAG + index, slot * EXTENT_BYTES, count * EXTENT_BYTES);
  }

  /** Reads a slot for the scrub; at most limits.scrubReadsPerDriveMax at once. */
  readSlot(slot: number, buffer: BufferId, done: Callback): void {
    const index = this.#scrubDone.indexOf(null);
    assert(index >= 0, 'reads of the scrub are bounded');
    this.#scrubDone[index] = done;
    this.#start(SCRUB_TAG + index, KIND.READ, EXTENT_BYTES);
    this.#open.read(SCRUB_TAG + index, slot * EXTENT_BYTES, EXTENT_BYTES, buffer, 0);
  }

  /** Everything that completed before this call is durable when `done(0)` is called. */
  flush(done: Callback): void {
    this.#flushWaiting.push(done);
    this.#startFlush();
  }

  /** The same for an operation, without a closure. */
  flushOperation(op: number): void {
    this.#operationsWaiting.push(op);
    this.#startFlush();
  }

  onCompletion(tag: number, result: number): void {
    assert(tag >= 0 && tag < TAGS && this.#startedTick[tag] !== 0, 'a completion is of an operation in flight');
    this.#startedTick[tag] = 0;
    this.#inFlight--;
    const latencyUs = elapsedUs(this.#clock, this.#startedUs[tag] as number);
    this.#ended.add(this.#kind[tag] as number, this.#lengthBytes[tag] as number, result !== 0, latencyUs);
    if (tag < PUNCH_TAG) this.#handler.onOperationIo(tag, result);
    else if (!this.#failed) this.#onInternal(tag, result);
    if (this.#inFlight === 0) this.#onIdle?.();
  }

  /** Called every DRIVE_TICK_MS; true when some operation is in flight for longer than `limits.driveTimeoutMs`. */
  tick(): boolean {
    this.#tick++;
    if (this.#inFlight === 0 || this.#failed) return false;
    const oldest = this.#tick - TIMEOUT_TICKS;
    for (let tag = 0; tag < TAGS; tag++) {
      const started = this.#startedTick[tag] as number;
      if (started !== 0 && started < oldest) return true;
    }
    return false;
  }

  fail(): void {
    if (this.#failed) return;
    this.#failed = true;
    this.#punchDone.fill(null);
    const scrubDone = this.#scrubDone.splice(0);
    this.#operationsFlushing.push(...this.#operationsWaiting.splice(0));
    this.#flushing.push(...this.#flushWaiting.splice(0));
    this.#onFlushed(EIO);
    for (const done of scrubDone) done?.(EIO);
  }

  /** What has happened to the data area behind our back; empty while nothing has. */
  check(): Promise<string> {
    return must(this.#disk, 'the data area').check();
  }

  /** Resolves when nothing is in flight any more; what an operation has yet to do at the drive is done first. */
  async close(): Promise<void> {
    if (!this.#failed && this.#inFlight > 0) await new Promise<void>((resolve) => void (this.#onIdle = resolve));
    await this.#disk?.close();
  }

  #onInternal(tag: number, result: number): void {
    if (tag === FLUSH_TAG) {
      if (result !== 0) this.#handler.onFlushFailed(result);
      if (!this.#failed) this.#onFlushed(result);
      return;
    }
    const [waiting, index] = tag < SCRUB_TAG ? [this.#punchDone, tag - PUNCH_TAG] : [this.#scrubDone, tag - SCRUB_TAG];
    const done = must(waiting[index], 'who waits for a punch or a read');
    waiting[index] = null;
    done(result);
  }

  #start(tag: number, kind: Kind, lengthBytes: number): void {
    assert(this.#startedTick[tag] === 0, 'a tag is in flight at most once');
    this.#startedTick[tag] = this.#tick;
    this.#startedUs[tag] = this.#clock.tickUs();
    this.#kind[tag] = kind;
    this.#lengthBytes[tag] = lengthBytes;
    this.#inFlight++;
  }

  #startFlush(): void {
    if (this.#startedTick[FLUSH_TAG] !== 0) return;
    this.#start(FLUSH_TAG, KIND.FLUSH, 0);
    [this.#operationsWaiting, this.#operationsFlushing] = [this.#operationsFlushing, this.#operationsWaiting];
    [this.#flushWaiting, this.#flushing] = [this.#flushing, this.#flushWaiting];
    this.#open.flush(FLUSH_TAG);
  }

  #onFlushed(result: number): void {
    const operations = this.#operationsFlushing;
    const callbacks = this.#flushing;
    this.#operationsFlushing = this.#spareOperations.pop() ?? [];
    this.#flushing = this.#spareCallbacks.pop() ?? [];
    if (!this.#failed && this.#operationsWaiting.length + this.#flushWaiting.length > 0) this.#startFlush();
    for (let index = 0; index < callbacks.length; index++) (callbacks[index] as Callback)(result);
    for (let index = 0; index < operations.length; index++) {
      this.#handler.onOperationFlushed(operations[index] as number, result);
    }
    if (callbacks.length > 0) callbacks.length = 0;
    if (operations.length > 0) operations.length = 0;
    this.#spareCallbacks.push(callbacks);
    this.#spareOperations.push(operations);
  }
}

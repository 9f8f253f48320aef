/**
 * From freed to free: a slot that a commit has unmapped is punched, the punch is flushed, and only then is it free for allocation, so that it reads
 * as zeros even after a power cut. Its freed-slot entry goes with the next commit, at the latest the one that allocates it again.
 *
 * Invariants (assertConsistent):
 * - a slot is in one of the stages below, or free, or mapped; it is in use for the allocator until it is free;
 * - every commit starts by removing the entries of the slots that have become free since the one before.
 */
import { assert } from '../base/assert.js';
import { limits } from '../base/limits.js';
import { EXTENTS_PER_REGION } from '../base/units.js';
import { freedKey } from '../format/keys.js';
import type { Log } from '../ports/log.js';
import type { MetaOperation } from '../ports/meta-store.js';
import { DRIVE_TICK_MS, type DriveIo } from './drive-io.js';
import type { SlotAllocator } from './slot-allocator.js';

/** Consecutive slots punched at once. */
const RUN_SLOTS_MAX = EXTENTS_PER_REGION;
/** Punched slots that are worth a flush while more are being punched. */
const FLUSH_BATCH_SLOTS = 256;
const TICKS_PER_RETRY = Math.ceil(limits.freedRetryMs / DRIVE_TICK_MS);

export class FreedSlots {
  readonly #io: DriveIo;
  readonly #allocator: SlotAllocator;
  readonly #log: Log;
  /** Slots have become free, or never will. */
  readonly #onSettled: () => void;
  /** Unmapped, to be punched. */
  readonly #unmapped: number[] = [];
  #punching = 0;
  #punchesInFlight = 0;
  /** Punched, not flushed. */
  #punched: number[] = [];
  #flushing: number[] = [];
  /** Free, with an entry that is still in the store. */
  #entries: number[] = [];
  #isStopped = false;
  #ticks = 0;
  /** Could not be zeroed: out of use until that is tried again. */
  #refused: number[] = [];

  constructor(io: DriveIo, allocator: SlotAllocator, log: Log, onSettled: () => void) {
    this.#io = io;
    this.#allocator = allocator;
    this.#log = log;
    this.#onSettled = onSettled;
  }

  /** Slots that will become free without anyone's doing. */
  get pending(): number {
    return this.#unmapped.length + this.#punching + this.#punched.length + this.#flushing.length;
  }

  /** Slots that are out of use, as they could not be zeroed. */
  get refused(): number {
    return this.#refused.length;
  }

  get isFull(): boolean {
    return this.pending >= limits.freedSlotsPerDriveMax;
  }

  /** The commit that unmaps the slot and makes its entry is durable. */
  unmapped(slot: number): void {
    assert(this.#allocator.isUsed(slot), 'a slot being freed is in use until it is zero');
    this.#unmapped.push(slot);
    this.#punchMore();
  }

  /** Adds to a commit what has to go with it. */
  collect(operations: MetaOperation[]): void {
    for (const slot of this.#entries) operations.push({ key: freedKey(slot), value: null });
    this.#entries = [];
  }

  /** Called every DRIVE_TICK_MS. Tries again, now and then, to zero what could not be zeroed. */
  tick(): void {
    this.#ticks++;
    if (this.#isStopped || this.#refused.length === 0 || this.#ticks % TICKS_PER_RETRY !== 0) return;
    this.#unmapped.push(...this.#refused);
    this.#refused = [];
    this.#punchMore();
  }

  /** Starts nothing any more. */
  stop(): void {
    this.#isStopped = true;
  }

  /** Calls `visit` with every slot that is on its way to being free. */
  forEachPending(visit: (slot: number) => void): void {
    for (const stage of [this.#unmapped, this.#punched, this.#flushing, this.#refused]) stage.forEach(visit);
  }

  assertConsistent(): void {
    const seen = new Set<number>();
    this.forEachPending((slot) => {
      assert(!seen.has(slot), 'a freed slot is in one stage');
      assert(this.#allocator.isUsed(slot), 'a freed slot is not allocated before it is zero');
      seen.add(slot);
    });
    for (const slot of this.#entries)
      assert(!this.#allocator.isUsed(slot), 'a slot is allocated with its entry removed');
  }

  #punchMore(): void {
    while (!this.#isStopped && this.#unmapped.length > 0 && this.#punchesInFlight < limits.punchesPerDriveMax) {
      const last = this.#unmapped.length - 1;
      let first = last;
      while (first > 0 && last - first + 1 < RUN_SLOTS_MAX && this.#isBefore(first - 1)) first--;
      const run = this.#unmapped.splice(first);
      this.#punching += run.length;
      this.#punchesInFlight++;
      this.#io.punchSlots(run[0] as number, run.length, (result) => this.#onPunched(run, result));
    }
  }

  #isBefore(index: number): boolean {
    return (this.#unmapped[index] as number) + 1 === this.#unmapped[index + 1];
  }

  #onPunched(run: readonly number[], result: number): void {
    this.#punchesInFlight--;
    this.#punching -= run.length;
    if (result === 0) this.#punched.push(...run);
    else {
      this.#refused.push(...run);
      this.#log.warn(
        { slot: run[0], count: run.length, result },
        'freed slots could not be zeroed; they stay out of use until they can be',
      );
    }
    this.#punchMore();
    this.#flushSome();
    if (result !== 0) this.#onSettled();
  }

  #flushSome(): void {
    if (this.#isStopped || this.#flushing.length > 0 || this.#punched.length === 0) return;
    if (this.#punchesInFlight > 0 && this.#punched.length < FLUSH_BATCH_SLOTS) return;
    this.#flushing = this.#punched;
    this.#punched = [];
    this.#io.flush((result) => this.#onFlushed(result));
  }

  #onFlushed(result: number): void {
    if (result !== 0 || this.#isStopped) return;
    for (const slot of this.#flushing) {
      this.#allocator.free(slot);
      this.#entries.push(slot);
    }
    this.#flushing = [];
    this.#flushSome();
    this.#onSettled();
  }
}

/**
 * Group commit of a drive's metadata. Operations and jobs that arrive while a commit is under way share the next one.
 *
 * Invariants (assertConsistent):
 * - one commit is under way at a time, and what it says is decided when it starts: the planner sees the effects of every earlier one;
 * - an operation goes on to its data only after the commit that it joined is durable (invariant 7);
 * - after a failure nothing is committed and everyone who waited has been told.
 */
import { assert } from '../base/assert.js';
import { limits } from '../base/limits.js';
import type { MetaOperation, MetaStore } from '../ports/meta-store.js';
import { NO_OPERATION, OPERATION, OperationList, type OperationTable } from './operations.js';

/** What an operation needs of the metadata now. */
export const PLAN = {
  /** Nothing (any more): it can go on. */
  READY: 0,
  /** The commit being prepared, to which everything was added. */
  COMMIT: 1,
  /** Something else first: a cooling to end, room in the activity log, a freed slot to become free. */
  WAIT: 2,
  /** It ended; the planner has answered it. */
  ENDED: 3,
} as const;
type Plan = (typeof PLAN)[keyof typeof PLAN];

export interface CommitPlanner {
  /** Adds what has to go with any commit. */
  collect(operations: MetaOperation[]): void;
  plan(op: number, operations: MetaOperation[]): Plan;
  /** What the operation needs is durable. */
  proceed(op: number): void;
  /** What the operation's commit changes is durable: called for all of the commit's before the first `proceed`. */
  settle(op: number): void;
  /** The drive has failed. */
  abandon(op: number): void;
  onCommitFailed(error: Error): void;
}

/** Slow-path work that shares commits. `build` and `done` run synchronously at the start and the end of its commit. */
export interface CommitJob {
  readonly build: (operations: MetaOperation[]) => void;
  readonly done: (isDurable: boolean) => void;
}

export class Committer {
  readonly #meta: MetaStore;
  readonly #planner: CommitPlanner;
  readonly #table: OperationTable;
  readonly #queued: OperationList;
  readonly #committing: OperationList;
  #jobs: CommitJob[] = [];
  #jobsCommitting: CommitJob[] = [];
  #isUnderWay = false;
  #isPumping = false;
  /** Something happened since the last look at the queue. */
  #isAsked = false;
  #failed = false;
  #idle: (() => void)[] = [];
  commits = 0;
  /** Ticks that the commit under way has seen. */
  #ticks = 0;

  constructor(meta: MetaStore, planner: CommitPlanner, table: OperationTable) {
    this.#meta = meta;
    this.#planner = planner;
    this.#table = table;
    this.#queued = new OperationList(table);
    this.#committing = new OperationList(table);
  }

  get isUnderWay(): boolean {
    return this.#isUnderWay;
  }

  /** An operation that is not ready. */
  enqueue(op: number): void {
    this.#table.state[op] = OPERATION.QUEUED;
    this.#queued.push(op);
    this.pump();
  }

  /** Resolves true when what `build` adds is durable, false when the drive has failed. */
  commit(build: (operations: MetaOperation[]) => void, onDurable: () => void = () => undefined): Promise<boolean> {
    return new Promise((resolve) => {
      if (this.#failed) return resolve(false);
      const done = (isDurable: boolean) => {
        if (isDurable) onDurable();
        resolve(isDurable);
      };
      this.#jobs.push({ build, done });
      this.pump();
    });
  }

  /** Starts a commit if there is reason for one and none is under way. To be called whenever something that a plan waits for has happened. */
  pump(): void {
    this.#isAsked = true;
    if (this.#isPumping) return;
    this.#isPumping = true;
    while (this.#isAsked && !this.#isUnderWay && !this.#failed) {
      this.#isAsked = false;
      this.#prepare();
    }
    this.#isPumping = false;
  }

  /** Resolves when nothing is queued or under way. */
  drained(): Promise<void> {
    if (!this.#isUnderWay && this.#jobs.length === 0) return Promise.resolve();
    return new Promise((resolve) => this.#idle.push(resolve));
  }

  /** Called every DRIVE_TICK_MS; true when the commit under way takes longer than `limits.driveTimeoutMs`. */
  tick(tickMs: number): boolean {
    if (!this.#isUnderWay || this.#failed) return false;
    this.#ticks++;
    return this.#ticks * tickMs > limits.driveTimeoutMs;
  }

  fail(): void {
    if (this.#failed) return;
    this.#failed = true;
    const jobs = [...this.#jobsCommitting, ...this.#jobs];
    this.#jobsCommitting = [];
    this.#jobs = [];
    for (let op = this.#committing.shift(); op !== NO_OPERATION; op = this.#committing.shift())
      this.#planner.abandon(op);
    for (let op = this.#queued.shift(); op !== NO_OPERATION; op = this.#queued.shift()) this.#planner.abandon(op);
    for (const job of jobs) job.done(false);
    this.#wakeIdle();
  }

  assertConsistent(): void {
    assert(this.#isUnderWay || this.#committing.isEmpty, 'operations join a commit only while it is under way');
    for (let op = this.#queued.head; op !== NO_OPERATION; op = this.#table.next[op] as number) {
      assert(this.#table.state[op] === OPERATION.QUEUED, 'a queued operation says so');
    }
    for (let op = this.#committing.head; op !== NO_OPERATION; op = this.#table.next[op] as number) {
      assert(this.#table.state[op] === OPERATION.COMMITTING, 'a committing operation says so');
    }
  }

  #prepare(): void {
    const operations: MetaOperation[] = [];
    this.#planner.collect(operations);
    this.#jobsCommitting = this.#jobs;
    this.#jobs = [];
    for (const job of this.#jobsCommitting) job.build(operations);
    this.#planQueued(operations);
    assert(operations.length > 0 || this.#committing.isEmpty, 'an operation that joins a commit finds one');
    if (operations.length === 0) return this.#endJobs();
    this.#isUnderWay = true;
    this.#ticks = 0;
    this.commits++;
    this.#meta.commit(operations, (error) => this.#onCommitted(error));
  }

  /** Decides for every queued operation; what is answered here may start new ones, which join the end of the queue. */
  #planQueued(operations: MetaOperation[]): void {
    const considered = new OperationList(this.#table);
    const waiting = new OperationList(this.#table);
    considered.append(this.#queued);
    for (let op = considered.shift(); op !== NO_OPERATION; op = considered.shift()) {
      const plan = this.#planner.plan(op, operations);
      if (plan === PLAN.COMMIT) {
        this.#table.state[op] = OPERATION.COMMITTING;
        this.#committing.push(op);
      } else if (plan === PLAN.WAIT) waiting.push(op);
      else if (plan === PLAN.READY) this.#planner.proceed(op);
    }
    waiting.append(this.#queued);
    this.#queued.append(waiting);
  }

  #onCommitted(error: Error | null): void {
    if (this.#failed) return;
    if (error !== null) return this.#planner.onCommitFailed(error);
    this.#isUnderWay = false;
    const ready = new OperationList(this.#table);
    ready.append(this.#committing);
    for (let op = ready.head; op !== NO_OPERATION; op = this.#table.next[op] as number) this.#planner.settle(op);
    this.#endJobs();
    for (let op = ready.shift(); op !== NO_OPERATION; op = ready.shift()) {
      if (this.#failed) this.#planner.abandon(op);
      else this.#planner.proceed(op);
    }
    this.pump();
    if (!this.#isUnderWay) this.#wakeIdle();
  }

  #endJobs(): void {
    const jobs = this.#jobsCommitting;
    this.#jobsCommitting = [];
    for (const job of jobs) job.done(true);
  }

  #wakeIdle(): void {
    const idle = this.#idle;
    this.#idle = [];
    for (const resolve of idle) resolve();
  }
}

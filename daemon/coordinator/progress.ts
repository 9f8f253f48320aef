/**
 * How far the copying of a volume is, for operators: one figure for each kind and drive, summed over the segments that are copied or
 * wait for their turn.
 *
 * Invariants
 * - A group exists while a task of it is under way; when its last one has ended it is forgotten, and what comes next starts at 0.
 * - `bytesDone <= bytesTotal`; a task that ends early takes what it did not copy out of the total.
 */
import { assert } from '../base/assert.js';
import type { DriveId } from '../base/ids.js';
import type { CopyKind, CopyProgress } from '../ports/shard.js';

/** A rate over less says nothing. */
const SAMPLE_MS_MIN = 250;
/** Weight of the newest sample: after ten seconds nine tenths of what was before are forgotten, with a sample each second. */
const SAMPLE_WEIGHT = 0.2;

interface Group {
  readonly kind: CopyKind;
  /** Null: all copies. */
  readonly driveId: DriveId | null;
  tasksUnderWay: number;
  bytesDone: number;
  bytesTotal: number;
  /** Smoothed; null until the first sample. */
  bytesPerSecond: number | null;
  sampledMs: number;
  sampledBytes: number;
}

/** The copying of one segment to one drive, or of the regions of a reconcile. */
export class CopyTask {
  readonly #progress: Progress;
  readonly #group: Group;
  #bytesDone = 0;
  #bytesTotal = 0;
  #hasEnded = false;

  constructor(progress: Progress, group: Group) {
    this.#progress = progress;
    this.#group = group;
  }

  get bytesDone(): number {
    return this.#bytesDone;
  }

  /** There are so many bytes to copy, those that are done included: known better now. */
  expect(bytesTotal: number): void {
    const total = Math.max(bytesTotal, this.#bytesDone);
    this.#group.bytesTotal += total - this.#bytesTotal;
    this.#bytesTotal = total;
  }

  copied(bytes: number): void {
    this.#bytesDone += bytes;
    this.#group.bytesDone += bytes;
    this.#progress.bytesCopied += bytes;
    if (this.#bytesDone > this.#bytesTotal) this.expect(this.#bytesDone);
  }

  /** Whatever has become of it. */
  end(): void {
    assert(!this.#hasEnded, 'a task ends once');
    this.#hasEnded = true;
    this.expect(this.#bytesDone);
    this.#progress.ended(this.#group);
  }
}

export class Progress {
  readonly #nowMs: () => number;
  readonly #groups = new Map<string, Group>();
  /** Since the volume was taken. */
  bytesCopied = 0;

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  begin(kind: CopyKind, driveId: DriveId | null): CopyTask {
    const key = `${kind}/${driveId}`;
    let group = this.#groups.get(key);
    if (group === undefined) {
      const counts = { tasksUnderWay: 0, bytesDone: 0, bytesTotal: 0, sampledBytes: 0 };
      group = { kind, driveId, ...counts, bytesPerSecond: null, sampledMs: this.#nowMs() };
      this.#groups.set(key, group);
    }
    group.tasksUnderWay++;
    return new CopyTask(this, group);
  }

  ended(group: Group): void {
    group.tasksUnderWay--;
    if (group.tasksUnderWay === 0) this.#groups.delete(`${group.kind}/${group.driveId}`);
  }

  /** Takes a sample of every rate; to be called about once a second. */
  sample(): void {
    const nowMs = this.#nowMs();
    for (const group of this.#groups.values()) {
      const elapsedMs = nowMs - group.sampledMs;
      if (elapsedMs < SAMPLE_MS_MIN) continue;
      const rate = ((group.bytesDone - group.sampledBytes) * 1_000) / elapsedMs;
      const before = group.bytesPerSecond ?? rate;
      group.bytesPerSecond = before + SAMPLE_WEIGHT * (rate - before);
      group.sampledMs = nowMs;
      group.sampledBytes = group.bytesDone;
    }
  }

  copies(): CopyProgress[] {
    return [...this.#groups.values()].map(({ kind, driveId, bytesDone, bytesTotal, bytesPerSecond }) => {
      assert(bytesDone <= bytesTotal, 'no more is copied than there is');
      return { kind, driveId, bytesDone, bytesTotal, bytesPerSecond: Math.round(bytesPerSecond ?? 0) };
    });
  }

  /** Of all that is under way. */
  get bytesLeft(): number {
    let left = 0;
    for (const { bytesDone, bytesTotal } of this.#groups.values()) left += bytesTotal - bytesDone;
    return left;
  }
}

/**
 * Brings copies that are not in sync into the set, one segment after the other, and says how far it is (`Progress`) from the moment
 * that it knows what there is to copy. Copies that are to replace others (moves.ts) are made in the same way, and given up when there is no hope.
 */
import { asError, BraidError } from '../base/errors.js';
import { limits } from '../base/limits.js';
import type { CoordinatorContext } from './context.js';
import type { Copier } from './copier.js';
import type { Membership } from './membership.js';
import type { CopyTask, Progress } from './progress.js';
import type { RegionTracker } from './regions.js';
import type { Copy } from './segment-changes.js';
import type { Replica, Segment, SegmentCounts } from './segment.js';

export interface HealerOptions {
  readonly context: CoordinatorContext;
  readonly volumeName: string;
  readonly segments: readonly Segment[];
  readonly counts: SegmentCounts;
  readonly regions: RegionTracker;
  readonly membership: Membership;
  readonly copier: Copier;
  readonly progress: Progress;
  readonly isServing: () => boolean;
}

/** A copy that can be made good now, and what is told of it. */
interface Patient extends Copy {
  readonly task: CopyTask;
}

export class Healer {
  readonly #options: HealerOptions;
  /** Of copies that are to replace others: when they were connected last. */
  readonly #missingSinceMs = new WeakMap<Replica, number>();
  #isHealing = false;

  constructor(options: HealerOptions) {
    this.#options = options;
  }

  /** To be called once a second. */
  tick(): void {
    this.#options.progress.sample();
    if (this.#options.counts.degraded === 0) return;
    void this.#giveUpHopeless();
    if (this.#isHealing) return;
    this.#isHealing = true;
    void this.#healAll().finally(() => {
      this.#isHealing = false;
    });
  }

  /** All of them are looked at before the first one is copied: the total is known from the start. */
  async #healAll(): Promise<void> {
    const patients: Patient[] = [];
    for (const segment of this.#options.segments) {
      for (const replica of segment.replicas) {
        const patient = this.#isWanted(segment, replica) ? await this.#examine(segment, replica) : null;
        if (patient !== null) patients.push(patient);
      }
    }
    for (const { segment, replica, task } of patients) {
      if (this.#isWanted(segment, replica)) await this.#heal(segment, replica, task);
      task.end();
    }
  }

  #isWanted(segment: Segment, replica: Replica): boolean {
    const { regions, copier, isServing } = this.#options;
    if (!isServing()) return false;
    const isReady = replica.session.open && !regions.hasDirty(segment.index);
    return (replica.state === 'stale' && isReady) || copier.isDue(replica);
  }

  /** Null when the copy cannot be opened, or nothing can be copied from. */
  async #examine(segment: Segment, replica: Replica): Promise<Patient | null> {
    const { membership, copier, progress } = this.#options;
    try {
      if (replica.state === 'stale') await membership.reopen(replica.session, [segment]);
      if (!replica.ready) return null;
      const bytes = await copier.bytesToCopy(segment, replica);
      const task = progress.begin(replica.replaces === null ? 'resync' : 'rebuild', replica.driveId);
      task.expect(bytes);
      return { segment, replica, task };
    } catch (error) {
      this.#log(segment, replica, error);
      return null;
    }
  }

  async #heal(segment: Segment, replica: Replica, task: CopyTask): Promise<void> {
    const { copier, context, volumeName } = this.#options;
    const { replaces } = replica;
    if (!replica.ready) return;
    try {
      const isResumed = replica.state === 'syncing';
      const isHealed = await (isResumed
        ? copier.resume(segment, replica, task)
        : copier.resync(segment, replica, task));
      if (!isHealed) return; // it waits for what is damaged at the others
      const what = replaces === null ? 'is in sync again' : `has replaced the one on drive ${replaces}`;
      const message = `segment ${segment.index}: the copy on drive ${replica.driveId} ${what} (${task.bytesDone} bytes copied)`;
      context.report('info', `volume/${volumeName}`, message);
    } catch (error) {
      this.#log(segment, replica, error);
      if (replaces !== null && error instanceof BraidError && error.code === 'NO_SPACE')
        await this.#giveUp([{ segment, replica }], 'its drive is full');
    }
  }

  // ---- copies that are to replace others

  /** Those whose drive cannot be reached or opened for long, or fails again and again. */
  async #giveUpHopeless(): Promise<void> {
    const nowMs = this.#options.context.clock.nowMs();
    const hopeless: Copy[] = [];
    for (const segment of this.#options.segments) {
      for (const replica of segment.replicas) {
        if (replica.replaces === null) continue;
        if (replica.ready || !this.#missingSinceMs.has(replica)) this.#missingSinceMs.set(replica, nowMs);
        const isLost = nowMs - (this.#missingSinceMs.get(replica) ?? nowMs) >= limits.newcomerAbsentMsMax;
        if (isLost || replica.failures >= limits.newcomerFailuresMax) hopeless.push({ segment, replica });
      }
    }
    if (hopeless.length > 0) await this.#giveUp(hopeless, 'its drive cannot be reached, or fails');
  }

  async #giveUp(copies: readonly Copy[], reason: string): Promise<void> {
    const { membership, context, volumeName } = this.#options;
    const drives = [...new Set(copies.map(({ replica }) => replica.driveId))].join(', ');
    const count = await membership.giveUp(copies);
    if (count === 0) return;
    const message = `${count} segment(s) get no new copy on drive ${drives}: ${reason}; the copies that were to be replaced stay; move them to another drive`;
    context.report('warning', `volume/${volumeName}`, message);
  }

  #log(segment: Segment, replica: Replica, error: unknown): void {
    const { context, volumeName } = this.#options;
    context.log.warn(
      { volume: volumeName, segment: segment.index, drive: replica.driveId, error: asError(error).message },
      'resync interrupted',
    );
  }
}

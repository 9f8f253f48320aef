/**
 * Brings copies that are not in sync back into the set, one segment after the other, and says how far it is (`Progress`) from the moment
 * that it knows what there is to copy.
 */
import { asError } from '../base/errors.js';
import type { CoordinatorContext } from './context.js';
import type { Copier } from './copier.js';
import type { Membership } from './membership.js';
import type { CopyTask, Progress } from './progress.js';
import type { RegionTracker } from './regions.js';
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
interface Patient {
  readonly segment: Segment;
  readonly replica: Replica;
  readonly task: CopyTask;
}

export class Healer {
  readonly #options: HealerOptions;
  #isHealing = false;

  constructor(options: HealerOptions) {
    this.#options = options;
  }

  /** To be called once a second. */
  tick(): void {
    this.#options.progress.sample();
    if (this.#isHealing || this.#options.counts.degraded === 0) return;
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
      const task = progress.begin('resync', replica.driveId);
      task.expect(bytes);
      return { segment, replica, task };
    } catch (error) {
      this.#log(segment, replica, error);
      return null;
    }
  }

  async #heal(segment: Segment, replica: Replica, task: CopyTask): Promise<void> {
    const { copier, context, volumeName } = this.#options;
    if (!replica.ready) return;
    try {
      const isResumed = replica.state === 'syncing';
      const isHealed = await (isResumed
        ? copier.resume(segment, replica, task)
        : copier.resync(segment, replica, task));
      if (!isHealed) return; // it waits for what is damaged at the others
      const message = `segment ${segment.index}: the copy on drive ${replica.driveId} is in sync again (${task.bytesDone} bytes copied)`;
      context.report('info', `volume/${volumeName}`, message);
    } catch (error) {
      this.#log(segment, replica, error);
    }
  }

  #log(segment: Segment, replica: Replica, error: unknown): void {
    const { context, volumeName } = this.#options;
    context.log.warn(
      { volume: volumeName, segment: segment.index, drive: replica.driveId, error: asError(error).message },
      'resync interrupted',
    );
  }
}

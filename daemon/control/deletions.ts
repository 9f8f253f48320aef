/**
 * Finishes deletions: every node removes its own replicas of volumes that are marked, and takes them out of the segment records; whoever
 * finds no segment left removes the volume's records. Every step is a transaction that may be repeated, so it goes on after any crash; a
 * volume with replicas on a dead node waits, marked, until the node returns or its drives leave the pool.
 */
import { BraidError } from '../base/errors.js';
import type { DriveId, VolumeId } from '../base/ids.js';
import type { StoreWatch } from '../ports/cluster-store.js';
import { type StoredRecord } from '../ports/stored-records.js';
import { records, type OwnerRecord, type SegmentRecord, type VolumeRecord } from '../protocol/records.js';
import { storeKeys } from '../protocol/store.js';
import { batches, deleteKey, putRecord, unchanged, type ClusterSnapshot, type VolumeFacts } from './cluster-state.js';
import type { ControlContext } from './context.js';
import { controlLimits } from './limits.js';
import { Loop } from './loop.js';

export class DeletionController {
  readonly #context: ControlContext;
  /** Whether a drive of this node is open. */
  readonly #isOpen: (driveId: string) => boolean;
  readonly #loop: Loop;
  #watch: StoreWatch | null = null;
  /** Grows while nothing moves: a dead node may stay away for days. */
  #delayMs: number = controlLimits.deletionRetryMs;

  constructor(context: ControlContext, isOpen: (driveId: string) => boolean) {
    this.#context = context;
    this.#isOpen = isOpen;
    this.#loop = new Loop({
      name: 'deletions',
      clock: context.clock,
      log: context.log,
      run: () => this.#converge(),
      retryMsMin: controlLimits.deletionRetryMs,
      retryMsMax: controlLimits.deletionRetryMsMax,
    });
  }

  async start(): Promise<void> {
    this.#watch = await this.#context.state.watchIds(storeKeys.volumes, () => {
      this.#delayMs = controlLimits.deletionRetryMs;
      this.#loop.trigger();
    });
    this.#loop.trigger();
  }

  async stop(): Promise<void> {
    this.#watch?.close();
    await this.#loop.stop();
  }

  async #converge(): Promise<number | null> {
    const { state } = this.#context;
    const marked = (await state.volumes()).filter(({ value }) => value.deleting);
    if (marked.length === 0) return null;
    const snapshot = await state.snapshot();
    let hasMoved = false;
    for (const { value } of marked) {
      const facts = snapshot.volumes.find(({ volume }) => volume.id === value.id);
      if (facts === undefined || isOwned(facts, snapshot)) continue;
      try {
        if (await this.#advance(value, facts.owner, snapshot)) hasMoved = true;
      } catch (thrown) {
        if (!(thrown instanceof BraidError)) throw thrown;
        this.#context.log.warn({ volume: value.name, code: thrown.code }, `deletion goes on later: ${thrown.message}`);
      }
    }
    this.#delayMs = hasMoved
      ? controlLimits.deletionRetryMs
      : Math.min(2 * this.#delayMs, controlLimits.deletionRetryMsMax);
    return this.#delayMs;
  }

  /** True when something was left to do here, and was done. */
  async #advance(volume: VolumeRecord, owner: OwnerRecord | null, snapshot: ClusterSnapshot): Promise<boolean> {
    const { state } = this.#context;
    const id = volume.id as VolumeId;
    const segments = await state.segments(id);
    if (segments.length === 0) {
      await this.#finish(id, volume.name);
      return true;
    }
    // No owner is recorded after the mark, so this epoch is above all that there are.
    await this.#deleteReplicas(id, (owner?.epoch ?? 0) + 1, segments, snapshot);
    // Durable: the replicas of this node are off its drives. Only now do the records forget them.
    const changes = segments
      .map((segment) => ({ segment, left: this.#others(segment.value, snapshot) }))
      .filter(({ segment, left }) => left.length < segment.value.replicas.length);
    for (const batch of batches(changes, controlLimits.txnComparesMax)) {
      const operations = batch.map(({ segment, left }) =>
        left.length === 0
          ? deleteKey(segment.key)
          : putRecord(segment.key, records.segment, { ...segment.value, replicas: left }),
      );
      const isCommitted = await state.commit(
        batch.map(({ segment }) => unchanged(segment)),
        operations,
      );
      // Another node took its own replicas out first: once more, at once.
      if (!isCommitted) this.#loop.trigger();
    }
    if ((await state.segments(id)).length === 0) await this.#finish(id, volume.name);
    return changes.length > 0;
  }

  /** Replicas that are not ours to remove, or that cannot be removed now. Those on drives that have left the pool are anybody's. */
  #others(segment: SegmentRecord, snapshot: ClusterSnapshot): SegmentRecord['replicas'] {
    return segment.replicas.filter(({ driveId }) => {
      const drive = snapshot.drives.get(driveId);
      return drive !== undefined && !(drive.nodeId === this.#context.node.id && this.#isOpen(driveId));
    });
  }

  async #deleteReplicas(
    id: VolumeId,
    epoch: number,
    segments: readonly StoredRecord<SegmentRecord>[],
    snapshot: ClusterSnapshot,
  ): Promise<void> {
    const replicas = segments.flatMap(({ value }) =>
      value.replicas.map(({ driveId }) => ({ index: value.index, driveId: driveId as DriveId })),
    );
    for (const [index, shard] of this.#context.shards.entries()) {
      const own = replicas.filter(({ driveId }) => {
        const drive = snapshot.drives.get(driveId);
        return drive?.nodeId === this.#context.node.id && drive.shard === index && this.#isOpen(driveId);
      });
      if (own.length > 0) await shard.control.deleteReplicas(id, epoch, own);
    }
  }

  async #finish(id: VolumeId, name: string): Promise<void> {
    const { state, events } = this.#context;
    const volume = await state.volume(id);
    if (volume === null) return;
    const keys = [volume.key, storeKeys.owner(id), storeKeys.attachment(id), storeKeys.status(id)];
    if (!(await state.commit([unchanged(volume)], keys.map(deleteKey)))) return;
    events.report({ severity: 'info', subject: `volume/${name}`, message: 'deleted' });
  }
}

/** A live node still serves it: its own controller lets go first, because the attachment is gone. */
function isOwned({ owner }: VolumeFacts, snapshot: ClusterSnapshot): boolean {
  return owner !== null && owner.nodeId !== '' && snapshot.alive.get(owner.nodeId) === owner.incarnation;
}

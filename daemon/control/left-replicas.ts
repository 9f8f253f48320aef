/**
 * Frees what copies have left behind that are not part of their segment any more: they were moved, or their move was given up. The owner says so in
 * the transaction that takes them out (`left/`), and the node of the drive removes first the copy, then the record; it may be away meanwhile.
 * While the record is there no copy of that segment is made on that drive: what is removed is never the new one.
 */
import { BraidError } from '../base/errors.js';
import type { DriveId, VolumeId } from '../base/ids.js';
import type { ClusterStore, StoreWatch } from '../ports/cluster-store.js';
import type { ShardControl } from '../ports/shard.js';
import { readRecord } from '../ports/stored-records.js';
import { records } from '../protocol/records.js';
import { storeKeys } from '../protocol/store.js';
import { deleteKey, unchanged } from './cluster-state.js';
import type { ControlContext } from './context.js';
import { controlLimits } from './limits.js';
import { Loop } from './loop.js';

const EPOCH_MAX = 2 ** 32 - 1;

/** An open drive of this node. */
export interface OwnDrive {
  readonly driveId: DriveId;
  readonly shard: ShardControl;
}

export class LeftReplicas {
  readonly #context: ControlContext;
  readonly #drives: () => readonly OwnDrive[];
  readonly #loop: Loop;
  #watch: StoreWatch | null = null;

  constructor(context: ControlContext, drives: () => readonly OwnDrive[]) {
    this.#context = context;
    this.#drives = drives;
    const { clock, log } = context;
    const retry = { retryMsMin: controlLimits.deletionRetryMs, retryMsMax: controlLimits.deletionRetryMsMax };
    this.#loop = new Loop({ name: 'left copies', clock, log, run: () => this.#remove(), ...retry });
  }

  /** A store that does not answer is asked again in the background: it does not keep the agent from starting. */
  start(): void {
    this.#loop.trigger();
  }

  async stop(): Promise<void> {
    await this.#loop.stop();
    this.#watch?.close();
  }

  /** A drive may be opened later than this runs first. */
  async #remove(): Promise<number | null> {
    const { state, log } = this.#context;
    this.#watch ??= await state.watchIds(storeKeys.leftAll, () => this.#loop.trigger());
    let isAllDone = true;
    for (const drive of this.#drives()) {
      const { removed, left } = await removeLeft(state.store, drive);
      if (removed > 0) log.info({ drive: drive.driveId, copies: removed }, 'removed copies that have moved away');
      isAllDone &&= left === 0;
    }
    return isAllDone ? controlLimits.deletionRetryMsMax : controlLimits.deletionRetryMs;
  }
}

/** Removes from one drive what it can, and says how many copies that were, and how many wait for the next time. */
export async function removeLeft(
  store: ClusterStore,
  { driveId, shard }: OwnDrive,
): Promise<{ readonly removed: number; readonly left: number }> {
  const { entries } = await store.list(storeKeys.leftOn(driveId));
  let removed = 0;
  for (const entry of entries) {
    const [volumeId, index] = entry.key.slice(storeKeys.leftOn(driveId).length).split('/');
    const segment = { index: Number.parseInt(index ?? '', 16), driveId };
    try {
      await shard.deleteReplicas(volumeId as VolumeId, await epochOf(store, volumeId as VolumeId), [segment]);
    } catch (error) {
      // Its last requests are under way, or the owner has not let go of it yet.
      if (error instanceof BraidError) continue;
      throw error;
    }
    // Durable: the copy is off the drive. Only now may another one come.
    if ((await store.txn([unchanged(entry)], [deleteKey(entry.key)])).committed) removed++;
  }
  return { removed, left: entries.length - removed };
}

/** The present owner's, so that no earlier one makes the copy anew; the highest of all when the volume is gone. */
async function epochOf(store: ClusterStore, volumeId: VolumeId): Promise<number> {
  const owner = await readRecord(store, storeKeys.owner(volumeId), records.owner);
  return owner?.value.epoch ?? EPOCH_MAX;
}

/** The Owner record of a volume: who orders its I/O, and under which epoch. Changed by compare-and-swap only (invariants 2 and 11). */
import { BraidError } from '../base/errors.js';
import type { NodeId, VolumeId } from '../base/ids.js';
import { sleep } from '../ports/clock.js';
import type { StoreCompare } from '../ports/cluster-store.js';
import { readRecord } from '../ports/stored-records.js';
import { records, type OwnerRecord, type VolumeRecord } from '../protocol/records.js';
import { storeKeys } from '../protocol/store.js';
import type { CoordinatorContext } from './context.js';

const STORE_ATTEMPTS = 5;
const STORE_RETRY_MS = 200;

export interface Ownership {
  readonly volume: VolumeRecord;
  readonly epoch: number;
  readonly revision: number;
}

/** Raises the epoch by compare-and-swap, if the volume is free. */
export async function claim(context: CoordinatorContext, id: VolumeId): Promise<Ownership> {
  const { store, nodeId, incarnation } = context;
  const volume = await readRecord(store, storeKeys.volume(id), records.volume);
  if (volume === null || volume.value.deleting)
    throw new BraidError('NOT_FOUND', `volume ${id} does not exist (any more)`);
  const owner = await readRecord(store, storeKeys.owner(id), records.owner);
  const previous = owner?.value;
  const mine = previous?.nodeId === nodeId && previous.incarnation === incarnation;
  if (previous !== undefined && previous.nodeId !== '' && !mine) {
    const alive = await readRecord(store, storeKeys.alive(previous.nodeId as NodeId), records.nodeAlive);
    if (alive?.value.incarnation === previous.incarnation) {
      throw new BraidError(
        'CONFLICT',
        `volume ${volume.value.name} is owned by node ${previous.nodeId}; detach it there first, or wait for that node's lease to end`,
      );
    }
  }
  const epoch = (previous?.epoch ?? 0) + 1;
  // No claim is committed once the volume is marked for deletion: the epoch is final then.
  const unmarked = [{ key: volume.key, revision: volume.revision }];
  const revision = await swapOwner(context, id, owner?.revision ?? 0, { epoch, nodeId, incarnation }, unmarked);
  if (revision === null)
    throw new BraidError(
      'ABORTED',
      `volume ${volume.value.name} was claimed by another node at the same moment; try again`,
    );
  return { volume: volume.value, epoch, revision };
}

/**
 * Replaces the Owner record if it is still at `revision`; null if somebody else was faster. When the store does not answer, it looks whether
 * the change was made after all, and tries again a few times. Rejects with UNAVAILABLE when that does not help.
 */
export async function swapOwner(
  context: CoordinatorContext,
  id: VolumeId,
  revision: number,
  owner: OwnerRecord,
  conditions: readonly StoreCompare[] = [],
): Promise<number | null> {
  const { store, clock } = context;
  const key = storeKeys.owner(id);
  const operation = { type: 'put', key, value: records.owner.encode(owner) } as const;
  for (let attempt = 1; ; attempt++) {
    try {
      const result = await store.txn([{ key, revision }, ...conditions], [operation]);
      if (result.committed) return result.revision;
      const current = await readRecord(store, key, records.owner);
      const ours =
        current?.value.epoch === owner.epoch &&
        current.value.nodeId === owner.nodeId &&
        current.value.incarnation === owner.incarnation;
      return ours ? current.revision : null;
    } catch (error) {
      if (attempt === STORE_ATTEMPTS) throw error;
      await sleep(clock, STORE_RETRY_MS);
    }
  }
}

/**
 * Gives up an ownership that this agent has on record and does not exercise (any more): at the end of a release, or when an answer of the
 * store was lost. Rejects with UNAVAILABLE when the store does not answer.
 */
export async function abandonOwnership(context: CoordinatorContext, id: VolumeId): Promise<void> {
  const owner = await readRecord(context.store, storeKeys.owner(id), records.owner);
  if (owner?.value.nodeId !== context.nodeId || owner.value.incarnation !== context.incarnation) return;
  await swapOwner(context, id, owner.revision, { epoch: owner.value.epoch, nodeId: '', incarnation: '' });
}

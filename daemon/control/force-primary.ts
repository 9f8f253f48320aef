/**
 * The operator's last resort for a volume that has no good copy left: makes one that lacks something the only copy in sync.
 *
 * Invariants
 * - 12: refused for a segment while a copy can be reached that has every acknowledged write.
 * - Nobody serves the volume meanwhile: its owner would go on with the in-sync sets that it knows. The transaction compares volume,
 *   attachment, owner and segments with what the decision was taken on.
 * - What the other copies had when the chosen one fell out of sync is all that they are known to have in common with it: they are stale
 *   from there on, so that a resync replaces what only they have, too (invariant 9).
 */
import { assert } from '../base/assert.js';
import { BraidError } from '../base/errors.js';
import type { VolumeId } from '../base/ids.js';
import type { StoredRecord } from '../ports/stored-records.js';
import { records, type SegmentRecord, type VolumeRecord } from '../protocol/records.js';
import { storeKeys } from '../protocol/store.js';
import { absent, batches, putRecord, retryRaces, unchanged } from './cluster-state.js';
import type { ControlContext } from './context.js';
import { controlLimits } from './limits.js';

export interface ForceRequest {
  readonly driveId: string;
  /** Absent: every segment that has no good copy left and one on the drive. */
  readonly segment?: number;
}

/** Segments whose copy on a drive may lack writes that were not flushed when its node lost power; of each drive that is open. */
export type ReachableDrives = ReadonlyMap<string, ReadonlySet<number>>;

export interface ForcedSegment {
  readonly index: number;
  /** Of the record, before. */
  readonly generation: number;
  /** Up to which the chosen copy has everything. */
  readonly copyGeneration: number;
  /** Since when it lacks something; 0: not known. */
  readonly staleSinceMs: number;
  /** Drives with copies in sync that cannot be reached. */
  readonly missing: readonly string[];
}

/** Compared beside the segments: volume, attachment, owner. */
const OTHER_COMPARES = 3;
const SEGMENTS_NAMED_MAX = 8;

export class PrimaryForcer {
  readonly #context: Pick<ControlContext, 'state' | 'clock' | 'events'>;

  constructor(context: Pick<ControlContext, 'state' | 'clock' | 'events'>) {
    this.#context = context;
  }

  /** What `force` would do. Rejects as it does. */
  async plan(id: VolumeId, request: ForceRequest, reachable: ReachableDrives): Promise<readonly ForcedSegment[]> {
    return (await this.#decide(id, request, reachable)).forced;
  }

  /**
   * Makes the copies on the drive primary. Rejects with CONFLICT while the volume is attached or owned, or has copies that are better; with
   * UNAVAILABLE when the drive is not open anywhere; with ABORTED when somebody else changed the volume meanwhile.
   */
  async force(id: VolumeId, request: ForceRequest, reachable: ReachableDrives): Promise<readonly ForcedSegment[]> {
    const { state, clock, events } = this.#context;
    const { volume, compares, segments, forced } = await this.#decide(id, request, reachable);
    const nowMs = Math.floor(clock.wallMs());
    const changes = forced.map(({ index }) => segments.find(({ value }) => value.index === index));
    for (const batch of batches(changes, controlLimits.txnComparesMax - OTHER_COMPARES)) {
      const found = batch.filter((segment) => segment !== undefined);
      const operations = found.map(({ key, value }) =>
        putRecord(key, records.segment, withPrimary(value, [request.driveId], value.generation + 1, nowMs)),
      );
      // From this commit on the copies that were in sync are stale: what only they had is given up.
      if (await state.commit([...compares, ...found.map(unchanged)], operations)) continue;
      throw new BraidError(
        'ABORTED',
        `volume "${volume.name}" was changed by someone else meanwhile; look and try again`,
      );
    }
    events.report({ severity: 'error', subject: `volume/${volume.name}`, message: eventOf(request.driveId, forced) });
    return forced;
  }

  async #decide(id: VolumeId, request: ForceRequest, reachable: ReachableDrives) {
    const { state } = this.#context;
    return retryRaces(`volume ${id}`, async () => {
      const [volume, attachment, owner] = await Promise.all([state.volume(id), state.attachment(id), state.owner(id)]);
      const segments = await state.segments(id);
      if (volume === null) throw new BraidError('NOT_FOUND', `volume ${id} does not exist any more`);
      if (attachment !== null) throw inUse(volume, 'it is attached');
      if (owner !== null && owner.value.nodeId !== '') {
        const alive = await state.nodeAlive(owner.value.nodeId as never);
        if (alive?.value.incarnation === owner.value.incarnation) throw inUse(volume, 'a node still has it');
      }
      const forced = planForce(
        volume.value.name,
        segments.map(({ value }) => value),
        request,
        reachable,
      );
      const compares = [
        unchanged(volume),
        absent(storeKeys.attachment(id)),
        owner === null ? absent(storeKeys.owner(id)) : unchanged(owner),
      ];
      return { volume: volume.value, compares, segments, forced };
    });
  }
}

function inUse({ value }: StoredRecord<VolumeRecord>, why: string): BraidError {
  const advice = `detach it first (braid volume detach ${value.name}), so that nobody goes on with other copies`;
  return new BraidError('CONFLICT', `volume "${value.name}": ${why}; ${advice}`);
}

/** Which segments get the copy on the drive as their primary one; throws what is wrong with the request. */
export function planForce(
  name: string,
  segments: readonly SegmentRecord[],
  { driveId, segment: only }: ForceRequest,
  reachable: ReachableDrives,
): readonly ForcedSegment[] {
  if (only !== undefined && !segments.some(({ index }) => index === only))
    throw new BraidError('NOT_FOUND', `volume "${name}" has no segment ${only}`);
  const wanted = segments.filter(({ index }) => only === undefined || index === only);
  const lost = wanted.filter((segment) => !hasGoodCopy(segment, reachable));
  if (lost.length === 0) {
    const which = only === undefined ? 'every segment' : `segment ${only}`;
    throw new BraidError(
      'CONFLICT',
      `volume "${name}": ${which} has a copy in sync that can be reached: nothing is to be forced; attach it`,
    );
  }
  const here = lost.filter(({ replicas }) => replicas.some((replica) => replica.driveId === driveId));
  if (here.length === 0) {
    const drives = new Set(lost.flatMap(({ replicas }) => replicas.map((replica) => replica.driveId)));
    throw new BraidError(
      'INVALID_ARGUMENT',
      `drive ${driveId} has no copy of what volume "${name}" lacks; the drives with copies are ${[...drives].join(', ')}`,
    );
  }
  if (!reachable.has(driveId)) {
    const advice = 'start its agent and see that the drive opens (braid drive ls)';
    throw new BraidError('UNAVAILABLE', `drive ${driveId} is not open on any node that answers: ${advice}`);
  }
  return here.map((segment) => forcedSegment(name, segment, driveId, reachable));
}

/** Whether a volume opens with the copies of the segment that can be reached. */
function hasGoodCopy({ index, replicas }: SegmentRecord, reachable: ReachableDrives): boolean {
  const inSync = replicas.filter((replica) => replica.inSync);
  const found = inSync.filter((replica) => reachable.has(replica.driveId));
  if (found.length === 0) return false;
  const isCertain = found.some((replica) => reachable.get(replica.driveId)?.has(index) === false);
  return isCertain || found.length === inSync.length;
}

function forcedSegment(
  name: string,
  segment: SegmentRecord,
  driveId: string,
  reachable: ReachableDrives,
): ForcedSegment {
  const { index, generation, replicas } = segment;
  const chosen = replicas.find((replica) => replica.driveId === driveId);
  assert(chosen !== undefined, 'the drive has a copy of the segment');
  const inSync = replicas.filter((replica) => replica.inSync);
  const better = inSync.find((replica) => reachable.has(replica.driveId));
  if (better !== undefined && !chosen.inSync) {
    const what = 'is in sync but for what was not flushed when its node lost power';
    throw new BraidError(
      'CONFLICT',
      `volume "${name}", segment ${index}: the copy on drive ${better.driveId} ${what}: choose that one`,
    );
  }
  return {
    index,
    generation,
    copyGeneration: reachOf(segment, chosen),
    staleSinceMs: chosen.staleSinceMs,
    missing: inSync.map((replica) => replica.driveId).filter((id) => !reachable.has(id)),
  };
}

/** The generation up to which a copy has everything. */
function reachOf({ generation }: SegmentRecord, replica: SegmentRecord['replicas'][number]): number {
  return replica.inSync ? generation : replica.syncedGeneration;
}

/**
 * The record with these copies, which are equal, as the only ones in sync. The others go back to what they surely have in common with
 * them; `generation` is above every stamp that they may carry.
 */
export function withPrimary(
  segment: SegmentRecord,
  driveIds: readonly string[],
  generation: number,
  nowMs: number,
): SegmentRecord {
  assert(generation > segment.generation, 'a change of the in-sync set raises the generation');
  const chosen = segment.replicas.filter(({ driveId }) => driveIds.includes(driveId));
  assert(chosen.length > 0, 'a segment has a copy in sync');
  const reach = Math.min(...chosen.map((replica) => reachOf(segment, replica)));
  const replicas = segment.replicas.map((replica) => {
    const { driveId, inSync, staleSinceMs } = replica;
    if (chosen.includes(replica)) return { driveId, inSync: true, syncedGeneration: 0, replaces: '', staleSinceMs: 0 };
    const syncedGeneration = Math.min(reach, reachOf(segment, replica));
    return { ...replica, inSync: false, syncedGeneration, staleSinceMs: inSync ? nowMs : staleSinceMs };
  });
  return { ...segment, generation, replicas };
}

function eventOf(driveId: string, forced: readonly ForcedSegment[]): string {
  const named = forced.slice(0, SEGMENTS_NAMED_MAX).map(({ index, copyGeneration, generation }) => {
    return `${index} (has everything up to generation ${copyGeneration} of ${generation})`;
  });
  const rest = forced.length > named.length ? ` and ${forced.length - named.length} more` : '';
  const loss = 'acknowledged writes that only other copies have are given up';
  return `an operator made the copy on drive ${driveId} the primary one of segment ${named.join(', ')}${rest}: ${loss}`;
}

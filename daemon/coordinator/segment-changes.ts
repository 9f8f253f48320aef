/** How the copies of a segment change: what is committed to the cluster store, and what follows from it here. */
import type { SegmentRecord } from '../protocol/records.js';
import type { Replica, Segment, Session } from './segment.js';

/** A copy of a segment. */
export interface Copy {
  readonly segment: Segment;
  readonly replica: Replica;
}

/** drop: in-sync to stale; join: syncing to in-sync, in place of the one that it replaces; add: a copy comes; remove: it goes again. */
export interface Change extends Copy {
  readonly kind: 'drop' | 'join' | 'add' | 'remove';
}

/** As the cluster store has it. */
export function recordOf(segment: Segment): SegmentRecord {
  return {
    index: segment.index,
    generation: segment.generation,
    replicas: segment.replicas.map((replica) => ({
      driveId: replica.driveId,
      inSync: replica.state === 'in-sync',
      syncedGeneration: replica.syncedGeneration,
      replaces: replica.replaces ?? '',
      staleSinceMs: replica.staleSinceMs,
    })),
  };
}

/** The copies that are no more part of the segment after the changes. */
export function leaving({ replicas }: Segment, changes: readonly Change[]): readonly Replica[] {
  return replicas.filter((replica) =>
    changes.some(
      (change) =>
        (change.kind === 'remove' && change.replica === replica) ||
        (change.kind === 'join' && change.replica.replaces === replica.driveId),
    ),
  );
}

/** As it is to be committed. */
export function changedRecord(segment: Segment, changes: readonly Change[], nowMs: number): SegmentRecord {
  const record = recordOf(segment);
  const left = leaving(segment, changes).map(({ driveId }) => String(driveId));
  const replicas = record.replicas
    .filter(({ driveId }) => !left.includes(driveId))
    .map((replica) => {
      const kind = changes.find((change) => change.replica.driveId === replica.driveId)?.kind;
      if (kind === undefined) return replica;
      const inSync = kind === 'join';
      return {
        ...replica,
        inSync,
        syncedGeneration: inSync ? 0 : segment.generation,
        replaces: '',
        staleSinceMs: inSync ? 0 : nowMs,
      };
    });
  for (const { kind, replica } of changes) {
    const { driveId, replaces } = replica;
    if (kind !== 'add') continue;
    replicas.push({
      driveId,
      inSync: false,
      syncedGeneration: 0,
      replaces: replaces ?? '',
      staleSinceMs: replica.staleSinceMs,
    });
  }
  return { ...record, generation: segment.generation + 1, replicas };
}

/** The changes are committed: the segment follows. Returns the copies that have left it. */
export function applyChanges(
  segment: Segment,
  changes: readonly Change[],
  { revision, nowMs }: { readonly revision: number; readonly nowMs: number },
): readonly Replica[] {
  const left = leaving(segment, changes);
  for (const { kind, replica } of changes) {
    if (kind === 'add' || kind === 'remove') continue;
    const toInSync = kind === 'join';
    replica.state = toInSync ? 'in-sync' : 'stale';
    replica.uncertain = false;
    replica.isEqualized = toInSync && !replica.suspect;
    replica.joining = false;
    replica.suspect &&= toInSync; // one that lost power while it joined is in the set now, and has to leave it
    replica.syncedGeneration = toInSync ? 0 : segment.generation;
    replica.staleSinceMs = toInSync ? 0 : nowMs;
    replica.replaces = null;
  }
  for (const replica of left) {
    replica.state = 'stale';
    replica.opened = false;
  }
  segment.generation++;
  segment.revision = revision;
  const added = changes.filter(({ kind }) => kind === 'add').map(({ replica }) => replica);
  segment.setReplicas([...segment.replicas.filter((replica) => !left.includes(replica)), ...added]);
  return left;
}

/** Those that the peer of a session holds. */
export function copiesOn(session: Session, segments: readonly Segment[]): Copy[] {
  return segments.flatMap((segment) =>
    segment.replicas.filter((replica) => replica.session === session).map((replica) => ({ segment, replica })),
  );
}

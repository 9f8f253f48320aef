/** A volume's segments from the cluster store, with a session for each peer that holds copies of it. */
import { BraidError } from '../base/errors.js';
import type { DriveId, NodeId, VolumeId } from '../base/ids.js';
import { listRecords } from '../ports/stored-records.js';
import { segmentNumber } from '../protocol/frame.js';
import { records, type DriveRecord, type VolumeRecord } from '../protocol/records.js';
import { storeKeys } from '../protocol/store.js';
import type { CoordinatorContext } from './context.js';
import { Replica, Segment, SegmentCounts, type Session } from './segment.js';

export interface LoadedSegments {
  readonly segments: readonly Segment[];
  /** More come with copies on nodes that had none. */
  readonly sessions: Session[];
  readonly counts: SegmentCounts;
}

export async function loadSegments(context: CoordinatorContext, volume: VolumeRecord): Promise<LoadedSegments> {
  const id = volume.id as VolumeId;
  const stored = await listRecords(context.store, storeKeys.segments(id), records.segment);
  const drives = await listRecords(context.store, storeKeys.drives, records.drive);
  const sessions: Session[] = [];
  // Segments come by the thousand: what they say of their drives is kept once.
  const homes = new Map<string, { readonly driveId: DriveId; readonly session: Session }>();
  const homeOf = (driveId: string) => {
    const known = homes.get(driveId);
    if (known !== undefined) return known;
    const drive = drives.records.find(({ value }) => value.id === driveId)?.value;
    if (drive === undefined)
      throw new BraidError('CORRUPT', `drive ${driveId} of volume ${id} is not in the cluster store`);
    const home = { driveId: drive.id as DriveId, session: sessionFor(context, sessions, drive) };
    homes.set(drive.id, home);
    return home;
  };
  const counts = new SegmentCounts(volume.minInSync);
  const segments = stored.records.map(({ value, revision }) => {
    const replicas = value.replicas.map((replica, slot) => {
      const number = segmentNumber(value.index, slot);
      return new Replica({ ...homeOf(replica.driveId), slot, number }, replica);
    });
    return new Segment(value.index, value.generation, revision, replicas, counts);
  });
  return { segments, sessions, counts };
}

/** The session with the peer that serves the drive; a new one, at the end of `sessions`, when there is none. */
export function sessionFor(context: CoordinatorContext, sessions: Session[], drive: DriveRecord): Session {
  const peer = context.peers.peer(drive.nodeId as NodeId, drive.shard);
  const known = sessions.find((session) => session.peer === peer);
  if (known !== undefined) return known;
  const session = {
    peer,
    index: sessions.length,
    handle: 0,
    open: false,
    incarnation: '',
    writesAcked: 1,
    writesFlushed: 0,
    targetCopies: 0,
    shutCopies: 0,
  };
  sessions.push(session);
  return session;
}

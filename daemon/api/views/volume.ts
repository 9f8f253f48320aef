/** Volumes as the API shows them. */
import { must } from '../../base/assert.js';
import type { VolumeId } from '../../base/ids.js';
import type { Agent } from '../../control/agent.js';
import type { ClusterSnapshot, VolumeFacts } from '../../control/cluster-state.js';
import type { NbdUris } from '../../control/nbd-uri.js';
import { volumeHealth } from '../../control/volume-health.js';
import { isServing } from '../../control/volume-status.js';
import type { ServedSegment } from '../../ports/shard.js';
import type { SegmentRecord } from '../../protocol/records.js';
import { resyncView } from './resync.js';
import type { ReplicaState, Segment, Volume, VolumeSummary } from '../schemas/index.js';

/** All volumes that are not being deleted, by name. */
export async function volumeSummaries(agent: Agent, snapshot: ClusterSnapshot): Promise<VolumeSummary[]> {
  const { state } = agent.context;
  const wanted = snapshot.volumes.filter(({ volume }) => !volume.deleting);
  const summaries = await Promise.all(
    wanted.map(async (facts) => {
      const isServed = facts.status !== null && isServing(facts.status.state);
      // The status of a volume that is served counts its segments already.
      const segments = isServed ? [] : await state.segments(facts.volume.id as VolumeId);
      return summary(
        facts,
        snapshot,
        segments.map(({ value }) => value),
      );
    }),
  );
  return summaries.sort((a, b) => (a.name < b.name ? -1 : 1));
}

export async function volumeView(agent: Agent, id: VolumeId): Promise<Volume> {
  const { state } = agent.context;
  const [snapshot, stored] = await Promise.all([state.snapshot(), state.segments(id)]);
  const facts = must(
    snapshot.volumes.find(({ volume }) => volume.id === id),
    `volume ${id}`,
  );
  const segments = stored.map(({ value }) => value);
  const live = await agent.attachments.degradedSegments(id);
  const { volume, owner, status } = facts;
  return {
    ...summary(facts, snapshot, segments),
    minInSync: volume.minInSync,
    stripeWidth: volume.stripeWidth,
    segmentBytes: volume.segmentBytes,
    whenDegraded: volume.failWhenDegraded ? 'fail' : 'suspend',
    labels: volume.labels,
    ...(owner === null || owner.nodeId === '' ? {} : { owner: nodeName(snapshot, owner.nodeId) }),
    epoch: owner?.epoch ?? 0,
    ...attachmentOf(facts, snapshot),
    ...(status === null || status.nbdUri === '' ? {} : nbdUrisView(status)),
    segments: segments.map((segment) => segmentView(segment, facts, snapshot, live.get(segment.index))),
  };
}

/** Without the one over TCP where there is none. */
export function nbdUrisView({ nbdUri, nbdTcpUri }: NbdUris): { nbdUri: string; nbdTcpUri?: string } {
  return nbdTcpUri === '' ? { nbdUri } : { nbdUri, nbdTcpUri };
}

function summary(facts: VolumeFacts, snapshot: ClusterSnapshot, segments: readonly SegmentRecord[]): VolumeSummary {
  const { volume, attachment, status } = facts;
  return {
    id: volume.id,
    name: volume.name,
    sizeBytes: volume.sizeBytes,
    replicas: volume.replicas,
    ...volumeHealth(facts, snapshot, segments),
    ...(attachment === null ? {} : { node: nodeName(snapshot, attachment.nodeId) }),
    ...(status === null || status.device === '' ? {} : { device: status.device }),
    resync: resyncView(status, snapshot),
    createdMs: volume.createdMs,
  };
}

function attachmentOf({ attachment, status }: VolumeFacts, snapshot: ClusterSnapshot): Pick<Volume, 'attachment'> {
  if (attachment === null) return {};
  return {
    attachment: {
      node: nodeName(snapshot, attachment.nodeId),
      device: attachment.device,
      state: status?.state ?? 'waiting',
      error: status?.error ?? '',
    },
  };
}

function segmentView(
  segment: SegmentRecord,
  { status }: VolumeFacts,
  snapshot: ClusterSnapshot,
  live: ServedSegment | undefined,
): Segment {
  const replicas = segment.replicas.map(({ driveId, inSync, replaces }) => {
    const drive = snapshot.drives.get(driveId);
    const alive = drive !== undefined && snapshot.alive.has(drive.nodeId);
    // Only the owner's shard knows which of the stale copies are being made good; elsewhere it is a good guess.
    const isCopiedTo = status?.copies.some((copy) => copy.driveId === driveId) ?? false;
    const guess: ReplicaState = inSync ? 'in-sync' : isCopiedTo ? 'syncing' : 'stale';
    const state = live?.replicas.find((replica) => replica.driveId === driveId)?.state ?? guess;
    const node = nodeName(snapshot, drive?.nodeId ?? '');
    const successor = replaces === '' ? {} : { replaces };
    return { driveId, node, path: drive?.path ?? '', state, alive, ...successor };
  });
  return { index: segment.index, generation: segment.generation, replicas };
}

function nodeName(snapshot: ClusterSnapshot, id: string): string {
  return snapshot.nodes.get(id)?.name ?? id;
}

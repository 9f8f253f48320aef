/** How well a volume is, from the cluster store alone: pure functions, the same on every node. */
import { unreachable } from '../base/assert.js';
import { formatSize } from '../base/units.js';
import type { CopyProgressRecord, SegmentRecord } from '../protocol/records.js';
import type { ClusterSnapshot, VolumeFacts } from './cluster-state.js';
import { isServing } from './volume-status.js';

export type VolumeHealth = 'ok' | 'degraded' | 'syncing' | 'suspended' | 'unavailable' | 'deleting';

export interface HealthReport {
  readonly health: VolumeHealth;
  /** Empty when ok. */
  readonly reason: string;
}

export interface SegmentCounts {
  /** Segments with fewer copies in sync, on live nodes, than wanted. */
  readonly degraded: number;
  /** Segments with none. */
  readonly lost: number;
}

/** `segments` may be left out for a volume that is served: its status counts them. */
export function volumeHealth(
  facts: VolumeFacts,
  snapshot: ClusterSnapshot,
  segments: readonly SegmentRecord[],
): HealthReport {
  const { volume, status } = facts;
  if (volume.deleting) return { health: 'deleting', reason: 'it is being deleted' };
  if (facts.attachment !== null) {
    const problem = attachmentProblem(facts, snapshot);
    if (problem !== null) return problem;
  }
  const isServed = status !== null && isServing(status.state);
  const counts = countSegments(volume.replicas, segments, snapshot);
  const degraded = isServed ? Math.max(status.segmentsDegraded, counts.degraded) : counts.degraded;
  if (counts.lost > 0 && !isServed) {
    const message = `${counts.lost} segments have no copy in sync on a node that is alive: start the agents that hold them`;
    return { health: 'unavailable', reason: message };
  }
  if (isServed && status.copies.length > 0) {
    return { health: 'syncing', reason: copyingText(status.copies) };
  }
  if (degraded > 0)
    return { health: 'degraded', reason: `${degraded} segments have fewer than ${volume.replicas} copies in sync` };
  return { health: 'ok', reason: '' };
}

function copyingText(copies: readonly CopyProgressRecord[]): string {
  const done = copies.reduce((sum, { bytesDone }) => sum + bytesDone, 0);
  const total = copies.reduce((sum, { bytesTotal }) => sum + bytesTotal, 0);
  return `copies are being made in sync: ${formatSize(done)} of ${formatSize(total)} copied`;
}

function attachmentProblem({ attachment, owner, status }: VolumeFacts, snapshot: ClusterSnapshot): HealthReport | null {
  const wanted = attachment?.nodeId ?? '';
  const name = snapshot.nodes.get(wanted)?.name ?? wanted;
  if (!snapshot.alive.has(wanted)) {
    return {
      health: 'unavailable',
      reason: `it is attached to ${name}, which is not alive: start it, or attach the volume elsewhere`,
    };
  }
  const isOwner = owner !== null && owner.nodeId === wanted && owner.epoch === status?.epoch;
  if (!isOwner || !isServing(status.state)) {
    return { health: 'unavailable', reason: status?.error || `${name} has not opened it yet` };
  }
  if (status.state === 'suspended') {
    return { health: 'suspended', reason: status.error || 'too few copies are in sync for writes' };
  }
  return null;
}

/** Copies count while they are in sync and their node is alive. */
export function countSegments(
  replicas: number,
  segments: readonly SegmentRecord[],
  snapshot: ClusterSnapshot,
): SegmentCounts {
  let degraded = 0;
  let lost = 0;
  for (const segment of segments) {
    const good = segment.replicas.filter(({ driveId, inSync }) => {
      const drive = snapshot.drives.get(driveId);
      return inSync && drive !== undefined && snapshot.alive.has(drive.nodeId);
    });
    if (good.length < replicas) degraded += 1;
    if (good.length === 0) lost += 1;
  }
  return { degraded, lost };
}

export type ClusterHealth = 'ok' | 'degraded' | 'error';

/** What a volume's health means for the cluster's. */
export function severityOf(health: VolumeHealth): ClusterHealth {
  switch (health) {
    case 'ok':
    case 'deleting':
      return 'ok';
    case 'degraded':
    case 'syncing':
      return 'degraded';
    case 'suspended':
    case 'unavailable':
      return 'error';
    default:
      return unreachable(health);
  }
}

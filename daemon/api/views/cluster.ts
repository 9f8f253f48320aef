/** The cluster, its nodes and its drives, as the API shows them. */
import { must } from '../../base/assert.js';
import { BraidError } from '../../base/errors.js';
import type { ClusterSnapshot } from '../../control/cluster-state.js';
import { severityOf, type ClusterHealth } from '../../control/volume-health.js';
import type { DriveRecord } from '../../protocol/records.js';
import type { ApiDependencies } from '../dependencies.js';
import type { Cluster, Drive, DriveClass, Node } from '../schemas/index.js';
import { driveUsage, type DriveUsage } from './usage.js';
import { volumeSummaries } from './volume.js';

/** Reasons shown of each kind; the rest is counted. */
const REASONS_MAX = 5;

export async function clusterView(api: ApiDependencies): Promise<Cluster> {
  const { state } = api.agent.context;
  const [cluster, snapshot] = await Promise.all([state.cluster(), state.snapshot()]);
  if (cluster === null)
    throw new BraidError('UNAVAILABLE', 'the cluster store has no cluster record: restart the agents');
  const [usage, volumes] = await Promise.all([driveUsage(api, snapshot), volumeSummaries(api.agent, snapshot)]);
  const deadNodes = [...snapshot.nodes.values()].filter(({ id }) => !snapshot.alive.has(id));
  // Drives of dead nodes are covered by the node's own reason.
  const badDrives = [...usage].filter(
    ([id, { state: drive }]) => drive !== 'open' && snapshot.alive.has(nodeOf(snapshot, id)),
  );
  const badVolumes = volumes.filter(({ health }) => severityOf(health) !== 'ok');
  const problems: readonly (readonly [ClusterHealth, string])[] = [
    ...deadNodes.map(({ name }) => ['degraded', `node ${name} is not alive`] as const),
    ...badDrives.map(([id, { reason }]) => ['degraded', `drive ${id} is not open: ${reason}`] as const),
    ...badVolumes.map(
      ({ name, health, reason }) => [severityOf(health), `volume ${name} is ${health}: ${reason}`] as const,
    ),
  ];
  const drives = [...snapshot.drives.values()];
  return {
    id: cluster.value.id,
    name: cluster.value.name,
    health: worst(problems.map(([health]) => health)),
    reasons: shorten(problems.map(([, reason]) => reason)),
    nodes: { total: snapshot.nodes.size, healthy: snapshot.nodes.size - deadNodes.length },
    drives: {
      total: drives.length,
      healthy: [...usage.values()].filter(({ state: drive }) => drive === 'open').length,
    },
    volumes: { total: volumes.length, healthy: volumes.length - badVolumes.length },
    capacity: {
      rawBytes: sum(drives.map(({ capacityBytes }) => capacityBytes)),
      usedBytes: sum([...usage.values()].map(({ usedBytes }) => usedBytes)),
      provisionedBytes: sum(volumes.map(({ sizeBytes, replicas }) => sizeBytes * replicas)),
    },
    settings: { resyncBandwidthBytes: cluster.value.resyncBandwidthBytes || null },
  };
}

export function nodeViews(snapshot: ClusterSnapshot): Node[] {
  const drives = [...snapshot.drives.values()];
  return [...snapshot.nodes.values()]
    .map(({ id, name, apiAddress, version, labels }) => ({
      ...{ id, name, apiAddress, version, labels },
      alive: snapshot.alive.has(id),
      driveCount: drives.filter(({ nodeId }) => nodeId === id).length,
    }))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** All drives, by node and path. Reads every volume's layout to count copies. */
export async function driveViews(api: ApiDependencies): Promise<Drive[]> {
  const { state } = api.agent.context;
  const snapshot = await state.snapshot();
  const usage = await driveUsage(api, snapshot);
  const replicaCounts = new Map<string, number>();
  for (const { volume } of snapshot.volumes) {
    for (const { value } of await state.segments(volume.id as never)) {
      for (const { driveId } of value.replicas) replicaCounts.set(driveId, (replicaCounts.get(driveId) ?? 0) + 1);
    }
  }
  return [...snapshot.drives.values()]
    .map((record) =>
      driveView(
        record,
        snapshot.nodes,
        must(usage.get(record.id), 'usage of each drive'),
        replicaCounts.get(record.id) ?? 0,
      ),
    )
    .sort((a, b) => (`${a.node}\0${a.path}` < `${b.node}\0${b.path}` ? -1 : 1));
}

export function driveView(
  record: DriveRecord,
  nodes: ReadonlyMap<string, { readonly name: string }>,
  usage: DriveUsage,
  replicaCount: number,
): Drive {
  return {
    id: record.id,
    node: nodes.get(record.nodeId)?.name ?? record.nodeId,
    path: record.path,
    driveClass: record.driveClass as DriveClass,
    capacityBytes: record.capacityBytes,
    usedBytes: usage.usedBytes,
    replicaCount,
    state: usage.state,
    reason: usage.reason,
    createdMs: record.createdMs,
  };
}

function nodeOf(snapshot: ClusterSnapshot, driveId: string): string {
  return snapshot.drives.get(driveId)?.nodeId ?? '';
}

function worst(healths: readonly ClusterHealth[]): ClusterHealth {
  if (healths.includes('error')) return 'error';
  return healths.includes('degraded') ? 'degraded' : 'ok';
}

function shorten(reasons: readonly string[]): string[] {
  if (reasons.length <= REASONS_MAX) return [...reasons];
  return [...reasons.slice(0, REASONS_MAX), `and ${reasons.length - REASONS_MAX} more`];
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

/** What the nodes say about their drives now: this node's shards directly, the others through their `/v1/stats`. */
import { asError, BraidError } from '../../base/errors.js';
import type { ClusterSnapshot } from '../../control/cluster-state.js';
import type { NodeRecord } from '../../protocol/records.js';
import type { ApiDependencies } from '../dependencies.js';
import type { DriveState, Stats } from '../schemas/index.js';
import { statsView } from './stats.js';

export interface DriveUsage {
  readonly state: DriveState;
  readonly reason: string;
  readonly usedBytes: number;
}

/** A node that does not answer a cheap question by then is shown as unknown. */
const PEER_TIMEOUT_MS = 2_000;

/** By drive id, for every drive of the snapshot. Never rejects because of another node. */
export async function driveUsage(
  api: ApiDependencies,
  snapshot: ClusterSnapshot,
): Promise<ReadonlyMap<string, DriveUsage>> {
  const owners = new Set([...snapshot.drives.values()].map(({ nodeId }) => nodeId));
  const answers = await Promise.all([...owners].map(async (id) => [id, await askNode(api, snapshot, id)] as const));
  const byNode = new Map(answers);
  return new Map(
    [...snapshot.drives.values()].map(({ id, nodeId }) => [
      id,
      usageOf(id, byNode.get(nodeId) ?? 'its node is unknown'),
    ]),
  );
}

function usageOf(driveId: string, answer: Stats | string): DriveUsage {
  if (typeof answer === 'string') return { state: 'unknown', reason: answer, usedBytes: 0 };
  const drive = answer.drives.find(({ id }) => id === driveId);
  if (drive === undefined) return { state: 'opening', reason: 'its node has not opened it yet', usedBytes: 0 };
  return { state: drive.state, reason: drive.reason, usedBytes: drive.usedBytes };
}

/** A node's statistics, or why there are none. Never rejects because of another node. */
export async function askNode(api: ApiDependencies, snapshot: ClusterSnapshot, id: string): Promise<Stats | string> {
  if (id === api.agent.context.node.id) return statsView(api.agent);
  const node = snapshot.nodes.get(id);
  if (node === undefined) return 'its node is not in the cluster any more';
  if (!snapshot.alive.has(id)) return `node ${node.name} is not alive`;
  return askPeer(api, node);
}

async function askPeer({ peers }: ApiDependencies, { apiAddress, name }: NodeRecord): Promise<Stats | string> {
  try {
    return (await peers.request({ apiAddress, method: 'GET', path: '/v1/stats', timeoutMs: PEER_TIMEOUT_MS })) as Stats;
  } catch (thrown) {
    if (!(thrown instanceof BraidError)) throw thrown;
    return `node ${name} does not answer: ${asError(thrown).message}`;
  }
}

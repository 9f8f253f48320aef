/**
 * Braid with three copies on three agents of this host, over loopback TCP. A fourth agent has no drive: volumes that it serves are the
 * external case. Volumes for first writes are made as they are needed.
 */
import { waitFor } from '../../client/processes.js';
import { LocalCluster } from '../../client/local-cluster.js';
import type { BraidClient } from '../../client/sdk/client.js';
import { EXTENT_BYTES, MIB } from '../../daemon/base/units.js';
import { nbdTarget, type FioTarget } from '../fio.js';
import type { Scratch } from '../scratch.js';
import type { Subject, SubjectContext } from './subject.js';

const COPIES = 3;
const NODES = COPIES + 1;
/** A region with no write for some seconds is cooled; then the drives write their checksums. */
const COOL_TIMEOUT_MS = 60_000;
const FREE_TIMEOUT_MS = 60_000;
/** Slot 0, and what deletion of the volume before has not freed yet. */
const SLACK_BYTES = 64 * MIB;

export const BRAID_PACKAGES = { fio: 'fio' };

/** Space on all drives, in copies of the volume: two volumes that stay, and half of one that is new each time (twice, for late deletion). */
export const BRAID_VOLUMES = COPIES * 3;
export const BRAID_EXTRA_BYTES = COPIES * SLACK_BYTES;

/** Volumes for first writes are half the size of the others. */
export function freshBytes(volumeBytes: number): number {
  return volumeBytes / 2;
}

export class BraidCluster {
  readonly #cluster: LocalCluster;
  readonly #scratch: Scratch;
  readonly #volumeBytes: number;
  #freshCount = 0;

  private constructor(cluster: LocalCluster, { scratch, volumeBytes }: SubjectContext) {
    this.#cluster = cluster;
    this.#scratch = scratch;
    this.#volumeBytes = volumeBytes;
  }

  /** Starts the agents in `DIR/name` and gives the first three a drive each. `agentProgram`: as of `LocalCluster`. */
  static async start(context: SubjectContext, name: string, agentProgram?: string): Promise<BraidCluster> {
    const { scratch, volumeBytes } = context;
    const cluster = await startAgents(scratch, name, NODES, agentProgram);
    const capacity = 3 * volumeBytes + SLACK_BYTES;
    for (const agent of cluster.agents.slice(0, COPIES))
      await agent.client().addDrive({ path: agent.driveDirectory, capacity });
    return new BraidCluster(cluster, context);
  }

  /** Of the agents with copies, or of all. */
  pids(nodes: number): number[] {
    return this.#cluster.agents.slice(0, nodes).map((agent) => agent.process?.pid ?? 0);
  }

  logPath(node: number): string {
    return this.#cluster.agent(node).logPath;
  }

  stop(): Promise<string[]> {
    return this.#cluster.stopAll();
  }

  /** A volume that a node with a copy serves. */
  async hyperconverged(): Promise<Subject> {
    const target = await this.#makeVolume('hyperconverged', this.#volumeBytes, 0);
    return { name: 'braid', title: 'Braid, 3 copies', pids: this.pids(COPIES), target };
  }

  /** A volume that the node without drives serves. */
  async external(): Promise<Subject> {
    const target = await this.#makeVolume('external', this.#volumeBytes, COPIES);
    return { name: 'external', title: 'Braid, 3 copies, external', pids: this.pids(NODES), target };
  }

  /** A new volume; `dropFresh` takes it away again. */
  async makeFresh(): Promise<{ name: string; target: FioTarget; extents: number }> {
    await this.#waitForSpace();
    const name = `fresh-${++this.#freshCount}`;
    const sizeBytes = freshBytes(this.#volumeBytes);
    return { name, target: await this.#makeVolume(name, sizeBytes, 0), extents: sizeBytes / EXTENT_BYTES };
  }

  async dropFresh(name: string): Promise<void> {
    await this.#client.detachVolume(name);
    await this.#client.deleteVolume(name);
  }

  /** Resolves when no region is in any drive's activity log: what is written next is a first write. */
  async waitUntilCooled(): Promise<void> {
    const isCooled = async () => (await this.#drives()).every((drive) => drive.hotRegions === 0);
    await waitFor(isCooled, COOL_TIMEOUT_MS, 'all regions have cooled', this.#scratch.signal);
  }

  get #client(): BraidClient {
    return this.#cluster.client(0);
  }

  async #makeVolume(name: string, sizeBytes: number, node: number): Promise<FioTarget> {
    await this.#client.createVolume({ name, size: sizeBytes, replicas: COPIES });
    const { nbdUri } = await this.#client.attachVolume(name, { node: this.#cluster.agent(node).name });
    return nbdTarget(nbdUri);
  }

  async #drives() {
    const stats = await Promise.all(this.#cluster.agents.slice(0, COPIES).map((agent) => agent.client().stats()));
    return stats.flatMap(({ drives }) => drives);
  }

  /** What deleted volumes held becomes free in the background. */
  async #waitForSpace(): Promise<void> {
    const neededBytes = freshBytes(this.#volumeBytes) + SLACK_BYTES / 2;
    const isFree = async () =>
      (await this.#drives()).every((drive) => drive.capacityBytes - drive.usedBytes >= neededBytes);
    await waitFor(isFree, FREE_TIMEOUT_MS, 'the drives have room for a new volume', this.#scratch.signal);
  }
}

/** Starts agents without drives in `DIR/name`; they end with the run. `agentProgram`: as of `LocalCluster`. */
export async function startAgents(
  scratch: Scratch,
  name: string,
  nodes: number,
  agentProgram?: string,
): Promise<LocalCluster> {
  const directory = scratch.path(name);
  const program = agentProgram === undefined ? {} : { agentProgram };
  const cluster = new LocalCluster({ directory, nodes, clusterName: 'bench', detached: true, ...program });
  scratch.defer(async () => {
    const problems = await cluster.stopAll();
    if (problems.length > 0) throw new Error(problems.join('\n'));
  });
  await cluster.start(scratch.signal).finally(() => {
    for (const { process } of cluster.agents) if (process !== null) scratch.adopt(process);
  });
  return cluster;
}

/**
 * How long a program that writes has to wait when an agent fails: the longest write while a replica's agent is killed or frozen, and the time
 * from the owner's death to the first write and read that another node has served.
 *
 * Each figure comes from a 4 KiB writer at depth 1 and at depth 16, on a volume that is written in full and in sync everywhere.
 */
import { StallMeter } from '../client/demo/workload.js';
import type { LocalCluster } from '../client/local-cluster.js';
import { NbdClient } from '../client/nbd-client.js';
import { waitFor } from '../client/processes.js';
import { BLOCK_BYTES, MIB } from '../daemon/base/units.js';
import { openLmdbClusterStore } from '../daemon/adapters/lmdb/cluster-store.js';
import type { ClusterStore } from '../daemon/ports/cluster-store.js';
import { freeze } from '../test/support/freeze.js';
import { nbdTarget, runFio } from './fio.js';
import { median } from './measure.js';
import type { Scratch } from './scratch.js';
import { startAgents } from './subjects/braid.js';
import { PREFILL } from './workloads.js';

const NODES = 3;
const VOLUME = { name: 'vol', size: 256 * MIB, replicas: NODES };
const DRIVE_BYTES = 512 * MIB;
const DEPTHS = [1, 16];
/** Writing before each failure: as long as is watched after a kill, so that "undisturbed" can be compared with it. */
const QUIET_MS = 1_000;
const STATE_TIMEOUT_MS = 60_000;

type FailureName = 'replica-killed' | 'replica-frozen' | 'owner-killed';

/** What is wanted of the medians, and how long the writer is watched after the failure. */
const FAILURES: Readonly<Record<FailureName, { title: string; goalMs: number; watchMs: number }>> = {
  'replica-killed': { title: "longest write, a replica's agent killed", goalMs: 100, watchMs: 1_000 },
  'replica-frozen': { title: "longest write, a replica's agent frozen", goalMs: 3_000, watchMs: 4_000 },
  'owner-killed': { title: 'owner killed to I/O served elsewhere', goalMs: 10_000, watchMs: 0 },
};

export interface FailureFigure {
  readonly name: FailureName;
  readonly title: string;
  readonly depth: number;
  readonly goalMs: number;
  readonly medianMs: number;
  readonly isMet: boolean;
  readonly samplesMs: readonly number[];
  /** Longest write in the second before each failure. */
  readonly undisturbedMs: readonly number[];
}

/** Writes blocks at random, so many at once, until it is stopped or its connection ends. */
class Writer {
  readonly meter = new StallMeter();
  readonly client: NbdClient;
  #isWriting = true;
  readonly #running: Promise<unknown>;

  constructor(client: NbdClient, depth: number) {
    this.client = client;
    this.#running = Promise.allSettled(Array.from({ length: depth }, () => this.#run()));
  }

  async #run(): Promise<void> {
    const block = Buffer.alloc(BLOCK_BYTES, 'braid');
    while (this.#isWriting) {
      const at = Math.floor(Math.random() * (VOLUME.size / BLOCK_BYTES)) * BLOCK_BYTES;
      await this.meter.measure(() => this.client.write(at, block));
    }
  }

  async stop(): Promise<void> {
    this.#isWriting = false;
    await this.#running;
    await this.client.close();
  }
}

class FailureBench {
  readonly #cluster: LocalCluster;
  readonly #scratch: Scratch;
  readonly #store: ClusterStore;
  /** Node that serves the volume. */
  #owner = 0;
  #uri = '';

  constructor(cluster: LocalCluster, scratch: Scratch, store: ClusterStore) {
    this.#cluster = cluster;
    this.#scratch = scratch;
    this.#store = store;
  }

  async prepare(): Promise<void> {
    await this.#cluster.addDrives(DRIVE_BYTES);
    await this.#cluster.client(0).createVolume(VOLUME);
    await this.#attach();
    const operations = VOLUME.size / PREFILL.blockBytes;
    await runFio(nbdTarget(this.#uri), PREFILL, { operations }, this.#scratch.signal);
  }

  /** One failure, and everything healed again. */
  async sample(name: FailureName, depth: number): Promise<{ ms: number; undisturbedMs: number }> {
    const writer = new Writer(await NbdClient.connectUri(this.#uri), depth);
    await this.#pause(QUIET_MS);
    const undisturbedMs = writer.meter.longestMs;
    writer.meter.reset();
    const ms = name === 'owner-killed' ? await this.#failOwner(writer) : await this.#failReplica(name, writer);
    await this.#waitUntilInSync();
    return { ms, undisturbedMs };
  }

  async #failReplica(name: 'replica-killed' | 'replica-frozen', writer: Writer): Promise<number> {
    const victim = (this.#owner + 1) % NODES;
    const isFrozen = name === 'replica-frozen';
    if (isFrozen) await freeze(this.#cluster.agent(victim), this.#store);
    else await this.#cluster.kill(victim, 'SIGKILL');
    await this.#pause(FAILURES[name].watchMs);
    const { longestMs } = writer.meter;
    if (writer.client.isClosed) throw new Error(`the writer lost its connection when ${name}`);
    await writer.stop();
    if (isFrozen) await this.#cluster.kill(victim, 'SIGCONT');
    else await this.#restart(victim);
    return longestMs;
  }

  async #failOwner(writer: Writer): Promise<number> {
    const dead = this.#owner;
    this.#owner = (dead + 1) % NODES;
    const diedMs = performance.now();
    await this.#cluster.kill(dead, 'SIGKILL');
    await this.#attach();
    const client = await NbdClient.connectUri(this.#uri);
    await client.write(0, Buffer.alloc(BLOCK_BYTES, 'after'));
    await client.read(0, BLOCK_BYTES);
    const ms = performance.now() - diedMs;
    await Promise.all([client.close(), writer.stop()]);
    await this.#restart(dead);
    return ms;
  }

  /** Asks until the volume may be attached: a dead node's volume is refused until its lease has ended. */
  async #attach(): Promise<void> {
    const isAttached = async () => {
      const attach = { node: this.#cluster.agent(this.#owner).name, timeoutMs: STATE_TIMEOUT_MS };
      const attached = await this.#cluster
        .client(this.#owner)
        .attachVolume(VOLUME.name, attach)
        .catch(() => null);
      this.#uri = attached?.nbdUri ?? '';
      return attached !== null;
    };
    await waitFor(isAttached, STATE_TIMEOUT_MS, 'the volume is served', this.#scratch.signal);
  }

  async #restart(node: number): Promise<void> {
    await this.#cluster.restart(node, this.#scratch.signal);
    const { process } = this.#cluster.agent(node);
    if (process !== null) this.#scratch.adopt(process);
  }

  async #waitUntilInSync(): Promise<void> {
    const isInSync = async () => {
      const { segments } = await this.#cluster.client(this.#owner).volume(VOLUME.name);
      return segments.every(({ replicas }) => replicas.every(({ state }) => state === 'in-sync'));
    };
    await waitFor(isInSync, STATE_TIMEOUT_MS, 'all copies are in sync again', this.#scratch.signal);
  }

  #pause(ms: number): Promise<void> {
    const endMs = performance.now() + ms;
    return waitFor(() => performance.now() >= endMs, ms + STATE_TIMEOUT_MS, 'time passes', this.#scratch.signal);
  }
}

export async function measureFailures(
  scratch: Scratch,
  repetitions: number,
  onProgress: (text: string) => void,
): Promise<FailureFigure[]> {
  onProgress('failures: starting 3 agents');
  const cluster = await startAgents(scratch, 'failures', NODES);
  const store = await openLmdbClusterStore({ directory: cluster.storeDirectory, create: false });
  scratch.defer(() => store.close());
  const bench = new FailureBench(cluster, scratch, store);
  await bench.prepare();
  const names = Object.keys(FAILURES) as FailureName[];
  const cases = names.flatMap((name) => DEPTHS.map((depth) => ({ name, depth, samples: [] as Sampled[] })));
  for (let repetition = 1; repetition <= repetitions; repetition++) {
    for (const { name, depth, samples } of cases) {
      onProgress(`${repetition}/${repetitions} ${FAILURES[name].title}, depth ${depth}`);
      samples.push(await bench.sample(name, depth));
    }
  }
  return cases.map(({ name, depth, samples }) => figureOf(name, depth, samples));
}

type Sampled = Awaited<ReturnType<FailureBench['sample']>>;

function figureOf(name: FailureName, depth: number, samples: readonly Sampled[]): FailureFigure {
  const { title, goalMs } = FAILURES[name];
  const samplesMs = samples.map(({ ms }) => ms);
  const medianMs = median(samplesMs);
  const undisturbedMs = samples.map((sample) => sample.undisturbedMs);
  return { name, title, depth, goalMs, medianMs, isMet: medianMs <= goalMs, samplesMs, undisturbedMs };
}

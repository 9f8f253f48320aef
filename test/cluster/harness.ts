/** Real agents for a test: started in a temporary directory, stopped and removed with the test, their logs shown when it fails. */
import {
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import { LocalCluster, type AgentPlace, type LocalClusterOptions } from '../../client/local-cluster.js';
import { NbdClient } from '../../client/nbd-client.js';
import { identityOf, isRunning, waitFor as waitForCondition, type ProcessIdentity } from '../../client/processes.js';
import type { CreateVolume, Drive, Event, Volume } from '../../client/sdk/types.js';
import { openLmdbClusterStore } from '../../daemon/adapters/lmdb/cluster-store.js';
import { MIB } from '../../daemon/base/units.js';
import type { ClusterStore } from '../../daemon/ports/cluster-store.js';
import { freeze } from '../support/freeze.js';

const PREFIX = 'braid-test-';
/** Whose directory it is. */
const OWNER_FILE = 'owner.json';
const HERE: AgentPlace = { host: '127.0.0.1', command: [] };
/** Agents end with the process of the test, however that ends. */
const WITH_TEST = ['setpriv', '--pdeathsig', 'KILL'];
const TMPFS_MAGIC = 0x01021994;
const STATE_DEADLINE_MS = 60_000;
const WRITES_DEADLINE_MS = 30_000;
const EVENTS_MAX = 1_000;

export interface TestClusterOptions {
  readonly nodes?: number;
  /** Of each node's drive; 0: no drives. */
  readonly driveBytes?: number;
  readonly agentArguments?: readonly string[];
  /** As of `LocalCluster`. */
  readonly place?: LocalClusterOptions['place'];
}

export class TestCluster extends LocalCluster {
  readonly #t: Test;
  #store: Promise<ClusterStore> | undefined;

  constructor(t: Test, options: LocalClusterOptions) {
    super(options);
    this.#t = t;
  }

  /** Waits for a condition; asking may fail meanwhile (agents are being killed). */
  async waitFor(condition: () => boolean | Promise<boolean>, deadlineMs: number, what: string): Promise<void> {
    let problem = '';
    const asked = async () => {
      try {
        problem = '';
        return await condition();
      } catch (error) {
        problem = String(error);
        return false;
      }
    };
    await waitForCondition(asked, deadlineMs, what).catch((error: unknown) => {
      throw new Error(
        `${error instanceof Error ? error.message : String(error)}${problem === '' ? '' : ` (${problem})`}`,
      );
    });
  }

  /** Waits until the volume, as `node` sees it, is as wanted. */
  async waitForVolume(
    node: number,
    name: string,
    what: string,
    isWanted: (volume: Volume) => boolean,
  ): Promise<Volume> {
    let last: Volume | null = null;
    await this.waitFor(
      async () => {
        last = await this.client(node).volume(name);
        return isWanted(last);
      },
      STATE_DEADLINE_MS,
      `volume ${name} is ${what}`,
    ).catch((error: unknown) => {
      this.#t.comment(`last seen: ${JSON.stringify(last)}`);
      throw error;
    });
    return last as unknown as Volume;
  }

  waitUntilInSync(node: number, name: string): Promise<Volume> {
    return this.waitForVolume(node, name, 'in sync everywhere', ({ health, segments }) => {
      return health === 'ok' && segments.every(({ replicas }) => replicas.every(({ state }) => state === 'in-sync'));
    });
  }

  waitUntilDegraded(node: number, name: string): Promise<Volume> {
    return this.waitForVolume(node, name, 'degraded', ({ segments }) =>
      segments.some(({ replicas }) => replicas.some(({ state }) => state !== 'in-sync')),
    );
  }

  /** Waits until so many more bytes of its first volume were written. */
  async waitForWrites(node: number, bytes: number, what: string): Promise<void> {
    const written = async () => (await this.client(node).stats()).volumes[0]?.write.bytes ?? 0;
    const before = await written();
    await this.waitFor(async () => (await written()) >= before + bytes, WRITES_DEADLINE_MS, what);
  }

  /** SIGSTOP, as a failure of this node only. */
  async freeze(index: number): Promise<void> {
    await freeze(this.agent(index), await this.openStore());
  }

  /** The store of its agents, which ends with the test. */
  openStore(): Promise<ClusterStore> {
    this.#store ??= openLmdbClusterStore({ directory: this.storeDirectory, create: false });
    return this.#store;
  }

  /** After its agents have ended. */
  async closeStore(): Promise<void> {
    await (await this.#store)?.close();
  }

  /** Makes a volume and serves it on a node; resolves with a URI of it. */
  async serve(node: number, volume: CreateVolume): Promise<string> {
    await this.client(node).createVolume(volume);
    return this.attach(node, volume.name);
  }

  /** Serves the volume on a node that may take over from a dead one as soon as that one's lease has ended. */
  async takeOver(node: number, name: string): Promise<string> {
    let uri = '';
    const attached = async () => {
      uri = await this.attach(node, name);
      return true;
    };
    await this.waitFor(attached, STATE_DEADLINE_MS, `${this.agent(node).name} takes ${name} over`);
    return uri;
  }

  /** Serves the volume on a node. */
  async attach(node: number, name: string): Promise<string> {
    const { name: nodeName } = this.agent(node);
    const { nbdUri } = await this.client(node).attachVolume(name, { node: nodeName, timeoutMs: STATE_DEADLINE_MS });
    return nbdUri;
  }

  /** Connects to the volume on a node that has (or will have) it. */
  async connect(uri: string): Promise<NbdClient> {
    const client = await NbdClient.connectUri(uri);
    this.#t.teardown(() => client.close());
    return client;
  }

  /** Waits until all copies are in sync and compares them. */
  async expectHealed(t: Test, node: number, name: string): Promise<void> {
    const { segments } = await this.waitUntilInSync(node, name);
    await this.expectIdentical(t, node, name, segments[0]?.replicas.length ?? 0);
  }

  /** Compares all copies. */
  async expectIdentical(t: Test, node: number, name: string, copies: number): Promise<void> {
    const report = await this.client(node).verifyVolume(name);
    t.same(report.differences, [], 'all copies are byte-identical');
    t.equal(report.copiesMin, copies, `${copies} copies were compared`);
    t.ok(report.extentsCompared > 0, 'there was something to compare');
  }

  /** Waits until a node's drive is reported as failed. */
  async failedDrive(node: number): Promise<Drive> {
    let found: Drive | undefined;
    const look = async () => {
      found = (await this.client(0).drives()).find((drive) => drive.node === this.agent(node).name);
      return found?.state === 'failed';
    };
    await this.waitFor(look, STATE_DEADLINE_MS, `the drive of ${this.agent(node).name} is reported as failed`);
    return found as Drive;
  }

  async events(node: number): Promise<Event[]> {
    return (await this.client(node).events({ limit: EVENTS_MAX })).events;
  }
}

/** Starts agents that end with the test. */
export async function startCluster(t: Test, options: TestClusterOptions = {}): Promise<TestCluster> {
  const directory = temporaryDirectory(t);
  const nodes = options.nodes ?? 3;
  const agentArguments = ['--log-level', 'info', ...(options.agentArguments ?? [])];
  const place = (node: number): AgentPlace => {
    const { host, command } = options.place?.(node) ?? HERE;
    return { host, command: [...WITH_TEST, ...command] };
  };
  const cluster = new TestCluster(t, { directory, nodes, agentArguments, place });
  t.teardown(async () => {
    // Stopping in order has tests of its own; here nothing is left to be saved.
    await Promise.all(cluster.agents.map((agent) => agent.kill('SIGKILL')));
    await cluster.closeStore();
    if (!t.passing()) t.comment(cluster.logs());
  });
  await cluster.start();
  const driveBytes = options.driveBytes ?? 512 * MIB;
  if (driveBytes > 0) await cluster.addDrives(driveBytes);
  return cluster;
}

/** Is removed with the test, or by a later one when this process is killed. */
export function temporaryDirectory(t: Test): string {
  const parent = diskDirectory();
  for (const name of readdirSync(parent)) if (name.startsWith(PREFIX)) removeIfDead(join(parent, name));
  const directory = mkdtempSync(join(parent, PREFIX));
  const path = join(directory, OWNER_FILE);
  writeFileSync(`${path}.new`, JSON.stringify(identityOf(process.pid)));
  renameSync(`${path}.new`, path);
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

function removeIfDead(directory: string): void {
  const path = join(directory, OWNER_FILE);
  if (!existsSync(path)) return;
  const owner = JSON.parse(readFileSync(path, 'utf8')) as ProcessIdentity;
  if (!isRunning(owner)) rmSync(directory, { recursive: true, force: true });
}

/** Drives use direct I/O, which a temporary directory in memory may lack. */
function diskDirectory(): string {
  return statfsSync(tmpdir()).type === TMPFS_MAGIC && existsSync('/var/tmp') ? '/var/tmp' : tmpdir();
}

/** TCP ports that a process listens on, from the kernel. */
export function listeningPorts(pid: number): number[] {
  const inodes = new Set(
    readdirSync(`/proc/${pid}/fd`).flatMap((descriptor) => {
      try {
        return /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${descriptor}`))?.[1] ?? [];
      } catch {
        return [];
      }
    }),
  );
  const LISTEN = '0A';
  return readFileSync(`/proc/${pid}/net/tcp`, 'utf8')
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter((fields) => fields[3] === LISTEN && inodes.has(fields[9] ?? ''))
    .map((fields) => Number.parseInt(fields[1]?.split(':')[1] ?? '0', 16));
}

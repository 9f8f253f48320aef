#!/usr/bin/env node
/**
 * `braidd`, the agent of one node: reads its settings, puts the parts together, and ends them in order.
 *
 * Threads: this one is the control plane; each shard of the data plane has its own. A shard that dies takes the process with it, and so
 * does any error that nobody expected: a crash is safe, half an agent is not.
 */
import { readFileSync } from 'node:fs';
import { mkdir, stat } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { fileURLToPath } from 'node:url';
import { SystemClock } from './adapters/clock.js';
import { readConfigFile } from './adapters/config-file.js';
import { createDriveDirectory } from './adapters/drive-directory.js';
import { HttpPeerClient } from './adapters/http-peer.js';
import { openLmdbClusterStore } from './adapters/lmdb/cluster-store.js';
import { LmdbMetaStoreOpener } from './adapters/lmdb/meta-store.js';
import { createLog } from './adapters/log.js';
import { NbdfuseDeviceAttacher } from './adapters/nbdfuse-device.js';
import { NodeDirectory } from './adapters/node-directory.js';
import { acquireProcessLock } from './adapters/process-lock.js';
import { SystemRandom } from './adapters/random.js';
import { reachableAddress } from './adapters/reachable-address.js';
import { startShardWorker, type StartedShard } from './adapters/shard-worker.js';
import type { Api } from './api/fastify.js';
import { buildServer } from './api/server.js';
import { asError, BraidError } from './base/errors.js';
import { Agent, ensureCluster } from './control/agent.js';
import { ClusterState } from './control/cluster-state.js';
import {
  checkKey,
  CONFIG_KEYS,
  configHelp,
  flagName,
  resolveConfig,
  unknownVariables,
  type Config,
} from './control/config.js';
import { Events } from './control/events.js';
import type { ClusterStore } from './ports/cluster-store.js';
import type { DriveFormatter } from './ports/drive-formatter.js';
import type { Log } from './ports/log.js';
import type { ShardOptions } from './ports/shard.js';
import { ReplicaDrive } from './replica/drive.js';

/** After a signal: volumes flush and release, then the process ends, one way or the other. */
const STOP_DEADLINE_MS = 15_000;
const MS_PER_HOUR = 3_600_000;
const EXIT_FAILED = 1;
const EXIT_USAGE = 2;
const PATH_SETTINGS = ['dataDir', 'storeDir'];

interface CommandLine {
  readonly flags: Record<string, string>;
  readonly configPath: string | undefined;
  readonly action: 'run' | 'help' | 'version' | 'check';
}

const VERSION = readVersion();

/** A host's name as a node's. */
function defaultNodeName(): string {
  const name = (hostname().split('.')[0] ?? '')
    .toLowerCase()
    .replace(/[^a-z0-9_-]/g, '-')
    .slice(0, 63);
  return name.replace(/^[^a-z0-9]+|[^a-z0-9]+$/g, '');
}

/** From the nearest package.json above: the compiled file lies in `dist/`. */
function readVersion(): string {
  for (let directory = dirname(fileURLToPath(import.meta.url)); ; directory = dirname(directory)) {
    try {
      const { name, version } = JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8')) as Record<
        string,
        string
      >;
      if (name === 'braid-storage' && version !== undefined) return version;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
    if (directory === dirname(directory)) return '0.0.0';
  }
}

function help(): string {
  return `braidd: the agent of a Braid storage node.

Usage: braidd [--config FILE] [--SETTING VALUE ...]
       braidd --check-config [...]   check the settings, print them, and end
       braidd --help | --version

Settings, each with its flag, default, environment variable and key in the (YAML) configuration file.
Flags win over the environment, which wins over the file.

${configHelp(defaultNodeName())}

Signals: SIGTERM and SIGINT end the agent in order (at most ${STOP_DEADLINE_MS / 1_000} s); a second one ends it at once.`;
}

function readCommandLine(args: readonly string[]): CommandLine {
  const settings = Object.fromEntries(CONFIG_KEYS.map((key) => [flagName(key).slice(2), { type: 'string' as const }]));
  const switches = {
    help: { type: 'boolean', short: 'h' },
    version: { type: 'boolean' },
    'check-config': { type: 'boolean' },
  } as const;
  const options = { ...settings, ...switches, config: { type: 'string' } } as const;
  const known = Object.keys(options).map((name) => `--${name}`);
  for (const arg of args) {
    const [name = ''] = arg.split('=', 1);
    if (/^--./.test(name)) checkKey(name, 'unknown flag', known);
  }
  let values: Record<string, string | boolean | undefined>;
  try {
    ({ values } = parseArgs({ args: [...args], options, allowPositionals: false }));
  } catch (error) {
    throw new BraidError('INVALID_ARGUMENT', asError(error).message);
  }
  const flags: Record<string, string> = {};
  for (const key of CONFIG_KEYS) {
    const value = values[flagName(key).slice(2)];
    // A path on the command line is relative to where the command is given.
    if (typeof value === 'string') flags[key] = PATH_SETTINGS.includes(key) ? resolve(value) : value;
  }
  const action = values['help'] ? 'help' : values['version'] ? 'version' : values['check-config'] ? 'check' : 'run';
  return { flags, configPath: values['config'] as string | undefined, action };
}

async function readConfig({ flags, configPath }: CommandLine): Promise<Config> {
  const file = configPath === undefined ? null : await readConfigFile(resolve(configPath));
  return resolveConfig({ file, environment: process.env, flags, hostName: defaultNodeName() });
}

/** Composes what a new drive consists of: the data file, and the superblock in its metadata. */
function driveFormatter(clusterId: string, clock: SystemClock): DriveFormatter {
  return {
    format: async ({ directory, capacityBytes, driveId }) => {
      let slots = 0;
      const format = async (slotCount: number): Promise<void> => {
        slots = slotCount;
        const nowMs = Math.floor(clock.wallMs());
        await ReplicaDrive.format({
          directory,
          metas: new LmdbMetaStoreOpener(),
          clusterId,
          driveId,
          slotCount,
          nowMs,
        });
      };
      await createDriveDirectory({ directory, capacityBytes, format });
      return { slotCount: slots };
    },
  };
}

/** Options of shard `index`; further shards take the ports that follow. */
function shardOptions(
  config: Config,
  directory: NodeDirectory,
  index: number,
): Omit<ShardOptions, 'clusterId' | 'nodeId' | 'incarnation'> {
  const nextPort = (port: number): number => (port === 0 ? 0 : port + index);
  const [, nbdHost, nbdPort] = /^(.+):(\d+)$/.exec(config.nbdTcp) ?? [];
  return {
    shardIndex: index,
    dataHost: config.dataHost,
    dataPort: nextPort(config.dataPort),
    nbdSocketPath: directory.nbdSocket(index),
    ...(nbdHost === undefined
      ? {}
      : { nbdTcp: { host: nbdHost.replace(/^\[|\]$/g, ''), port: nextPort(Number(nbdPort)) } }),
    slabBytes: config.slabBytes,
    scrub: { bytesPerSecond: config.scrubBytesPerSecond, intervalMs: config.scrubIntervalHours * MS_PER_HOUR },
    logLevel: config.logLevel,
  };
}

async function startShards(
  config: Config,
  common: Pick<ShardOptions, 'clusterId' | 'nodeId' | 'incarnation'>,
  parts: Parts,
): Promise<StartedShard[]> {
  const indices = Array.from({ length: config.shards }, (_, index) => index);
  return Promise.all(
    indices.map((index) =>
      startShardWorker({ ...common, ...shardOptions(config, parts.directory, index) }, parts.store, parts.events),
    ),
  );
}

interface Parts {
  readonly directory: NodeDirectory;
  readonly store: ClusterStore;
  readonly events: Events;
}

/** URL that other nodes reach the API at. */
function apiUrl(config: Config, server: Api): string {
  const address = server.server.address();
  const port = address === null || typeof address === 'string' ? config.apiPort : address.port;
  return `http://${reachableAddress(config.apiHost, port)}`;
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || host.startsWith('127.');
}

async function storeBytes(directory: string): Promise<number> {
  return (await stat(join(directory, 'data.mdb'))).size;
}

interface RunningAgent {
  stop(): Promise<void>;
  /** Resolves when a shard has died: the agent must end. */
  readonly died: Promise<Error>;
}

async function startAgent(config: Config, log: Log): Promise<RunningAgent> {
  const clock = new SystemClock();
  const random = new SystemRandom();
  const directory = new NodeDirectory(config.dataDir);
  await directory.create(config.shards);
  const lock = await acquireProcessLock(config.dataDir);
  const nodeId = await directory.nodeId(() => random.uuid());
  await directory.removeAgentFile();
  await mkdir(config.storeDir, { recursive: true, mode: 0o700 });
  const store = await openLmdbClusterStore({ directory: config.storeDir, create: true });
  const id = (await directory.read())?.clusterId;
  const cluster = await ensureCluster(store, { name: config.clusterName, id, random, clock });
  const state = new ClusterState(store);
  const common = { state, clock, random, log };
  const events = new Events({ ...common, nodeId });
  const identity = { clusterId: cluster.id, nodeId, incarnation: random.uuid() };
  const shards = await startShards(config, identity, { directory, store, events });
  const agent = new Agent({
    ...common,
    events,
    node: { ...identity, id: nodeId, name: config.nodeName, version: VERSION, labels: config.labels },
    shards,
    devices: new NbdfuseDeviceAttacher({ runDirectory: directory.runDirectory, log }),
    formatter: driveFormatter(cluster.id, clock),
    memory: directory,
  });
  const server = await buildServer({
    agent,
    peers: new HttpPeerClient(),
    log,
    storeBytes: () => storeBytes(config.storeDir),
  });
  await server.listen({ host: config.apiHost, port: config.apiPort }).catch((error: unknown) => {
    const message = `the API cannot listen on ${config.apiHost}:${config.apiPort}: ${asError(error).message}; choose another --api-port`;
    throw new BraidError('UNAVAILABLE', message, { cause: error });
  });
  const api = apiUrl(config, server);
  await agent.start(api);
  const nbdSockets = shards.map(({ addresses }) => addresses.nbdSocketPath);
  const file = {
    pid: process.pid,
    api,
    node: config.nodeName,
    nodeId,
    clusterId: cluster.id,
    nbdSockets,
    version: VERSION,
  };
  await directory.writeAgentFile(file);
  log.info({ api, node: config.nodeName, cluster: cluster.name, version: VERSION }, 'ready');
  const stop = async (): Promise<void> => {
    await directory.removeAgentFile();
    await agent.stop();
    await server.close();
    await store.close();
    await lock.release();
  };
  return { stop, died: Promise.race(shards.map(({ died }) => died)) };
}

function exitOnUnexpectedErrors(log: Log): void {
  const onFatal = (error: unknown): void => {
    log.error({ err: asError(error) }, 'fatal: unexpected error; the agent ends, which is safe: start it again');
    process.exit(EXIT_FAILED);
  };
  process.on('uncaughtException', onFatal);
  process.on('unhandledRejection', onFatal);
}

/** The first signal ends the agent in order, within the deadline; the second one at once. */
function stopOnSignals(agent: RunningAgent, log: Log): void {
  let isStopping = false;
  const onSignal = (signal: NodeJS.Signals): void => {
    if (isStopping) {
      log.warn({ signal }, 'second signal: the agent ends at once');
      process.exit(EXIT_FAILED);
    }
    isStopping = true;
    log.info({ signal }, 'the agent ends in order');
    const deadline = setTimeout(() => {
      log.error({ deadlineMs: STOP_DEADLINE_MS }, 'the agent did not end in time and ends now');
      process.exit(EXIT_FAILED);
    }, STOP_DEADLINE_MS);
    deadline.unref();
    agent.stop().then(
      () => {
        log.info({}, 'ended');
        process.exit(0);
      },
      (error: unknown) => {
        log.error({ err: asError(error) }, 'the agent did not end cleanly');
        process.exit(EXIT_FAILED);
      },
    );
  };
  process.on('SIGTERM', onSignal);
  process.on('SIGINT', onSignal);
}

async function run(config: Config): Promise<void> {
  const log = createLog(config.logLevel).child({ node: config.nodeName });
  exitOnUnexpectedErrors(log);
  for (const warning of unknownVariables(process.env)) log.warn({}, warning);
  if (!isLoopback(config.apiHost)) {
    log.warn(
      { apiHost: config.apiHost },
      'the REST API has no authentication and listens beyond this host: make sure that the network is trusted',
    );
  }
  let agent: RunningAgent;
  try {
    agent = await startAgent(config, log);
  } catch (error) {
    log.error({ err: asError(error) }, `the agent cannot start: ${asError(error).message}`);
    process.exit(EXIT_FAILED);
  }
  stopOnSignals(agent, log);
  const error = await agent.died;
  log.error({ err: error }, 'fatal: a data-plane shard has died; the agent ends, which is safe: start it again');
  process.exit(EXIT_FAILED);
}

async function main(): Promise<void> {
  let config: Config;
  try {
    const commandLine = readCommandLine(process.argv.slice(2));
    if (commandLine.action === 'help') return void console.log(help());
    if (commandLine.action === 'version') return void console.log(VERSION);
    config = await readConfig(commandLine);
    if (commandLine.action === 'check') return void console.log(JSON.stringify(config, null, 2));
  } catch (error) {
    if (!(error instanceof BraidError)) throw error;
    console.error(`braidd: ${error.message}`);
    process.exitCode = EXIT_USAGE;
    return;
  }
  await run(config);
}

await main();

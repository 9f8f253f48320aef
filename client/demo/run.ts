/**
 * `braid demo`: three agents on this host, a volume with three copies, a file system on it, and one agent killed while data is
 * written. Nothing is claimed that was not read back.
 */
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { formatCopying } from '../cli/copying.js';
import { formatSize } from '../cli/units.js';
import type { Output } from '../cli/output.js';
import type { LocalCluster } from '../local-cluster.js';
import { waitFor } from '../processes.js';
import { BraidApiError } from '../sdk/errors.js';
import type { Volume } from '../sdk/types.js';
import { makeCluster, takeDown, writeRecord } from './cluster.js';
import { FileWorkload } from './file-workload.js';
import { freeBytes, makeDirectory, run, whyNoDevice } from './host.js';
import { NbdWorkload } from './nbd-workload.js';
import { emptyReport, isProven, Narrator, type DemoReport } from './report.js';
import type { Workload } from './workload.js';

const MIB = 1_048_576;
/** Unit of comparison between copies. */
const EXTENT_BYTES = 131_072;
const NODES = 3;
const VOLUME = { name: 'demo', sizeBytes: 512 * MIB, replicas: 3 };
const DRIVE_BYTES = 640 * MIB;
const FREE_BYTES_MIN = NODES * DRIVE_BYTES + 256 * MIB;
/** How much of the volume the workload may fill. */
const WORKLOAD_BYTES = 256 * MIB;
/** The agents' unix sockets live below; their paths have at most 107 characters. */
const DIRECTORY_CHARS_MAX = 70;
/** A replica, and not the owner. */
const VICTIM = 1;

const HEALTHY_PHASE_MS = 4_000;
const DEGRADED_PHASE_MS = 5_000;
const RETURN_PHASE_MS = 1_000;
const STATE_DEADLINE_MS = 60_000;

export interface DemoOptions {
  readonly directory?: string;
  readonly keep: boolean;
  /** Do not make a block device even if that is possible. */
  readonly nbd: boolean;
}

interface Demo {
  readonly narrator: Narrator;
  readonly report: DemoReport;
  readonly cluster: LocalCluster;
  readonly signal: AbortSignal;
}

/** Runs the demo to its end; the report says whether it holds. */
export async function runDemo(options: DemoOptions, output: Output, signal: AbortSignal): Promise<DemoReport> {
  const report = emptyReport();
  const narrator = new Narrator(output, report);
  const directory = checkedDirectory(options.directory);
  report.directory = directory;
  report.modeReason = options.nbd ? 'as asked' : whyNoDevice();
  report.mode = report.modeReason === '' ? 'device' : 'nbd';
  const cluster = makeCluster(directory, NODES);
  const demo: Demo = { narrator, report, cluster, signal };
  let workload: Workload | null = null;
  try {
    await startCluster(demo);
    workload = await attach(demo);
    await prove(demo, workload);
  } catch (error) {
    report.error = error instanceof Error ? error.message : String(error);
    if (!signal.aborted) output.stderr.write(`\n${report.error}\n${cluster.logs()}\n`);
  }
  output.endProgress();
  await workload?.stop();
  report.ok = isProven(report);
  report.kept = options.keep && report.ok;
  if (!report.kept) {
    if (signal.aborted) narrator.say('interrupted: taking everything down');
    const problems = await takeDown(cluster, directory);
    for (const problem of problems) narrator.say(`left over: ${problem}`);
    report.ok &&= problems.length === 0;
  }
  return report;
}

function checkedDirectory(wanted: string | undefined): string {
  const directory = wanted === undefined ? makeDirectory() : resolve(wanted);
  if (directory.length > DIRECTORY_CHARS_MAX) {
    throw new Error(`${directory} is too long for the paths of unix sockets below it; use a shorter --dir`);
  }
  mkdirSync(directory, { recursive: true });
  if (readdirSync(directory).length > 0) {
    const remedy = existsSync(join(directory, 'demo.json')) ? `; it is a demo: braid demo --stop ${directory}` : '';
    throw new Error(`${directory} is not empty${remedy}`);
  }
  const free = freeBytes(directory);
  if (free < FREE_BYTES_MIN) {
    throw new Error(
      `${directory} has ${formatSize(free)} free, the demo needs ${formatSize(FREE_BYTES_MIN)}; use --dir`,
    );
  }
  return directory;
}

async function startCluster({ narrator, report, cluster, signal }: Demo): Promise<void> {
  if (report.mode === 'nbd') narrator.say(`no block device (${report.modeReason}): the volume is used over NBD`);
  await cluster.start(signal);
  report.nodes = nodesOf(cluster);
  narrator.say(
    `${NODES} agents run on this host: ${report.nodes.map(({ name, pid }) => `${name} (${pid})`).join(', ')}`,
  );
  await cluster.addDrives(DRIVE_BYTES);
  narrator.say(`each has given a drive of ${formatSize(DRIVE_BYTES)} to the pool`);
  const { name, sizeBytes, replicas } = VOLUME;
  await cluster.client(0).createVolume({ name, size: sizeBytes, replicas });
  report.volume = VOLUME;
  narrator.say(`volume "${name}": ${formatSize(sizeBytes)}, ${replicas} copies, one on each node`);
}

function nodesOf(cluster: LocalCluster): DemoReport['nodes'] {
  return cluster.agents.map(({ name, apiUrl, process }) => ({ name, api: apiUrl, pid: process?.pid ?? 0 }));
}

/** Attaches the volume to the first node, with a file system on it if there is a device. */
async function attach(demo: Demo): Promise<Workload> {
  const { narrator, report, cluster } = demo;
  writeRecord(report.directory, { volumeName: VOLUME.name, mountPoint: '' });
  const node = cluster.agent(0).name;
  const attached = await cluster.client(0).attachVolume(VOLUME.name, { node, device: report.mode === 'device' });
  report.nbdUri = attached.nbdUri;
  if (attached.device === undefined) {
    narrator.say(`attached to ${node}: ${attached.nbdUri}`);
    return new NbdWorkload(attached.nbdUri, WORKLOAD_BYTES);
  }
  report.device = attached.device;
  narrator.say(`attached to ${node} as ${attached.device}`);
  await run('mkfs.ext4', '-q', '-b', '4096', attached.device);
  await mount(demo);
  narrator.say(`ext4 made and mounted on ${report.mountPoint}`);
  return new FileWorkload(report.mountPoint ?? '', WORKLOAD_BYTES);
}

async function mount({ report }: Demo): Promise<void> {
  const mountPoint = join(report.directory, 'mnt');
  mkdirSync(mountPoint, { recursive: true });
  await run('mount', '-t', 'ext4', report.device ?? '', mountPoint);
  report.mountPoint = mountPoint;
  writeRecord(report.directory, { volumeName: VOLUME.name, mountPoint });
}

/** The point of it all. */
async function prove(demo: Demo, workload: Workload): Promise<void> {
  const { narrator, report, cluster, signal } = demo;
  const victim = cluster.agent(VICTIM);
  await workload.write();
  narrator.say('writing, several writers at once, every write made durable (fsync)');
  report.longestStallMs.healthy = await writeFor(demo, workload, 'all copies', HEALTHY_PHASE_MS);

  await victim.kill('SIGKILL');
  narrator.say(`kill -9 ${victim.name}; the writers go on`);
  await waitForVolume(demo, 'the volume is degraded', ({ health }) => health !== 'ok');
  report.longestStallMs.afterKill = await writeFor(demo, workload, 'one copy lost', DEGRADED_PHASE_MS);
  await workload.pause();
  narrator.verified('while one copy is lost', await workload.verify());

  await workload.write();
  await writeFor(demo, workload, 'one copy lost', RETURN_PHASE_MS);
  const returnedAt = performance.now();
  await cluster.restart(VICTIM, signal);
  narrator.say(`${victim.name} is started again; it catches up by itself while the writers go on`);
  const resyncBytes = await waitForResync(demo);
  report.nodes = nodesOf(cluster);
  report.resync = { bytes: resyncBytes, durationMs: Math.round(performance.now() - returnedAt) };
  narrator.say('all copies are in sync again');
  report.longestStallMs.afterReturn = await writeFor(demo, workload, 'all copies', RETURN_PHASE_MS);
  await workload.pause();
  narrator.verified('after the resync', await workload.verify());

  await reopen(demo, workload);
  narrator.verified(
    report.mode === 'device' ? 'after unmounting and mounting' : 'over a new connection',
    await workload.verify(),
  );
  await workload.pause();
  await compareCopies(demo);
}

/** Lets the workload write for a while; resolves with the longest that one write took. */
async function writeFor(demo: Demo, workload: Workload, label: string, durationMs: number): Promise<number> {
  const { narrator, report, signal } = demo;
  const startedAt = performance.now();
  const before = await workload.status();
  const isOver = async () => {
    const status = await workload.status();
    if (status.error !== '') throw new Error(status.error);
    report.bytesWritten = status.bytesWritten;
    report.writes = status.writes;
    const elapsedMs = performance.now() - startedAt;
    const rate = ((status.bytesWritten - before.bytesWritten) * 1_000) / Math.max(1, elapsedMs);
    narrator.progress(label, Math.min(1, elapsedMs / durationMs), `${formatSize(Math.round(rate))}/s`);
    return elapsedMs >= durationMs && status.bytesWritten > before.bytesWritten;
  };
  await waitFor(isOver, durationMs + STATE_DEADLINE_MS, `writing goes on (${label})`, signal);
  const { longestStallMs } = await workload.status();
  await workload.resetStall();
  return longestStallMs;
}

function waitForVolume(demo: Demo, what: string, condition: (volume: Volume) => boolean): Promise<void> {
  const client = demo.cluster.client(0);
  return waitFor(async () => condition(await client.volume(VOLUME.name)), STATE_DEADLINE_MS, what, demo.signal);
}

/** Resolves with the bytes that were copied, as far as they were seen. */
async function waitForResync(demo: Demo): Promise<number> {
  let bytesCopied = 0;
  await waitForVolume(demo, 'all copies are in sync again', (volume) => {
    const { resync, health, segments } = volume;
    bytesCopied = resync.bytesCopied;
    if (resync.bytesTotal > 0) {
      demo.narrator.progress('resync', resync.bytesDone / resync.bytesTotal, formatCopying(resync));
    }
    return health === 'ok' && segments.every(({ replicas }) => replicas.every(({ state }) => state === 'in-sync'));
  });
  return bytesCopied;
}

/** Unmounts and mounts again, or reconnects: what is read then can come from the volume only. */
async function reopen(demo: Demo, workload: Workload): Promise<void> {
  await workload.disconnect();
  const { mountPoint } = demo.report;
  if (mountPoint === null) return;
  await run('umount', mountPoint);
  await mount(demo);
}

async function compareCopies({ narrator, report, cluster }: Demo): Promise<void> {
  const client = cluster.client(0);
  const verify = () => client.verifyVolume(VOLUME.name);
  const result = await verify().catch((error: unknown) => {
    if (error instanceof BraidApiError && error.retryable) return verify();
    throw error;
  });
  const identical = result.differences.length === 0;
  report.replicas = { identical, copies: result.copiesMin, bytesCompared: result.extentsCompared * EXTENT_BYTES };
  const verdict = identical ? 'identical' : `different in ${result.differences.length} extents`;
  narrator.say(
    `braid volume verify: ${result.copiesMin} copies compared, ${formatSize(report.replicas.bytesCompared)} each, ${verdict}`,
  );
}

/** What is copied after an outage and when a copy moves to another drive, how fast, and what an operator sees of it. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import t from 'tap';
import type { Resync } from '../../client/sdk/types.js';
import { must } from '../../daemon/base/assert.js';
import { BLOCK_BYTES, EXTENT_BYTES, MIB } from '../../daemon/base/units.js';
import { startFio } from '../support/fio.js';
import { startCluster, type TestCluster } from './harness.js';

const run = promisify(execFile);
const LONG_MS = 90_000;
const CHUNK = Buffer.alloc(EXTENT_BYTES, 7);

/** Until no region is in an activity log: an outage costs what changes meanwhile, and nothing more. */
function untilCold(cluster: TestCluster): Promise<void> {
  const isCold = async (): Promise<boolean> => {
    const all = await Promise.all(cluster.agents.map((_, node) => cluster.client(node).stats()));
    return all.every(({ drives }) => drives.every(({ hotRegions }) => hotRegions === 0));
  };
  return cluster.waitFor(isCold, LONG_MS, 'all regions are cold');
}

t.test('after a short outage little more is copied than what has changed, and its progress is seen', async (t) => {
  const cluster = await startCluster(t);
  const client = await cluster.connect(await cluster.serve(0, { name: 'vol', size: 256 * MIB, replicas: 3 }));
  const extents = Array.from({ length: 512 }, (_, index) => index * EXTENT_BYTES);
  for (const offset of extents) await client.write(offset, CHUNK);
  await untilCold(cluster);
  await cluster.client(0).changeCluster({ resyncBandwidth: 4 * MIB });
  await cluster.kill(2, 'SIGKILL');
  const changed = extents.filter((_, index) => index % 4 === 1);
  for (const offset of changed) await client.write(offset + BLOCK_BYTES, CHUNK.subarray(0, BLOCK_BYTES));
  const changedBytes = changed.length * EXTENT_BYTES;
  await cluster.restart(2);

  const seen: Resync[] = [];
  await cluster.waitForVolume(0, 'vol', 'in sync again', ({ resync, health }) => {
    if (resync.bytesTotal > 0) seen.push(resync);
    return health === 'ok' && seen.length > 0;
  });
  for (const { bytesDone, bytesTotal, copies, bytesPerSecond, etaSeconds } of seen) {
    t.ok(bytesDone <= bytesTotal && bytesTotal <= 1.1 * changedBytes, 'the total is what has changed');
    t.match(copies, [{ kind: 'resync', node: cluster.agent(2).name, path: /drive/ }]);
    t.equal(etaSeconds === null, bytesPerSecond === 0, 'the time that is left is told when it is known');
  }
  t.ok(
    seen.some(({ bytesDone, bytesTotal }) => bytesDone > 0 && bytesDone < bytesTotal),
    'seen on its way',
  );
  t.ok(
    seen.some(({ bytesPerSecond }) => bytesPerSecond > 0),
    'with a rate',
  );
  const { resync } = await cluster.client(0).volume('vol');
  t.match(resync, { bytesDone: 0, bytesTotal: 0, etaSeconds: null, copies: [] }, 'nothing is under way any more');
  t.comment(`resync bytes per changed byte: ${(resync.bytesCopied / changedBytes).toFixed(3)}`);
  t.ok(resync.bytesCopied >= changedBytes && resync.bytesCopied <= 1.1 * changedBytes);
  await cluster.expectIdentical(t, 0, 'vol', 3);
});

/** Another drive on a node of the cluster. */
async function addDrive(cluster: TestCluster, node: number): Promise<string> {
  const path = join(cluster.agent(node).directory, 'drive-2');
  return (await cluster.client(node).addDrive({ path, capacity: 512 * MIB })).id;
}

/** The drive that a node began with. */
async function firstDrive(cluster: TestCluster, node: number): Promise<string> {
  const { name, directory } = cluster.agent(node);
  const drives = await cluster.client(0).drives();
  return must(
    drives.find((drive) => drive.node === name && drive.path === join(directory, 'drive')),
    'a drive',
  ).id;
}

async function untilMoved(cluster: TestCluster, from: string, to: string): Promise<void> {
  await cluster.waitForVolume(0, 'vol', 'moved', ({ segments }) =>
    segments.every(({ replicas }) => {
      const held = replicas.map(({ driveId }) => driveId);
      return held.includes(to) && !held.includes(from) && replicas.every(({ state }) => state === 'in-sync');
    }),
  );
  await untilEmpty(cluster, from);
}

/** A drive uses one extent itself. */
function untilEmpty(cluster: TestCluster, drive: string): Promise<void> {
  const isEmpty = async (): Promise<boolean> => {
    const found = (await cluster.client(0).drives()).find(({ id }) => id === drive);
    return found?.state === 'open' && found.usedBytes <= EXTENT_BYTES;
  };
  return cluster.waitFor(isEmpty, LONG_MS, `drive ${drive} is empty`);
}

t.test('a copy moves to another drive of its node under fio --verify, and its old drive is empty', async (t) => {
  const cluster = await startCluster(t);
  const uri = await cluster.serve(0, { name: 'vol', size: 256 * MIB, replicas: 3 });
  const fio = startFio(t, uri, 12, cluster.directory);
  await cluster.waitForWrites(0, 16 * MIB, 'fio writes');
  const [from, to] = [await firstDrive(cluster, 2), await addDrive(cluster, 2)];
  await t.rejects(cluster.client(1).moveReplica('vol', { from: await firstDrive(cluster, 1), to }), {
    code: 'CONFLICT',
    message: /another copy on the node of that drive/,
  });
  t.ok((await cluster.client(1).moveReplica('vol', { from, to })).segments > 0, 'asked at a node that does not own it');
  await untilMoved(cluster, from, to);
  await fio.expectVerified();
  await cluster.expectIdentical(t, 0, 'vol', 3);
  const messages = (await cluster.events(0)).map(({ message }) => message).join('\n');
  t.match(messages, /the copy on drive .* has replaced the one on drive/);
});

t.test('a lost copy is made anew on another node, and the rate is told beside the drive-to-drive limit', async (t) => {
  const cluster = await startCluster(t, { nodes: 3, driveBytes: 512 * MIB });
  const client = await cluster.connect(await cluster.serve(0, { name: 'vol', size: 384 * MIB, replicas: 2 }));
  for (let offset = 0; offset < 384 * MIB; offset += EXTENT_BYTES) await client.write(offset, CHUNK);
  await client.flush();
  const drives = await Promise.all([0, 1, 2].map((node) => firstDrive(cluster, node)));
  const { segments } = await cluster.client(0).volume('vol');
  const held = new Set(segments.flatMap(({ replicas }) => replicas.map(({ driveId }) => driveId)));
  const lost = must(
    [2, 1].find((node) => held.has(must(drives[node], 'a drive'))),
    'a copy away from the owner',
  );
  const from = must(drives[lost], 'a drive');
  const indices = segments
    .filter(({ replicas }) => replicas.some(({ driveId }) => driveId === from))
    .map(({ index }) => index);
  await cluster.kill(lost, 'SIGKILL');
  await cluster.waitForVolume(0, 'vol', 'degraded', ({ health }) => health === 'degraded');
  // Where a copy of the segment is already, it cannot go; so each segment goes where there is none.
  for (const index of indices) {
    const there = must(segments[index], 'a segment').replicas.map(({ driveId }) => driveId);
    const to = must(
      drives.find((drive) => !there.includes(drive)),
      'a drive without a copy',
    );
    t.same(await cluster.client(0).moveReplica('vol', { from, to, segment: index }), { segments: 1 });
  }
  await cluster.waitUntilInSync(0, 'vol');
  const events = (await cluster.events(0)).filter(({ subject }) => subject === 'volume/vol');
  const timeOf = (message: RegExp): number[] =>
    events.filter((event) => message.test(event.message)).map(({ timeMs }) => timeMs);
  const rebuildMs = Math.max(...timeOf(/has replaced/)) - Math.min(...timeOf(/moves to drive/));
  const { resync } = await cluster.client(0).volume('vol');
  const limit = await driveToDrive(
    cluster.directory,
    join(cluster.agent(0).directory, 'drive', 'data'),
    resync.bytesCopied,
  );
  const rebuild = resync.bytesCopied / 1e6 / (rebuildMs / 1_000);
  t.comment(`rebuild ${rebuild.toFixed(0)} MB/s, drive to drive ${limit.toFixed(0)} MB/s`);
  await cluster.expectIdentical(t, 0, 'vol', 2);
  await cluster.restart(lost);
  await untilEmpty(cluster, from); // what the lost node held is removed when it is back
});

/** MB/s of one process that reads one file and writes another, past the page cache. */
async function driveToDrive(directory: string, file: string, bytes: number): Promise<number> {
  const copy = join(directory, 'copy');
  const flags = [`bs=1M`, `count=${Math.floor(bytes / MIB)}`, 'iflag=direct', 'oflag=direct', 'conv=fdatasync'];
  const startedAt = performance.now();
  await run('dd', [`if=${file}`, `of=${copy}`, ...flags]);
  return bytes / 1e6 / ((performance.now() - startedAt) / 1_000);
}

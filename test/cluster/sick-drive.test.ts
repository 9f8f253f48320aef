/**
 * Drives that fail, hang, vanish or fill up under a running agent: only their copies leave the set, writers go on, the operator reads what to do; and after the
 * repair `drive reopen` brings the copies back, with what they missed and no more.
 */
import { spawnSync } from 'node:child_process';
import { cpSync, renameSync, rmSync, statfsSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { NbdClient } from '../../client/nbd-client.js';
import type { Drive } from '../../client/sdk/types.js';
import { MIB } from '../../daemon/base/units.js';
import { MirrorWriter } from '../support/mirror-writer.js';
import { hasFuse, SickFile } from '../support/sick-file.js';
import { startCluster, type TestCluster } from './harness.js';

const VOLUME_BYTES = 192 * MIB;
const VOLUME = { name: 'vol', size: VOLUME_BYTES, replicas: 3 };
/** The writer works at the start of the volume; what lies beyond is written once. */
const BUSY_BYTES = 32 * MIB;
/** The node whose drive is made sick. */
const SICK = 1;
const DEADLINE_MS = 60_000;

interface Scene {
  readonly cluster: TestCluster;
  readonly client: NbdClient;
  readonly mirror: MirrorWriter;
  readonly directory: string;
  readonly driveId: string;
  /** The copies were equal before: what is missed is what was written since. */
  readonly wasFull: boolean;
}

/** A volume full of data, all cold and in sync, served by a healthy node. `prepare` may change the drive's directory while its agent is down. */
async function setUp<T>(t: Test, prepare: (directory: string) => T | Promise<T>): Promise<Scene & { prepared: T }> {
  const cluster = await startCluster(t, { driveBytes: 256 * MIB });
  const { driveDirectory: directory, name } = cluster.agent(SICK);
  await cluster.stop(SICK);
  const prepared = await prepare(directory);
  await cluster.restart(SICK);
  const client = await cluster.connect(await cluster.serve(0, VOLUME));
  const mirror = new MirrorWriter({ blocks: BUSY_BYTES / 4_096, seed: 1 });
  const found = (await cluster.client(0).drives()).find(({ node }) => node === name);
  return { cluster, client, mirror, directory, driveId: found?.id ?? '', wasFull: true, prepared };
}

/** Everything is written, and no region of the sick drive is hot. */
async function fill({ cluster, client, mirror, driveId }: Scene): Promise<void> {
  await mirror.fill(client);
  await fillRest(client);
  const isCold = async () => {
    const { drives } = await cluster.client(SICK).stats();
    return drives.find(({ id }) => id === driveId)?.hotRegions === 0;
  };
  await cluster.waitFor(isCold, DEADLINE_MS, 'everything is cold');
}

async function fillRest(client: NbdClient): Promise<void> {
  for (let offset = BUSY_BYTES; offset < VOLUME_BYTES; offset += MIB) {
    await client.write(offset, Buffer.alloc(MIB, 1 + ((offset / MIB) % 250)));
  }
}

async function untilFailed(t: Test, { cluster, driveId }: Scene, reason: RegExp): Promise<void> {
  let drive: Drive | undefined;
  const hasFailed = async () => {
    drive = await cluster.client(0).drive(driveId);
    return drive.state === 'failed' && reason.test(drive.reason);
  };
  await cluster.waitFor(hasFailed, DEADLINE_MS, `the drive has failed: ${String(reason)}`).catch((error: unknown) => {
    t.comment(`last seen: ${JSON.stringify(drive)}`);
    throw error;
  });
  t.pass(`the operator reads: ${drive?.reason ?? ''}`);
  const events = await cluster.events(0);
  t.ok(
    events.some(
      ({ subject, severity, message }) =>
        subject === `drive/${driveId}` && severity === 'error' && reason.test(message),
    ),
  );
}

/** Writers go on with the other copies, and every agent is up. */
async function writersGoOn(t: Test, { cluster, mirror, client }: Scene): Promise<void> {
  mirror.start(client);
  const before = mirror.writesAcknowledged;
  await cluster.waitFor(() => mirror.writesAcknowledged > before + 50, DEADLINE_MS, 'writes go on');
  await mirror.stop();
  t.same(mirror.errors, [], 'no writer sees an error');
  for (const index of cluster.agents.keys()) t.ok(await cluster.client(index).isAlive(), `agent ${index + 1} is up`);
  const others = (await cluster.client(0).drives()).filter(({ node }) => node !== cluster.agent(SICK).name);
  t.ok(
    others.every(({ state }) => state === 'open'),
    'the other drives are untouched',
  );
}

/** The drive is opened again, through another node, and its copies catch up. */
async function recovers(t: Test, scene: Scene): Promise<void> {
  const { cluster, client, mirror, driveId } = scene;
  t.match(await cluster.client(0).reopenDrive(driveId), { state: 'open', reason: '' });
  await cluster.waitUntilInSync(0, 'vol');
  const drive = (await cluster.client(SICK).stats()).drives.find(({ id }) => id === driveId);
  t.ok((drive?.failures ?? 0) >= 1, 'its failures were counted');
  t.comment(`it was written ${Math.round((drive?.write.bytes ?? 0) / MIB)} MiB since it is open again`);
  if (scene.wasFull) t.ok((drive?.write.bytes ?? 0) < 2 * BUSY_BYTES, 'what it had missed, and no more');
  t.same(await mirror.check(client), [], 'nothing is lost');
  await cluster.expectIdentical(t, 0, 'vol', 3);
}

const needsFuse = hasFuse() ? {} : { skip: 'needs /dev/fuse' };
const needsRoot = process.getuid?.() === 0 ? {} : { skip: 'needs root, to mount a small file system' };

t.test('I/O errors', needsFuse, async (t) => {
  const scene = await setUp(t, (directory) => SickFile.mount(t, join(directory, 'data')));
  await fill(scene);
  scene.prepared.fail();
  await writersGoOn(t, scene);
  await untilFailed(t, scene, /a write failed with an I\/O error/);
  await writersGoOn(t, scene);
  scene.prepared.heal();
  await recovers(t, scene);
});

t.test('a drive that hangs', needsFuse, async (t) => {
  const scene = await setUp(t, (directory) => SickFile.mount(t, join(directory, 'data')));
  await fill(scene);
  scene.prepared.stall();
  await writersGoOn(t, scene);
  await untilFailed(t, scene, /did not end within 10000 ms/);
  await writersGoOn(t, scene);
  const reopened = scene.cluster.client(0).reopenDrive(scene.driveId);
  await t.rejects(reopened, { code: 'UNAVAILABLE', message: /opened again only when they have/ });
  scene.prepared.resume();
  await scene.cluster.waitFor(
    () => recoversNow(scene),
    DEADLINE_MS,
    'what it was asked for has ended, and it can be opened',
  );
  await recovers(t, scene);
});

async function recoversNow({ cluster, driveId }: Scene): Promise<boolean> {
  return (await cluster.client(0).reopenDrive(driveId)).state === 'open';
}

t.test('a data file that is taken away', async (t) => {
  const scene = await setUp(t, () => undefined);
  await fill(scene);
  const data = join(scene.directory, 'data');
  renameSync(data, `${data}.away`);
  await untilFailed(t, scene, /has vanished/);
  await writersGoOn(t, scene);
  await t.rejects(scene.cluster.client(0).reopenDrive(scene.driveId), { code: 'DRIVE', message: /does not exist/ });
  renameSync(`${data}.away`, data);
  await recovers(t, scene);
});

t.test('a data file that is cut short', async (t) => {
  const scene = await setUp(t, () => undefined);
  await fill(scene);
  truncateSync(join(scene.directory, 'data'), 2 * MIB);
  await untilFailed(t, scene, /was cut|what was cut off is lost/);
  await writersGoOn(t, scene);
  await t.rejects(scene.cluster.client(0).reopenDrive(scene.driveId), {
    code: 'DRIVE',
    message: /add it as a new one/,
  });
  t.same(await scene.mirror.check(scene.client), [], 'nothing is lost');
});

t.test('metadata on a full file system', needsRoot, async (t) => {
  const scene = await setUp(t, (directory) => mountSmall(t, join(directory, 'meta')));
  const filler = join(scene.directory, 'meta', 'filler');
  const { bavail, bsize } = statfsSync(join(scene.directory, 'meta'));
  writeFileSync(filler, Buffer.alloc(bavail * bsize));
  // What was never written needs room in the metadata.
  await fillRest(scene.client);
  await untilFailed(t, scene, /cannot commit metadata.*check the space/);
  await writersGoOn(t, scene);
  rmSync(filler);
  await recovers(t, { ...scene, wasFull: false });
});

/** Moves a directory to a small file system of its own. */
function mountSmall(t: Test, directory: string): void {
  cpSync(directory, `${directory}.copy`, { recursive: true });
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', directory]);
  t.equal(mounted.status, 0, String(mounted.stderr));
  t.teardown(() => spawnSync('umount', ['-l', directory]));
  cpSync(`${directory}.copy`, directory, { recursive: true });
}

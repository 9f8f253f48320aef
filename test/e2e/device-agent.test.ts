/** The device as agents make it: it is there again after its agent was killed or restarted, with the file system's data on it. */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import t, { type Test } from 'tap';
import { whyNoDevice } from '../../client/demo/host.js';
import { MIB } from '../../daemon/base/units.js';
import { startCluster, type TestCluster } from '../cluster/harness.js';

const run = promisify(execFile);
const reason = whyNoDevice();
const needsDevices = { skip: reason === '' ? false : reason };
const DATA = randomBytes(8 * MIB);

async function attach(cluster: TestCluster): Promise<string> {
  const { device } = await cluster.client(0).attachVolume('vol', { device: true });
  if (device === undefined) throw new Error('attached without a device');
  return device;
}

/** A cluster with a volume that is mounted, and holds a file. */
async function startMounted(t: Test): Promise<{ cluster: TestCluster; mountPoint: string }> {
  const cluster = await startCluster(t, { nodes: 2 });
  const mountPoint = join(cluster.directory, 'mnt');
  mkdirSync(mountPoint);
  t.teardown(async () => {
    await run('umount', ['--lazy', mountPoint]).catch(() => undefined);
    const isDetached = async () => (await cluster.client(0).detachVolume('vol', { force: true })).released;
    await cluster.waitFor(isDetached, 30_000, 'the device is gone').catch(() => undefined);
  });
  await cluster.client(0).createVolume({ name: 'vol', size: 128 * MIB, replicas: 2 });
  const device = await attach(cluster);
  await run('mkfs.ext4', ['-q', '-b', '4096', device]);
  await run('mount', [device, mountPoint]);
  await writeFile(join(mountPoint, 'file'), DATA, { flush: true });
  return { cluster, mountPoint };
}

async function expectFile(t: Test, device: string, mountPoint: string): Promise<void> {
  await run('mount', [device, mountPoint]);
  t.ok((await readFile(join(mountPoint, 'file'))).equals(DATA), 'the file is there');
  await run('umount', [mountPoint]);
}

t.test('after kill -9 of its agent a mounted device is made anew', needsDevices, async (t) => {
  const { cluster, mountPoint } = await startMounted(t);
  await cluster.kill(0, 'SIGKILL');
  await cluster.restart(0);
  const device = await attach(cluster);
  t.notOk(readFileSync('/proc/self/mountinfo', 'utf8').includes(` ${mountPoint} `), 'the dead mount is taken away');
  await expectFile(t, device, mountPoint);
});

t.test('a device that is not mounted comes back after a graceful restart', needsDevices, async (t) => {
  const { cluster, mountPoint } = await startMounted(t);
  await run('umount', [mountPoint]);
  await cluster.stop(0);
  t.notOk(readFileSync('/proc/self/mountinfo', 'utf8').includes(cluster.directory), 'stopping leaves no FUSE mount');
  await cluster.restart(0);
  await expectFile(t, await attach(cluster), mountPoint);
});

t.test(
  'nbdfuse dies alone: reported at once, and made anew when the file system is unmounted',
  needsDevices,
  async (t) => {
    const { cluster, mountPoint } = await startMounted(t);
    const { device: dead } = await cluster.client(0).volume('vol');
    const pidFile = join(cluster.agent(0).dataDirectory, 'run', 'devices', 'vol.pid');
    const epoch = (await cluster.client(0).volume('vol')).epoch;
    process.kill(Number(readFileSync(pidFile, 'utf8')), 'SIGKILL');
    const shown = await cluster.waitForVolume(
      0,
      'vol',
      'without its device',
      ({ attachment }) => attachment?.error.includes(mountPoint) === true,
    );
    t.match(shown, { health: 'ok', attachment: { state: 'serving' } }, 'the volume itself is well');
    t.notOk('device' in shown, 'a dead device is not offered');
    t.ok((await readFile('/proc/self/mountinfo', 'utf8')).includes(` ${mountPoint} `), 'its users keep it');
    const messages = (await cluster.events(0)).map(({ severity, message }) => `${severity}: ${message}`);
    t.ok(messages.includes(`error: the device ${dead} died: nbdfuse ended (SIGKILL); users of it get I/O errors`));
    await run('umount', [mountPoint]);
    const { device = '' } = await cluster.waitForVolume(0, 'vol', 'with a device', (volume) => 'device' in volume);
    await expectFile(t, device, mountPoint);
    t.equal((await cluster.client(0).volume('vol')).epoch, epoch, 'it was served all the time');
  },
);

t.test('what makes the device has no file of the agent open, and so keeps no drive busy', needsDevices, async (t) => {
  const { cluster } = await startMounted(t);
  const { dataDirectory, driveDirectory } = cluster.agent(0);
  const pid = readFileSync(join(dataDirectory, 'run', 'devices', 'vol.pid'), 'utf8').trim();
  const files = readdirSync(`/proc/${pid}/fd`).map((descriptor) => readlinkSync(`/proc/${pid}/fd/${descriptor}`));
  t.ok(files.includes('/dev/fuse'), 'these are the files of nbdfuse');
  const foreign = files.filter((path) => path.endsWith('.mdb') || path.startsWith(driveDirectory));
  t.same(foreign, []);
});

t.test('detaching a mounted device is refused', needsDevices, async (t) => {
  const { cluster, mountPoint } = await startMounted(t);
  await t.rejects(cluster.client(0).detachVolume('vol'), { code: 'CONFLICT', message: new RegExp(mountPoint) });
  await run('umount', [mountPoint]);
  t.match(await cluster.client(0).detachVolume('vol'), { released: true });
});

/**
 * The device of nbdfuse and loop, against nbdkit's memory disk: file systems work on it, what is busy is refused, and nothing
 * is left behind, whoever died.
 */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { mkdir, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import t, { type Test } from 'tap';
import { NbdfuseDeviceAttacher } from '../../daemon/adapters/nbdfuse-device.js';
import { BraidError } from '../../daemon/base/errors.js';
import { MIB } from '../../daemon/base/units.js';

const SIZE_BYTES = 256 * MIB;
const DEADLINE_MS = 10_000;
const isRoot = process.geteuid?.() === 0;
const needsRoot = { skip: isRoot ? false : 'attaching devices needs root' };
const run = promisify(execFile);

interface Bench {
  directory: string;
  socket: string;
  attacher: NbdfuseDeviceAttacher;
  server: ChildProcess;
}

async function waitFor(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadlineMs = performance.now() + DEADLINE_MS;
  while (!(await condition())) {
    if (performance.now() > deadlineMs) throw new Error(`${what}: not within ${DEADLINE_MS} ms`);
    await delay(10);
  }
}

/** A memory disk behind a unix socket, and an attacher; both gone when the test ends. */
async function start(t: Test): Promise<Bench> {
  const directory = await mkdtemp(join(tmpdir(), 'braid-device-'));
  const socket = join(directory, 'nbd.sock');
  const server = spawn('nbdkit', ['-f', '-U', socket, 'memory', String(SIZE_BYTES)], { stdio: 'ignore' });
  const attacher = new NbdfuseDeviceAttacher({ runDirectory: directory });
  t.teardown(async () => {
    await attacher.cleanup();
    server.kill();
    await rm(directory, { recursive: true });
  });
  await waitFor('nbdkit serves', () => existsSync(socket));
  return { directory, socket, attacher, server };
}

function backingFile(device: string): string {
  const path = `/sys/block/${basename(device)}/loop/backing_file`;
  return existsSync(path) ? readFileSync(path, 'utf8').trim() : '';
}

function pidOf(directory: string, name: string): number {
  return Number(readFileSync(join(directory, 'devices', `${name}.pid`), 'utf8'));
}

function isRunning(pid: number): boolean {
  const status = existsSync(`/proc/${pid}/stat`) ? readFileSync(`/proc/${pid}/stat`, 'utf8') : ') Z';
  return status.slice(status.lastIndexOf(')') + 2, status.lastIndexOf(')') + 3) !== 'Z';
}

async function expectNothingLeft(t: Test, bench: Bench, device: string, pid: number): Promise<void> {
  t.notOk(backingFile(device).startsWith(bench.directory), 'no loop device');
  t.notOk((await readFile('/proc/self/mountinfo', 'utf8')).includes(bench.directory), 'no mount');
  t.notOk(isRunning(pid), 'no nbdfuse');
  t.same(readdirSync(join(bench.directory, 'devices')), [], 'no record, no directory');
}

t.test('a file system lives on the device, and detach leaves nothing', needsRoot, async (t) => {
  const bench = await start(t);
  const { device } = await bench.attacher.attach('vol1', '', bench.socket, SIZE_BYTES);
  const pid = pidOf(bench.directory, 'vol1');
  const again = await bench.attacher.attach('vol1', '', bench.socket, SIZE_BYTES);
  t.equal(again.device, device, 'attaching again changes nothing');

  const mountPoint = join(bench.directory, 'fs');
  await mkdir(mountPoint);
  await run('mkfs.ext4', ['-q', device]);
  await run('mount', [device, mountPoint]);
  t.teardown(() => run('umount', [mountPoint]).catch(() => undefined));
  const data = randomBytes(20 * MIB);
  await writeFile(join(mountPoint, 'file'), data, { flush: true });
  await t.rejects(
    bench.attacher.detach('vol1', { force: false }),
    { code: 'CONFLICT', message: new RegExp(`mounted on ${mountPoint}`) },
    'a mounted device is not taken away',
  );
  await run('dd', ['if=/dev/zero', `of=${join(mountPoint, 'direct')}`, 'bs=1M', 'count=8', 'oflag=direct']);
  await rm(join(mountPoint, 'direct'));
  const trimmed = await run('fstrim', ['-v', mountPoint]);
  t.match(trimmed.stdout, /trimmed/, 'discard works');
  await run('umount', [mountPoint]);
  await run('mount', [device, mountPoint]);
  const digest = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');
  t.equal(digest(await readFile(join(mountPoint, 'file'))), digest(data), 'the data is there after a remount');
  await run('umount', [mountPoint]);

  await bench.attacher.detach('vol1', { force: false });
  await expectNothingLeft(t, bench, device, pid);
  await bench.attacher.detach('vol1', { force: false });
});

t.test('an open device is refused, and taken by force', needsRoot, async (t) => {
  const bench = await start(t);
  const { device } = await bench.attacher.attach('vol1', '', bench.socket, SIZE_BYTES);
  const pid = pidOf(bench.directory, 'vol1');
  const handle = await open(device, 'r');
  const holder = spawn('sleep', ['60'], { stdio: [handle.fd, 'ignore', 'ignore'] });
  await handle.close();
  t.teardown(() => holder.kill());
  await t.rejects(bench.attacher.detach('vol1', { force: false }), {
    code: 'CONFLICT',
    message: /process \d+ \(sleep\)/,
  });
  await bench.attacher.detach('vol1', { force: true });
  t.notOk(isRunning(pid), 'nbdfuse is gone');
  t.same(readdirSync(join(bench.directory, 'devices')), [], 'no record is left');
});

t.test('force takes a mounted device', needsRoot, async (t) => {
  const bench = await start(t);
  const { device } = await bench.attacher.attach('vol1', '', bench.socket, SIZE_BYTES);
  const pid = pidOf(bench.directory, 'vol1');
  await mkdir(join(bench.directory, 'fs'));
  await run('mkfs.ext4', ['-q', device]);
  await run('mount', [device, join(bench.directory, 'fs')]);
  await bench.attacher.detach('vol1', { force: true });
  await expectNothingLeft(t, bench, device, pid);
});

t.test('a new agent removes what a dead one left', needsRoot, async (t) => {
  const bench = await start(t);
  const { device } = await bench.attacher.attach('vol1', '', bench.socket, SIZE_BYTES);
  const pid = pidOf(bench.directory, 'vol1');
  await mkdir(join(bench.directory, 'fs'));
  await run('mkfs.ext4', ['-q', device]);
  await run('mount', [device, join(bench.directory, 'fs')]);
  bench.server.kill('SIGKILL');
  const successor = new NbdfuseDeviceAttacher({ runDirectory: bench.directory });
  await successor.cleanup();
  await expectNothingLeft(t, bench, device, pid);
});

t.test('a device whose nbdfuse died is made anew', needsRoot, async (t) => {
  const bench = await start(t);
  await bench.attacher.attach('vol1', '', bench.socket, SIZE_BYTES);
  const pid = pidOf(bench.directory, 'vol1');
  process.kill(pid, 'SIGKILL');
  await waitFor('nbdfuse ends', () => !isRunning(pid));
  const { device } = await bench.attacher.attach('vol1', '', bench.socket, SIZE_BYTES);
  t.not(pidOf(bench.directory, 'vol1'), pid, 'another nbdfuse serves');
  await run('mkfs.ext4', ['-q', device]);
  await bench.attacher.detach('vol1', { force: false });
  await expectNothingLeft(t, bench, device, pid);
});

t.test('the end of nbdfuse is told at once, whoever ended it, but not when it is detached', needsRoot, async (t) => {
  const bench = await start(t);
  const told: string[] = [];
  bench.attacher.onDied = (name, reason) => told.push(`${name}: ${reason}`);
  await bench.attacher.attach('vol1', '', bench.socket, SIZE_BYTES);
  await bench.attacher.attach('vol2', '', bench.socket, SIZE_BYTES);
  process.kill(pidOf(bench.directory, 'vol1'), 'SIGKILL');
  await waitFor('it is told', () => told.length > 0);
  t.same(told, ['vol1: nbdfuse ended (SIGKILL)']);
  await bench.attacher.detach('vol2', { force: false });
  await bench.attacher.detach('vol1', { force: false });
  await bench.attacher.attach('vol1', '', bench.socket, SIZE_BYTES);
  await bench.attacher.detach('vol1', { force: true });
  // What has ended is told in turn with the volume's operations: after these, nothing is on its way.
  for (const name of ['vol1', 'vol2']) await bench.attacher.detach(name, { force: false });
  t.equal(told.length, 1);
});

t.test('a dead device is left to those who have it mounted, and replaced after them', needsRoot, async (t) => {
  const bench = await start(t);
  const mountPoint = join(bench.directory, 'fs');
  const { device } = await bench.attacher.attach('vol1', '', bench.socket, SIZE_BYTES);
  await mkdir(mountPoint);
  await run('mkfs.ext4', ['-q', device]);
  await run('mount', [device, mountPoint]);
  t.teardown(() => run('umount', ['--lazy', mountPoint]).catch(() => undefined));
  await writeFile(join(mountPoint, 'file'), 'written before', { flush: true });
  const pid = pidOf(bench.directory, 'vol1');
  process.kill(pid, 'SIGKILL');
  await waitFor('nbdfuse ends', () => !isRunning(pid));
  await t.rejects(bench.attacher.attach('vol1', '', bench.socket, SIZE_BYTES), {
    code: 'UNAVAILABLE',
    message: new RegExp(`volume vol1 is dead, and made anew when nobody uses it any more: .*mounted on ${mountPoint}`),
  });
  t.ok((await readFile('/proc/self/mountinfo', 'utf8')).includes(` ${mountPoint} `), 'it is still mounted');
  await run('umount', [mountPoint]);
  const anew = await bench.attacher.attach('vol1', '', bench.socket, SIZE_BYTES);
  await run('mount', [anew.device, mountPoint]);
  t.equal(await readFile(join(mountPoint, 'file'), 'utf8'), 'written before');
  await run('umount', [mountPoint]);
  const last = pidOf(bench.directory, 'vol1');
  await bench.attacher.detach('vol1', { force: false });
  await expectNothingLeft(t, bench, anew.device, last);
});

t.test('an attach that fails says why and leaves nothing', needsRoot, async (t) => {
  const bench = await start(t);
  await t.rejects(
    bench.attacher.attach('vol1', '', join(bench.directory, 'nowhere.sock'), SIZE_BYTES),
    { code: 'UNAVAILABLE', message: /nbdfuse did not start.*connect/s },
    'no server',
  );
  t.same(readdirSync(join(bench.directory, 'devices')), []);
  await t.rejects(bench.attacher.attach('vol1', '', bench.socket, 2 * SIZE_BYTES), { code: 'INTERNAL' }, 'wrong size');
  t.same(readdirSync(join(bench.directory, 'devices')), []);
  await t.rejects(
    bench.attacher.attach('../x', '', bench.socket, SIZE_BYTES),
    { code: 'INVALID_ARGUMENT' },
    'bad name',
  );
});

t.test('missing programs are named with their package', needsRoot, async (t) => {
  const bench = await start(t);
  const error = await withPath(bench.directory, () =>
    bench.attacher.attach('vol1', '', bench.socket, SIZE_BYTES).then(
      () => null,
      (thrown: unknown) => thrown,
    ),
  );
  t.match(error, { code: 'UNSUPPORTED', message: /libnbd-bin.*apt-get install/ });
  t.ok(error instanceof BraidError);
});

async function withPath<T>(path: string, operation: () => Promise<T>): Promise<T> {
  const before = process.env['PATH'];
  process.env['PATH'] = path;
  try {
    return await operation();
  } finally {
    process.env['PATH'] = before;
  }
}

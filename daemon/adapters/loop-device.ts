/**
 * Loop devices by losetup and sysfs.
 *
 * A loop device is named by its path and its `diskseq`, which the kernel increases with every new backing file: a
 * number that was given to someone else meanwhile is never mistaken for ours. Detaching is lazy in the kernel (it
 * happens when the last opener closes), so `detachLoop` waits until it is really gone.
 */
import { constants, existsSync } from 'node:fs';
import { open, readFile, readdir, readlink } from 'node:fs/promises';
import { basename } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { BraidError } from '../base/errors.js';
import { runTool } from './run-tool.js';

const LOOP_MAJOR = 7;
const ATTACH_ATTEMPTS_MAX = 8;
const POLL_MS = 20;

export interface LoopDevice {
  /** `/dev/loopN`. */
  readonly path: string;
  /** The kernel's number of this use of the device; empty where the kernel has none (before 5.15). */
  readonly diskseq: string;
}

async function readOrEmpty(path: string): Promise<string> {
  return readFile(path, 'utf8').then(
    (text) => text.trim(),
    () => '',
  );
}

const sysfs = (path: string) => `/sys/block/${basename(path)}`;

/** Makes a loop device over `file`, with direct I/O, making the device node when the kernel has none left. */
export async function attachLoop(file: string): Promise<LoopDevice> {
  let problem = '';
  for (let attempt = 0; attempt < ATTACH_ATTEMPTS_MAX; attempt++) {
    await ensureFreeNode();
    const made = await runTool('losetup', ['--find', '--show', '--direct-io=on', file]);
    if (made.code === 0) {
      const path = made.stdout;
      return { path, diskseq: await readOrEmpty(`${sysfs(path)}/diskseq`) };
    }
    problem = made.stderr;
    await delay(POLL_MS);
  }
  throw new BraidError('UNAVAILABLE', `no loop device could be made over ${file}: ${problem}`);
}

/** The next free loop device has a node in /dev (in a container the kernel's new devices have none). */
async function ensureFreeNode(): Promise<void> {
  const free = await runTool('losetup', ['--find']);
  const number = /^\/dev\/loop(\d+)$/.exec(free.stdout)?.[1];
  if (free.code !== 0 || number === undefined) {
    throw new BraidError(
      'UNSUPPORTED',
      `this host offers no loop device (${free.stderr || free.stdout}); load the loop module (modprobe loop), or attach without a device`,
    );
  }
  if (existsSync(free.stdout)) return;
  const made = await runTool('mknod', ['-m', '660', free.stdout, 'b', String(LOOP_MAJOR), number]);
  if (made.code !== 0 && !existsSync(free.stdout)) {
    throw new BraidError('UNSUPPORTED', `cannot make the device node ${free.stdout}: ${made.stderr}`);
  }
}

/** Whether the device still has the backing file that it was made for. */
export async function isLoopAttached(loop: LoopDevice): Promise<boolean> {
  const backing = await readOrEmpty(`${sysfs(loop.path)}/loop/backing_file`);
  if (backing === '') return false;
  return loop.diskseq === '' || (await readOrEmpty(`${sysfs(loop.path)}/diskseq`)) === loop.diskseq;
}

/** Mount points of the device in this process's mount namespace, innermost last. */
export function mountPointsOf(mountinfo: string, deviceNumber: string): string[] {
  return mountinfo
    .split('\n')
    .map((line) => line.split(' '))
    .filter((fields) => fields[2] === deviceNumber)
    .map((fields) => unescapeMountPath(fields[4] ?? ''));
}

/** Mountinfo writes space, tab, newline and backslash as octal escapes. */
export function unescapeMountPath(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

/** Whether something is mounted on `path` (absolute, without symbolic links). */
export function isMountPoint(mountinfo: string, path: string): boolean {
  return mountinfo.split('\n').some((line) => unescapeMountPath(line.split(' ')[4] ?? '') === path);
}

/** Where the device is mounted. */
export async function loopMountPoints(loop: LoopDevice): Promise<string[]> {
  const [mountinfo, number] = await Promise.all([
    readFile('/proc/self/mountinfo', 'utf8'),
    readOrEmpty(`${sysfs(loop.path)}/dev`),
  ]);
  return number === '' ? [] : mountPointsOf(mountinfo, number);
}

export interface LoopUsers {
  /** Mounts, holders, swap: somebody must act. */
  readonly lasting: readonly string[];
  /** Open files, which may be a probe (udev, blkid) that ends in a moment. */
  readonly passing: readonly string[];
}

/** What keeps the device busy, in words for people. */
export async function loopUsers(loop: LoopDevice): Promise<LoopUsers> {
  const lasting = (await loopMountPoints(loop)).map((path) => `it is mounted on ${path} (umount ${path})`);
  const holders = await readdir(`${sysfs(loop.path)}/holders`).catch(() => []);
  lasting.push(...holders.map((name) => `/dev/${name} is built on it`));
  const swaps = await readOrEmpty('/proc/swaps');
  if (swaps.split('\n').some((line) => line.startsWith(`${loop.path} `))) lasting.push('it is swap space (swapoff)');
  const passing = await openersOf(loop.path);
  if (lasting.length + passing.length === 0 && !(await canOpenExclusively(loop.path))) {
    passing.push('it is in use, possibly mounted in another mount namespace (a container)');
  }
  return { lasting, passing };
}

/** Processes that have the device node open. */
async function openersOf(path: string): Promise<string[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name) && name !== String(process.pid));
  const found: string[] = [];
  for (const pid of pids) {
    const descriptors = await readdir(`/proc/${pid}/fd`).catch(() => []);
    for (const descriptor of descriptors) {
      if ((await readlink(`/proc/${pid}/fd/${descriptor}`).catch(() => '')) !== path) continue;
      found.push(`process ${pid} (${await readOrEmpty(`/proc/${pid}/comm`)}) has it open`);
      break;
    }
  }
  return found;
}

async function canOpenExclusively(path: string): Promise<boolean> {
  try {
    const handle = await open(path, constants.O_RDONLY | constants.O_EXCL);
    await handle.close();
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'EBUSY';
  }
}

/** Detaches the device and waits until it is gone; false when an opener keeps it beyond `timeoutMs`. */
export async function detachLoop(loop: LoopDevice, timeoutMs: number): Promise<boolean> {
  const deadlineMs = performance.now() + timeoutMs;
  if (!(await isLoopAttached(loop))) return true;
  await runTool('losetup', ['--detach', loop.path]);
  while (await isLoopAttached(loop)) {
    if (performance.now() > deadlineMs) return false;
    await delay(POLL_MS);
  }
  return true;
}

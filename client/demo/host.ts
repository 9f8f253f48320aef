/** What the demo needs of this host: mounting, room, and whether block devices can be made at all. */
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, readdirSync, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';

const TOOL_TIMEOUT_MS = 60_000;
const TMPFS_MAGIC = 0x01021994;
const PROGRAMS: readonly (readonly [program: string, debianPackage: string])[] = [
  ['nbdfuse', 'libnbd-bin'],
  ['fusermount3', 'fuse3'],
  ['losetup', 'mount'],
  ['mount', 'mount'],
  ['mkfs.ext4', 'e2fsprogs'],
];

const searchPath = () => `${process.env['PATH'] ?? '/usr/bin:/bin'}:/usr/sbin:/sbin`;

/** Runs a program of the system; rejects with what it said when it fails. */
export function run(program: string, ...args: string[]): Promise<string> {
  const options = { timeout: TOOL_TIMEOUT_MS, env: { ...process.env, LC_ALL: 'C', PATH: searchPath() } };
  return new Promise((resolve, reject) => {
    execFile(program, args, options, (error, stdout, stderr) => {
      if (error === null) resolve(stdout.trim());
      else reject(new Error(`${program} ${args.join(' ')}: ${stderr.trim() || error.message}`, { cause: error }));
    });
  });
}

/** Why no block device can be made here; empty when one can. */
export function whyNoDevice(): string {
  if (process.geteuid?.() !== 0) return 'a block device needs root';
  const directories = searchPath().split(delimiter);
  for (const [program, debianPackage] of PROGRAMS) {
    const isThere = directories.some((directory) => existsSync(join(directory, program)));
    if (!isThere) return `${program} is missing (apt-get install -y ${debianPackage})`;
  }
  if (!existsSync('/dev/fuse')) return 'this host has no /dev/fuse (in a container: --device /dev/fuse)';
  if (!existsSync('/dev/loop-control')) return 'this host has no loop devices (modprobe loop)';
  return '';
}

/** A new directory on a real disk: drives use direct I/O, and the temporary directory may be memory. */
export function makeDirectory(): string {
  const inMemory = statfsSync(tmpdir()).type === TMPFS_MAGIC;
  return mkdtempSync(join(inMemory && existsSync('/var/tmp') ? '/var/tmp' : tmpdir(), 'braid-demo-'));
}

export function freeBytes(directory: string): number {
  const { bavail, bsize } = statfsSync(directory);
  return bavail * bsize;
}

export function isMounted(path: string): boolean {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .some((line) => line.split(' ')[4] === path);
}

interface DeviceRecord {
  readonly mountDirectory?: string;
  readonly loop?: { readonly path: string } | null;
}

/** Takes down devices that an agent has left because it was killed, by the agent's own records. */
export async function removeDevices(dataDirectory: string): Promise<void> {
  const directory = join(dataDirectory, 'run', 'devices');
  const records = existsSync(directory) ? readdirSync(directory).filter((name) => name.endsWith('.json')) : [];
  for (const name of records) {
    const record = JSON.parse(readFileSync(join(directory, name), 'utf8')) as DeviceRecord;
    const loop = record.loop?.path;
    const mountDirectory = record.mountDirectory ?? '';
    if (loop !== undefined && backingFileOf(loop).startsWith(`${mountDirectory}/`)) {
      await run('losetup', '--detach', loop).catch(() => undefined);
    }
    if (isMounted(mountDirectory)) await run('fusermount3', '-u', '-z', mountDirectory).catch(() => undefined);
  }
}

function backingFileOf(loop: string): string {
  try {
    return readFileSync(`/sys/block/${loop.replace('/dev/', '')}/loop/backing_file`, 'utf8').trim();
  } catch {
    return '';
  }
}

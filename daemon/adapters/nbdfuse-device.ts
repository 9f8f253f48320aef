/**
 * Attaches volumes as ordinary block devices without any kernel module: nbdfuse presents the NBD export as a file, and a
 * loop device with direct I/O is made over that file.
 *
 * ```
 * RUN/devices/NAME/nbd     the export as a file (FUSE mount on RUN/devices/NAME)
 * RUN/devices/NAME.json    what was made (`DeviceRecord`); written before each thing is made, removed after all are gone
 * RUN/devices/NAME.pid     nbdfuse's own pid file, written when it serves
 * RUN/devices/NAME.log     what nbdfuse printed
 * ```
 *
 * Invariants
 * 1. Nothing is made that a record does not name first, so that `cleanup` after a crash finds everything by records alone.
 * 2. A process is signalled only while its pid, start time and command line are those of the record.
 * 3. A loop device is detached only while it still has the backing file that we gave it (`LoopDevice.diskseq`).
 * 4. Operations on one volume run one after the other.
 *
 * An nbdfuse that ends by itself is noticed at once (`onDied`); the device that it leaves is replaced when nobody uses it.
 *
 * nbdfuse runs in a session of its own: it outlives a killed agent, and signals to the agent's terminal do not reach it. Its
 * connection does not outlive the agent, though, so devices found at start answer every I/O with an error and are removed.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, existsSync, openSync } from 'node:fs';
import { mkdir, open, readFile, readdir, realpath, rename, rm, rmdir, stat } from 'node:fs/promises';
import { basename, delimiter, join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { BraidError, asError } from '../base/errors.js';
import type { DeviceAttacher } from '../ports/device.js';
import type { Log } from '../ports/log.js';
import {
  attachLoop,
  detachLoop,
  isLoopAttached,
  isMountPoint,
  loopMountPoints,
  loopUsers,
  type LoopDevice,
} from './loop-device.js';
import { missingTool, runTool, toolPath } from './run-tool.js';

const READY_TIMEOUT_MS = 15_000;
const DETACH_TIMEOUT_MS = 10_000;
/** How long a probe may keep the device open before detach calls it busy. */
const PASSING_USERS_MS = 2_000;
const POLL_MS = 20;
const RECORD_VERSION = 1;
const LOG_TAIL_CHARS = 600;
const TOOLS = ['nbdfuse', 'fusermount3', 'losetup', 'umount'];
/** Names become file names here; the API is stricter. */
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;

interface NbdfuseProcess {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat: with the pid it names one process of this boot. */
  readonly startTicks: string;
}

interface DeviceRecord {
  readonly version: typeof RECORD_VERSION;
  readonly volumeName: string;
  readonly nbdUri: string;
  readonly mountDirectory: string;
  readonly sizeBytes: number;
  readonly nbdfuse: NbdfuseProcess | null;
  readonly loop: LoopDevice | null;
}

export interface NbdfuseDeviceOptions {
  /** Holds `devices/`; usually DATADIR/run. */
  readonly runDirectory: string;
  readonly log?: Log;
  /** NBD connections per device, where the server allows several. */
  readonly connections?: number;
}

/** The URI that nbdfuse connects to: the node's own unix socket whatever address other clients use. */
function localUri(volumeName: string, socketPath: string): string {
  return `nbd+unix:///${encodeURIComponent(volumeName)}?socket=${encodeURIComponent(socketPath)}`;
}

/** Start time of a process, or null when it has ended (a zombie has). */
async function startTicksOf(pid: number): Promise<string | null> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  // The command name is in parentheses and may contain anything, spaces and parentheses included.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const [state, startTicks] = [fields[0], fields[19]];
  return startTicks === undefined || state === 'Z' || state === 'X' ? null : startTicks;
}

async function waitUntil(condition: () => Promise<boolean>, timeoutMs: number): Promise<boolean> {
  const deadlineMs = performance.now() + timeoutMs;
  while (!(await condition())) {
    if (performance.now() > deadlineMs) return false;
    await delay(POLL_MS);
  }
  return true;
}

export class NbdfuseDeviceAttacher implements DeviceAttacher {
  readonly #directory: string;
  readonly #log: Log | undefined;
  readonly #connections: number;
  /** The last operation of each volume; the next one waits for it. */
  readonly #queues = new Map<string, Promise<unknown>>();
  /** Processes of nbdfuse whose end would be news. */
  readonly #watched = new Set<number>();
  onDied: (volumeName: string, reason: string) => void = () => undefined;

  constructor(options: NbdfuseDeviceOptions) {
    this.#directory = resolve(options.runDirectory, 'devices');
    this.#log = options.log;
    this.#connections = options.connections ?? 4;
  }

  /** Makes the device. Idempotent while it works; one whose nbdfuse has died is replaced. */
  attach(volumeName: string, nbdUri: string, socketPath: string, sizeBytes: number): Promise<{ device: string }> {
    return this.#inTurn(volumeName, async () => {
      this.#checkHost(volumeName);
      await mkdir(this.#directory, { recursive: true });
      const old = await this.#readRecord(volumeName);
      if (old !== null) {
        if (await this.#isHealthy(old)) return { device: old.loop?.path ?? '' };
        await this.#removeDead(old);
        this.#log?.warn({ volume: volumeName }, 'the device was dead and is made anew');
      }
      const uri = socketPath === '' ? nbdUri : localUri(volumeName, socketPath);
      return { device: await this.#make(volumeName, uri, sizeBytes) };
    });
  }

  /** Removes the device; with `force` even while it is mounted or open. Idempotent. */
  detach(volumeName: string, options: { readonly force: boolean }): Promise<void> {
    return this.#inTurn(volumeName, async () => {
      const record = await this.#readRecord(volumeName);
      if (record !== null) await this.#remove(record, options.force);
    });
  }

  /** Removes whatever an agent that died has left, by its records. */
  async cleanup(): Promise<void> {
    const names = (await readdir(this.#directory).catch(() => [])).filter((name) => name.endsWith('.json'));
    for (const volumeName of names.map((name) => name.slice(0, -'.json'.length))) {
      await this.#inTurn(volumeName, async () => {
        const record = await this.#readRecord(volumeName);
        if (record === null) return;
        this.#log?.warn({ volume: volumeName, device: record.loop?.path }, 'removing a device of an earlier agent');
        await this.#remove(record, true);
      });
    }
  }

  #inTurn<T>(volumeName: string, operation: () => Promise<T>): Promise<T> {
    const before = this.#queues.get(volumeName) ?? Promise.resolve();
    const result = before.then(operation, operation);
    const settled = result.then(
      () => undefined,
      () => undefined,
    );
    this.#queues.set(volumeName, settled);
    void settled.then(() => {
      if (this.#queues.get(volumeName) === settled) this.#queues.delete(volumeName);
    });
    return result;
  }

  #checkHost(volumeName: string): void {
    if (!NAME.test(volumeName)) throw new BraidError('INVALID_ARGUMENT', `"${volumeName}" cannot name a device`);
    if (process.geteuid?.() !== 0) {
      throw new BraidError(
        'UNSUPPORTED',
        'attaching a device needs root: run braidd as root, or attach without a device and use the NBD URI',
      );
    }
    const directories = toolPath().split(delimiter);
    for (const tool of TOOLS) {
      if (!directories.some((directory) => existsSync(join(directory, tool)))) throw missingTool(tool);
    }
    if (!existsSync('/dev/fuse')) {
      throw new BraidError(
        'UNSUPPORTED',
        'this host has no /dev/fuse: load the fuse module (modprobe fuse), or give the container that device',
      );
    }
  }

  async #make(volumeName: string, uri: string, sizeBytes: number): Promise<string> {
    const mountDirectory = join(this.#directory, volumeName);
    const empty = { version: RECORD_VERSION, volumeName, nbdUri: uri, mountDirectory, sizeBytes } as const;
    let record: DeviceRecord = { ...empty, nbdfuse: null, loop: null };
    try {
      await this.#writeRecord(record);
      await rm(this.#path(volumeName, 'pid'), { force: true });
      await mkdir(mountDirectory, { recursive: true });
      record = { ...record, nbdfuse: await this.#startNbdfuse(record) };
      await this.#writeRecord(record);
      const file = join(mountDirectory, 'nbd');
      const size = (await stat(file)).size;
      if (size !== sizeBytes) {
        throw new BraidError('INTERNAL', `the export of ${volumeName} has ${size} bytes, the volume ${sizeBytes}`);
      }
      const loop = await attachLoop(file);
      record = { ...record, loop };
      await this.#writeRecord(record);
      this.#log?.info({ volume: volumeName, device: loop.path, nbdfuse: record.nbdfuse?.pid }, 'device attached');
      return loop.path;
    } catch (error) {
      await this.#remove(record, true).catch((failure: unknown) => {
        this.#log?.error({ volume: volumeName, error: asError(failure).message }, 'a half-made device is left over');
      });
      throw error;
    }
  }

  /** Starts nbdfuse and waits until it serves. */
  async #startNbdfuse(record: DeviceRecord): Promise<NbdfuseProcess> {
    const { volumeName, mountDirectory, nbdUri } = record;
    const pidFile = this.#path(volumeName, 'pid');
    const logFile = openSync(this.#path(volumeName, 'log'), 'w', 0o600);
    const args = ['-C', String(this.#connections), '-P', pidFile, join(mountDirectory, 'nbd'), nbdUri];
    const env = { ...process.env, PATH: toolPath() };
    const child = spawn('nbdfuse', args, { cwd: '/', detached: true, env, stdio: ['ignore', logFile, logFile] });
    closeSync(logFile);
    const ended = { reason: '' };
    child.on('error', (error) => (ended.reason = error.message));
    child.on('exit', (code, signal) => (ended.reason = signal ?? `exit code ${code}`));
    const isReady = async () => ended.reason !== '' || existsSync(pidFile);
    const isInTime = await waitUntil(isReady, READY_TIMEOUT_MS);
    const startTicks = child.pid === undefined ? null : await startTicksOf(child.pid);
    if (!isInTime || ended.reason !== '' || child.pid === undefined || startTicks === null) {
      child.kill('SIGKILL');
      const reason = ended.reason || `not ready in ${READY_TIMEOUT_MS} ms`;
      throw new BraidError('UNAVAILABLE', `nbdfuse did not start (${reason}): ${await this.#output(volumeName)}`);
    }
    this.#watch(volumeName, child, child.pid);
    return { pid: child.pid, startTicks };
  }

  /** Tells when nbdfuse ends by itself: after the operation that is under way, which may be what ends it. */
  #watch(volumeName: string, child: ChildProcess, pid: number): void {
    child.unref();
    child.removeAllListeners('exit');
    this.#watched.add(pid);
    child.on('exit', (code, signal) => {
      void this.#inTurn(volumeName, async () => {
        if (!this.#watched.delete(pid)) return;
        const output = await this.#output(volumeName);
        this.onDied(
          volumeName,
          `nbdfuse ended (${signal ?? `exit code ${code}`})${output === '' ? '' : `: ${output}`}`,
        );
      });
    });
  }

  /** The end of what nbdfuse has printed. */
  async #output(volumeName: string): Promise<string> {
    const text = await readFile(this.#path(volumeName, 'log'), 'utf8').catch(() => '');
    return text.trim().slice(-LOG_TAIL_CHARS);
  }

  async #isHealthy(record: DeviceRecord): Promise<boolean> {
    if (record.nbdfuse === null || record.loop === null) return false;
    return (await startTicksOf(record.nbdfuse.pid)) === record.nbdfuse.startTicks && isLoopAttached(record.loop);
  }

  /** A device that has died stays while somebody has it mounted or open: whoever writes there sees errors, not the directory below. */
  async #removeDead(record: DeviceRecord): Promise<void> {
    try {
      await this.#remove(record, false);
    } catch (error) {
      if (!(error instanceof BraidError) || error.code !== 'CONFLICT') throw error;
      const message = `the device of volume ${record.volumeName} is dead, and made anew when nobody uses it any more: ${error.message}`;
      throw new BraidError('UNAVAILABLE', message, { cause: error });
    }
  }

  /** Takes down what the record names, from the top. A record is removed last, when nothing of it is left. */
  async #remove(record: DeviceRecord, force: boolean): Promise<void> {
    const { loop } = record;
    if (loop !== null && (await isLoopAttached(loop))) {
      await (force ? this.#unmountAll(loop) : this.#refuseWhenBusy(record.volumeName, loop));
      if (!(await detachLoop(loop, force ? PASSING_USERS_MS : DETACH_TIMEOUT_MS))) {
        const message = `${loop.path} of volume ${record.volumeName} is still open somewhere`;
        if (!force) throw new BraidError('CONFLICT', `${message}; close it and detach again`);
        // The kernel detaches it when the last opener closes; nbdfuse is ended below, so they get I/O errors from now on.
        this.#log?.warn({ volume: record.volumeName, device: loop.path }, `${message}; it ends when that is closed`);
      }
    }
    if (record.nbdfuse !== null) this.#watched.delete(record.nbdfuse.pid);
    await this.#unmountFuse(record, force);
    await this.#endNbdfuse(record, force);
    await rmdir(record.mountDirectory).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw error;
    });
    await rm(this.#path(record.volumeName, 'pid'), { force: true });
    await rm(this.#path(record.volumeName, 'log'), { force: true });
    await rm(this.#path(record.volumeName, 'json'), { force: true });
    this.#log?.info({ volume: record.volumeName, device: loop?.path }, 'device detached');
  }

  async #refuseWhenBusy(volumeName: string, loop: LoopDevice): Promise<void> {
    const deadlineMs = performance.now() + PASSING_USERS_MS;
    for (;;) {
      const { lasting, passing } = await loopUsers(loop);
      const users = [...lasting, ...passing];
      if (users.length === 0) return;
      if (lasting.length > 0 || performance.now() > deadlineMs) {
        throw new BraidError(
          'CONFLICT',
          `the device ${loop.path} of volume ${volumeName} is busy: ${users.join('; ')}. End that first, or detach with force`,
        );
      }
      await delay(POLL_MS);
    }
  }

  async #unmountAll(loop: LoopDevice): Promise<void> {
    for (const path of (await loopMountPoints(loop)).reverse()) {
      const done = await runTool('umount', ['--lazy', path]);
      this.#log?.warn({ device: loop.path, path, result: done.stderr }, 'forced unmount');
    }
  }

  async #unmountFuse({ mountDirectory }: DeviceRecord, force: boolean): Promise<void> {
    const realPath = join(await realpath(this.#directory), basename(mountDirectory));
    const isMounted = async () => isMountPoint(await readFile('/proc/self/mountinfo', 'utf8'), realPath);
    let problem = '';
    const isGone = await waitUntil(
      async () => {
        if (!(await isMounted())) return true;
        const done = await runTool('fusermount3', ['-u', mountDirectory]);
        problem = done.stderr;
        return done.code === 0;
      },
      force ? PASSING_USERS_MS : DETACH_TIMEOUT_MS,
    );
    if (isGone) return;
    if (!force) throw new BraidError('CONFLICT', `${mountDirectory} cannot be unmounted: ${problem}`);
    const lazily = await runTool('fusermount3', ['-u', '-z', mountDirectory]);
    if (lazily.code !== 0) throw new BraidError('CONFLICT', `${mountDirectory} cannot be unmounted: ${lazily.stderr}`);
  }

  /** nbdfuse ends by itself when its mount is gone; one that does not is killed when forced. */
  async #endNbdfuse(record: DeviceRecord, force: boolean): Promise<void> {
    const running = record.nbdfuse ?? (await this.#unrecordedNbdfuse(record));
    if (running === null) return;
    const hasEnded = async () => (await startTicksOf(running.pid)) !== running.startTicks;
    if (await waitUntil(hasEnded, force ? PASSING_USERS_MS : DETACH_TIMEOUT_MS)) return;
    if (!force) throw new BraidError('TIMEOUT', `nbdfuse (process ${running.pid}) does not end; detach with force`);
    process.kill(running.pid, 'SIGKILL');
    if (await waitUntil(hasEnded, DETACH_TIMEOUT_MS)) return;
    throw new BraidError('TIMEOUT', `nbdfuse (process ${running.pid}) cannot be killed`);
  }

  /** The nbdfuse of an agent that died before it recorded the pid, by the pid file and the command line. */
  async #unrecordedNbdfuse(record: DeviceRecord): Promise<NbdfuseProcess | null> {
    const pid = Number.parseInt(await readFile(this.#path(record.volumeName, 'pid'), 'utf8').catch(() => ''), 10);
    if (!Number.isSafeInteger(pid) || pid <= 1) return null;
    const command = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
    if (!command.includes(join(record.mountDirectory, 'nbd'))) return null;
    const startTicks = await startTicksOf(pid);
    return startTicks === null ? null : { pid, startTicks };
  }

  #path(volumeName: string, kind: 'json' | 'pid' | 'log'): string {
    return join(this.#directory, `${volumeName}.${kind}`);
  }

  async #readRecord(volumeName: string): Promise<DeviceRecord | null> {
    if (!NAME.test(volumeName)) return null;
    const text = await readFile(this.#path(volumeName, 'json'), 'utf8').catch(() => null);
    if (text === null) return null;
    try {
      const record = JSON.parse(text) as DeviceRecord;
      if (record.version === RECORD_VERSION && record.volumeName === volumeName) return record;
    } catch (error) {
      this.#log?.warn({ volume: volumeName, error: asError(error).message }, 'unreadable device record');
    }
    // Records are replaced atomically, so this one is of another version: its things are unknown, its name is not.
    const mountDirectory = join(this.#directory, volumeName);
    return {
      ...{ version: RECORD_VERSION, volumeName, nbdUri: '', mountDirectory, sizeBytes: 0 },
      ...{ nbdfuse: null, loop: null },
    };
  }

  /** Replaces the record atomically and durably: a crash leaves the old one or the new one. */
  async #writeRecord(record: DeviceRecord): Promise<void> {
    const path = this.#path(record.volumeName, 'json');
    const handle = await open(`${path}.new`, 'w', 0o600);
    try {
      await handle.writeFile(`${JSON.stringify(record, null, 2)}\n`);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(`${path}.new`, path);
  }
}

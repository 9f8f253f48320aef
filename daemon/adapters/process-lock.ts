/**
 * A lock on a directory (or file) that at most one process holds, and that the kernel drops when its holder dies.
 *
 * It is a flock(2) on the directory itself, so it follows the inode: symbolic links, bind mounts and other namespaces
 * of the same host see it; nothing is written. Node.js has no flock, but a flock belongs to the open file description:
 * `flock(1)` of util-linux takes it on a descriptor that it inherits from us, exits, and the lock stays with ours.
 */
import { spawn } from 'node:child_process';
import { close, constants, open } from 'node:fs';
import { promisify } from 'node:util';
import { asError, BraidError } from '../base/errors.js';

export interface ProcessLock {
  /** Gives the lock up; the second call does nothing. */
  release(): Promise<void>;
}

const openDescriptor = promisify(open);
const closeDescriptor = promisify(close);

/** Exit status of `flock -n` when somebody else has the lock, chosen by us. */
const STATUS_HELD = 75;
/** Where the child sees the descriptor. */
const CHILD_FD = 3;

/** Runs `flock` on our descriptor; resolves with its exit status. Rejects if it cannot be run. */
function runFlock(fd: number): Promise<number | null> {
  return new Promise((resolve, reject) => {
    const args = ['--exclusive', '--nonblock', '--conflict-exit-code', String(STATUS_HELD), String(CHILD_FD)];
    const child = spawn('flock', args, { stdio: ['ignore', 'ignore', 'ignore', fd] });
    child.on('error', reject);
    child.on('exit', resolve);
  });
}

async function takeFlock(path: string, fd: number): Promise<void> {
  let status: number | null;
  try {
    status = await runFlock(fd);
  } catch (error) {
    const advice = 'install flock (package util-linux) and start again';
    throw new BraidError('UNAVAILABLE', `cannot lock ${path}: ${asError(error).message}; ${advice}`, { cause: error });
  }
  if (status === STATUS_HELD) {
    const advice = `stop the process that uses it ("fuser -v ${path}" shows it), or choose another path`;
    throw new BraidError('CONFLICT', `${path} is in use by another process: ${advice}`);
  }
  if (status !== 0) throw new BraidError('UNAVAILABLE', `cannot lock ${path}: flock ended with status ${status}`);
}

/**
 * Locks `path`, which must exist. Never waits for another holder. Rejects with `BraidError` CONFLICT when it is held, by
 * another process or by this one, NOT_FOUND when there is no such path, UNAVAILABLE when locking does not work here.
 */
export async function acquireProcessLock(path: string): Promise<ProcessLock> {
  let fd: number;
  try {
    fd = await openDescriptor(path, constants.O_RDONLY);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code === 'ENOENT' ? 'NOT_FOUND' : 'UNAVAILABLE';
    throw new BraidError(code, `cannot open ${path} to lock it: ${asError(error).message}`, { cause: error });
  }
  try {
    await takeFlock(path, fd);
  } catch (error) {
    await closeDescriptor(fd);
    throw error;
  }
  let isHeld = true;
  return {
    release: async () => {
      if (!isHeld) return;
      isHeld = false;
      await closeDescriptor(fd);
    },
  };
}

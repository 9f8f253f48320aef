/** Processes that we start and later find again, by pid and start time: a pid alone may have been given to another. */
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';

const POLL_MS = 25;

export interface ProcessIdentity {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat, in clock ticks since boot. */
  readonly startTicks: string;
}

/** Who runs under this pid now; null when nobody does (a zombie has ended). */
export function identityOf(pid: number): ProcessIdentity | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The command name stands in parentheses and may hold anything, spaces and parentheses included.
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    const [state, startTicks] = [fields[0], fields[19]];
    return startTicks === undefined || state === 'Z' || state === 'X' ? null : { pid, startTicks };
  } catch {
    return null;
  }
}

export function isRunning(process: ProcessIdentity): boolean {
  return identityOf(process.pid)?.startTicks === process.startTicks;
}

/** Sends the signal if that very process still runs. */
export function signalProcess(target: ProcessIdentity, signal: NodeJS.Signals): void {
  if (!isRunning(target)) return;
  try {
    process.kill(target.pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** Resolves when `condition` holds; rejects, naming `what`, when it does not in time or `signal` aborts. */
export async function waitFor(
  condition: () => boolean | Promise<boolean>,
  deadlineMs: number,
  what: string,
  signal?: AbortSignal,
): Promise<void> {
  const endMs = performance.now() + deadlineMs;
  while (!(await condition())) {
    signal?.throwIfAborted();
    if (performance.now() > endMs) throw new Error(`${what}: not within ${deadlineMs} ms`);
    await delay(POLL_MS, undefined, signal === undefined ? {} : { signal });
  }
}

/** Asks the process to end and kills it when it does not within `graceMs`. True when it ended by itself. */
export async function endProcess(target: ProcessIdentity, graceMs: number): Promise<boolean> {
  signalProcess(target, 'SIGTERM');
  try {
    await waitFor(() => !isRunning(target), graceMs, `process ${target.pid} ends`);
    return true;
  } catch {
    signalProcess(target, 'SIGKILL');
    await waitFor(() => !isRunning(target), graceMs, `process ${target.pid} is killed`);
    return false;
  }
}

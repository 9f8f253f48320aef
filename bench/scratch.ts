/**
 * The directory of one run and everything that was started in it, so that all of it goes away again, however the run ends.
 *
 * ```
 * DIR/bench.json    who runs here and what it has started; a later run cleans up after one that was killed
 * ```
 *
 * Only processes that the record names, with their start times, are ever signalled.
 */
import { spawn } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs';
import { join, resolve } from 'node:path';
import { endProcess, identityOf, isRunning, waitFor, type ProcessIdentity } from '../client/processes.js';

const RECORD = 'bench.json';
const PREFIX = 'braid-bench-';
const END_GRACE_MS = 20_000;
const START_TIMEOUT_MS = 20_000;

interface ScratchRecord {
  readonly owner: ProcessIdentity | null;
  readonly processes: readonly ProcessIdentity[];
}

export class Scratch {
  readonly directory: string;
  /** Aborts when the run is to end early. */
  readonly signal: AbortSignal;
  readonly #processes: ProcessIdentity[] = [];
  readonly #cleanups: (() => Promise<void>)[] = [];

  private constructor(directory: string, signal: AbortSignal) {
    this.directory = directory;
    this.signal = signal;
    this.#writeRecord();
  }

  /** A new directory in `parent`; what dead runs left there is removed first. */
  static async create(parent: string, signal: AbortSignal): Promise<Scratch> {
    mkdirSync(parent, { recursive: true });
    for (const name of readdirSync(parent)) if (name.startsWith(PREFIX)) await removeIfDead(join(parent, name));
    return new Scratch(mkdtempSync(join(resolve(parent), PREFIX)), signal);
  }

  path(...names: string[]): string {
    return join(this.directory, ...names);
  }

  /** Fails unless the file system has this much room. */
  requireSpace(bytes: number): void {
    const { bavail, bsize } = statfsSync(this.directory);
    if (bavail * bsize >= bytes) return;
    const gib = (value: number) => (value / 2 ** 30).toFixed(1);
    throw new Error(
      `${this.directory} needs ${gib(bytes)} GiB of free space and has ${gib(bavail * bsize)}: give another directory with --dir, or use --quick`,
    );
  }

  /** Starts a daemon in a session of its own; `isReady` is asked until it says so. Resolves with its pid. */
  async startDaemon(
    name: string,
    command: readonly string[],
    isReady: () => boolean | Promise<boolean>,
  ): Promise<number> {
    const [program = '', ...programArguments] = command;
    const logPath = this.path(`${name}.log`);
    const log = openSync(logPath, 'a');
    const child = spawn(program, programArguments, {
      cwd: this.directory,
      detached: true,
      stdio: ['ignore', log, log],
    });
    closeSync(log);
    let failure = '';
    child.on('error', (error) => (failure = error.message));
    child.on('exit', (status, by) => (failure = `ended with ${by ?? status}`));
    child.unref();
    const identity = child.pid === undefined ? null : identityOf(child.pid);
    if (identity !== null) this.adopt(identity);
    const check = async () => {
      if (failure !== '')
        throw new Error(`${name}: ${failure}; its log ends with:\n${readFileSync(logPath, 'utf8').slice(-2_000)}`);
      return isReady();
    };
    await waitFor(check, START_TIMEOUT_MS, `${name} is ready`, this.signal);
    if (identity === null) throw new Error(`${name} did not start`);
    return identity.pid;
  }

  /** A process that somebody else started for this run. */
  adopt(identity: ProcessIdentity): void {
    this.#processes.push(identity);
    this.#writeRecord();
  }

  /** To be done at the end, last registered first, before the processes are ended. */
  defer(cleanup: () => Promise<void>): void {
    this.#cleanups.push(cleanup);
  }

  /** Ends and removes everything; resolves with what did not go in order. */
  async cleanUp(): Promise<string[]> {
    const problems: string[] = [];
    for (const cleanup of this.#cleanups.splice(0).reverse()) {
      await cleanup().catch((error: unknown) => problems.push(error instanceof Error ? error.message : String(error)));
    }
    await Promise.all(this.#processes.splice(0).map((identity) => endProcess(identity, END_GRACE_MS)));
    rmSync(this.directory, { recursive: true, force: true });
    return problems;
  }

  #writeRecord(): void {
    const record: ScratchRecord = { owner: identityOf(process.pid), processes: this.#processes };
    writeFileSync(this.path(RECORD), `${JSON.stringify(record, null, 2)}\n`);
  }
}

async function removeIfDead(directory: string): Promise<void> {
  const path = join(directory, RECORD);
  if (!existsSync(path)) return;
  const { owner, processes } = JSON.parse(readFileSync(path, 'utf8')) as ScratchRecord;
  if (owner !== null && isRunning(owner)) return;
  await Promise.all(processes.map((identity) => endProcess(identity, END_GRACE_MS)));
  rmSync(directory, { recursive: true, force: true });
}

/**
 * A file that can be made to fail and to hang: it is served by nbdkit through nbdfuse in its own place, so that whoever opens it gets real I/O errors and
 * real silence from the kernel. Needs /dev/fuse.
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import {
  closeSync,
  constants,
  existsSync,
  openSync,
  accessSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import type { Test } from 'tap';
import { waitFor } from '../../client/processes.js';

const MOUNT_DEADLINE_MS = 20_000;

export function hasFuse(): boolean {
  try {
    accessSync('/dev/fuse', constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

export class SickFile {
  readonly #path: string;
  readonly #processes: ChildProcess[] = [];

  /** The file stays where it is, with its contents; nobody may have it open. Healed and unmounted with the test. */
  static async mount(t: Test, path: string): Promise<SickFile> {
    const file = new SickFile(path);
    t.teardown(() => file.#unmount());
    await file.#mount();
    return file;
  }

  private constructor(path: string) {
    this.#path = path;
  }

  get #image(): string {
    return `${this.#path}.image`;
  }

  get #trigger(): string {
    return `${this.#path}.fails`;
  }

  get #socket(): string {
    return `${this.#path}.sock`;
  }

  /** From now on every read and write fails with EIO. */
  fail(): void {
    writeFileSync(this.#trigger, '');
  }

  heal(): void {
    rmSync(this.#trigger, { force: true });
  }

  /** From now on nothing ends until `resume`. */
  stall(): void {
    this.#processes[0]?.kill('SIGSTOP');
  }

  resume(): void {
    this.#processes[0]?.kill('SIGCONT');
  }

  async #mount(): Promise<void> {
    const sizeBytes = statSync(this.#path).size;
    renameSync(this.#path, this.#image);
    closeSync(openSync(this.#path, 'w'));
    const faults = ['error=EIO', 'error-rate=100%', `error-file=${this.#trigger}`];
    this.#start('nbdkit', ['-f', '-U', this.#socket, '--filter=error', 'file', this.#image, ...faults]);
    await waitFor(() => existsSync(this.#socket), MOUNT_DEADLINE_MS, 'nbdkit serves the file');
    this.#start('nbdfuse', [this.#path, '--unix', this.#socket]);
    await waitFor(() => statSync(this.#path).size === sizeBytes, MOUNT_DEADLINE_MS, 'nbdfuse has mounted the file');
  }

  #start(program: string, args: readonly string[]): void {
    this.#processes.push(spawn(program, args, { stdio: 'ignore' }));
  }

  #unmount(): void {
    this.resume();
    this.heal();
    // Lazily: the agent may have it open still.
    spawnSync('fusermount3', ['-u', '-z', this.#path]);
    for (const child of this.#processes) child.kill('SIGKILL');
  }
}

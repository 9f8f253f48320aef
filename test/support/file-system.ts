/** A small file system in a file, for what drives do when theirs fails. Needs a mount namespace of the test's own (own-namespaces.ts). */
import { execFile } from 'node:child_process';
import { closeSync, mkdirSync, openSync, rmSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { waitFor } from '../../client/processes.js';
import { MIB } from '../../daemon/base/units.js';

const UNMOUNT_TIMEOUT_MS = 30_000;

const execute = promisify(execFile);

export class FileSystem {
  readonly directory: string;
  readonly #image: string;

  private constructor(directory: string, image: string) {
    this.directory = directory;
    this.#image = image;
  }

  /** Makes it, with its image beside `directory`, and mounts it there. */
  static async make(directory: string, type: 'ext4' | 'xfs', bytes: number): Promise<FileSystem> {
    const image = `${directory}.${type}`;
    mkdirSync(directory);
    writeFileSync(image, '');
    truncateSync(image, bytes);
    await execute(`mkfs.${type}`, ['-q', image]);
    const made = new FileSystem(directory, image);
    await made.mount();
    return made;
  }

  async mount(): Promise<void> {
    await execute('mount', ['-o', 'loop', this.#image, this.directory]);
  }

  /** When all who use it have ended. The kernel may be busy with the files of a process for a moment after its death. */
  async unmount(): Promise<void> {
    const isUnmounted = () =>
      execute('umount', [this.directory]).then(
        () => true,
        () => false,
      );
    await waitFor(isUnmounted, UNMOUNT_TIMEOUT_MS, `${this.directory} is not in use any more`);
  }

  /** XFS: from now on all I/O fails with EIO, as when the device is gone; until it is mounted again. */
  async fail(): Promise<void> {
    await execute('xfs_io', ['-x', '-c', 'shutdown', this.directory]);
  }

  /** Takes all room that is left; resolves with what gives it back. */
  fill(): () => void {
    const path = join(this.directory, 'filler');
    const file = openSync(path, 'w');
    try {
      for (;;) writeSync(file, Buffer.alloc(MIB));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
    } finally {
      closeSync(file);
    }
    return () => rmSync(path);
  }
}

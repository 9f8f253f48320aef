/**
 * Whether a path still leads to the file that was opened, and all of it. A file that was removed or replaced goes on working for who has it open, and all
 * that is written to it is lost when it is closed: a drive must notice.
 */
import type { BigIntStats } from 'node:fs';
import { stat } from 'node:fs/promises';
import { asError } from '../base/errors.js';
import { formatSize } from '../base/units.js';

export class FileWatch {
  readonly #path: string;
  readonly #opened: BigIntStats;
  /** A drive's files never become smaller. */
  #sizeBytes: bigint;

  /** `opened`: of the open file, or of the path right after it was opened. */
  constructor(path: string, opened: BigIntStats) {
    this.#path = path;
    this.#opened = opened;
    this.#sizeBytes = opened.size;
  }

  /** What is wrong with the path, and what to do; empty when nothing is. Never rejects. */
  async check(): Promise<string> {
    try {
      const found = await stat(this.#path, { bigint: true });
      const { dev, ino, rdev } = this.#opened;
      if (found.dev !== dev || found.ino !== ino || found.rdev !== rdev)
        return `${this.#path} is not the file any more that was opened; put that one back`;
      const before = this.#sizeBytes;
      this.#sizeBytes = found.size;
      if (found.size >= before) return '';
      return `${this.#path} was cut from ${formatSize(Number(before))} to ${formatSize(Number(found.size))}; what was cut off is lost: replace the drive`;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT')
        return `${this.#path} has vanished; put it back, or mount it`;
      return `${this.#path} cannot be looked at: ${asError(error).message}`;
    }
  }
}

/** Looks now and then whether a drive's files are still the ones that were opened: a file that was removed or replaced works until it is closed. */
import { limits } from '../base/limits.js';
import type { MetaStore } from '../ports/meta-store.js';
import { DRIVE_TICK_MS, type DriveIo } from './drive-io.js';

const TICKS_PER_LOOK = Math.ceil(limits.driveCheckMs / DRIVE_TICK_MS);

export class DriveFiles {
  readonly #io: DriveIo;
  readonly #meta: MetaStore;
  readonly #onProblem: (problem: string) => void;
  #ticks = 0;
  /** One look at a time: a file system may hang. */
  #isLooking = false;

  constructor(io: DriveIo, meta: MetaStore, onProblem: (problem: string) => void) {
    this.#io = io;
    this.#meta = meta;
    this.#onProblem = onProblem;
  }

  /** Called every DRIVE_TICK_MS while the drive serves. */
  tick(): void {
    this.#ticks++;
    if (this.#ticks % TICKS_PER_LOOK === 0 && !this.#isLooking) void this.#look();
  }

  async #look(): Promise<void> {
    this.#isLooking = true;
    const problem = (await this.#io.check()) || (await this.#meta.check());
    this.#isLooking = false;
    if (problem !== '') this.#onProblem(problem);
  }
}

/** Something that serves a volume, and is measured. */
import type { FioTarget } from '../fio.js';
import type { Scratch } from '../scratch.js';

export interface Subject {
  /** As in `--only`. */
  readonly name: string;
  readonly title: string;
  /** Processes whose time and memory count: all but fio. */
  readonly pids: readonly number[];
  readonly target: FioTarget;
}

export interface SubjectContext {
  readonly scratch: Scratch;
  /** Size of every volume. */
  readonly volumeBytes: number;
}

/** How to make a subject. Starting leaves it with a volume that was never written. */
export interface SubjectRecipe {
  readonly name: string;
  readonly title: string;
  /** Debian packages and a program of each, by which its presence is known. */
  readonly packages: Readonly<Record<string, string>>;
  /** Space that it takes, in copies of the volume. */
  readonly volumes: number;
  /** Space that it takes besides. */
  readonly extraBytes?: number;
  start(context: SubjectContext): Promise<Subject>;
}

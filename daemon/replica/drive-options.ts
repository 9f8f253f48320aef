/** What a drive is opened with. */
import { limits } from '../base/limits.js';
import type { Clock } from '../ports/clock.js';
import type { DiskOpener } from '../ports/disk.js';
import type { Log } from '../ports/log.js';
import type { MetaStoreOpener } from '../ports/meta-store.js';
import type { ScrubSettings } from '../ports/shard.js';
import type { Slab } from '../ports/slab.js';

/** Passes only when asked for. */
export const NO_SCRUB: ScrubSettings = { bytesPerSecond: limits.scrubBytesPerSecondDefault, intervalMs: 0 };

export interface DriveOptions {
  readonly directory: string;
  readonly disks: DiskOpener;
  readonly metas: MetaStoreOpener;
  readonly slab: Slab;
  readonly clock: Clock;
  readonly log: Log;
  readonly clusterId: string;
  /** Checked against the superblock when given. */
  readonly driveId?: string;
  /** The drive has failed: nothing on it can be used until it is opened anew. */
  readonly onFailed?: (reason: string) => void;
  /** What an operator should know of it, beside failures. */
  readonly onScrubbed?: (message: string) => void;
  readonly scrub?: ScrubSettings;
  readonly hotRegionsMax?: number;
  readonly coldRegionsMax?: number;
  /** UUID of this boot of the node: tells a killed process, which loses nothing, from lost power. */
  readonly bootId: string;
}

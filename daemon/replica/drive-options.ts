/** What a drive is opened with, and what it says of itself. */
import { limits } from '../base/limits.js';
import type { Clock } from '../ports/clock.js';
import type { DiskOpener } from '../ports/disk.js';
import type { Log } from '../ports/log.js';
import type { MetaStoreOpener } from '../ports/meta-store.js';
import type { ScrubSettings, ScrubStats } from '../ports/shard.js';
import type { Slab } from '../ports/slab.js';
import type { DriveIoStats } from './drive-io.js';

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

/** What a drive has done since it was opened. */
export interface DriveStats extends DriveIoStats {
  readonly checksumMismatches: number;
  readonly isServing: boolean;
  readonly slotCount: number;
  readonly freeSlots: number;
  readonly replicas: number;
  readonly hotRegions: number;
  readonly activations: number;
  readonly commits: number;
  readonly metaBytes: number;
  readonly scrub: ScrubStats;
}

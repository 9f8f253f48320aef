import type { ScrubStats } from '../ports/shard.js';
import type { DriveIoStats } from './drive-io.js';

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

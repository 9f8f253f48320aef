/** What the I/O path of a volume is given, and what it asks of the slow paths around it. */
import type { Slab } from '../ports/slab.js';
import type { VolumeLayout } from './layout.js';
import type { OperationBudget } from './operation-budget.js';
import type { RegionTracker } from './regions.js';
import type { Replica, Segment, Session } from './segment.js';

export interface IoHooks {
  /** A replica answered with an error, or failed a flush: it cannot stay a target. */
  replicaFailed(replica: Replica, reason: string): void;
  /** A replica returned data that does not match its checksum; another copy served the read. */
  repair(segment: Segment, offsetBytes: number, badMask: number): void;
  /** Not every target had space: make the others equal to one that refused, then call `restored(row)`. */
  restore(row: number, segment: Segment, offsetBytes: number, lengthBytes: number, refusedMask: number): void;
  /** A client waits for this region to be reconciled. */
  regionWanted(region: number): void;
  /** The volume is owned elsewhere now, or may be; nothing is served any more. */
  fenced(reason: string): void;
  allocation(offsetBytes: number, lengthBytes: number): Promise<boolean[]>;
}

export interface IoOptions {
  readonly name: string;
  readonly epoch: number;
  readonly layout: VolumeLayout;
  readonly segments: readonly Segment[];
  readonly sessions: readonly Session[];
  readonly regions: RegionTracker;
  readonly minInSync: number;
  readonly failWhenDegraded: boolean;
  readonly slab: Slab;
  readonly budget: OperationBudget;
  readonly leaseValid: () => boolean;
  readonly isLocal: (replica: Replica) => boolean;
  readonly hooks: IoHooks;
}

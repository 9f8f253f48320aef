/**
 * A data-plane shard as the control plane sees it: a worker thread behind a message port in production, an object in the simulator.
 * Everything here is plain data (structured clone), and slow path only.
 */
import type { DriveId, NodeId, VolumeId } from '../base/ids.js';
import type { KeptDrive } from './kept-drive.js';
import type { OperationCounters } from '../base/operation-counters.js';

export type VolumeState = 'opening' | 'reconciling' | 'serving' | 'suspended' | 'fenced' | 'releasing';

/** What the owner's shard knows about a volume it serves. */
export interface ServedVolume {
  readonly volumeId: VolumeId;
  readonly epoch: number;
  readonly state: VolumeState;
  /** Why it is suspended, fenced or slow to open; empty otherwise. */
  readonly reason: string;
  /** Segments with a copy that is not in sync. */
  readonly segmentsDegraded: number;
  /** Bytes copied since this owner took the volume; and with those that the copying under way has still to do. */
  readonly resyncBytesDone: number;
  readonly resyncBytesTotal: number;
  /** What is being copied now. */
  readonly copies: readonly CopyProgress[];
}

/** resync: a copy catches up; rebuild: a new copy is made; reconcile: copies are made equal after an unclean owner. */
export type CopyKind = 'resync' | 'rebuild' | 'reconcile';

export interface CopyProgress {
  readonly kind: CopyKind;
  /** To which drive; null: all copies. */
  readonly driveId: DriveId | null;
  readonly bytesDone: number;
  readonly bytesTotal: number;
  /** Smoothed; 0 while it is not known, or while nothing moves. */
  readonly bytesPerSecond: number;
}

export interface ServedSegment {
  readonly index: number;
  readonly generation: number;
  readonly replicas: readonly {
    readonly driveId: DriveId;
    readonly state: 'in-sync' | 'syncing' | 'stale';
    readonly connected: boolean;
  }[];
}

/** How a shard scrubs its drives and volumes. */
export interface ScrubSettings {
  readonly bytesPerSecond: number;
  /** From one pass to the next; 0: only when asked. */
  readonly intervalMs: number;
}

/** Scrub of a drive (its data against its checksums) or of a volume (its copies against each other). */
export interface ScrubStats {
  readonly isRunning: boolean;
  /** Wall clock; 0: never. */
  readonly startedMs: number;
  /** When a pass came to its end last; 0: never. */
  readonly completedMs: number;
  /** Of the pass that is under way. */
  readonly passBytesDone: number;
  readonly passBytesTotal: number;
  /** Since the drive was opened or the volume taken: read or compared; damaged or differing extents; those that are right again. */
  readonly bytes: number;
  readonly errors: number;
  readonly repaired: number;
  /** Found, and not right yet. */
  readonly unresolved: number;
}

export const NO_SCRUB_STATS: ScrubStats = {
  isRunning: false,
  startedMs: 0,
  completedMs: 0,
  passBytesDone: 0,
  passBytesTotal: 0,
  bytes: 0,
  errors: 0,
  repaired: 0,
  unresolved: 0,
};

/** The copies of a volume's segments on one drive that another drive is to hold instead. */
export interface MoveReplicas {
  readonly from: DriveId;
  readonly to: DriveId;
  /** Absent: all segments that have a copy there. */
  readonly segment?: number;
  /** What is free on the drive that gets them. */
  readonly freeBytes: number;
}

/** What a drive that is open says of its copies of a volume. */
export interface DriveCopies {
  readonly driveId: DriveId;
  /** Segments whose copy may lack writes that were not flushed when the node lost power. */
  readonly uncertainSegments: readonly number[];
}

/** Result of comparing all in-sync replicas of a volume, extent by extent. */
export interface VerifyReport {
  readonly extentsCompared: number;
  /** Of one copy. */
  readonly bytesCompared: number;
  /** Copies compared per segment, least over all segments. */
  readonly copiesMin: number;
  readonly differences: readonly {
    readonly segment: number;
    readonly extent: number;
    /** In the volume. */
    readonly offsetBytes: number;
    readonly driveIds: readonly DriveId[];
  }[];
  /** Copies of extents that do not match their checksums, or cannot be read. */
  readonly damaged: readonly {
    readonly segment: number;
    readonly extent: number;
    readonly offsetBytes: number;
    readonly driveId: DriveId;
    readonly problem: 'checksum' | 'unreadable';
  }[];
}

/** Counters since the shard started; of a drive, since it was opened. */
export interface ShardStats {
  readonly volumes: readonly {
    readonly volumeId: VolumeId;
    readonly inFlight: number;
    readonly connections: number;
    readonly degradedReplicas: number;
    /** Damaged extents that were rewritten from another copy since the volume was taken. */
    readonly repairs: number;
    readonly scrub: ScrubStats;
    readonly read: OperationCounters;
    readonly write: OperationCounters;
    readonly flush: OperationCounters;
    readonly trim: OperationCounters;
  }[];
  readonly drives: readonly {
    readonly driveId: DriveId;
    readonly state: 'open' | 'failed';
    /** Why it failed and what to do; empty while open. */
    readonly reason: string;
    readonly slotCount: number;
    readonly slotsFree: number;
    readonly hotRegions: number;
    readonly inFlight: number;
    readonly checksumMismatches: number;
    readonly metadataBytes: number;
    readonly scrub: ScrubStats;
    /** What was asked of the data area, for clients, copies and repairs alike, from submission to completion. */
    readonly read: OperationCounters;
    readonly write: OperationCounters;
    readonly flush: OperationCounters;
    /** Ranges punched or zeroed. */
    readonly trim: OperationCounters;
  }[];
  /** Slab bytes in use by pool: front end, peer, internal. */
  readonly slabUsedBytes: readonly [number, number, number];
  readonly slabBytes: number;
  readonly eventLoopDelayMsP99: number;
}

export type ScrubAction = 'start' | 'stop';

export interface ShardControl {
  /** Opens a formatted drive and serves its replicas. Rejects with `BraidError` (DRIVE, CORRUPT, CONFLICT, ...) and leaves everything else as it was. */
  openDrive(driveId: DriveId, directory: string): Promise<{ readonly slotCount: number }>;
  /** What a drive keeps of the cluster; it must not be open. Rejects with `BraidError` (DRIVE, CORRUPT) and changes nothing. */
  readDrive(directory: string): Promise<KeptDrive>;
  /** Stops serving the drive after its I/O has ended. */
  closeDrive(driveId: DriveId): Promise<void>;
  /**
   * Becomes owner of the volume under the next epoch and serves it over NBD. Rejects with CONFLICT while another live node owns it (try
   * again when that node has released it or its lease has ended), UNAVAILABLE when too few in-sync copies can be reached.
   * Idempotent while it is served here.
   */
  takeVolume(volumeId: VolumeId): Promise<void>;
  /**
   * Ends client I/O, flushes, cools all regions, gives up ownership cleanly. Idempotent. Rejects with UNAVAILABLE while it cannot be recorded
   * that ownership was given up: then it is to be called again, or nobody else can take the volume as long as this agent lives.
   */
  releaseVolume(volumeId: VolumeId): Promise<void>;
  servedVolumes(): Promise<readonly ServedVolume[]>;
  /** By index; none when the volume is not served here. */
  servedSegments(volumeId: VolumeId): Promise<readonly ServedSegment[]>;
  /** Of every open drive of this shard, whether it holds copies of the volume or not. */
  copiesOf(volumeId: VolumeId): Promise<readonly DriveCopies[]>;
  /** Compares all in-sync replicas of a volume that is served here. */
  verifyVolume(volumeId: VolumeId): Promise<VerifyReport>;
  /** Begins or ends a pass of a drive; nothing changes when one is, or is not, under way. Rejects with NOT_FOUND when it is not open here. */
  scrubDrive(driveId: DriveId, action: ScrubAction): Promise<void>;
  /** The same of a volume, whose copies are all read; NOT_FOUND when it is not served here. */
  scrubVolume(volumeId: VolumeId, action: ScrubAction): Promise<void>;
  /** Moves copies of a volume that is served here; resolves to the number of segments concerned, once their records say so. */
  moveReplicas(volumeId: VolumeId, request: MoveReplicas): Promise<number>;
  /** Gives up the moves to a drive, or all; resolves to their number. */
  cancelMoves(volumeId: VolumeId, to: DriveId | null): Promise<number>;
  /**
   * Removes replicas that belong to no segment any more from the drives of this shard. Idempotent. Requests of owners under an epoch below
   * `epoch` are refused from then on: they would create the replicas anew. Of a deleted volume it is above that of the last owner.
   */
  deleteReplicas(
    volumeId: VolumeId,
    epoch: number,
    segments: readonly { readonly index: number; readonly driveId: DriveId }[],
  ): Promise<void>;
  /** What the copiers of this shard may copy a second, all volumes together; null: no bound. */
  setCopyBandwidth(bytesPerSecond: number | null): void;
  /** The node's lease cannot have ended before `deadlineMs` on the monotonic clock (`Clock.nowMs` of any thread of this host). */
  setLeaseDeadline(deadlineMs: number): void;
  stats(): Promise<ShardStats>;
  /** Releases nothing: the caller has released the volumes. Waits for I/O in flight and closes drives and sockets. */
  stop(): Promise<void>;
}

/** How a shard is started. */
export interface ShardOptions {
  readonly clusterId: string;
  readonly nodeId: NodeId;
  readonly incarnation: string;
  readonly shardIndex: number;
  readonly dataHost: string;
  /** 0 picks a free port. */
  readonly dataPort: number;
  /** Unix socket of the NBD server. */
  readonly nbdSocketPath: string;
  /** TCP address of the NBD server; absent: unix socket only. */
  readonly nbdTcp?: { readonly host: string; readonly port: number };
  readonly slabBytes: number;
  readonly scrub: ScrubSettings;
  readonly logLevel: 'debug' | 'info' | 'warn' | 'error';
}

/** Where a started shard listens. */
export interface ShardAddresses {
  /** host:port for other agents. */
  readonly dataAddress: string;
  readonly nbdSocketPath: string;
  /** host:port for NBD clients, when NBD over TCP is on. */
  readonly nbdTcpAddress?: string;
}

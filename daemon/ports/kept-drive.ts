/** What a drive keeps of the cluster, read without serving it: enough to rebuild a lost cluster store from the drives. */
import type { VolumeId } from '../base/ids.js';
import type { DriveRecord, SegmentRecord, VolumeRecord } from '../protocol/records.js';

export interface KeptVolume {
  readonly id: VolumeId;
  /** The highest that the drive has seen. */
  readonly epoch: number;
  /** Null on drives that only older agents have used. */
  readonly record: VolumeRecord | null;
}

export interface KeptCopy {
  readonly volumeId: VolumeId;
  /** The segment as its owner last described it to this drive. */
  readonly layout: SegmentRecord;
  /** The highest stamp of an extent: the copy was a target of writes under that generation. */
  readonly highestStamp: number;
}

export interface KeptDrive {
  readonly clusterId: string;
  readonly driveId: string;
  readonly slotCount: number;
  readonly createdMs: number;
  readonly volumes: readonly KeptVolume[];
  readonly copies: readonly KeptCopy[];
}

/** The drives that a node had when it last looked. */
export interface KnownDrives {
  readonly clusterId: string;
  readonly drives: readonly DriveRecord[];
}

/** Where a node remembers its drives, apart from the cluster store: what is rebuilt begins with them. */
export interface DriveMemory {
  /** Null when nothing is remembered that can be read. */
  read(): Promise<KnownDrives | null>;
  /** Durable when it resolves. */
  write(known: KnownDrives): Promise<void>;
}

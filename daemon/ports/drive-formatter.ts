import type { DriveId } from '../base/ids.js';

/** Makes a drive of a directory, once, before a shard opens it. */
export interface DriveFormatter {
  /**
   * Creates the directory if need be, preallocates `capacityBytes` of data area and writes an empty superblock for `driveId`. Durable when it
   * resolves. Rejects with CONFLICT when the directory already holds a drive (nothing is changed then), NO_SPACE when the file system is too
   * small, DRIVE when it cannot do direct I/O, INVALID_ARGUMENT when the path cannot be used.
   */
  format(request: FormatRequest): Promise<{ readonly slotCount: number }>;
}

export interface FormatRequest {
  readonly directory: string;
  readonly capacityBytes: number;
  readonly driveId: DriveId;
}

/**
 * Data area of one drive: a preallocated file or a block device, opened with O_DIRECT.
 * All calls return at once; the result arrives at the handler with the caller's tag. Nothing is ordered unless the
 * caller waits: a `flush` covers exactly the writes that completed before it was issued.
 */
import type { BufferId } from './slab.js';

/** `result` is 0 on success or a negative errno (`-5` EIO, `-28` ENOSPC). A short transfer is reported as EIO. */
export type DiskHandler = (tag: number, result: number) => void;

export interface Disk {
  readonly sizeBytes: number;
  /** Reads whole blocks into `buffer` and computes their checksums. */
  read(tag: number, offsetBytes: number, lengthBytes: number, buffer: BufferId, bufferOffsetBytes: number): void;
  /** Writes whole blocks. With `durable` the completion means the data is on stable media (RWF_DSYNC). Checksums are the caller's. */
  write(
    tag: number,
    offsetBytes: number,
    lengthBytes: number,
    buffer: BufferId,
    bufferOffsetBytes: number,
    durable: boolean,
  ): void;
  /** Everything that completed before this call is durable when it completes. */
  flush(tag: number): void;
  /**
   * The range reads as zeros afterwards. A block device gets the space back (discard); a file was preallocated and keeps it, so that a later
   * write cannot run out of space. Falls back to writing zeros where neither is supported.
   */
  punch(tag: number, offsetBytes: number, lengthBytes: number): void;
  /** The range reads as zeros afterwards; space stays allocated where the file system can do that. */
  zero(tag: number, offsetBytes: number, lengthBytes: number): void;
  /** What has happened to it behind our back: it has vanished, is another file or device, or was cut short; empty while nothing has. Never rejects. */
  check(): Promise<string>;
  /** Resolves when no operation is in flight any more and the file is closed. */
  close(): Promise<void>;
}

export interface DiskOpener {
  /** Opens an existing data area. Rejects with `BraidError` DRIVE when it is absent, too small or not openable with O_DIRECT. */
  open(path: string, handler: DiskHandler): Promise<Disk>;
}

/**
 * What a front end sees of an attached volume: a block device whose operations are at most one extent long ("pieces") and end in any order.
 * Per piece nothing is allocated: the caller names it by a `ticket`, a small integer of its own, and the result comes back with it.
 */
import type { Status } from '../protocol/frame.js';
import type { BufferId } from './slab.js';

export interface BlockVolumeHandler {
  /**
   * The piece named `ticket` has ended. After a successful read `buffer` (one reference, now the handler's) holds the data from
   * `bufferOffsetBytes`, or is `NO_BUFFER` when the whole piece is zeros. Otherwise `NO_BUFFER`.
   * May be called from within the call that started the piece.
   */
  onDone(ticket: number, status: Status, buffer: BufferId, bufferOffsetBytes: number): void;
  /** `canAccept` had answered false and would now answer true. */
  onCapacity(): void;
}

export interface BlockVolume {
  readonly name: string;
  readonly sizeBytes: number;
  setHandler(handler: BlockVolumeHandler): void;
  /** Whether one more piece may be started now. Starting one regardless is a programmer error. */
  canAccept(): boolean;
  /**
   * Offsets and lengths are multiples of 512 bytes, inside the volume, and within one extent (128 KiB-aligned slice) of it.
   * A write takes over the caller's reference to `buffer`, which holds the payload at offset `offsetBytes % 4096` with checksums when it is whole blocks.
   */
  read(ticket: number, offsetBytes: number, lengthBytes: number): void;
  write(ticket: number, offsetBytes: number, lengthBytes: number, buffer: BufferId, fua: boolean): void;
  /** Advisory: whole blocks of the piece read as zeros afterwards, parts of blocks keep their contents. */
  trim(ticket: number, offsetBytes: number, lengthBytes: number, fua: boolean): void;
  /** The piece reads as zeros afterwards. With `mayFree` whole extents are given back. */
  zero(ticket: number, offsetBytes: number, lengthBytes: number, fua: boolean, mayFree: boolean): void;
  /** Every write that ended before is durable on every in-sync replica when this ends. */
  flush(ticket: number): void;
  /** For each extent (128 KiB) of the range, which starts at a multiple of that: true when it has space allocated. Slow path. */
  allocation(offsetBytes: number, lengthBytes: number): Promise<boolean[]>;
}

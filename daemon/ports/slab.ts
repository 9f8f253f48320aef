/**
 * The slab: a fixed arena of 4 KiB-aligned buffers that payloads live in, from socket to drive and back.
 *
 * A buffer is named by a small integer and counted by references. `alloc` returns it with one reference, owned by the caller.
 * `Disk` and `Network` take a reference of their own for as long as they use a buffer, so a caller may `release` right after
 * handing it over. At zero references the buffer is free. Nothing here blocks and nothing grows: `alloc` answers
 * `NO_BUFFER` when the pool's quota is used up, and the caller waits for `onAvailable`.
 *
 * Each buffer has one CRC-32C (Castagnoli) per 4 KiB block beside it, in `checksums`, from `checksumIndex(buffer)`. Whoever
 * fills a buffer fills them: the network from the frame (verified), the disk on read, the NBD front end on arrival of
 * block-aligned payload; after changing bytes by hand call `computeChecksums`.
 */

/** A buffer's name; 0 is none. It is the index of its first block plus one. */
export type BufferId = number;
export const NO_BUFFER: BufferId = 0;

/**
 * Quotas by purpose. Replies to reads land in buffers that the reader allocated before it asked, so acknowledgements can always be
 * received, and pools never wait for each other in a circle:
 * front end (client payload and reads) -> peer (replica server) -> drive.
 */
export const POOL_FRONTEND = 0;
export const POOL_PEER = 1;
export const POOL_INTERNAL = 2;
export type Pool = typeof POOL_FRONTEND | typeof POOL_PEER | typeof POOL_INTERNAL;

export interface Slab {
  /** A buffer of at least `lengthBytes` (1..128 KiB), contents undefined; `NO_BUFFER` when the pool is exhausted. */
  alloc(lengthBytes: number, pool: Pool): BufferId;
  retain(buffer: BufferId): void;
  release(buffer: BufferId): void;
  /** The bytes themselves. Slow paths only (control messages, read-modify-write, tests): it allocates a view. */
  bytes(buffer: BufferId, offsetBytes: number, lengthBytes: number): Uint8Array;
  /** Fills with zeros; does not touch checksums. */
  zero(buffer: BufferId, offsetBytes: number, lengthBytes: number): void;
  copy(
    target: BufferId,
    targetOffsetBytes: number,
    source: BufferId,
    sourceOffsetBytes: number,
    lengthBytes: number,
  ): void;
  /** Recomputes the checksums of the blocks that cover the range; `offsetBytes` is block-aligned, the last block may be short. */
  computeChecksums(buffer: BufferId, offsetBytes: number, lengthBytes: number): void;
  readonly checksums: Uint32Array;
  /** Index in `checksums` of the buffer's first block. */
  checksumIndex(buffer: BufferId): number;
  /** Called (from the event loop, never from inside `release`) when a pool that had refused an `alloc` has room again. */
  onAvailable: (pool: Pool) => void;
  /** Bytes in use per pool, for metrics and leak tests. */
  usedBytes(pool: Pool): number;
}

/**
 * `Slab` in plain memory, and strict: releasing a buffer twice, or using one that is free, throws. A free buffer is filled with
 * rubbish and not reused at once, so that a use after free shows. Memory comes in chunks as it is needed: most nodes of a simulation
 * use little, and live for a moment only.
 */
import { assert } from '../../../daemon/base/assert.js';
import { crc32c } from '../../../daemon/base/crc32c.js';
import { BLOCK_BYTES, KIB, MIB } from '../../../daemon/base/units.js';
import { limits } from '../../../daemon/base/limits.js';
import type { Clock } from '../../../daemon/ports/clock.js';
import {
  NO_BUFFER,
  POOL_FRONTEND,
  POOL_INTERNAL,
  POOL_PEER,
  type BufferId,
  type Pool,
  type Slab,
} from '../../../daemon/ports/slab.js';

const RUBBISH = 0xdd;
const NOTHING = new Uint8Array(0);
/** A buffer lies in one chunk: two of the largest. */
const CHUNK_BLOCKS = (2 * limits.payloadBytesMax) / BLOCK_BYTES;
const CHUNK_BYTES = CHUNK_BLOCKS * BLOCK_BYTES;
const POOLS: readonly Pool[] = [POOL_FRONTEND, POOL_PEER, POOL_INTERNAL];

export interface SimSlabOptions {
  readonly clock: Clock;
  /** By pool. */
  readonly quotaBytes?: readonly [frontend: number, peer: number, internal: number];
}

const QUOTA_BYTES_DEFAULT = [8 * MIB, 8 * MIB, 4 * MIB] as const;

export class SimSlab implements Slab {
  readonly checksums: Uint32Array;
  onAvailable: (pool: Pool) => void = () => undefined;
  readonly #clock: Clock;
  readonly #quotaBytes: readonly number[];
  readonly #chunks: Uint8Array[] = [];
  readonly #chunksMax: number;
  /** By first block: references, blocks, pool. 0 references: not the start of a buffer in use. */
  readonly #references: Uint32Array;
  readonly #blocks: Uint8Array;
  readonly #pool: Uint8Array;
  readonly #used: Uint8Array;
  readonly #usedBytes = [0, 0, 0];
  readonly #refused = [false, false, false];
  #cursor = 0;

  constructor(options: SimSlabOptions) {
    this.#clock = options.clock;
    this.#quotaBytes = options.quotaBytes ?? QUOTA_BYTES_DEFAULT;
    // Twice the quotas: buffers of different sizes leave gaps.
    const totalBytes = 2 * this.#quotaBytes.reduce((sum, bytes) => sum + bytes, 0) + CHUNK_BYTES;
    this.#chunksMax = Math.ceil(totalBytes / CHUNK_BYTES);
    const blockCount = this.#chunksMax * CHUNK_BLOCKS;
    this.checksums = new Uint32Array(blockCount);
    this.#references = new Uint32Array(blockCount);
    this.#blocks = new Uint8Array(blockCount);
    this.#pool = new Uint8Array(blockCount);
    this.#used = new Uint8Array(blockCount);
  }

  alloc(lengthBytes: number, pool: Pool): BufferId {
    assert(lengthBytes > 0 && lengthBytes <= limits.payloadBytesMax, 'a buffer has 1 byte to 128 KiB');
    const count = Math.ceil(lengthBytes / BLOCK_BYTES);
    const usedBytes = this.usedBytes(pool) + count * BLOCK_BYTES;
    const first = usedBytes <= (this.#quotaBytes[pool] ?? 0) ? this.#find(count) : -1;
    if (first < 0) {
      this.#refused[pool] = true;
      return NO_BUFFER;
    }
    this.#references[first] = 1;
    this.#blocks[first] = count;
    this.#pool[first] = pool;
    this.#used.fill(1, first, first + count);
    this.#usedBytes[pool] = usedBytes;
    this.#cursor = first + count;
    return first + 1;
  }

  retain(buffer: BufferId): void {
    const first = this.#firstOf(buffer);
    this.#references[first] = (this.#references[first] ?? 0) + 1;
  }

  release(buffer: BufferId): void {
    const first = this.#firstOf(buffer);
    const references = (this.#references[first] ?? 0) - 1;
    this.#references[first] = references;
    if (references > 0) return;
    const count = this.#blocks[first] ?? 0;
    const pool = (this.#pool[first] ?? 0) as Pool;
    this.#used.fill(0, first, first + count);
    this.#bytesAt(first * BLOCK_BYTES, count * BLOCK_BYTES).fill(RUBBISH);
    this.checksums.fill(0xdddd_dddd, first, first + count);
    this.#usedBytes[pool] = this.usedBytes(pool) - count * BLOCK_BYTES;
    if (this.#refused[pool] !== true) return;
    this.#refused[pool] = false;
    this.#clock.after(0, () => this.onAvailable(pool));
  }

  bytes(buffer: BufferId, offsetBytes: number, lengthBytes: number): Uint8Array {
    return this.#bytesAt(this.#start(buffer, offsetBytes, lengthBytes), lengthBytes);
  }

  zero(buffer: BufferId, offsetBytes: number, lengthBytes: number): void {
    this.bytes(buffer, offsetBytes, lengthBytes).fill(0);
  }

  copy(
    target: BufferId,
    targetOffsetBytes: number,
    source: BufferId,
    sourceOffsetBytes: number,
    lengthBytes: number,
  ): void {
    this.bytes(target, targetOffsetBytes, lengthBytes).set(this.bytes(source, sourceOffsetBytes, lengthBytes));
  }

  computeChecksums(buffer: BufferId, offsetBytes: number, lengthBytes: number): void {
    assert(offsetBytes % BLOCK_BYTES === 0, 'checksums are of whole blocks, or of the beginning of the last');
    for (let done = 0; done < lengthBytes; done += BLOCK_BYTES) {
      const bytes = this.bytes(buffer, offsetBytes + done, Math.min(BLOCK_BYTES, lengthBytes - done));
      this.checksums[this.checksumIndex(buffer) + (offsetBytes + done) / BLOCK_BYTES] = crc32c(bytes);
    }
  }

  checksumIndex(buffer: BufferId): number {
    return this.#firstOf(buffer);
  }

  usedBytes(pool: Pool): number {
    return this.#usedBytes[pool] ?? 0;
  }

  /** Throws unless every buffer was given back. */
  assertEmpty(): void {
    for (const pool of POOLS) {
      assert(this.usedBytes(pool) === 0, `pool ${pool} still uses ${this.usedBytes(pool) / KIB} KiB`);
    }
  }

  #firstOf(buffer: BufferId): number {
    const first = buffer - 1;
    assert((this.#references[first] ?? 0) > 0, `buffer ${buffer} is in use`);
    return first;
  }

  #start(buffer: BufferId, offsetBytes: number, lengthBytes: number): number {
    const first = this.#firstOf(buffer);
    const sizeBytes = (this.#blocks[first] ?? 0) * BLOCK_BYTES;
    assert(
      offsetBytes >= 0 && lengthBytes >= 0 && offsetBytes + lengthBytes <= sizeBytes,
      'a range is inside its buffer',
    );
    return first * BLOCK_BYTES + offsetBytes;
  }

  #bytesAt(offsetBytes: number, lengthBytes: number): Uint8Array {
    // Nothing, at the end of a buffer that ends with the last chunk.
    if (lengthBytes === 0) return NOTHING;
    const chunk = this.#chunks[Math.floor(offsetBytes / CHUNK_BYTES)];
    assert(chunk !== undefined, 'a buffer lies in a chunk that is there');
    const start = offsetBytes % CHUNK_BYTES;
    return chunk.subarray(start, start + lengthBytes);
  }

  /** First of `count` consecutive free blocks of a chunk, looked for after the buffer allocated last; -1: none. */
  #find(count: number): number {
    const end = this.#chunks.length * CHUNK_BLOCKS;
    const found = this.#findIn(this.#cursor, end, count) ?? this.#findIn(0, end, count);
    if (found !== null) return found;
    if (this.#chunks.length === this.#chunksMax) return -1;
    this.#chunks.push(new Uint8Array(CHUNK_BYTES).fill(RUBBISH));
    return end;
  }

  #findIn(from: number, to: number, count: number): number | null {
    let run = 0;
    for (let block = from; block < to; block++) {
      if (block % CHUNK_BLOCKS === 0) run = 0;
      run = this.#used[block] === 0 ? run + 1 : 0;
      if (run === count) return block - count + 1;
    }
    return null;
  }
}

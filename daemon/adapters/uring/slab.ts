/**
 * The slab port over native memory. References are counted in place; a buffer that reaches zero is put on a list that the engine
 * takes with the next commands.
 *
 * Invariants: a count is above zero exactly while somebody may use the buffer; a command that names a buffer holds a reference
 * from here until its completion.
 */
import { abi } from '../../../native/index.js';
import { assert } from '../../base/assert.js';
import { BLOCK_BYTES } from '../../base/units.js';
import type { BufferId, Pool, Slab } from '../../ports/slab.js';
import type { Shared } from './shared.js';

const { BUFFER_BYTES_MAX, CONTROL_FREED_COUNT } = abi;
/** Orders above this mark blocks that are free, or inside a buffer. */
const ORDER_MAX = 5;

export class UringSlab implements Slab {
  readonly checksums: Uint32Array;
  onAvailable: (pool: Pool) => void = () => {};
  readonly #shared: Shared;
  readonly #bytes: Uint8Array;
  readonly #refs: Uint32Array;
  readonly #freed: Uint32Array;
  readonly #orders: Uint8Array;

  constructor(shared: Shared) {
    const { memory, layout } = shared;
    const blockCount = layout.slabBytes / BLOCK_BYTES;
    this.#shared = shared;
    this.#bytes = new Uint8Array(memory, layout.slab, layout.slabBytes);
    this.checksums = new Uint32Array(memory, layout.checksums, blockCount);
    this.#refs = new Uint32Array(memory, layout.refs, blockCount);
    this.#freed = new Uint32Array(memory, layout.freed, blockCount);
    this.#orders = new Uint8Array(memory, layout.orders, blockCount);
  }

  alloc(lengthBytes: number, pool: Pool): BufferId {
    assert(lengthBytes > 0 && lengthBytes <= BUFFER_BYTES_MAX, 'a buffer is 1 byte to 128 KiB');
    return this.#shared.addon.alloc(this.#shared.handle, lengthBytes, pool);
  }

  retain(buffer: BufferId): void {
    const count = this.#refs[buffer - 1];
    assert(count !== undefined && count > 0, 'only a buffer in use can be retained');
    this.#refs[buffer - 1] = count + 1;
  }

  release(buffer: BufferId): void {
    const count = this.#refs[buffer - 1];
    assert(count !== undefined && count > 0, 'only a buffer in use can be released');
    this.#refs[buffer - 1] = count - 1;
    if (count > 1) return;
    const { control } = this.#shared;
    const freedCount = control[CONTROL_FREED_COUNT] as number;
    this.#freed[freedCount] = buffer;
    control[CONTROL_FREED_COUNT] = freedCount + 1;
  }

  bytes(buffer: BufferId, offsetBytes: number, lengthBytes: number): Uint8Array {
    const at = this.#locate(buffer, offsetBytes, lengthBytes);
    return this.#bytes.subarray(at, at + lengthBytes);
  }

  zero(buffer: BufferId, offsetBytes: number, lengthBytes: number): void {
    const at = this.#locate(buffer, offsetBytes, lengthBytes);
    this.#bytes.fill(0, at, at + lengthBytes);
  }

  copy(
    target: BufferId,
    targetOffsetBytes: number,
    source: BufferId,
    sourceOffsetBytes: number,
    lengthBytes: number,
  ): void {
    const to = this.#locate(target, targetOffsetBytes, lengthBytes);
    const from = this.#locate(source, sourceOffsetBytes, lengthBytes);
    this.#bytes.copyWithin(to, from, from + lengthBytes);
  }

  computeChecksums(buffer: BufferId, offsetBytes: number, lengthBytes: number): void {
    this.#locate(buffer, offsetBytes, lengthBytes);
    assert(offsetBytes % BLOCK_BYTES === 0, 'checksums are of whole blocks');
    this.#shared.addon.computeChecksums(this.#shared.handle, buffer, offsetBytes, lengthBytes);
  }

  checksumIndex(buffer: BufferId): number {
    return buffer - 1;
  }

  usedBytes(pool: Pool): number {
    return this.#shared.addon.usedBytes(this.#shared.handle, pool);
  }

  /** Asserts that the range lies inside a buffer in use. */
  check(buffer: BufferId, offsetBytes: number, lengthBytes: number): void {
    this.#locate(buffer, offsetBytes, lengthBytes);
  }

  /** Index of the byte in the slab. */
  #locate(buffer: BufferId, offsetBytes: number, lengthBytes: number): number {
    const order = this.#orders[buffer - 1];
    const isInUse = order !== undefined && order <= ORDER_MAX && this.#refs[buffer - 1] !== 0;
    assert(isInUse, 'the buffer is in use');
    const isInside = offsetBytes >= 0 && lengthBytes >= 0 && offsetBytes + lengthBytes <= BLOCK_BYTES << order;
    assert(isInside, 'the range lies inside its buffer');
    return (buffer - 1) * BLOCK_BYTES + offsetBytes;
  }
}

/**
 * Writes numbered versions of blocks over NBD and remembers what was acknowledged, so that after any failure the volume can be
 * held to its promise: a block holds the version acknowledged last, or a later one whose acknowledgement was lost, and nothing else.
 */
import { NbdClosedError, type NbdClient } from '../../client/nbd-client.js';

const BLOCK_BYTES = 4_096;
const BLOCKS_PER_WRITE_MAX = 32;
const MAGIC = 0x4d495252;

/** A small seeded generator (mulberry32): a failing run can be repeated. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** What a block must hold in a version; version 0 is all zeros. */
function fillBlock(target: Buffer, block: number, version: number): void {
  if (version === 0) {
    target.fill(0);
    return;
  }
  const words = new Uint32Array(BLOCK_BYTES / 4);
  let state = (Math.imul(block + 1, 0x9e3779b1) ^ Math.imul(version, 0x85ebca6b)) >>> 0 || 1;
  for (let index = 0; index < words.length; index++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[index] = state;
  }
  words[0] = MAGIC;
  words[1] = block;
  words[2] = version;
  Buffer.from(words.buffer).copy(target);
}

export interface MirrorOptions {
  readonly blocks: number;
  readonly seed: number;
  /** Writes in flight at once. */
  readonly depth?: number;
  readonly blocksPerWriteMax?: number;
}

export class MirrorWriter {
  readonly #random: () => number;
  readonly #options: Required<MirrorOptions>;
  /** Version acknowledged last, and the highest version ever sent, per block. */
  readonly #acknowledged: Uint32Array;
  readonly #sent: Uint32Array;
  readonly #busy: Uint8Array;
  #version = 0;
  #isWriting = false;
  #writers: Promise<void>[] = [];
  writesAcknowledged = 0;
  /** Errors that the server answered. The end of the connection is none. */
  readonly errors: Error[] = [];

  constructor(options: MirrorOptions) {
    this.#options = { depth: 8, blocksPerWriteMax: BLOCKS_PER_WRITE_MAX, ...options };
    this.#random = seededRandom(options.seed);
    this.#acknowledged = new Uint32Array(options.blocks);
    this.#sent = new Uint32Array(options.blocks);
    this.#busy = new Uint8Array(options.blocks);
  }

  /** Writes in flight at once. */
  get depth(): number {
    return this.#options.depth;
  }

  start(client: NbdClient): void {
    this.#isWriting = true;
    this.#writers = Array.from({ length: this.#options.depth }, () => this.#run(client));
  }

  /** Resolves when nothing is in flight. */
  async stop(): Promise<void> {
    this.#isWriting = false;
    await Promise.all(this.#writers);
  }

  /** Writes every block once, in order. */
  async fill(client: NbdClient): Promise<void> {
    const step = this.#options.blocksPerWriteMax;
    for (let block = 0; block < this.#options.blocks; block += step) {
      await this.#writeBlocks(client, block, Math.min(step, this.#options.blocks - block));
    }
  }

  async #run(client: NbdClient): Promise<void> {
    try {
      while (this.#isWriting) await this.#writeSomewhere(client);
    } catch (error) {
      if (error instanceof NbdClosedError) return;
      this.errors.push(error instanceof Error ? error : new Error(String(error)));
    }
  }

  async #writeSomewhere(client: NbdClient): Promise<void> {
    const { blocks, blocksPerWriteMax } = this.#options;
    const first = Math.floor(this.#random() * blocks);
    const count = Math.min(blocks - first, 1 + Math.floor(this.#random() * blocksPerWriteMax));
    // Blocks with a write in flight are left alone: their content would depend on the order of two writes.
    if (this.#busy.subarray(first, first + count).some((busy) => busy === 1)) {
      await new Promise((resolve) => setImmediate(resolve));
      return;
    }
    this.#busy.fill(1, first, first + count);
    try {
      await this.#writeBlocks(client, first, count);
    } finally {
      this.#busy.fill(0, first, first + count);
    }
  }

  async #writeBlocks(client: NbdClient, first: number, count: number): Promise<void> {
    const version = ++this.#version;
    const data = Buffer.alloc(count * BLOCK_BYTES);
    for (let index = 0; index < count; index++) {
      fillBlock(data.subarray(index * BLOCK_BYTES, (index + 1) * BLOCK_BYTES), first + index, version);
    }
    this.#sent.fill(version, first, first + count);
    await client.write(first * BLOCK_BYTES, data);
    this.#acknowledged.fill(version, first, first + count);
    this.writesAcknowledged++;
  }

  /**
   * Reads everything. Returns what breaks the promise, empty when nothing does. What is there now is taken as acknowledged:
   * from here on a block may not fall back behind it.
   */
  async check(client: NbdClient): Promise<string[]> {
    const { blocks } = this.#options;
    const problems: string[] = [];
    const expected = Buffer.alloc(BLOCK_BYTES);
    for (let block = 0; block < blocks; block += BLOCKS_PER_WRITE_MAX) {
      const count = Math.min(BLOCKS_PER_WRITE_MAX, blocks - block);
      const data = await client.read(block * BLOCK_BYTES, count * BLOCK_BYTES);
      for (let index = 0; index < count; index++) {
        const actual = data.subarray(index * BLOCK_BYTES, (index + 1) * BLOCK_BYTES);
        const problem = this.#checkBlock(block + index, actual, expected);
        if (problem !== '') problems.push(problem);
      }
    }
    return problems;
  }

  #checkBlock(block: number, actual: Buffer, scratch: Buffer): string {
    const version = actual.readUInt32LE(0) === MAGIC ? actual.readUInt32LE(8) : 0;
    const [acknowledged, sent] = [this.#acknowledged[block] ?? 0, this.#sent[block] ?? 0];
    fillBlock(scratch, block, version);
    if (!actual.equals(scratch)) return `block ${block}: not a version of it`;
    if (version !== acknowledged && version !== sent) {
      return `block ${block}: version ${version}, acknowledged ${acknowledged}, last sent ${sent}`;
    }
    this.#acknowledged[block] = version;
    this.#sent[block] = version;
    return '';
  }
}

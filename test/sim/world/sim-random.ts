/**
 * The simulator's chance: sfc32, seeded. Two streams of one seed and label are equal; `fork` depends on the seed and the
 * label only, not on what was drawn before, so a new draw in one place leaves the others as they were.
 */
import { assert } from '../../../daemon/base/assert.js';
import type { Random } from '../../../daemon/ports/random.js';

const UINT32_COUNT = 2 ** 32;
const WARM_UP_ROUNDS = 16;
const FNV_OFFSET = 0x811c9dc5;
const FNV_PRIME = 0x01000193;

function hash(text: string): number {
  let value = FNV_OFFSET;
  for (let index = 0; index < text.length; index += 1) {
    value = Math.imul(value ^ text.charCodeAt(index), FNV_PRIME);
  }
  return value >>> 0;
}

const hexOf = (value: number): string => (value >>> 0).toString(16).padStart(8, '0');

export class SimRandom implements Random {
  readonly #seed: string;
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  constructor(seed: number | string) {
    this.#seed = String(seed);
    this.#a = hash(this.#seed);
    this.#b = hash(`b/${this.#seed}`);
    this.#c = hash(`c/${this.#seed}`);
    for (let round = 0; round < WARM_UP_ROUNDS; round += 1) this.uint32();
  }

  uint32(): number {
    const result = (this.#a + this.#b + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + result) | 0;
    return result >>> 0;
  }

  uuid(): string {
    const version = 0x4000 | (this.uint32() & 0x0fff);
    const variant = 0x8000 | (this.uint32() & 0x3fff);
    const middle = `${version.toString(16)}-${variant.toString(16)}`;
    const [first, second, third] = [hexOf(this.uint32()), hexOf(this.uint32()), hexOf(this.uint32())];
    return `${first}-${second.slice(0, 4)}-${middle}-${second.slice(4)}${third}`;
  }

  /** True with this probability, 0 to 1. */
  chance(probability: number): boolean {
    return this.uint32() < probability * UINT32_COUNT;
  }

  /** A whole number from 0 to `count` - 1. */
  below(count: number): number {
    assert(Number.isInteger(count) && count > 0 && count <= UINT32_COUNT, 'a range has 1 to 2^32 numbers');
    return Math.floor((this.uint32() / UINT32_COUNT) * count);
  }

  /** Uniform in [low, high). */
  between(low: number, high: number): number {
    return low + (this.uint32() / UINT32_COUNT) * (high - low);
  }

  pick<T>(items: readonly T[]): T {
    const item = items[this.below(items.length)];
    assert(item !== undefined, 'there is something to pick');
    return item;
  }

  fork(label: string): SimRandom {
    return new SimRandom(`${this.#seed}/${label}`);
  }
}

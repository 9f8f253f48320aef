/**
 * Which slots of a drive are in use: one bit each, and one summary bit per 32 slots so that a nearly full drive is searched fast.
 *
 * Invariants (assertConsistent):
 * - slot 0 is in use for ever (it means "none");
 * - a summary bit is set exactly when all 32 slots below it are in use;
 * - `freeSlots` is the number of clear bits below `slotCount`; bits at or above it are set.
 */
import { assert } from '../base/assert.js';

const FULL = 0xffff_ffff;

export class SlotAllocator {
  readonly slotCount: number;
  readonly #words: Uint32Array;
  readonly #full: Uint32Array;
  #freeSlots: number;
  #cursor = 1;

  constructor(slotCount: number) {
    assert(slotCount >= 2, 'a drive has at least one slot beside slot 0');
    this.slotCount = slotCount;
    this.#words = new Uint32Array(Math.ceil(slotCount / 32));
    this.#full = new Uint32Array(Math.ceil(this.#words.length / 32));
    this.#freeSlots = slotCount;
    this.#set(0);
    for (let slot = slotCount; slot < this.#words.length * 32; slot++) this.#setBit(slot);
    for (let word = this.#words.length; word < this.#full.length * 32; word++) this.#setFull(word);
  }

  get freeSlots(): number {
    return this.#freeSlots;
  }

  isUsed(slot: number): boolean {
    return (((this.#words[slot >>> 5] as number) >>> (slot & 31)) & 1) === 1;
  }

  /** Marks a slot that the drive's metadata names; false when it is out of range or already in use. */
  claim(slot: number): boolean {
    if (slot <= 0 || slot >= this.slotCount || this.isUsed(slot)) return false;
    this.#set(slot);
    return true;
  }

  /** A free slot, `near` itself or the next one after it where possible (0: after the one allocated last); 0 when there is none. */
  allocate(near: number): number {
    if (this.#freeSlots === 0) return 0;
    const start = near > 0 && near < this.slotCount ? near : this.#cursor;
    const slot = this.#search(start);
    assert(slot !== 0 && !this.isUsed(slot), 'a free slot is found when there is one');
    this.#set(slot);
    this.#cursor = slot + 1 < this.slotCount ? slot + 1 : 1;
    return slot;
  }

  /** The slot reads as zeros, durably, and nothing names it any more. */
  free(slot: number): void {
    assert(slot > 0 && slot < this.slotCount && this.isUsed(slot), 'only a slot in use is freed');
    const word = slot >>> 5;
    this.#words[word] = (this.#words[word] as number) & ~(1 << (slot & 31));
    this.#full[word >>> 5] = (this.#full[word >>> 5] as number) & ~(1 << (word & 31));
    this.#freeSlots++;
  }

  assertConsistent(): void {
    assert(this.isUsed(0), 'slot 0 is never free');
    let free = 0;
    for (let slot = 0; slot < this.slotCount; slot++) if (!this.isUsed(slot)) free++;
    assert(free === this.#freeSlots, 'the number of free slots is the number of clear bits');
    for (const [word, bits] of this.#words.entries()) {
      const isFull = (((this.#full[word >>> 5] as number) >>> (word & 31)) & 1) === 1;
      assert(isFull === (bits === FULL), 'a summary bit is set exactly when its word is full');
    }
  }

  #set(slot: number): void {
    this.#setBit(slot);
    this.#freeSlots--;
  }

  #setBit(slot: number): void {
    const word = slot >>> 5;
    const bits = ((this.#words[word] as number) | (1 << (slot & 31))) >>> 0;
    this.#words[word] = bits;
    if (bits === FULL) this.#setFull(word);
  }

  #setFull(word: number): void {
    this.#full[word >>> 5] = (this.#full[word >>> 5] as number) | (1 << (word & 31));
  }

  #search(start: number): number {
    const startWord = start >>> 5;
    const here = ~(this.#words[startWord] as number) & (FULL << (start & 31));
    if (here !== 0) return startWord * 32 + lowestBit(here);
    const word = this.#nextWord(startWord + 1) ?? this.#nextWord(0);
    if (word === null) return 0;
    return word * 32 + lowestBit(~(this.#words[word] as number));
  }

  /** The first word from `word` on that has a clear bit. */
  #nextWord(word: number): number | null {
    let index = word >>> 5;
    let candidates = index < this.#full.length ? ~(this.#full[index] as number) & (FULL << (word & 31)) : 0;
    while (candidates === 0) {
      index++;
      if (index >= this.#full.length) return null;
      candidates = ~(this.#full[index] as number);
    }
    return index * 32 + lowestBit(candidates);
  }
}

function lowestBit(bits: number): number {
  return 31 - Math.clz32(bits & -bits);
}

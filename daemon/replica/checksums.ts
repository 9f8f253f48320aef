/**
 * Block checksums in memory, an entry per region (32 extents x 32 blocks): those of every hot region, which the drive's metadata
 * does not have right (DISK.md), and a bounded number of cold ones that were read lately.
 *
 * An extent's checksums are loaded from its record at first touch, are authoritative here from then on, and are written back when its region cools.
 *
 * Invariants (assertConsistent):
 * - every entry is free, pinned (its region is not cold), or in the list of cold entries, which has at most `coldRegionsMax`;
 * - an entry and its region name each other;
 * - only pinned entries have extents that differ from their records;
 * - a block's checksum is known, or expected, or neither.
 */
import { assert, must } from '../base/assert.js';
import { ZERO_BLOCK_CRC32C } from '../base/crc32c.js';
import { BLOCKS_PER_EXTENT, EXTENTS_PER_REGION } from '../base/units.js';
import { encodeExtent, extentChecksum, extentKnown } from '../format/records.js';
import { regionOf, type Replica } from './replica.js';

const BLOCKS_PER_REGION = BLOCKS_PER_EXTENT * EXTENTS_PER_REGION;
const ALL = 0xffff_ffff;
/** No entry; also the head of the list of cold entries. */
const NONE = 0;

export interface ChecksumTableOptions {
  readonly hotRegionsMax: number;
  readonly coldRegionsMax: number;
  /** The extent's record on the drive, or null; valid until the next call. */
  readonly recordOf: (replica: Replica, extent: number) => Uint8Array | null;
}

export class ChecksumTable {
  readonly #options: ChecksumTableOptions;
  readonly #entriesMax: number;
  /** Memory is touched, hence used, only as entries are. */
  readonly #checksums: Uint32Array;
  /** Per extent: which of its blocks' checksums are known. */
  readonly #known: Uint32Array;
  /**
   * Per extent: which of its blocks have a checksum from before a crash. Data that matches it was not written since, and is right: then it is
   * known. Data that does not was written shortly before the crash, or has rotted: nobody can tell here.
   */
  readonly #expected: Uint32Array;
  /** Per entry, a bit per extent: what is here counts, not what the record says. */
  readonly #loaded: Uint32Array;
  /** Per entry, a bit per extent: the record says something else. */
  readonly #dirty: Uint32Array;
  /** Per entry: it was hot when the drive was lost. */
  readonly #restored: Uint8Array;
  readonly #pinned: Uint8Array;
  readonly #region: Uint32Array;
  readonly #replica: (Replica | null)[];
  readonly #next: Uint16Array;
  readonly #previous: Uint16Array;
  /** Entries that were used and are free again come first: their memory is there already. */
  readonly #freed: number[] = [];
  #unused = 1;
  #coldCount = 0;
  /** The last `firstMismatch` found none, and the checksums of all its blocks are known. */
  wasVerified = false;

  constructor(options: ChecksumTableOptions) {
    const count = options.hotRegionsMax + options.coldRegionsMax + 1;
    assert(
      count <= 0xffff && options.coldRegionsMax > 0,
      'entries are named by 16 bits, and a cold region can be read',
    );
    this.#options = options;
    this.#entriesMax = count;
    this.#checksums = new Uint32Array(count * BLOCKS_PER_REGION);
    this.#known = new Uint32Array(count * EXTENTS_PER_REGION);
    this.#expected = new Uint32Array(count * EXTENTS_PER_REGION);
    this.#loaded = new Uint32Array(count);
    this.#dirty = new Uint32Array(count);
    this.#restored = new Uint8Array(count);
    this.#pinned = new Uint8Array(count);
    this.#region = new Uint32Array(count);
    this.#replica = new Array<Replica | null>(count).fill(null);
    this.#next = new Uint16Array(count);
    this.#previous = new Uint16Array(count);
  }

  /** The region leaves the cold state. */
  pin(replica: Replica, region: number): void {
    const entry = this.#entryOf(replica, region);
    assert(this.#pinned[entry] === 0, 'a region becomes hot once');
    this.#unlink(entry);
    this.#pinned[entry] = 1;
  }

  /** The region was hot when the drive was lost: its records' checksums are those of blocks that were not written since, at best. */
  pinUnknown(replica: Replica, region: number): void {
    this.pin(replica, region);
    const entry = replica.checksumEntries[region] as number;
    assert(this.#loaded[entry] === 0, 'nothing was read from a drive that is being opened');
    this.#restored[entry] = 1;
    this.#dirty[entry] = ALL;
  }

  /** The region is cold again, and its extents' records say what is here. */
  unpin(replica: Replica, region: number): void {
    const entry = replica.checksumEntries[region] as number;
    assert(entry !== NONE && this.#pinned[entry] === 1, 'a hot region is pinned');
    this.#pinned[entry] = 0;
    this.#dirty[entry] = 0;
    this.#expected.fill(0, entry * EXTENTS_PER_REGION, (entry + 1) * EXTENTS_PER_REGION);
    this.#restored[entry] = 0;
    if (this.#coldCount >= this.#options.coldRegionsMax) this.#evictOldest();
    this.#append(entry);
  }

  /** Takes over checksums of `count` blocks that are about to be written to a hot region. */
  record(replica: Replica, extent: number, block: number, count: number, from: Uint32Array, fromIndex: number): void {
    const item = this.#dirtyItem(replica, extent);
    const target = item * BLOCKS_PER_EXTENT + block;
    for (let index = 0; index < count; index++) this.#checksums[target + index] = from[fromIndex + index] as number;
    this.#know(item, mask(block, count));
  }

  recordZeros(replica: Replica, extent: number, block: number, count: number): void {
    const item = this.#dirtyItem(replica, extent);
    const target = item * BLOCKS_PER_EXTENT + block;
    this.#checksums.fill(ZERO_BLOCK_CRC32C, target, target + count);
    this.#know(item, mask(block, count));
  }

  /** A write to the blocks failed: nobody knows what they hold. */
  forget(replica: Replica, extent: number, block: number, count: number): void {
    const item = this.#dirtyItem(replica, extent);
    this.#known[item] = (this.#known[item] as number) & ~mask(block, count);
    this.#expected[item] = (this.#expected[item] as number) & ~mask(block, count);
  }

  /** The extent has a new slot, which reads as zeros. */
  reset(replica: Replica, extent: number): void {
    this.recordZeros(replica, extent, 0, BLOCKS_PER_EXTENT);
  }

  /** The first of `count` blocks whose checksum, as read, is not the one that it was written with; -1: none. */
  firstMismatch(
    replica: Replica,
    extent: number,
    block: number,
    count: number,
    from: Uint32Array,
    fromIndex: number,
  ): number {
    const item = this.#item(replica, extent);
    const known = this.#known[item] as number;
    const expected = this.#expected[item] as number;
    const target = item * BLOCKS_PER_EXTENT + block;
    for (let index = 0; index < count; index++) {
      const bit = 1 << (block + index);
      if (((known | expected) & bit) === 0) continue;
      const isSame = this.#checksums[target + index] === from[fromIndex + index];
      if ((expected & bit) === 0 && !isSame) return block + index;
      if ((expected & bit) !== 0 && isSame) this.#know(item, bit);
    }
    const compared = mask(block, count);
    this.wasVerified = ((this.#known[item] as number) & compared) >>> 0 === compared;
    return -1;
  }

  /** Which of the extent's checksums are known, a bit each; puts those into `to`. Loads nothing: what is cold stays as it is. */
  peek(replica: Replica, extent: number, to: Uint32Array): number {
    if (replica.checksumEntries[regionOf(extent)] === NONE) {
      const record = this.#options.recordOf(replica, extent);
      if (record === null) return 0;
      for (let block = 0; block < BLOCKS_PER_EXTENT; block++) to[block] = extentChecksum(record, block);
      return extentKnown(record);
    }
    const item = this.#item(replica, extent);
    to.set(this.#checksums.subarray(item * BLOCKS_PER_EXTENT, (item + 1) * BLOCKS_PER_EXTENT));
    return this.#known[item] as number;
  }

  /** Blocks whose checksums are not known have these: all copies are equal. In a cold region the caller has the record say so, too. */
  learn(replica: Replica, extent: number, checksums: Uint32Array): void {
    const item = this.#item(replica, extent);
    const entry = replica.checksumEntries[regionOf(extent)] as number;
    const target = item * BLOCKS_PER_EXTENT;
    for (let block = 0; block < BLOCKS_PER_EXTENT; block++) {
      if ((((this.#known[item] as number) >>> block) & 1) === 0)
        this.#checksums[target + block] = checksums[block] as number;
    }
    this.#know(item, ALL);
    if (this.#pinned[entry] === 1)
      this.#dirty[entry] = (this.#dirty[entry] as number) | (1 << (extent % EXTENTS_PER_REGION));
  }

  /** Whether the extent's record has to be written when its region cools. */
  isDirty(replica: Replica, extent: number): boolean {
    const entry = replica.checksumEntries[regionOf(extent)] as number;
    return entry !== NONE && (((this.#dirty[entry] as number) >>> (extent % EXTENTS_PER_REGION)) & 1) === 1;
  }

  /** The extent's record as its head and its checksums are now. */
  encodeRecord(replica: Replica, extent: number): Uint8Array {
    const item = this.#item(replica, extent);
    const known = this.#known[item] as number;
    const checksumIndex = item * BLOCKS_PER_EXTENT;
    return encodeExtent(replica.slotOf(extent), replica.stampOf(extent), known, this.#checksums, checksumIndex);
  }

  /** The replica goes away. */
  drop(replica: Replica): void {
    for (let region = 0; region < replica.regionCount; region++) {
      const entry = replica.checksumEntries[region] as number;
      if (entry === NONE) continue;
      if (this.#pinned[entry] === 0) this.#unlink(entry);
      this.#free(entry, replica, region);
    }
  }

  assertConsistent(): void {
    let cold = 0;
    for (let entry = this.#next[NONE] as number; entry !== NONE; entry = this.#next[entry] as number) {
      assert(this.#pinned[entry] === 0, 'an entry in the list of cold ones is not pinned');
      assert(this.#dirty[entry] === 0, 'a cold entry says what the records say');
      cold++;
    }
    let used = 0;
    for (let entry = 1; entry < this.#entriesMax; entry++) {
      const replica = this.#replica[entry] ?? null;
      if (replica === null) continue;
      used++;
      for (let item = entry * EXTENTS_PER_REGION; item < (entry + 1) * EXTENTS_PER_REGION; item++) {
        if ((((this.#loaded[entry] as number) >>> (item % EXTENTS_PER_REGION)) & 1) === 0) continue;
        assert(
          ((this.#known[item] as number) & (this.#expected[item] as number)) === 0,
          'what is known is not expected',
        );
      }
      if (this.#pinned[entry] === 1) cold++;
      assert(
        replica.checksumEntries[this.#region[entry] as number] === entry,
        'an entry and its region name each other',
      );
    }
    assert(cold === used, 'every entry in use is either pinned or in the list of cold ones');
    assert(this.#coldCount <= this.#options.coldRegionsMax, 'cold entries are bounded');
    assert(used + this.#freed.length + 1 === this.#unused, 'every entry is free or in use');
  }

  /** Index of the extent in `#known`, its checksums loaded. */
  #item(replica: Replica, extent: number): number {
    const entry = this.#entryOf(replica, regionOf(extent));
    const index = extent % EXTENTS_PER_REGION;
    const item = entry * EXTENTS_PER_REGION + index;
    if ((((this.#loaded[entry] as number) >>> index) & 1) === 0) this.#load(replica, extent, entry, item);
    return item;
  }

  #dirtyItem(replica: Replica, extent: number): number {
    const item = this.#item(replica, extent);
    const entry = replica.checksumEntries[regionOf(extent)] as number;
    assert(this.#pinned[entry] === 1, 'checksums change only in hot regions');
    this.#dirty[entry] = (this.#dirty[entry] as number) | (1 << (extent % EXTENTS_PER_REGION));
    return item;
  }

  #load(replica: Replica, extent: number, entry: number, item: number): void {
    this.#loaded[entry] = (this.#loaded[entry] as number) | (1 << (extent % EXTENTS_PER_REGION));
    const record = this.#options.recordOf(replica, extent);
    const stored = record === null ? 0 : extentKnown(record);
    const isRestored = this.#restored[entry] === 1;
    this.#known[item] = isRestored ? 0 : stored;
    this.#expected[item] = isRestored ? stored : 0;
    if (record === null) return;
    const target = item * BLOCKS_PER_EXTENT;
    for (let block = 0; block < BLOCKS_PER_EXTENT; block++) {
      this.#checksums[target + block] = extentChecksum(record, block);
    }
  }

  #know(item: number, blocks: number): void {
    this.#known[item] = (this.#known[item] as number) | blocks;
    this.#expected[item] = (this.#expected[item] as number) & ~blocks;
  }

  /** The region's entry, made if there is none; a cold one becomes the one used last. */
  #entryOf(replica: Replica, region: number): number {
    const found = replica.checksumEntries[region] as number;
    if (found !== NONE) {
      if (this.#pinned[found] === 0 && this.#previous[NONE] !== found) {
        this.#unlink(found);
        this.#append(found);
      }
      return found;
    }
    if (this.#coldCount >= this.#options.coldRegionsMax) this.#evictOldest();
    const entry = this.#freed.pop() ?? this.#unused++;
    assert(entry < this.#entriesMax, 'there is an entry for every hot region and the bounded number of cold ones');
    this.#replica[entry] = replica;
    this.#region[entry] = region;
    this.#loaded[entry] = 0;
    this.#dirty[entry] = 0;
    this.#pinned[entry] = 0;
    this.#restored[entry] = 0;
    replica.setChecksumEntry(region, entry);
    this.#append(entry);
    return entry;
  }

  #evictOldest(): void {
    const entry = this.#next[NONE] as number;
    assert(entry !== NONE, 'there is a cold entry to evict');
    this.#unlink(entry);
    this.#free(entry, must(this.#replica[entry], 'the replica of a cold entry'), this.#region[entry] as number);
  }

  #free(entry: number, replica: Replica, region: number): void {
    replica.setChecksumEntry(region, NONE);
    this.#replica[entry] = null;
    this.#pinned[entry] = 0;
    this.#freed.push(entry);
  }

  #append(entry: number): void {
    const last = this.#previous[NONE] as number;
    this.#next[last] = entry;
    this.#previous[entry] = last;
    this.#next[entry] = NONE;
    this.#previous[NONE] = entry;
    this.#coldCount++;
  }

  #unlink(entry: number): void {
    const next = this.#next[entry] as number;
    const previous = this.#previous[entry] as number;
    this.#next[previous] = next;
    this.#previous[next] = previous;
    this.#coldCount--;
  }
}

function mask(block: number, count: number): number {
  return count === BLOCKS_PER_EXTENT ? ALL : ((2 ** count - 1) << block) >>> 0;
}

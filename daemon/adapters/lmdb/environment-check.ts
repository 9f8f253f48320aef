/**
 * Decides whether LMDB may be let loose on a data file. LMDB maps the file and trusts it: a page that is not there is
 * a SIGBUS, and garbage may be anything. So before it is opened:
 *
 * - both meta pages must have their magic, version and flags, and roots inside the file (LMDB writes them in turn, so a
 *   crash damages neither), and the roots must be pages of a tree;
 * - every page in use must be there, be readable, be what its place in the tree demands, be used once, and have its nodes inside.
 *
 * So all of a drive's metadata is read once, in the order of the file, before it is used: that finds unreadable pages while they are
 * errors and not signals, and brings into memory what is read next anyway. A file that other processes write to while it is looked at (`isShared`)
 * would seem damaged too often: there only the roots are looked at, and everything only when the file ends before the last page allocated (which may rightly be
 * free). Pages carry no checksums: damage inside keys and values is for their readers to find.
 *
 * ```
 * page      number u64 · txn u64 · pad u16 · flags u16 · lower u16 · upper u16 · node offsets u16[] (from 24) …
 * meta page page header · magic u32 · version u32 · address u64 · map bytes u64 · free tree 48 B · main tree 48 B ·
 *           last page u64 · txn u64
 * tree      page bytes u32 · flags u16 · depth u16 · branch, leaf, overflow pages u64 each · entries u64 · root u64
 * node      low u16 · high u16 · flags u16 · key bytes u16 · key · (leaf) data bytes = high:low, data
 *           (branch) child page = flags:high:low; (leaf with F_BIGDATA) data = first page u64 · txn u64 · pages u64
 * ```
 */
import { open, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { asError, BraidError } from '../../base/errors.js';

export const DATA_FILE = 'data.mdb';

const META_MAGIC = 0xbeefc0de;
const META_VERSION = 2;
const PAGE_HEADER_BYTES = 24;
const FLAGS_OFFSET = 18;
const LOWER_OFFSET = 20;
const UPPER_OFFSET = 22;
const META_BYTES = 168;
const FREE_TREE_OFFSET = 48;
const MAIN_TREE_OFFSET = 96;
const TREE_PAGE_BYTES_OFFSET = 0;
const TREE_DEPTH_OFFSET = 6;
const TREE_ROOT_OFFSET = 40;
const LAST_PAGE_OFFSET = 144;
const TXN_OFFSET = 152;
const NO_PAGE = 0xffff_ffff_ffff_ffffn;
const PAGE_FLAG = { branch: 0x01, leaf: 0x02, tree: 0x03, overflow: 0x04, meta: 0x08 } as const;
/** The bits that say what a page is. */
const TREE_FLAGS = 0x6f;
/** The first two are meta pages. */
const FIRST_PAGE = 2;
const NODE_HEADER_BYTES = 8;
const NODE_BIGDATA = 0x01;
/** What a node of large data has in its place. */
const OVERFLOW_BYTES = 24;
const CHUNK_BYTES = 1_048_576;
const GAP_PAGES_MAX = 8;
const PAGE_BYTES_MIN = 512;
const PAGE_BYTES_MAX = 65_536;
/** A tree of LMDB is at most this deep (CURSOR_STACK). */
const DEPTH_MAX = 32;

interface Meta {
  readonly txn: bigint;
  readonly pageBytes: number;
  readonly lastPage: number;
  /** The free tree and the main tree; the root is null where a tree is empty. */
  readonly trees: ReadonlyArray<{ readonly root: number | null; readonly depth: number }>;
}

class Damage extends Error {}

function damaged(directory: string, what: string, cause?: unknown): BraidError {
  const advice =
    'keep a copy of it, then restore it from a backup, or remove the directory and add it anew so that it is filled from other copies';
  return new BraidError('DRIVE', `${join(directory, DATA_FILE)} is damaged: ${what}; ${advice}`, { cause });
}

function pageNumber(page: Buffer, offset: number): number {
  const value = page.readBigUInt64LE(offset);
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new Damage('a page number is out of range');
  return Number(value);
}

function parseRoot(page: Buffer, offset: number): number | null {
  return page.readBigUInt64LE(offset + TREE_ROOT_OFFSET) === NO_PAGE
    ? null
    : pageNumber(page, offset + TREE_ROOT_OFFSET);
}

function parseMeta(page: Buffer): Meta {
  if (page.length < META_BYTES) throw new Damage('it is shorter than its header');
  if ((page.readUInt16LE(FLAGS_OFFSET) & PAGE_FLAG.meta) === 0 || page.readUInt32LE(PAGE_HEADER_BYTES) !== META_MAGIC) {
    throw new Damage('its header is not that of an LMDB file');
  }
  const version = page.readUInt32LE(PAGE_HEADER_BYTES + 4) & 0xffff;
  if (version !== META_VERSION) throw new Damage(`it has LMDB data version ${version}, not ${META_VERSION}`);
  const pageBytes = page.readUInt32LE(FREE_TREE_OFFSET + TREE_PAGE_BYTES_OFFSET);
  if (pageBytes < PAGE_BYTES_MIN || pageBytes > PAGE_BYTES_MAX || (pageBytes & (pageBytes - 1)) !== 0) {
    throw new Damage(`its page size is ${pageBytes}`);
  }
  const meta: Meta = {
    txn: page.readBigUInt64LE(TXN_OFFSET),
    pageBytes,
    lastPage: pageNumber(page, LAST_PAGE_OFFSET),
    trees: [FREE_TREE_OFFSET, MAIN_TREE_OFFSET].map((offset) => ({
      root: parseRoot(page, offset),
      depth: page.readUInt16LE(offset + TREE_DEPTH_OFFSET),
    })),
  };
  for (const { root } of meta.trees)
    if (root !== null && root > meta.lastPage) throw new Damage('a root is out of range');
  return meta;
}

async function readAt(file: FileHandle, offset: number, length: number): Promise<Buffer> {
  const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, offset);
  return buffer.subarray(0, bytesRead);
}

/** A run of pages that are read together. */
interface Run {
  readonly first: number;
  readonly count: number;
}

/** Visits every page in use, level by level from the roots; throws `Damage` at the first that is missing or is not what it should be. */
class TreeWalk {
  readonly #file: FileHandle;
  readonly #meta: Meta;
  readonly #filePages: number;
  /** A bit per page. */
  readonly #used: Uint8Array;
  readonly #chunk: Buffer;

  constructor(file: FileHandle, meta: Meta, fileBytes: number) {
    this.#file = file;
    this.#meta = meta;
    this.#filePages = Math.floor(fileBytes / meta.pageBytes);
    this.#used = new Uint8Array(Math.ceil(this.#filePages / 8));
    this.#chunk = Buffer.alloc(Math.max(CHUNK_BYTES, meta.pageBytes));
  }

  /** Looks at the roots alone. */
  async visitRoots(): Promise<void> {
    for (const { root } of this.#meta.trees) if (root !== null) await this.#visitPages([root], () => undefined);
  }

  async visitAll(): Promise<void> {
    for (const { root, depth } of this.#meta.trees) if (root !== null) await this.#visitTree(root, depth);
  }

  async #visitTree(root: number, depth: number): Promise<void> {
    if (depth < 1 || depth > DEPTH_MAX) throw new Damage(`a tree has ${depth} levels`);
    let level = [root];
    const overflows: Run[] = [];
    for (let height = depth; height > 0; height -= 1) {
      const children: number[] = [];
      const wanted = height === 1 ? PAGE_FLAG.leaf : PAGE_FLAG.branch;
      await this.#visitPages(level, (page, number) => {
        if ((page.readUInt16LE(FLAGS_OFFSET) & TREE_FLAGS) !== wanted) throw new Damage(`page ${number} is garbage`);
        this.#visitNodes(page, number, height === 1 ? overflows : null, children);
      });
      level = children;
    }
    await this.#visitOverflows(overflows);
  }

  #take(first: number, count: number): void {
    if (first < FIRST_PAGE || count < 1 || first + count > this.#filePages)
      throw new Damage(`page ${first} is cut off (${this.#filePages} pages are there)`);
    for (let number = first; number < first + count; number += 1) {
      const [byte, bit] = [number >> 3, 1 << (number & 7)];
      if (((this.#used[byte] ?? 0) & bit) !== 0) throw new Damage(`page ${number} is used twice`);
      this.#used[byte] = (this.#used[byte] ?? 0) | bit;
    }
  }

  /** In the order of the file, neighbours together: a large file is read about as fast as the drive can. */
  async #visitPages(numbers: readonly number[], visit: (page: Buffer, number: number) => void): Promise<void> {
    for (const number of numbers) this.#take(number, 1);
    const ordered = Float64Array.from(numbers).sort();
    const { pageBytes } = this.#meta;
    const pagesPerChunk = Math.floor(this.#chunk.length / pageBytes);
    for (let at = 0; at < ordered.length;) {
      const first = ordered[at] ?? 0;
      let end = at + 1;
      while (end < ordered.length && (ordered[end] ?? 0) < first + pagesPerChunk && isNear(ordered, end)) end += 1;
      const count = (ordered[end - 1] ?? 0) - first + 1;
      const { bytesRead } = await this.#file.read(this.#chunk, 0, count * pageBytes, first * pageBytes);
      if (bytesRead < count * pageBytes) throw new Damage(`page ${first} is cut off`);
      for (; at < end; at += 1) {
        const number = ordered[at] ?? 0;
        const page = this.#chunk.subarray((number - first) * pageBytes, (number - first + 1) * pageBytes);
        if ((page.readUInt16LE(FLAGS_OFFSET) & TREE_FLAGS & PAGE_FLAG.tree) === 0 || pageNumber(page, 0) !== number)
          throw new Damage(`page ${number} is garbage`);
        visit(page, number);
      }
    }
  }

  /** Every node lies inside its page. `overflows` null: of a branch. */
  #visitNodes(page: Buffer, number: number, overflows: Run[] | null, children: number[]): void {
    const garbage = () => new Damage(`page ${number} is garbage`);
    // `lower`, `upper` and the node offsets count from the end of the page header.
    const lower = page.readUInt16LE(LOWER_OFFSET);
    const upper = page.readUInt16LE(UPPER_OFFSET);
    if (lower < 2 || lower % 2 !== 0 || lower > upper || upper + PAGE_HEADER_BYTES > page.length) throw garbage();
    for (let index = 0; index < lower >> 1; index += 1) {
      const node = word(page, PAGE_HEADER_BYTES + 2 * index) + PAGE_HEADER_BYTES;
      if (node < upper + PAGE_HEADER_BYTES || node + NODE_HEADER_BYTES > page.length) throw garbage();
      const data = node + NODE_HEADER_BYTES + word(page, node + 6);
      if (data > page.length) throw garbage();
      const low = word(page, node) + word(page, node + 2) * 2 ** 16;
      const flags = word(page, node + 4);
      if (overflows === null) {
        children.push(low + flags * 2 ** 32);
        continue;
      }
      if (flags === 0 && data + low <= page.length) continue;
      if (flags !== NODE_BIGDATA || data + OVERFLOW_BYTES > page.length) throw garbage();
      const run = { first: pageNumber(page, data), count: pageNumber(page, data + 16) };
      if (low > run.count * this.#meta.pageBytes - PAGE_HEADER_BYTES) throw garbage();
      overflows.push(run);
    }
  }

  async #visitOverflows(runs: readonly Run[]): Promise<void> {
    for (const { first, count } of runs) {
      this.#take(first, count);
      const page = await readAt(this.#file, first * this.#meta.pageBytes, PAGE_HEADER_BYTES);
      const isOverflow = (page.readUInt16LE(FLAGS_OFFSET) & TREE_FLAGS) === PAGE_FLAG.overflow;
      if (!isOverflow || pageNumber(page, 0) !== first) throw new Damage(`page ${first} is garbage`);
    }
  }
}

/** There are millions of nodes: quicker than `readUInt16LE`, which looks at its arguments. */
function word(page: Buffer, offset: number): number {
  return (page[offset] as number) | ((page[offset + 1] as number) << 8);
}

/** Reading on is cheaper than another read. */
function isNear(ordered: Float64Array, index: number): boolean {
  return (ordered[index] ?? 0) - (ordered[index - 1] ?? 0) <= GAP_PAGES_MAX;
}

async function checkFile(file: FileHandle, isShared: boolean): Promise<void> {
  const first = parseMeta(await readAt(file, 0, META_BYTES));
  const second = parseMeta(await readAt(file, first.pageBytes, META_BYTES));
  if (second.pageBytes !== first.pageBytes) throw new Damage('its two headers disagree');
  const newest = first.txn > second.txn ? first : second;
  const { size } = await file.stat();
  const walk = new TreeWalk(file, newest, size);
  const isShort = size < (newest.lastPage + 1) * newest.pageBytes;
  await (isShared && !isShort ? walk.visitRoots() : walk.visitAll());
}

/**
 * `'absent'` when the directory has no data file, or an empty one; `'sound'` when LMDB may open it. Rejects with
 * `BraidError` DRIVE when it is damaged or cannot be read. While others write to it, a sound file may look damaged: look again.
 */
export async function checkEnvironment(directory: string, isShared: boolean): Promise<'absent' | 'sound'> {
  let file: FileHandle;
  try {
    file = await open(join(directory, DATA_FILE), 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 'absent';
    throw damaged(directory, asError(error).message, error);
  }
  try {
    if ((await file.stat()).size === 0) return 'absent';
    await checkFile(file, isShared);
    return 'sound';
  } catch (error) {
    throw damaged(directory, asError(error).message, error);
  } finally {
    await file.close();
  }
}

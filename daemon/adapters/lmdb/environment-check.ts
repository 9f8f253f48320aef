/**
 * Decides whether LMDB may be let loose on a data file. LMDB maps the file and trusts it: a page that is not there is
 * a SIGBUS, and garbage may be anything. So before it is opened:
 *
 * - both meta pages must have their magic, version and flags, and roots inside the file (LMDB writes them in turn, so a
 *   crash damages neither), and the roots must be pages of a tree;
 * - the file must hold every page in use. The meta page has the last page *allocated*; the file may rightly end before
 *   it when the last pages are free. Only when it does, the trees are walked to see if a page in use is missing.
 *
 * Pages carry no checksums: damage below the root of a tree whose length is right is not found here.
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
const META_BYTES = 168;
const FREE_TREE_OFFSET = 48;
const MAIN_TREE_OFFSET = 96;
const TREE_PAGE_BYTES_OFFSET = 0;
const TREE_ROOT_OFFSET = 40;
const LAST_PAGE_OFFSET = 144;
const TXN_OFFSET = 152;
const NO_PAGE = 0xffff_ffff_ffff_ffffn;
const PAGE_FLAG = { branch: 0x01, leaf: 0x02, meta: 0x08 } as const;
const NODE_HEADER_BYTES = 8;
const NODE_BIGDATA = 0x01;
const PAGE_BYTES_MIN = 512;
const PAGE_BYTES_MAX = 65_536;
/** A tree of LMDB is at most this deep (CURSOR_STACK). */
const DEPTH_MAX = 32;

interface Meta {
  readonly txn: bigint;
  readonly pageBytes: number;
  readonly lastPage: number;
  /** Pages at the top of the free tree and of the main tree; null for an empty tree. */
  readonly roots: ReadonlyArray<number | null>;
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
    roots: [parseRoot(page, FREE_TREE_OFFSET), parseRoot(page, MAIN_TREE_OFFSET)],
  };
  for (const root of meta.roots) if (root !== null && root > meta.lastPage) throw new Damage('a root is out of range');
  return meta;
}

async function readAt(file: FileHandle, offset: number, length: number): Promise<Buffer> {
  const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, offset);
  return buffer.subarray(0, bytesRead);
}

/** Visits every page in use, from the roots; throws `Damage` at the first that is missing or is not what it should be. */
class TreeWalk {
  readonly #file: FileHandle;
  readonly #meta: Meta;
  readonly #filePages: number;
  #visited = 0;

  constructor(file: FileHandle, meta: Meta, fileBytes: number) {
    this.#file = file;
    this.#meta = meta;
    this.#filePages = Math.floor(fileBytes / meta.pageBytes);
  }

  /** Looks at the roots alone. */
  async visitRoots(): Promise<void> {
    for (const root of this.#meta.roots) if (root !== null) await this.#readPage(root);
  }

  async visitAll(): Promise<void> {
    for (const root of this.#meta.roots) if (root !== null) await this.#visit(root, 1);
  }

  #requirePages(first: number, count: number): void {
    if (first + count > this.#filePages)
      throw new Damage(`page ${first} is cut off (${this.#filePages} pages are there)`);
  }

  async #readPage(number: number): Promise<Buffer> {
    this.#requirePages(number, 1);
    const page = await readAt(this.#file, number * this.#meta.pageBytes, this.#meta.pageBytes);
    const isTreePage = (page.readUInt16LE(FLAGS_OFFSET) & (PAGE_FLAG.branch | PAGE_FLAG.leaf)) !== 0;
    if (!isTreePage || pageNumber(page, 0) !== number) throw new Damage(`page ${number} is garbage`);
    return page;
  }

  async #visit(number: number, depth: number): Promise<void> {
    this.#visited += 1;
    if (this.#visited > this.#filePages || depth > DEPTH_MAX) throw new Damage('its pages form a loop');
    const page = await this.#readPage(number);
    const isBranch = (page.readUInt16LE(FLAGS_OFFSET) & PAGE_FLAG.branch) !== 0;
    // `lower` and the node offsets count from the end of the page header.
    const nodeCount = page.readUInt16LE(LOWER_OFFSET) >> 1;
    for (let index = 0; index < nodeCount; index += 1) {
      const node = page.readUInt16LE(PAGE_HEADER_BYTES + 2 * index) + PAGE_HEADER_BYTES;
      if (node + NODE_HEADER_BYTES > page.length) throw new Damage(`page ${number} is garbage`);
      if (isBranch) await this.#visit(this.#childOf(page, node), depth + 1);
      else this.#checkLeafNode(page, node, number);
    }
  }

  #childOf(page: Buffer, node: number): number {
    return page.readUInt32LE(node) + page.readUInt16LE(node + 4) * 2 ** 32;
  }

  #checkLeafNode(page: Buffer, node: number, number: number): void {
    if ((page.readUInt16LE(node + 4) & NODE_BIGDATA) === 0) return;
    const data = node + NODE_HEADER_BYTES + page.readUInt16LE(node + 6);
    if (data + 24 > page.length) throw new Damage(`page ${number} is garbage`);
    this.#requirePages(pageNumber(page, data), pageNumber(page, data + 16));
  }
}

async function checkFile(file: FileHandle): Promise<void> {
  const first = parseMeta(await readAt(file, 0, META_BYTES));
  const second = parseMeta(await readAt(file, first.pageBytes, META_BYTES));
  if (second.pageBytes !== first.pageBytes) throw new Damage('its two headers disagree');
  const newest = first.txn > second.txn ? first : second;
  const { size } = await file.stat();
  const walk = new TreeWalk(file, newest, size);
  await (size < (newest.lastPage + 1) * newest.pageBytes ? walk.visitAll() : walk.visitRoots());
}

/**
 * `'absent'` when the directory has no data file, or an empty one; `'sound'` when LMDB may open it. Rejects with
 * `BraidError` DRIVE when it is damaged or cannot be read. While others write to it, a sound file may look damaged: look again.
 */
export async function checkEnvironment(directory: string): Promise<'absent' | 'sound'> {
  let file: FileHandle;
  try {
    file = await open(join(directory, DATA_FILE), 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 'absent';
    throw damaged(directory, asError(error).message, error);
  }
  try {
    if ((await file.stat()).size === 0) return 'absent';
    await checkFile(file);
    return 'sound';
  } catch (error) {
    throw damaged(directory, asError(error).message, error);
  } finally {
    await file.close();
  }
}

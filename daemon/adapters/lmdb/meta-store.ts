/**
 * `MetaStore` on LMDB: one environment in one directory, used by one process at a time (`process-lock.ts`).
 *
 * Group commit: one LMDB transaction is in flight at a time; the commits called meanwhile share the next one. A group is
 * durable as a whole, in the order of the calls. LMDB's thread does the work; this thread only queues and reads.
 *
 * After a commit has failed the store takes no more: what is on the drive is a prefix of the commits that were called.
 */
import { mkdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { RangeOptions } from 'lmdb';
import { assert } from '../../base/assert.js';
import { asError, BraidError } from '../../base/errors.js';
import type { MetaOperation, MetaStore, MetaStoreOpener } from '../../ports/meta-store.js';
import { FileWatch } from '../file-watch.js';
import { acquireProcessLock, type ProcessLock } from '../process-lock.js';
import { DATA_FILE } from './environment-check.js';
import { commitFailure, KEY_BYTES_MAX, openEnvironment, type Environment } from './environment.js';

interface Commit {
  /** Own copies: LMDB's thread reads them after `commit` has returned. */
  readonly operations: readonly MetaOperation[];
  readonly done: (error: Error | null) => void;
}

/** A group ends here; it bounds the time that a commit waits for its neighbours: about 20 ms of LMDB's work. */
const OPERATIONS_PER_GROUP_MAX = 16_384;
const VIEWS_CACHED_MAX = 1_024;
/** Up to here a loop is quicker than a view for `set`, and makes no garbage. */
const COPY_BY_LOOP_BYTES_MAX = 512;

function copyOperations(operations: readonly MetaOperation[]): MetaOperation[] {
  let totalBytes = 0;
  for (const { key, value } of operations) {
    assert(key.length > 0 && key.length <= KEY_BYTES_MAX, `a key has 1 to ${KEY_BYTES_MAX} bytes`);
    totalBytes += key.length + (value?.length ?? 0);
  }
  const copy = new Uint8Array(totalBytes);
  let offset = 0;
  const take = (bytes: Uint8Array): Uint8Array => {
    copy.set(bytes, offset);
    offset += bytes.length;
    return copy.subarray(offset - bytes.length, offset);
  };
  return operations.map(({ key, value }) => ({ key: take(key), value: value && take(value) }));
}

/** The first key after all that start with `prefix`; undefined when there is none (only 0xff bytes). */
function successor(prefix: Uint8Array): Uint8Array | undefined {
  const last = prefix.findLastIndex((byte) => byte !== 0xff);
  if (last < 0) return undefined;
  const end = prefix.slice(0, last + 1);
  end[last] = (end[last] ?? 0) + 1;
  return end;
}

class LmdbMetaStore implements MetaStore {
  readonly #directory: string;
  readonly #database: Environment;
  readonly #lock: ProcessLock;
  readonly #watch: FileWatch;
  /** What `get` returns: views of this buffer by length, so that a value of a length seen before costs no garbage. */
  #valueBytes = new Uint8Array(4_096);
  readonly #views = new Map<number, Uint8Array>();
  readonly #waiting: Commit[] = [];
  #usedBytes = 0;
  #isWriterScheduled = false;
  #writer: Promise<void> | null = null;
  #failure: BraidError | null = null;
  #isClosed = false;

  constructor(directory: string, database: Environment, lock: ProcessLock, watch: FileWatch) {
    this.#directory = directory;
    this.#database = database;
    this.#lock = lock;
    this.#watch = watch;
  }

  get(key: Uint8Array): Uint8Array | null {
    this.#assertOpen();
    const found = this.#find(key);
    if (found === undefined) return null;
    // lmdb's buffer is shared by all environments of the thread, and only its `length` is that of the value.
    const length = found.length;
    const view = this.#viewOf(length);
    if (length > COPY_BY_LOOP_BYTES_MAX) view.set(new Uint8Array(found.buffer, found.byteOffset, length));
    else for (let index = 0; index < length; index += 1) view[index] = found[index] ?? 0;
    return view;
  }

  scan(prefix: Uint8Array, visit: (key: Uint8Array, value: Uint8Array) => void): void {
    this.#assertOpen();
    const end = successor(prefix);
    const start = prefix.length === 0 ? Uint8Array.of(0) : prefix;
    for (const { key, value } of this.#range(end === undefined ? { start } : { start, end })) visit(key, value);
  }

  commit(operations: readonly MetaOperation[], done: (error: Error | null) => void): void {
    this.#assertOpen();
    this.#waiting.push({ operations: copyOperations(operations), done });
    if (this.#writer !== null || this.#isWriterScheduled) return;
    // The calls of one batch of completions share the first group, too.
    this.#isWriterScheduled = true;
    queueMicrotask(() => {
      this.#isWriterScheduled = false;
      this.#writer ??= this.#writeGroups();
    });
  }

  check(): Promise<string> {
    return this.#watch.check();
  }

  usedBytes(): number {
    this.#assertOpen();
    try {
      const { lastPageNumber, pageSize } = this.#database.getStats() as { lastPageNumber: number; pageSize: number };
      this.#usedBytes = (lastPageNumber + 1) * pageSize;
    } catch {
      // LMDB refuses everything once it could not write a meta page; the commit that failed tells the drive.
    }
    return this.#usedBytes;
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    if (this.#waiting.length > 0) this.#writer ??= this.#writeGroups();
    await this.#writer;
    await this.#database.close();
    await this.#lock.release();
  }

  #find(key: Uint8Array): Uint8Array | undefined {
    try {
      return this.#database.getBinaryFast(key);
    } catch (error) {
      throw this.#unreadable(error);
    }
  }

  /** What `visit` throws does not come by here: it ends the iteration, and is not an error of LMDB. */
  *#range(options: RangeOptions): Generator<{ readonly key: Uint8Array; readonly value: Uint8Array }> {
    try {
      yield* this.#database.getRange(options);
    } catch (error) {
      throw this.#unreadable(error);
    }
  }

  #unreadable(error: unknown): BraidError {
    const advice = 'replace the drive, so that it is filled from other copies';
    const message = `the metadata in ${this.#directory} cannot be read: ${asError(error).message}; ${advice}`;
    return new BraidError('CORRUPT', message, { cause: error });
  }

  #assertOpen(): void {
    assert(!this.#isClosed, 'a metadata store is not used after close');
  }

  #viewOf(length: number): Uint8Array {
    const cached = this.#views.get(length);
    if (cached !== undefined) return cached;
    if (length > this.#valueBytes.length) {
      this.#valueBytes = new Uint8Array(2 * length);
      this.#views.clear();
    }
    if (this.#views.size >= VIEWS_CACHED_MAX) this.#views.clear();
    const view = this.#valueBytes.subarray(0, length);
    this.#views.set(length, view);
    return view;
  }

  /** Commits group after group until none waits. */
  async #writeGroups(): Promise<void> {
    while (this.#waiting.length > 0) {
      const group = this.#takeGroup();
      const failure = this.#failure ?? (await this.#writeGroup(group));
      this.#failure = failure;
      // On success the whole group is on stable media here, and visible to `get`.
      for (const { done } of group) done(failure);
    }
    this.#writer = null;
  }

  #takeGroup(): Commit[] {
    let operationCount = 0;
    let commitCount = 0;
    for (const { operations } of this.#waiting) {
      operationCount += operations.length;
      if (commitCount > 0 && operationCount > OPERATIONS_PER_GROUP_MAX) break;
      commitCount += 1;
    }
    return this.#waiting.splice(0, commitCount);
  }

  async #writeGroup(group: readonly Commit[]): Promise<BraidError | null> {
    if (group.every(({ operations }) => operations.length === 0)) return null;
    try {
      await this.#database.batch(() => {
        for (const { operations } of group) for (const operation of operations) this.#apply(operation);
      });
      this.#database.resetReadTxn();
      return null;
    } catch (error) {
      const reason = await commitFailure(error);
      const advice = 'check the space and the health of that file system';
      const message = `cannot commit metadata in ${this.#directory}: ${reason.message}; ${advice}`;
      return new BraidError('DRIVE', message, { cause: reason });
    }
  }

  #apply({ key, value }: MetaOperation): void {
    // The batch is what is awaited: the promises of its parts settle with it.
    if (value === null) void this.#database.remove(key);
    else void this.#database.put(key, value);
  }
}

async function lockDirectory(directory: string): Promise<ProcessLock> {
  try {
    return await acquireProcessLock(directory);
  } catch (error) {
    throw new BraidError('DRIVE', asError(error).message, { cause: error });
  }
}

export class LmdbMetaStoreOpener implements MetaStoreOpener {
  async open(directory: string, options: { create: boolean }): Promise<MetaStore> {
    if (options.create) await mkdir(directory, { recursive: true });
    const lock = await lockDirectory(directory);
    try {
      const database = await openEnvironment(directory, { ...options, views: true });
      const path = join(directory, DATA_FILE);
      return new LmdbMetaStore(directory, database, lock, new FileWatch(path, await stat(path, { bigint: true })));
    } catch (error) {
      await lock.release();
      throw error;
    }
  }
}

/**
 * The embedded `ClusterStore`: one LMDB directory, shared by the agents of one host. It needs no server: LMDB orders the
 * writers, each process sees the others' commits, and whoever notices that a lease has run out ends it.
 *
 * - A write is one LMDB transaction; when its promise resolves it is on stable media.
 * - Whether a lease has ended is decided in write transactions only. A read that meets a key of a lease that seems to
 *   have ended has it swept first, so what one reader has seen vanish never comes back.
 * - Others learn of a commit by inotify on a small file that its writer touches, or at the latest `POLL_MS` later.
 *
 * A process that is stopped (SIGSTOP) inside a transaction stops the writers of the whole host until it goes on or dies;
 * hosts that must not share that fate use etcd.
 */
import { randomUUID } from 'node:crypto';
import { constants, watch as watchFile, type FSWatcher } from 'node:fs';
import { open, readFile, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { asError, BraidError } from '../../base/errors.js';
import type {
  ClusterStore,
  LeaseId,
  StoreCompare,
  StoreEntry,
  StoreEvent,
  StoreOperation,
  StoreWatch,
} from '../../ports/cluster-store.js';
import { SystemClock } from '../clock.js';
import { checkLeaseTtl, checkTransaction } from '../store-limits.js';
import { ClusterTables, type StoredEntry } from './cluster-tables.js';
import { ClusterWatches } from './cluster-watches.js';
import { ClusterWrites, hasEnded, type LeaseTime, type TxnResult } from './cluster-writes.js';
import { commitFailure, shareEnvironment, type SharedEnvironment } from './environment.js';

export interface LmdbClusterStoreOptions {
  readonly directory: string;
  /** Makes the directory and an empty store where there is none. */
  readonly create: boolean;
  /** Revisions in the change log, for watches that are behind. Default: 10,000. */
  readonly changesKept?: number;
}

const POLL_MS = 250;
const CHANGES_KEPT_DEFAULT = 10_000;
const NOTIFY_FILE = 'notify';
const NOTIFY_BYTE = Uint8Array.of(0);
const BOOT_ID_FILE = '/proc/sys/kernel/random/boot_id';

class LmdbClusterStore implements ClusterStore {
  readonly #environment: SharedEnvironment;
  readonly #tables: ClusterTables;
  readonly #writes: ClusterWrites;
  readonly #watches: ClusterWatches;
  readonly #clock = new SystemClock();
  readonly #bootId: string;
  readonly #notifyFile: FileHandle;
  readonly #notifyWatcher: FSWatcher;
  readonly #pollTimer: NodeJS.Timeout;
  readonly #writing = new Set<Promise<unknown>>();
  #isAdvanceScheduled = false;
  #isSweeping = false;
  #closed: Promise<void> | null = null;

  constructor(environment: SharedEnvironment, notify: FileHandle, path: string, bootId: string, changesKept: number) {
    this.#environment = environment;
    this.#tables = new ClusterTables(environment.database);
    this.#writes = new ClusterWrites(this.#tables, changesKept);
    this.#watches = new ClusterWatches(this.#tables);
    this.#bootId = bootId;
    this.#notifyFile = notify;
    this.#notifyWatcher = watchFile(path, () => this.#scheduleAdvance());
    // Without inotify (its limits can be used up) the poll does the work, later.
    this.#notifyWatcher.on('error', () => this.#notifyWatcher.close());
    this.#pollTimer = setInterval(() => this.#poll(), POLL_MS);
  }

  async get(key: string): Promise<StoreEntry | null> {
    for (;;) {
      this.#assertOpen();
      this.#tables.refresh();
      const entry = this.#tables.entry(key);
      if (entry === null) return null;
      if (!this.#hasEndedEntry([entry])) return { key, value: entry.value, revision: entry.revision };
      await this.#sweep();
    }
  }

  async list(prefix: string): Promise<{ readonly entries: readonly StoreEntry[]; readonly revision: number }> {
    for (;;) {
      this.#assertOpen();
      this.#tables.refresh();
      const entries = this.#tables.entries(prefix);
      const revision = this.#tables.revision();
      if (!this.#hasEndedEntry(entries)) {
        return { entries: entries.map(({ key, value, revision }) => ({ key, value, revision })), revision };
      }
      await this.#sweep();
    }
  }

  async txn(compares: readonly StoreCompare[], operations: readonly StoreOperation[]): Promise<TxnResult> {
    checkTransaction(compares, operations);
    const result = await this.#write(() => this.#writes.txn(compares, operations));
    if (result instanceof BraidError) throw result;
    return result;
  }

  watch(prefix: string, afterRevision: number, onEvents: (events: readonly StoreEvent[]) => void): StoreWatch {
    this.#assertOpen();
    this.#tables.refresh();
    const watch = this.#watches.add(prefix, afterRevision, onEvents);
    this.#scheduleAdvance();
    return watch;
  }

  async grantLease(ttlMs: number): Promise<LeaseId> {
    checkLeaseTtl(ttlMs);
    const lease = randomUUID();
    await this.#write((time) => this.#writes.putLease(lease, ttlMs, time));
    return lease;
  }

  async keepAlive(lease: LeaseId): Promise<boolean> {
    return this.#write((time) => this.#writes.renewLease(lease, time));
  }

  async revokeLease(lease: LeaseId): Promise<void> {
    await this.#write(() => this.#writes.endLease(lease));
  }

  close(): Promise<void> {
    this.#closed ??= this.#shutDown();
    return this.#closed;
  }

  async #shutDown(): Promise<void> {
    clearInterval(this.#pollTimer);
    this.#notifyWatcher.close();
    this.#watches.closeAll();
    await Promise.allSettled(this.#writing);
    await this.#notifyFile.close();
    await this.#environment.release();
  }

  #assertOpen(): void {
    if (this.#closed !== null) throw new BraidError('UNAVAILABLE', 'this cluster store is closed; open it again');
  }

  #time(): LeaseTime {
    return { nowMs: this.#clock.nowMs(), bootId: this.#bootId };
  }

  #hasEndedEntry(entries: readonly StoredEntry[]): boolean {
    const ids = new Set(entries.map(({ lease }) => lease).filter((lease) => lease !== ''));
    const time = this.#time();
    return [...ids].some((id) => {
      const lease = this.#tables.lease(id);
      return lease !== null && hasEnded(lease, time);
    });
  }

  #sweep(): Promise<void> {
    // The processes that died with their leases may have left readers behind, which keep old pages in use.
    return this.#write(() => void this.#environment.database.readerCheck());
  }

  /** Runs `body` in a write transaction, after the sweep. Rejects with `BraidError` UNAVAILABLE when it cannot be committed. */
  #write<T>(body: (time: LeaseTime) => T): Promise<T> {
    this.#assertOpen();
    const written = this.#commit(body);
    this.#writing.add(written);
    const forget = () => this.#writing.delete(written);
    written.then(forget, forget);
    return written;
  }

  async #commit<T>(body: (time: LeaseTime) => T): Promise<T> {
    let before = 0;
    let after = 0;
    let result: T;
    try {
      // A child transaction, so that whatever is thrown in the middle leaves nothing behind.
      result = await this.#environment.database.childTransaction(() => {
        before = this.#tables.revision();
        const time = this.#time();
        this.#writes.sweep(time);
        const value = body(time);
        after = this.#tables.revision();
        return value;
      });
    } catch (error) {
      const reason = await commitFailure(error);
      const advice = 'read again before you repeat it; check the space and health of its file system if it persists';
      throw new BraidError('UNAVAILABLE', `the cluster store cannot commit: ${reason.message}; ${advice}`, {
        cause: reason,
      });
    }
    // What was decided above is on stable media from here on.
    if (after > before) await this.#announce();
    return result;
  }

  /** Tells the watches of this process and of the others. */
  async #announce(): Promise<void> {
    this.#scheduleAdvance();
    try {
      await this.#notifyFile.write(NOTIFY_BYTE, 0, NOTIFY_BYTE.length, 0);
    } catch {
      // It is committed all the same; the others find it by their poll.
    }
  }

  #scheduleAdvance(): void {
    if (this.#isAdvanceScheduled) return;
    this.#isAdvanceScheduled = true;
    setImmediate(() => {
      this.#isAdvanceScheduled = false;
      if (this.#closed === null) this.#watches.advance();
    });
  }

  #poll(): void {
    this.#watches.advance();
    const time = this.#time();
    if (this.#isSweeping || !this.#tables.leases().some((lease) => hasEnded(lease, time))) return;
    this.#isSweeping = true;
    const finish = () => {
      this.#isSweeping = false;
    };
    // A sweep that fails is repeated by the next poll.
    this.#sweep().then(finish, finish);
  }
}

/** Opens the store. Rejects with `BraidError` DRIVE when it is absent and not to be created, damaged, or cannot be opened. */
export async function openLmdbClusterStore(options: LmdbClusterStoreOptions): Promise<ClusterStore> {
  const { directory, create, changesKept = CHANGES_KEPT_DEFAULT } = options;
  const environment = await shareEnvironment(directory, { create });
  try {
    const bootId = (await readFile(BOOT_ID_FILE, 'latin1')).trim();
    const path = join(directory, NOTIFY_FILE);
    const notify = await open(path, constants.O_RDWR | constants.O_CREAT);
    return new LmdbClusterStore(environment, notify, path, bootId, changesKept);
  } catch (error) {
    await environment.release();
    throw new BraidError('DRIVE', `cannot open the cluster store in ${directory}: ${asError(error).message}`, {
      cause: error,
    });
  }
}

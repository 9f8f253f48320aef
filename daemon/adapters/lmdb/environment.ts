/**
 * Opens LMDB environments the way Braid needs them: binary keys and values, and a commit that is on stable media before
 * it is reported. LMDB writes the pages, fdatasyncs, then writes the meta page through an O_DSYNC descriptor.
 * `overlappingSync` would report commits before that; `noSync` and `noMetaSync` would lose them: all stay off.
 */
import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { link, mkdir, open as openFile, realpath, rm, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { setImmediate, setTimeout } from 'node:timers/promises';
import { open, type RootDatabase } from 'lmdb';
import { loadAddon, nativeError } from '../../../native/index.js';
import { asError, BraidError } from '../../base/errors.js';
import { GIB, KIB } from '../../base/units.js';
import { checkEnvironment } from './environment-check.js';
import { viewEncoders } from './views.js';

export type Environment = RootDatabase<Uint8Array, Uint8Array>;

/** Longest key that lmdb takes with the default page size. */
export const KEY_BYTES_MAX = 1_978;
/** Address space only; the file grows as it is used. 256 GiB holds the extents of more than 100 TiB. */
const MAP_BYTES = 256 * GIB;
const LOCK_FILE = 'lock.mdb';
/** Its header, and 64 bytes for each of some 250 threads that may read at a time. */
const LOCK_BYTES = 16 * KIB;
/** A shared environment may look damaged while another process writes to it; then it is looked at again. */
const SHARED_OPEN_ATTEMPTS = 3;
const SHARED_OPEN_RETRY_MS = 50;

export interface EnvironmentOptions {
  readonly create: boolean;
  /** Ranges yield views that are valid until the next step, not copies (views.ts). */
  readonly views?: boolean;
  /** Other processes may be writing to it. */
  readonly isShared?: boolean;
}

/** An environment that this process has open once, for all who share it. */
export interface SharedEnvironment {
  readonly database: Environment;
  /** The last user's call closes it. Each calls it once. */
  release(): Promise<void>;
}

interface Sharing {
  readonly database: Promise<Environment>;
  userCount: number;
}

const sharings = new Map<string, Sharing>();

async function syncDirectory(directory: string): Promise<void> {
  const handle = await openFile(directory, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/**
 * Makes LMDB's lock file with its space allocated, where there is none. LMDB would make a sparse one and map it: on a full
 * file system its first touch is a SIGBUS. Linked when complete, so that no other process sees half of it.
 */
async function ensureLockFile(directory: string): Promise<void> {
  const path = join(directory, LOCK_FILE);
  if (existsSync(path)) return;
  const draft = `${path}.${randomUUID()}`;
  try {
    await writeFile(draft, new Uint8Array(LOCK_BYTES), { flush: true });
    await link(draft, path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return;
    throw new BraidError('DRIVE', `cannot make ${path}: ${asError(error).message}; free some space there`, {
      cause: error,
    });
  } finally {
    await rm(draft, { force: true });
  }
}

function openDatabase(directory: string, { views = false }: EnvironmentOptions): Environment {
  try {
    return open<Uint8Array, Uint8Array>(directory, {
      ...(views ? viewEncoders() : { keyEncoding: 'binary' }),
      noSubdir: false,
      encoding: 'binary',
      overlappingSync: false,
      eventTurnBatching: false,
      mapSize: MAP_BYTES,
    });
  } catch (error) {
    const advice = 'check the directory and its file system';
    throw new BraidError('DRIVE', `cannot open the store in ${directory}: ${asError(error).message}; ${advice}`, {
      cause: error,
    });
  }
}

/** LMDB opens its data file without O_CLOEXEC: an nbdfuse, which outlives a killed agent, would keep the drive in use. */
function keepFromChildren(): void {
  const result = loadAddon().closeOnExec();
  if (result === 0) return;
  const advice = 'use Linux 5.19 or newer, and allow close_range';
  throw nativeError('UNSUPPORTED', 'cannot keep open files from child processes', result, advice);
}

/**
 * Opens the environment in `directory`, creating both if asked. Rejects with `BraidError` DRIVE when it is damaged,
 * cannot be opened, or is absent and not to be created.
 */
export async function openEnvironment(directory: string, options: EnvironmentOptions): Promise<Environment> {
  if (options.create) await mkdir(directory, { recursive: true });
  const isAbsent = (await checkEnvironment(directory, options.isShared ?? false)) === 'absent';
  if (isAbsent && !options.create)
    throw new BraidError('DRIVE', `${directory} holds no store; was it moved, or not mounted?`);
  await ensureLockFile(directory);
  const database = openDatabase(directory, options);
  try {
    keepFromChildren();
  } catch (error) {
    await database.close();
    throw error;
  }
  if (!isAbsent) return database;
  await syncDirectory(directory);
  await syncDirectory(dirname(resolve(directory)));
  return database;
}

async function openPatiently(directory: string, options: { create: boolean }): Promise<Environment> {
  for (let attempt = 1; attempt < SHARED_OPEN_ATTEMPTS; attempt += 1) {
    try {
      return await openEnvironment(directory, { ...options, isShared: true });
    } catch {
      await setTimeout(SHARED_OPEN_RETRY_MS);
    }
  }
  return openEnvironment(directory, { ...options, isShared: true });
}

/**
 * Opens an environment that other processes use too, as `openEnvironment` does; users in this process share one, because
 * lmdb's opening of a second one would block the thread that the first one's writer may be waiting for.
 */
export async function shareEnvironment(directory: string, options: { create: boolean }): Promise<SharedEnvironment> {
  if (options.create) await mkdir(directory, { recursive: true });
  const path = await realpath(directory).catch(() => resolve(directory));
  const sharing = sharings.get(path) ?? { database: openPatiently(path, options), userCount: 0 };
  sharings.set(path, sharing);
  sharing.userCount += 1;
  const leave = () => {
    sharing.userCount -= 1;
    if (sharing.userCount === 0) sharings.delete(path);
    return sharing.userCount === 0;
  };
  try {
    const database = await sharing.database;
    return { database, release: async () => (leave() ? database.close() : undefined) };
  } catch (error) {
    leave();
    throw error;
  }
}

/** Why a commit failed: lmdb rejects with a general error, and tells the reason through a promise a moment later. */
export async function commitFailure(thrown: unknown): Promise<Error> {
  const error = asError(thrown) as Error & { commitError?: Promise<unknown> };
  let reason: Error = error;
  error.commitError?.catch((cause: unknown) => {
    reason = asError(cause);
  });
  await setImmediate();
  return reason;
}

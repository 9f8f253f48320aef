/**
 * Makes the directory of a new drive (DISK.md): the data area with its space reserved and its start written, and whatever `format` adds (the
 * metadata). It takes as long as writing 8 GiB at most, and 15 s at most (limits.ts).
 * All or nothing: upon failure what was made is removed again.
 */
import { execFile } from 'node:child_process';
import { mkdir, open, readdir, rm, rmdir, statfs, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { asError, BraidError } from '../base/errors.js';
import { limits } from '../base/limits.js';
import { EXTENT_BYTES, formatSize } from '../base/units.js';

export interface DriveDirectory {
  readonly directory: string;
  readonly capacityBytes: number;
  /** Writes the metadata beside the data area, which has room for `slotCount` extents. */
  readonly format: (slotCount: number) => Promise<void>;
}

const run = promisify(execFile);
/** Slot 0 holds no data. */
const SLOTS_MIN = 2;
/** What is left free beside the data area, for the metadata of its extents: with checksums some 300 bytes for 128 KiB. */
const METADATA_SHARE = 1 / 128;

export async function createDriveDirectory({ directory, capacityBytes, format }: DriveDirectory): Promise<void> {
  const slotCount = Math.floor(capacityBytes / EXTENT_BYTES);
  if (slotCount < SLOTS_MIN) {
    throw new BraidError(
      'INVALID_ARGUMENT',
      `a drive needs at least ${formatSize(SLOTS_MIN * EXTENT_BYTES)}, not ${formatSize(capacityBytes)}`,
    );
  }
  const isNew = await makeEmpty(directory);
  try {
    await checkSpace(directory, slotCount * EXTENT_BYTES);
    if (await reserve(join(directory, 'data'), slotCount * EXTENT_BYTES)) {
      await prewrite(join(directory, 'data'), Math.min(slotCount * EXTENT_BYTES, limits.prewriteBytesMax));
    }
    await format(slotCount);
    await syncDirectory(directory);
  } catch (error) {
    await rm(join(directory, 'data'), { force: true });
    await rm(join(directory, 'meta'), { recursive: true, force: true });
    if (isNew) await rmdir(directory);
    throw error;
  }
}

/** True when the directory was not there before. */
async function makeEmpty(directory: string): Promise<boolean> {
  try {
    if ((await mkdir(directory, { recursive: true })) !== undefined) return true;
    // A file system's own directory does not count as contents.
    const contents = (await readdir(directory)).filter((name) => name !== 'lost+found');
    if (contents.length === 0) return false;
  } catch (error) {
    throw new BraidError('DRIVE', `${directory} cannot be used as a drive: ${asError(error).message}`, {
      cause: error,
    });
  }
  throw new BraidError('CONFLICT', `${directory} is not empty; empty it, or give another directory`);
}

/** Asks first: `fallocate` takes all that is free before it fails, and whoever else writes there meets a full file system. */
async function checkSpace(directory: string, dataBytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(directory);
  const neededBytes = Math.ceil(dataBytes * (1 + METADATA_SHARE));
  if (neededBytes <= bavail * bsize) return;
  throw new BraidError(
    'NO_SPACE',
    `a drive of ${formatSize(dataBytes)} and its metadata need ${formatSize(neededBytes)}, but the file system of ` +
      `${directory} has ${formatSize(bavail * bsize)} free; free some, or give a smaller capacity`,
  );
}

/** False when the file had to be left sparse. */
async function reserve(path: string, sizeBytes: number): Promise<boolean> {
  const file = await open(path, 'wx', 0o600);
  await file.close();
  try {
    // The C locale: its message is looked at.
    const options = { env: { ...process.env, LC_ALL: 'C' } };
    await run('fallocate', ['--length', String(sizeBytes), path], options);
    return true;
  } catch (error) {
    const { stderr = '' } = error as { stderr?: string };
    if (/No space left/.test(stderr)) {
      throw new BraidError(
        'NO_SPACE',
        `there is no room for ${formatSize(sizeBytes)} in ${path}; free some, or give a smaller capacity`,
        { cause: error },
      );
    }
    // No such program, or a file system that cannot reserve space: the file is sparse, and writes can meet a full file system.
    await truncate(path, sizeBytes);
    return false;
  }
}

/**
 * Writes zeros over the start of the data area. Space that `fallocate` has reserved is marked unwritten by the file system, and the first write to
 * each slot would also change its metadata: measured at half to a third of the speed. Ends after `limits.prewriteMsMax` at the latest,
 * so that `drive add` answers in time; what is not written by then reads as zeros all the same.
 */
async function prewrite(path: string, lengthBytes: number): Promise<void> {
  const range = [
    `of=${path}`,
    'bs=1M',
    `count=${lengthBytes}`,
    'iflag=count_bytes',
    'oflag=direct',
    'conv=notrunc,fsync',
  ];
  try {
    await run('dd', ['if=/dev/zero', ...range, 'status=none'], { timeout: limits.prewriteMsMax });
  } catch {
    // No such program, no direct I/O, or out of time: only speed is lost. A drive that cannot be written says so when it is opened.
  }
}

async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Drives: opening is ordinary asynchronous file I/O, everything after that goes through the ring. */
import { constants } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { abi, errnoName, nativeError } from '../../../native/index.js';
import { assert } from '../../base/assert.js';
import { asError, BraidError } from '../../base/errors.js';
import { BLOCK_BYTES, EXTENT_BYTES } from '../../base/units.js';
import type { Disk, DiskHandler, DiskOpener } from '../../ports/disk.js';
import type { BufferId } from '../../ports/slab.js';
import { FileWatch } from '../file-watch.js';
import type { Shared } from './shared.js';
import type { UringSlab } from './slab.js';

const { WORD_TAG, WORD_STATUS, WORD_BUFFER, WORD_BUFFER_OFFSET, WORD_OFFSET_LOW, WORD_OFFSET_HIGH } = abi;
const { WORD_LENGTH, WORD_PAYLOAD_LENGTH } = abi;
const TWO_32 = 2 ** 32;

interface OpenedDrive {
  /** The engine's number. */
  readonly drive: number;
  readonly watch: FileWatch;
  readonly sizeBytes: number;
  readonly handler: DiskHandler;
}

class UringDisk implements Disk {
  readonly sizeBytes: number;
  readonly handler: DiskHandler;
  readonly #drive: number;
  readonly #shared: Shared;
  readonly #slab: UringSlab;
  readonly #closed: Promise<void>;
  readonly #watch: FileWatch;
  #resolveClosed: () => void = () => {};
  #isOpen = true;

  constructor({ drive, watch, sizeBytes, handler }: OpenedDrive, shared: Shared, slab: UringSlab) {
    this.#drive = drive;
    this.#watch = watch;
    this.sizeBytes = sizeBytes;
    this.handler = handler;
    this.#shared = shared;
    this.#slab = slab;
    this.#closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
  }

  read(tag: number, offsetBytes: number, lengthBytes: number, buffer: BufferId, bufferOffsetBytes: number): void {
    this.#transfer(abi.COMMAND_DISK_READ, tag, offsetBytes, lengthBytes, buffer, bufferOffsetBytes, false);
  }

  write(
    tag: number,
    offsetBytes: number,
    lengthBytes: number,
    buffer: BufferId,
    bufferOffsetBytes: number,
    durable: boolean,
  ): void {
    this.#transfer(abi.COMMAND_DISK_WRITE, tag, offsetBytes, lengthBytes, buffer, bufferOffsetBytes, durable);
  }

  flush(tag: number): void {
    this.#range(abi.COMMAND_DISK_FLUSH, tag, 0, 0);
  }

  punch(tag: number, offsetBytes: number, lengthBytes: number): void {
    assert(lengthBytes > 0, 'a range to punch is not empty');
    this.#range(abi.COMMAND_DISK_PUNCH, tag, offsetBytes, lengthBytes);
  }

  zero(tag: number, offsetBytes: number, lengthBytes: number): void {
    assert(lengthBytes > 0, 'a range to zero is not empty');
    this.#range(abi.COMMAND_DISK_ZERO, tag, offsetBytes, lengthBytes);
  }

  check(): Promise<string> {
    return this.#watch.check();
  }

  close(): Promise<void> {
    if (!this.#isOpen) return this.#closed;
    this.#isOpen = false;
    if (!this.#shared.isStopping) this.#shared.addon.closeDrive(this.#shared.handle, this.#drive);
    return this.#closed;
  }

  /** The last operation has completed and the file is closed. */
  onClosed(): void {
    this.#isOpen = false;
    this.#resolveClosed();
  }

  #transfer(
    kind: number,
    tag: number,
    offsetBytes: number,
    lengthBytes: number,
    buffer: BufferId,
    bufferOffsetBytes: number,
    durable: boolean,
  ): void {
    assert(lengthBytes > 0 && lengthBytes <= EXTENT_BYTES, 'drive I/O is one block to one extent');
    assert(bufferOffsetBytes % BLOCK_BYTES === 0, 'drive I/O is block-aligned in its buffer');
    this.#slab.check(buffer, bufferOffsetBytes, lengthBytes);
    const at = this.#range(kind, tag, offsetBytes, lengthBytes);
    if (at < 0) return;
    this.#slab.retain(buffer);
    const words = this.#shared.commands;
    words[at + WORD_BUFFER] = buffer;
    words[at + WORD_BUFFER_OFFSET] = bufferOffsetBytes;
    words[at + WORD_STATUS] = durable ? 1 : 0;
  }

  /** The command's first word, or -1 when the engine is stopping. */
  #range(kind: number, tag: number, offsetBytes: number, lengthBytes: number): number {
    if (this.#shared.isStopping) return -1;
    assert(this.#isOpen, 'the drive is open');
    const isInside = offsetBytes >= 0 && lengthBytes >= 0 && offsetBytes + lengthBytes <= this.sizeBytes;
    assert(isInside && offsetBytes % BLOCK_BYTES === 0 && lengthBytes % BLOCK_BYTES === 0, 'whole blocks of the drive');
    const at = this.#shared.command(kind, this.#drive);
    const words = this.#shared.commands;
    words[at + WORD_TAG] = tag;
    words[at + WORD_OFFSET_LOW] = offsetBytes;
    words[at + WORD_OFFSET_HIGH] = offsetBytes / TWO_32;
    words[at + WORD_LENGTH] = lengthBytes;
    words[at + WORD_PAYLOAD_LENGTH] = lengthBytes / TWO_32;
    return at;
  }
}

export class UringDisks implements DiskOpener {
  readonly #shared: Shared;
  readonly #slab: UringSlab;
  /** By the engine's number of the drive. */
  readonly #disks: (UringDisk | undefined)[] = [];

  constructor(shared: Shared, slab: UringSlab) {
    this.#shared = shared;
    this.#slab = slab;
  }

  async open(path: string, handler: DiskHandler): Promise<Disk> {
    const file = await openDirect(path);
    try {
      const watch = new FileWatch(path, await file.stat({ bigint: true }));
      const [drive, sizeBytes] = this.#shared.addon.openDrive(this.#shared.handle, file.fd);
      if (drive < 0) throw refusal(path, drive);
      const disk = new UringDisk({ drive, watch, sizeBytes, handler }, this.#shared, this.#slab);
      this.#disks[drive] = disk;
      return disk;
    } finally {
      await file.close();
    }
  }

  onCompletion(words: Uint32Array, at: number): void {
    const disk = this.#disks[words[at + abi.WORD_TARGET] as number];
    assert(disk !== undefined, 'a drive stays until its last operation is done');
    disk.handler(words[at + WORD_TAG] as number, (words[at + WORD_STATUS] as number) | 0);
  }

  onClosed(drive: number): void {
    const disk = this.#disks[drive];
    assert(disk !== undefined, 'a drive is closed once');
    this.#disks[drive] = undefined;
    disk.onClosed();
  }
}

async function openDirect(path: string) {
  try {
    const isBlockDevice = (await stat(path)).isBlockDevice();
    // On a block device O_EXCL refuses one that is mounted or otherwise in use.
    const exclusive = isBlockDevice ? constants.O_EXCL : 0;
    return await open(path, constants.O_RDWR | constants.O_DIRECT | exclusive);
  } catch (thrown) {
    const cause = asError(thrown);
    throw new BraidError('DRIVE', `cannot open ${path}: ${openAdvice((cause as NodeJS.ErrnoException).code)}`, {
      cause,
    });
  }
}

function openAdvice(code: string | undefined): string {
  switch (code) {
    case 'ENOENT':
    case 'ENOTDIR':
      return 'it does not exist; check the path, or whether the drive is mounted';
    case 'EINVAL':
      return 'its file system does not support O_DIRECT; put the drive on another one';
    case 'EACCES':
    case 'EPERM':
      return 'permission denied; the agent must be able to read and write it';
    case 'EBUSY':
      return 'the device is mounted or used by something else';
    case 'EISDIR':
      return 'it is a directory';
    default:
      return `${code ?? 'unknown error'}; check the drive`;
  }
}

function refusal(path: string, errno: number): BraidError {
  switch (errnoName(errno)) {
    case 'ENOSPC':
      return new BraidError('DRIVE', `${path} is too small for a drive: it must have at least ${EXTENT_BYTES} bytes`);
    case 'EMFILE':
      return new BraidError('DRIVE', `cannot open ${path}: too many drives or files are open`);
    case 'ENOTBLK':
      return new BraidError('DRIVE', `${path} is neither a file nor a block device`);
    case 'EMEDIUMTYPE':
      return new BraidError('DRIVE', `${path} has sectors larger than ${BLOCK_BYTES} bytes and cannot be a drive`);
    default:
      return nativeError('DRIVE', `cannot open ${path}`, errno, 'check the drive');
  }
}

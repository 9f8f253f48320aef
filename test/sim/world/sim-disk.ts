/**
 * `Disk` in memory. The media (`SimDiskMedia`) outlives the handles opened on it. It has a volatile cache: what was written can be
 * read at once, but is on the media only after a flush or a durable write. Operations end in random order, after random times.
 *
 * A crash decides for each 4 KiB block on its own: any of the versions written since the last flush may be there, or none, or one of them torn
 * (its first half new, the rest as before). Operations that were in flight are like completed ones, or never happened.
 */
import { assert } from '../../../daemon/base/assert.js';
import { BraidError } from '../../../daemon/base/errors.js';
import { BLOCK_BYTES } from '../../../daemon/base/units.js';
import type { Clock } from '../../../daemon/ports/clock.js';
import type { Disk, DiskHandler, DiskOpener } from '../../../daemon/ports/disk.js';
import type { BufferId, Slab } from '../../../daemon/ports/slab.js';
import type { SimRandom } from './sim-random.js';

export interface SimDiskOptions {
  /** Bounds of the time that an operation takes. */
  readonly delayMsMin: number;
  readonly delayMsMax: number;
}

const DEFAULTS: SimDiskOptions = { delayMsMin: 0.02, delayMsMax: 1 };
const EIO = -5;
const ENOSPC = -28;
const CHANCE_TORN = 0.25;
const ZEROS = new Uint8Array(BLOCK_BYTES);

type Kind = 'read' | 'write' | 'flush' | 'punch' | 'zero';

interface Version {
  readonly sequence: number;
  readonly bytes: Uint8Array;
}

interface Fault {
  readonly kind: 'read' | 'write' | 'flush' | 'any';
  readonly from: number;
  readonly to: number;
}

/** What is on the drive, and in its cache. */
export class SimDiskMedia {
  readonly sizeBytes: number;
  /** Blocks on stable media; absent: zeros. */
  readonly #stable = new Map<number, Uint8Array>();
  /** What was written to a block since it was last made stable, oldest first. */
  readonly #cached = new Map<number, Version[]>();
  #sequence = 0;
  #faults: Fault[] = [];
  /** Writes find no space (a sparse file on a full file system). */
  isFull = false;
  /** Operations take this many times as long. */
  slowness = 1;
  #isStalled = false;
  /** What `check` says: somebody removed or replaced it. */
  problem = '';
  /** The handle that uses it now. */
  user: SimDisk | null = null;

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
  }

  /** Number of the last write. */
  get sequence(): number {
    return this.#sequence;
  }

  /** The bytes as a read sees them, for tests. */
  peek(offsetBytes: number, lengthBytes: number): Uint8Array {
    const result = new Uint8Array(lengthBytes);
    for (let done = 0; done < lengthBytes; done += BLOCK_BYTES) {
      result.set(this.#visible((offsetBytes + done) / BLOCK_BYTES).subarray(0, lengthBytes - done), done);
    }
    return result;
  }

  /** Blocks that may hold something else than zeros. */
  blocks(): Set<number> {
    return new Set([...this.#stable.keys(), ...this.#cached.keys()]);
  }

  /** `bytes` is the media's from now on; null: zeros. With `isStable` on stable media at once. */
  put(offsetBytes: number, lengthBytes: number, bytes: Uint8Array | null, isStable: boolean): void {
    this.#sequence++;
    for (let done = 0; done < lengthBytes; done += BLOCK_BYTES) {
      const block = (offsetBytes + done) / BLOCK_BYTES;
      const content = bytes?.subarray(done, done + BLOCK_BYTES) ?? ZEROS;
      if (isStable) {
        this.#setStable(block, content);
        this.#cached.delete(block);
      } else {
        const versions = this.#cached.get(block) ?? [];
        versions.push({ sequence: this.#sequence, bytes: content });
        this.#cached.set(block, versions);
      }
    }
  }

  /** Everything written up to `sequence` is on stable media. */
  makeStable(sequence: number): void {
    for (const [block, versions] of this.#cached) {
      const last = versions.findLast((version) => version.sequence <= sequence);
      if (last === undefined) continue;
      this.#setStable(block, last.bytes);
      const newer = versions.filter((version) => version.sequence > sequence);
      if (newer.length > 0) this.#cached.set(block, newer);
      else this.#cached.delete(block);
    }
  }

  /** Power is lost. */
  losePower(random: SimRandom): void {
    for (const [block, versions] of this.#cached) {
      const before = this.#stable.get(block) ?? ZEROS;
      const kept = random.below(versions.length + 1);
      const version = versions[kept];
      if (version === undefined) continue;
      if (random.chance(CHANCE_TORN)) {
        const torn = (versions[kept - 1]?.bytes ?? before).slice();
        torn.set(version.bytes.subarray(0, BLOCK_BYTES / 2));
        this.#setStable(block, torn);
      } else this.#setStable(block, version.bytes);
    }
    this.#cached.clear();
  }

  /** Reads, writes (punches and zeroes are writes), flushes or all of them that touch the range fail with EIO from now on. */
  fail(kind: Fault['kind'], offsetBytes: number, lengthBytes: number): void {
    this.#faults.push({ kind, from: offsetBytes, to: offsetBytes + lengthBytes });
  }

  repair(): void {
    this.#faults = [];
  }

  get isStalled(): boolean {
    return this.#isStalled;
  }

  /** Nothing ends until `resume`, whoever uses it; writes take effect when they end. */
  stall(): void {
    this.#isStalled = true;
  }

  resume(): void {
    this.#isStalled = false;
    this.user?.endOverdue();
  }

  /** Bit rot. */
  flipBit(offsetBytes: number, bit: number): void {
    const block = Math.floor(offsetBytes / BLOCK_BYTES);
    const bytes = this.#visible(block).slice();
    bytes[offsetBytes % BLOCK_BYTES] = (bytes[offsetBytes % BLOCK_BYTES] ?? 0) ^ (1 << bit);
    this.#setStable(block, bytes);
    this.#cached.delete(block);
  }

  resultOf(kind: Kind, offsetBytes: number, lengthBytes: number): number {
    if (kind === 'write' && this.isFull) return ENOSPC;
    const group = kind === 'read' || kind === 'flush' ? kind : 'write';
    const isHit = ({ kind: faulty, from, to }: Fault) =>
      (faulty === 'any' || faulty === group) && offsetBytes < to && from < offsetBytes + lengthBytes;
    return this.#faults.some(isHit) ? EIO : 0;
  }

  #visible(block: number): Uint8Array {
    return this.#cached.get(block)?.at(-1)?.bytes ?? this.#stable.get(block) ?? ZEROS;
  }

  #setStable(block: number, bytes: Uint8Array): void {
    if (bytes === ZEROS) this.#stable.delete(block);
    else this.#stable.set(block, bytes);
  }
}

interface InFlight {
  readonly kind: Kind;
  readonly tag: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** What is written; null: zeros, or nothing is. */
  readonly bytes: Uint8Array | null;
  readonly isDurable: boolean;
  readonly end: () => number;
}

export class SimDisk implements Disk {
  readonly sizeBytes: number;
  readonly #media: SimDiskMedia;
  readonly #slab: Slab;
  readonly #clock: Clock;
  readonly #random: SimRandom;
  readonly #options: SimDiskOptions;
  readonly #handler: DiskHandler;
  readonly #inFlight = new Map<number, InFlight>();
  readonly #held = new Set<InFlight>();
  /** Operations whose time has come while the drive is stalled. */
  #overdue: InFlight[] = [];
  #state: 'open' | 'closing' | 'closed' | 'crashed' = 'open';
  #onIdle: (() => void) | null = null;

  constructor(
    media: SimDiskMedia,
    handler: DiskHandler,
    slab: Slab,
    clock: Clock,
    random: SimRandom,
    options: SimDiskOptions,
  ) {
    assert(media.user === null, 'a medium has one user');
    this.sizeBytes = media.sizeBytes;
    this.#media = media;
    this.#handler = handler;
    this.#slab = slab;
    this.#clock = clock;
    this.#random = random;
    this.#options = options;
    media.user = this;
  }

  get inFlight(): number {
    return this.#inFlight.size;
  }

  read(tag: number, offsetBytes: number, lengthBytes: number, buffer: BufferId, bufferOffsetBytes: number): void {
    this.#slab.retain(buffer);
    this.#start('read', tag, offsetBytes, lengthBytes, null, false, () => {
      const result = this.#media.resultOf('read', offsetBytes, lengthBytes);
      if (result === 0) {
        this.#slab.bytes(buffer, bufferOffsetBytes, lengthBytes).set(this.#media.peek(offsetBytes, lengthBytes));
        this.#slab.computeChecksums(buffer, bufferOffsetBytes, lengthBytes);
      }
      this.#slab.release(buffer);
      return result;
    });
  }

  write(
    tag: number,
    offsetBytes: number,
    lengthBytes: number,
    buffer: BufferId,
    bufferOffsetBytes: number,
    durable: boolean,
  ): void {
    this.#slab.retain(buffer);
    const bytes = this.#slab.bytes(buffer, bufferOffsetBytes, lengthBytes).slice();
    this.#start('write', tag, offsetBytes, lengthBytes, bytes, durable, () => {
      this.#slab.release(buffer);
      return this.#put('write', offsetBytes, lengthBytes, bytes, durable);
    });
  }

  flush(tag: number): void {
    const { sequence } = this.#media;
    this.#start('flush', tag, 0, 0, null, false, () => {
      const result = this.#media.resultOf('flush', 0, this.sizeBytes);
      if (result === 0) this.#media.makeStable(sequence);
      return result;
    });
  }

  punch(tag: number, offsetBytes: number, lengthBytes: number): void {
    this.#start('punch', tag, offsetBytes, lengthBytes, null, false, () =>
      this.#put('punch', offsetBytes, lengthBytes, null, false),
    );
  }

  zero(tag: number, offsetBytes: number, lengthBytes: number): void {
    this.#start('zero', tag, offsetBytes, lengthBytes, null, false, () =>
      this.#put('zero', offsetBytes, lengthBytes, null, false),
    );
  }

  check(): Promise<string> {
    return Promise.resolve(this.#media.problem);
  }

  async close(): Promise<void> {
    if (this.#state !== 'open') return;
    this.#state = 'closing';
    if (this.#inFlight.size > 0) await new Promise<void>((resolve) => (this.#onIdle = resolve));
    this.#leave('closed');
  }

  /** The drive stalls, or goes on. */
  stall(): void {
    this.#media.stall();
  }

  resume(): void {
    this.#media.resume();
  }

  /** The drive is not stalled any more. */
  endOverdue(): void {
    const overdue = this.#overdue;
    this.#overdue = [];
    for (const operation of overdue) this.#end(operation);
  }

  /** What is in flight now does not end before the function that it returns is called; what comes later goes on. */
  hold(): () => void {
    const held = [...this.#inFlight.values()];
    for (const operation of held) this.#held.add(operation);
    return () => {
      for (const operation of held) if (this.#held.delete(operation)) this.#end(operation);
    };
  }

  /** The node lost power: nothing is ever called back, and the media is free for another. */
  crash(): void {
    if (this.#state === 'closed' || this.#state === 'crashed') return;
    for (const { kind, offsetBytes, lengthBytes, bytes } of this.#inFlight.values()) {
      if (kind === 'read' || kind === 'flush' || this.#random.chance(0.5)) continue;
      this.#media.put(offsetBytes, lengthBytes, bytes, false);
    }
    this.#media.losePower(this.#random);
    this.#inFlight.clear();
    this.#leave('crashed');
  }

  /** Only the process died: the drive's cache survives, and what is in flight ends, unseen. */
  kill(): void {
    if (this.#state === 'closed' || this.#state === 'crashed') return;
    for (const { kind, offsetBytes, lengthBytes, bytes } of this.#inFlight.values()) {
      if (kind !== 'read' && kind !== 'flush') this.#media.put(offsetBytes, lengthBytes, bytes, false);
    }
    this.#inFlight.clear();
    this.#leave('crashed');
  }

  #leave(state: 'closed' | 'crashed'): void {
    this.#state = state;
    if (this.#media.user === this) this.#media.user = null;
  }

  #put(kind: Kind, offsetBytes: number, lengthBytes: number, bytes: Uint8Array | null, isStable: boolean): number {
    const result = this.#media.resultOf(kind, offsetBytes, lengthBytes);
    if (result === 0) this.#media.put(offsetBytes, lengthBytes, bytes, isStable);
    return result;
  }

  #start(
    kind: Kind,
    tag: number,
    offsetBytes: number,
    lengthBytes: number,
    bytes: Uint8Array | null,
    isDurable: boolean,
    end: () => number,
  ): void {
    assert(this.#state === 'open', 'a disk is used while it is open');
    assert(
      offsetBytes % BLOCK_BYTES === 0 && lengthBytes % BLOCK_BYTES === 0,
      'a drive is read and written in whole blocks',
    );
    assert(kind === 'flush' || (lengthBytes > 0 && offsetBytes >= 0), 'an operation has a range');
    assert(offsetBytes + lengthBytes <= this.sizeBytes, 'an operation is inside the data area');
    assert(!this.#inFlight.has(tag), 'a tag is in flight once');
    const operation = { kind, tag, offsetBytes, lengthBytes, bytes, isDurable, end };
    this.#inFlight.set(tag, operation);
    const { delayMsMin, delayMsMax } = this.#options;
    const delayMs = this.#media.slowness * this.#random.between(delayMsMin, delayMsMax);
    this.#clock.after(delayMs, () => this.#onTime(operation));
  }

  #onTime(operation: InFlight): void {
    if (this.#held.has(operation)) return;
    if (this.#media.isStalled) this.#overdue.push(operation);
    else this.#end(operation);
  }

  #end(operation: InFlight): void {
    if (this.#inFlight.get(operation.tag) !== operation) return;
    this.#inFlight.delete(operation.tag);
    this.#handler(operation.tag, operation.end());
    if (this.#inFlight.size === 0) this.#onIdle?.();
  }
}

/** The drives of one node, by path of their data area. */
export class SimDiskOpener implements DiskOpener {
  readonly #slab: Slab;
  readonly #clock: Clock;
  readonly #random: SimRandom;
  readonly #options: SimDiskOptions;
  readonly #media = new Map<string, SimDiskMedia>();

  constructor(slab: Slab, clock: Clock, random: SimRandom, options: SimDiskOptions = DEFAULTS) {
    this.#slab = slab;
    this.#clock = clock;
    this.#random = random;
    this.#options = options;
  }

  /** A new data area, all zeros. */
  create(path: string, sizeBytes: number): SimDiskMedia {
    const media = new SimDiskMedia(sizeBytes);
    this.#media.set(path, media);
    return media;
  }

  /** The media at `path`, to damage it, or to move it to another node. */
  media(path: string): SimDiskMedia | null {
    return this.#media.get(path) ?? null;
  }

  attach(path: string, media: SimDiskMedia): void {
    this.#media.set(path, media);
  }

  async open(path: string, handler: DiskHandler): Promise<SimDisk> {
    const media = this.#media.get(path);
    if (media === undefined) throw new BraidError('DRIVE', `${path} does not exist`);
    if (media.user !== null) throw new BraidError('DRIVE', `${path} is in use`);
    return new SimDisk(
      media,
      handler,
      this.#slab,
      this.#clock,
      this.#random.fork(`${path}/${media.sequence}`),
      this.#options,
    );
  }
}

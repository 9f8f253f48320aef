/** Stand-ins for the ports that the NBD front end uses: a volume whose pieces end when told, a clock that stands, a silent log. */
import { EXTENT_BYTES } from '../../../../daemon/base/units.js';
import type { BlockVolume, BlockVolumeHandler } from '../../../../daemon/ports/block-volume.js';
import { type Clock, tickAt, type Timer } from '../../../../daemon/ports/clock.js';
import type { Log } from '../../../../daemon/ports/log.js';
import { NO_BUFFER, POOL_FRONTEND, type BufferId, type Slab } from '../../../../daemon/ports/slab.js';
import { STATUS, type Status } from '../../../../daemon/protocol/frame.js';

export function check(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(message);
}

type PieceKind = 'read' | 'write' | 'trim' | 'zero' | 'flush';
export type Piece = {
  kind: PieceKind;
  ticket: number;
  offset: number;
  length: number;
  buffer: BufferId;
  fua: boolean;
  mayFree: boolean;
};

let longestPattern = new Uint8Array(0);

/** Bytes that tell every sector from every other. */
function pattern(sizeBytes: number): Uint8Array {
  if (longestPattern.length < sizeBytes) {
    const words = new Uint32Array(Math.ceil(sizeBytes / 4)).map((_, i) => (i >>> 7) * 2654435761 + i + 1);
    longestPattern = new Uint8Array(words.buffer);
  }
  return longestPattern.subarray(0, sizeBytes);
}

/** A volume in memory. Pieces take effect when they end; `isImmediate` ends them within the call that starts them. */
export class TestVolume implements BlockVolume {
  readonly name = 'volume';
  readonly sizeBytes: number;
  readonly data: Uint8Array;
  readonly allocated: boolean[];
  readonly pending: Piece[] = [];
  /** Everything that was started. */
  readonly started: Omit<Piece, 'ticket' | 'buffer'>[] = [];
  capacity = 1_000_000;
  /** It accepts no piece for which the slab may have no buffer. */
  frontendBytes = Infinity;
  isImmediate = false;
  allocationFails = false;
  #handler: BlockVolumeHandler | null = null;
  #hasRefused = false;
  readonly #slab: Slab;

  constructor(slab: Slab, sizeBytes: number) {
    this.#slab = slab;
    this.sizeBytes = sizeBytes;
    this.data = new Uint8Array(sizeBytes);
    this.allocated = new Array<boolean>(Math.ceil(sizeBytes / EXTENT_BYTES)).fill(false);
  }

  setHandler(handler: BlockVolumeHandler): void {
    this.#handler = handler;
  }

  canAccept(): boolean {
    const hasBuffer = this.#slab.usedBytes(POOL_FRONTEND) + EXTENT_BYTES <= this.frontendBytes;
    const can = this.pending.length < this.capacity && hasBuffer;
    if (!can) this.#hasRefused = true;
    return can;
  }

  /** Fills all of it with a pattern. */
  fill(): this {
    this.data.set(pattern(this.sizeBytes));
    this.allocated.fill(true);
    return this;
  }

  read(ticket: number, offset: number, length: number): void {
    // Like a coordinator, which has the buffer before it asks a replica.
    const buffer = this.#slab.alloc((offset % 4096) + length, POOL_FRONTEND);
    check(buffer !== NO_BUFFER, 'the slab has room for a read');
    this.#start({ kind: 'read', ticket, offset, length, buffer, fua: false, mayFree: false });
  }

  write(ticket: number, offset: number, length: number, buffer: BufferId, fua: boolean): void {
    this.#start({ kind: 'write', ticket, offset, length, buffer, fua, mayFree: false });
  }

  trim(ticket: number, offset: number, length: number, fua: boolean): void {
    this.#start({ kind: 'trim', ticket, offset, length, buffer: NO_BUFFER, fua, mayFree: true });
  }

  zero(ticket: number, offset: number, length: number, fua: boolean, mayFree: boolean): void {
    this.#start({ kind: 'zero', ticket, offset, length, buffer: NO_BUFFER, fua, mayFree });
  }

  flush(ticket: number): void {
    this.#start({ kind: 'flush', ticket, offset: 0, length: 0, buffer: NO_BUFFER, fua: false, mayFree: false });
  }

  async allocation(offset: number, length: number): Promise<boolean[]> {
    check(offset % EXTENT_BYTES === 0 && length > 0 && offset + length <= this.sizeBytes, 'a range of extents');
    await Promise.resolve();
    if (this.allocationFails) throw new Error('no look-up');
    return this.allocated.slice(offset / EXTENT_BYTES, Math.ceil((offset + length) / EXTENT_BYTES));
  }

  /** Ends the pending piece at `index` (modulo their number). */
  end(index = 0, status: Status = STATUS.OK): void {
    const [piece] = this.pending.splice(index % this.pending.length, 1);
    check(piece !== undefined, 'a piece is pending');
    let result = NO_BUFFER;
    let resultOffset = 0;
    if (status === STATUS.OK && piece.kind === 'read') {
      resultOffset = piece.offset % 4096;
      result = this.#read(piece, resultOffset);
    }
    if (status === STATUS.OK && piece.kind !== 'read') this.#change(piece);
    if (piece.buffer !== NO_BUFFER && result === NO_BUFFER) this.#slab.release(piece.buffer);
    this.#handler?.onDone(piece.ticket, status, result, resultOffset);
    this.settle();
  }

  endAll(): void {
    while (this.pending.length > 0) this.end();
  }

  settle(): void {
    if (!this.#hasRefused || !this.canAccept()) return;
    this.#hasRefused = false;
    this.#handler?.onCapacity();
  }

  #start(piece: Piece): void {
    const { kind, offset, length, fua, mayFree } = piece;
    check(this.pending.length < this.capacity, 'the volume would accept a piece');
    check(offset % 512 === 0 && length % 512 === 0 && offset + length <= this.sizeBytes, 'aligned and inside');
    check((kind === 'flush') === (length === 0), 'pieces cover something');
    const isOneExtent = Math.floor(offset / EXTENT_BYTES) === Math.floor((offset + length - 1) / EXTENT_BYTES);
    check(kind === 'flush' || isOneExtent, 'within one extent');
    this.started.push({ kind, offset, length, fua, mayFree });
    this.pending.push(piece);
    if (this.isImmediate) this.end(this.pending.length - 1);
  }

  #read({ offset, length, buffer }: Piece, resultOffset: number): BufferId {
    if (this.allocated[Math.floor(offset / EXTENT_BYTES)] !== true) return NO_BUFFER;
    this.#slab.bytes(buffer, resultOffset, length).set(this.data.subarray(offset, offset + length));
    return buffer;
  }

  #change({ kind, offset, length, buffer }: Piece): void {
    if (kind === 'flush') return;
    const target = this.data.subarray(offset, offset + length);
    if (kind === 'write') target.set(this.#slab.bytes(buffer, offset % 4096, length));
    else target.fill(0);
    const isWhole = length === EXTENT_BYTES && kind !== 'write';
    const wasAllocated = this.allocated[Math.floor(offset / EXTENT_BYTES)] === true;
    this.allocated[Math.floor(offset / EXTENT_BYTES)] = isWhole ? false : kind === 'write' || wasAllocated;
  }
}

export class TestClock implements Clock {
  #nowMs = 1000;
  readonly #timers = new Set<{ atMs: number; callback: () => void }>();

  nowMs(): number {
    return this.#nowMs;
  }

  tickUs(): number {
    return tickAt(this.#nowMs);
  }

  wallMs(): number {
    return this.#nowMs;
  }

  after(delayMs: number, callback: () => void): Timer {
    const timer = { atMs: this.#nowMs + delayMs, callback };
    this.#timers.add(timer);
    return { cancel: () => void this.#timers.delete(timer) };
  }

  advance(durationMs: number): void {
    this.#nowMs += durationMs;
    for (const timer of [...this.#timers]) {
      if (timer.atMs > this.#nowMs) continue;
      this.#timers.delete(timer);
      timer.callback();
    }
  }

  get timerCount(): number {
    return this.#timers.size;
  }
}

export const silentLog: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => silentLog,
};

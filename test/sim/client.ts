/** The simulator's client: sends random pieces to whatever serves the volume, and tells the oracle what it sent and heard. */
import { asError } from '../../daemon/base/errors.js';
import { EXTENT_BYTES, SECTOR_BYTES } from '../../daemon/base/units.js';
import type { BlockVolume, BlockVolumeHandler } from '../../daemon/ports/block-volume.js';
import { NO_BUFFER, POOL_FRONTEND, type BufferId } from '../../daemon/ports/slab.js';
import { STATUS, statusName, type Status } from '../../daemon/protocol/frame.js';
import { TORN, type Oracle, type PendingRead } from './oracle.js';
import type { SimNode } from './world/sim-node.js';
import type { SimRandom } from './world/sim-random.js';

interface Outstanding {
  readonly kind: 'read' | 'write' | 'flush';
  readonly id: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly read: PendingRead | null;
  /** Of a write: FUA. */
  readonly isDurable: boolean;
  /** It is none of those that the run is measured by. */
  readonly isChore: boolean;
  /** Of a flush: what the oracle said when it was sent. */
  readonly flushAt: number;
  readonly volume: BlockVolume;
}

const NOTHING = { id: 0, offsetBytes: 0, lengthBytes: 0, read: null, isDurable: false, flushAt: 0, isChore: false };

export interface ClientOptions {
  /** Extents that the client touches: few, so that operations overlap. */
  readonly extents: readonly number[];
  readonly depth: number;
  readonly onViolation: (error: Error) => void;
  readonly nowMs: () => number;
  /** Null: nobody wants to know. */
  readonly log: ((message: string) => void) | null;
}

export class SimClient {
  readonly #oracle: Oracle;
  readonly #random: SimRandom;
  readonly #options: ClientOptions;
  readonly #outstanding = new Map<number, Outstanding>();
  #nextTicket = 1;
  #nextWrite = 1;
  completed = 0;
  /** When an operation succeeded last. */
  progressMs = 0;
  readsChecked = 0;
  acknowledged = 0;

  constructor(oracle: Oracle, random: SimRandom, options: ClientOptions) {
    this.#oracle = oracle;
    this.#random = random;
    this.#options = options;
  }

  get inFlight(): number {
    return this.#outstanding.size;
  }

  handlerFor(volume: BlockVolume, node: SimNode): BlockVolumeHandler {
    return {
      onDone: (ticket, status, buffer, bufferOffsetBytes) => {
        this.#onDone(volume, node, ticket, status, buffer, bufferOffsetBytes);
      },
      onCapacity: () => undefined,
    };
  }

  /** The volume went away with its node: what was in flight is never heard of again. */
  forget(): void {
    for (const { read } of this.#outstanding.values()) if (read !== null) this.#oracle.readFailed();
    this.#outstanding.clear();
  }

  /** Starts one random piece if the depth allows; false when nothing was started. */
  start(volume: BlockVolume, node: SimNode): boolean {
    if (this.#outstanding.size >= this.#options.depth || !volume.canAccept()) return false;
    const dice = this.#random.below(100);
    if (dice < 45) this.#write(volume, node);
    else if (dice < 85) this.#read(volume);
    else if (dice < 90) this.#flush(volume);
    else if (dice < 95) this.#zero(volume, false);
    else this.#zero(volume, true);
    return true;
  }

  readAll(volume: BlockVolume): void {
    for (const extent of this.#options.extents) this.#readAt(volume, extent * EXTENT_BYTES, EXTENT_BYTES);
  }

  /** Frees everything but the first `keep` extents, also what a crash left mapped ahead of a stream where the client never wrote. */
  trimAllBut(volume: BlockVolume, keep: number): void {
    const kept = this.#options.extents.slice(0, keep);
    for (let extent = 0; extent < volume.sizeBytes / EXTENT_BYTES; extent++)
      if (!kept.includes(extent)) this.#trimAt(volume, extent * EXTENT_BYTES, EXTENT_BYTES);
  }

  /** A range in one extent: mostly whole blocks, sometimes the whole extent, sometimes single sectors. */
  #range(): { offsetBytes: number; lengthBytes: number } {
    const extent = this.#random.pick(this.#options.extents);
    const dice = this.#random.below(10);
    if (dice === 0) return { offsetBytes: extent * EXTENT_BYTES, lengthBytes: EXTENT_BYTES };
    const unit = dice < 3 ? SECTOR_BYTES : 4096;
    const units = EXTENT_BYTES / unit;
    // A narrow part of the extent, so that ranges overlap often.
    const first = this.#random.below(Math.min(units, 8));
    const count = 1 + this.#random.below(4);
    return { offsetBytes: extent * EXTENT_BYTES + first * unit, lengthBytes: Math.min(count, units - first) * unit };
  }

  #track(volume: BlockVolume, operation: Partial<Outstanding> & Pick<Outstanding, 'kind'>): number {
    const ticket = this.#nextTicket++;
    const entry = { ...NOTHING, ...operation, volume };
    this.#outstanding.set(ticket, entry);
    this.#options.log?.(nameOf(entry));
    return ticket;
  }

  #write(volume: BlockVolume, node: SimNode): void {
    const { offsetBytes, lengthBytes } = this.#range();
    const within = offsetBytes % 4096;
    const buffer = node.slab.alloc(within + lengthBytes, POOL_FRONTEND);
    if (buffer === NO_BUFFER) return;
    const id = this.#nextWrite++;
    const bytes = node.slab.bytes(buffer, within, lengthBytes);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let offset = 0; offset < lengthBytes; offset += SECTOR_BYTES) {
      view.setUint32(offset, id, true);
      view.setUint32(offset + SECTOR_BYTES - 4, id, true);
    }
    if (within === 0 && lengthBytes % 4096 === 0) node.slab.computeChecksums(buffer, 0, lengthBytes);
    this.#oracle.writeStarted(id, id, offsetBytes, lengthBytes);
    const isDurable = this.#random.chance(0.1);
    const ticket = this.#track(volume, { kind: 'write', id, offsetBytes, lengthBytes, isDurable });
    volume.write(ticket, offsetBytes, lengthBytes, buffer, isDurable);
  }

  #zero(volume: BlockVolume, trim: boolean): void {
    const range = this.#range();
    const aligned = range.offsetBytes % 4096 === 0 && range.lengthBytes % 4096 === 0;
    if (trim && !aligned) return;
    if (trim) {
      this.#trimAt(volume, range.offsetBytes, range.lengthBytes);
      return;
    }
    const ticket = this.#startZeroes(volume, range.offsetBytes, range.lengthBytes);
    volume.zero(ticket, range.offsetBytes, range.lengthBytes, false, this.#random.chance(0.5));
  }

  #trimAt(volume: BlockVolume, offsetBytes: number, lengthBytes: number): void {
    volume.trim(this.#startZeroes(volume, offsetBytes, lengthBytes), offsetBytes, lengthBytes, false);
  }

  #startZeroes(volume: BlockVolume, offsetBytes: number, lengthBytes: number): number {
    const id = this.#nextWrite++;
    // Elsewhere the client never wrote: what reads as zeros goes on doing so.
    const isChore = !this.#options.extents.includes(Math.floor(offsetBytes / EXTENT_BYTES));
    if (!isChore) this.#oracle.writeStarted(id, 0, offsetBytes, lengthBytes);
    return this.#track(volume, { kind: 'write', id, offsetBytes, lengthBytes, isChore });
  }

  #read(volume: BlockVolume): void {
    const { offsetBytes, lengthBytes } = this.#range();
    this.#readAt(volume, offsetBytes, lengthBytes);
  }

  #readAt(volume: BlockVolume, offsetBytes: number, lengthBytes: number): void {
    const read = this.#oracle.readStarted(offsetBytes, lengthBytes);
    const ticket = this.#track(volume, { kind: 'read', offsetBytes, lengthBytes, read });
    volume.read(ticket, offsetBytes, lengthBytes);
  }

  #flush(volume: BlockVolume): void {
    volume.flush(this.#track(volume, { kind: 'flush', flushAt: this.#oracle.flushStarted() }));
  }

  #check(read: PendingRead, values: readonly number[]): void {
    try {
      this.#oracle.readEnded(read, values);
    } catch (error) {
      this.#options.onViolation(asError(error));
    }
  }

  #onDone(
    volume: BlockVolume,
    node: SimNode,
    ticket: number,
    status: Status,
    buffer: BufferId,
    bufferOffsetBytes: number,
  ): void {
    const entry = this.#outstanding.get(ticket);
    const values =
      entry?.kind === 'read' && status === STATUS.OK
        ? sectorsOf(node, buffer, bufferOffsetBytes, entry.lengthBytes)
        : [];
    if (buffer !== NO_BUFFER) node.slab.release(buffer);
    if (entry === undefined || entry.volume !== volume) return;
    this.#outstanding.delete(ticket);
    this.#options.log?.(`${nameOf(entry)} ended ${statusName(status)}`);
    if (!entry.isChore) this.completed++;
    if (status === STATUS.OK) this.progressMs = this.#options.nowMs();
    if (entry.read !== null) {
      if (status === STATUS.OK) {
        this.readsChecked++;
        this.#check(entry.read, values);
      } else this.#oracle.readFailed();
    } else if (status === STATUS.OK) this.#acknowledged(entry);
    // Fenced: what is under way at the replicas may still happen, until the next owner serves.
    else if (entry.kind === 'write' && status !== STATUS.FENCED) this.#oracle.writeFailed(entry.id);
  }

  #acknowledged(entry: Outstanding): void {
    if (entry.kind === 'flush') this.#oracle.flushAcknowledged(entry.flushAt);
    else {
      this.acknowledged++;
      this.#oracle.writeAcknowledged(entry.id, entry.isDurable);
    }
  }
}

function nameOf({ kind, id, offsetBytes, lengthBytes }: Outstanding): string {
  return `client ${kind} ${id} sectors ${offsetBytes / SECTOR_BYTES}+${lengthBytes / SECTOR_BYTES}`;
}

/** The write number in each sector; TORN for a sector whose ends differ. */
function sectorsOf(node: SimNode, buffer: BufferId, offsetBytes: number, lengthBytes: number): number[] {
  if (buffer === NO_BUFFER) return new Array<number>(lengthBytes / SECTOR_BYTES).fill(0);
  return sectorValues(node.slab.bytes(buffer, offsetBytes, lengthBytes));
}

/** The same of bytes as they lie on a drive. */
export function sectorValues(bytes: Uint8Array): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: bytes.length / SECTOR_BYTES }, (_, index) => {
    const first = view.getUint32(index * SECTOR_BYTES, true);
    return first === view.getUint32((index + 1) * SECTOR_BYTES - 4, true) ? first : TORN;
  });
}

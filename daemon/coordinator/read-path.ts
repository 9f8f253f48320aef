/**
 * Reads of a volume, from one in-sync copy each, and the reading that an unaligned write needs.
 *
 * Invariants (numbers of ARCHITECTURE.md)
 * - 4, 13: a read goes to in-sync, connected copies only; data that does not match its checksum is read from another copy, never returned;
 *   data whose checksum is not known is returned only if no other copy knows it.
 * - A row has at most one READ out; `source` names the replica, whose `readsInFlight` counts it.
 */
import { assert } from '../base/assert.js';
import { NO_BUFFER, POOL_FRONTEND, POOL_INTERNAL, type BufferId } from '../ports/slab.js';
import { FLAG, Frame, OPCODE, STATUS, statusName, type Status } from '../protocol/frame.js';
import type { IoOptions } from './io-options.js';
import { KIND, PHASE, type OperationTable } from './operations.js';
import type { Replica, Segment } from './segment.js';

/** What `VolumeIo` does for its reads. */
export interface ReadHost {
  mayServe(): boolean;
  /** There is no buffer: the row is tried again when there is. */
  starve(row: number): void;
  /** The payload of an unaligned write is whole blocks now. */
  merged(row: number): void;
  finish(row: number, status: Status, buffer: BufferId, bufferOffsetBytes: number): void;
}

export class ReadPath {
  readonly #table: OperationTable;
  readonly #options: IoOptions;
  readonly #host: ReadHost;
  readonly #frame = new Frame();

  constructor(table: OperationTable, options: IoOptions, host: ReadHost) {
    this.#table = table;
    this.#options = options;
    this.#host = host;
  }

  send(row: number): void {
    const table = this.#table;
    const { slab } = this.#options;
    const segment = this.#segmentOf(row);
    const tried = table.tried[row] ?? 0;
    const replica =
      segment.readSource(tried | (table.unsure[row] ?? 0), this.#options.isLocal) ??
      segment.readSource(tried, this.#options.isLocal);
    if (replica === null) {
      if ((segment.inSyncMask & ~tried) === 0) this.#readFailed(row);
      else table.phase[row] = PHASE.PARKED;
      return;
    }
    const merging = table.kind[row] === KIND.WRITE;
    const length = table.length[row] ?? 0;
    // Reads may fall back on the internal pool: they must never wait for writes that wait for them.
    let buffer = merging ? NO_BUFFER : slab.alloc(length, POOL_FRONTEND);
    if (buffer === NO_BUFFER) buffer = slab.alloc(length, POOL_INTERNAL);
    if (buffer === NO_BUFFER) {
      this.#host.starve(row);
      return;
    }
    table.phase[row] = merging ? PHASE.MERGING : PHASE.ACTIVE;
    table.source[row] = replica.slot;
    replica.readsInFlight++;
    const frame = this.#frame.request(
      OPCODE.READ,
      table.tag(row, replica.slot),
      replica.session.handle,
      replica.number,
    );
    frame.generation = segment.generation;
    frame.epoch = this.#options.epoch;
    frame.offset = table.offset[row] ?? 0;
    frame.length = length;
    replica.session.peer.send(frame, NO_BUFFER, 0, buffer);
    slab.release(buffer);
  }

  onReply(row: number, replica: Replica, frame: Frame, buffer: BufferId): void {
    const { slab, hooks } = this.#options;
    const table = this.#table;
    const segment = this.#segmentOf(row);
    const zeroes = (frame.flags & FLAG.ZEROES) !== 0;
    let data = buffer;
    if (data !== NO_BUFFER && (frame.status !== STATUS.OK || zeroes)) {
      slab.release(data);
      data = NO_BUFFER;
    }
    replica.readsInFlight--;
    if (frame.status === STATUS.OK) {
      const tried = table.tried[row] ?? 0;
      if ((frame.flags & FLAG.UNVERIFIED) !== 0 && this.#isBetterElsewhere(row, segment, replica)) {
        if (data !== NO_BUFFER) slab.release(data);
        this.send(row);
        return;
      }
      if (tried !== 0) hooks.repair(segment, table.offset[row] ?? 0, tried);
      if (table.kind[row] === KIND.WRITE) this.#merge(row, data);
      else if (this.#host.mayServe()) this.#host.finish(row, STATUS.OK, data, table.skip[row] ?? 0);
      else {
        if (data !== NO_BUFFER) slab.release(data);
        this.#host.finish(row, STATUS.FENCED, NO_BUFFER, 0);
      }
      return;
    }
    if (frame.status === STATUS.FENCED) {
      hooks.fenced(`a replica on ${replica.session.peer.name} knows a higher epoch`);
      return;
    }
    table.tried[row] = (table.tried[row] ?? 0) | replica.bit;
    // A block that cannot be read is like one with a wrong checksum (invariant 13): writing it anew heals it, or shows that the drive is lost.
    const isBlockLost = frame.status === STATUS.CHECKSUM_MISMATCH || frame.status === STATUS.IO_ERROR;
    if (!isBlockLost) hooks.replicaFailed(replica, statusName(frame.status));
    this.send(row);
  }

  /** The replica does not know the checksums of what it sent: whether another one, which may, is asked first. */
  #isBetterElsewhere(row: number, segment: Segment, replica: Replica): boolean {
    const table = this.#table;
    const unsure = table.unsure[row] ?? 0;
    table.unsure[row] = unsure | replica.bit;
    const isAskedAgain = (unsure & replica.bit) !== 0;
    return !isAskedAgain && (segment.readableMask & ~(unsure | replica.bit | (table.tried[row] ?? 0))) !== 0;
  }

  /** No in-sync copy can give the data (invariant 13: what does not match its checksum is never returned). */
  #readFailed(row: number): void {
    if (this.#table.kind[row] === KIND.WRITE) this.#host.finish(row, STATUS.IO_ERROR, NO_BUFFER, 0);
    else this.#host.finish(row, STATUS.CHECKSUM_MISMATCH, NO_BUFFER, 0);
  }

  // ---- unaligned writes: read the blocks, put the payload in, write whole blocks; all under the range lock

  #merge(row: number, data: BufferId): void {
    const { slab } = this.#options;
    const table = this.#table;
    const buffer = table.buffer[row] ?? NO_BUFFER;
    const length = table.length[row] ?? 0;
    const start = table.skip[row] ?? 0;
    const end = start + (table.clientLength[row] ?? 0);
    if (buffer === NO_BUFFER) {
      this.#mergeZeroes(row, data, start, end);
      return;
    }
    if (data === NO_BUFFER) {
      slab.zero(buffer, 0, start);
      slab.zero(buffer, end, length - end);
    } else {
      slab.copy(buffer, 0, data, 0, start);
      slab.copy(buffer, end, data, end, length - end);
      slab.release(data);
    }
    slab.computeChecksums(buffer, 0, length);
    this.#host.merged(row);
  }

  /** Zeroing parts of blocks: the blocks as read, with zeros put in, are the payload. */
  #mergeZeroes(row: number, data: BufferId, start: number, end: number): void {
    const { slab } = this.#options;
    if (data === NO_BUFFER) {
      this.#host.finish(row, STATUS.OK, NO_BUFFER, 0); // they are zeros already
      return;
    }
    slab.zero(data, start, end - start);
    slab.computeChecksums(data, 0, this.#table.length[row] ?? 0);
    this.#table.buffer[row] = data;
    this.#host.merged(row);
  }

  #segmentOf(row: number): Segment {
    const segment = this.#options.segments[this.#table.segment[row] ?? 0];
    assert(segment !== undefined, 'every piece lies in a segment');
    return segment;
  }
}

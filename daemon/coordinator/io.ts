/**
 * The I/O path of an owned volume: orders the client's pieces, fans writes out to every target, reads from one in-sync copy, and decides when
 * a piece may be acknowledged. It is synchronous and allocates nothing per piece; what takes time (changes of the in-sync set, copies)
 * is asked for through `IoHooks` and comes back as `segmentChanged`, `sessionReady`, `sessionDown`.
 *
 * Invariants (numbers of ARCHITECTURE.md)
 * - 1: a write is acknowledged when no target's answer is pending, under the generation in force.
 * - 3, 4: the range lock is held from before the first frame until the acknowledgement.
 * - 5: a pending bit of an in-sync replica is cleared by its answer, or by `segmentChanged` after the drop was committed; by nothing else.
 * - 11: nothing starts and nothing is acknowledged unless the lease is valid.
 * - 12: fewer than `minInSync` copies: a write is held (or fails with EIO where the volume says so), never acknowledged.
 * - At most one request per operation and replica is out: a change of generation asks a replica again only after it has answered.
 */
import { assert } from '../base/assert.js';
import { limits } from '../base/limits.js';
import { BLOCK_BYTES, EXTENT_BYTES } from '../base/units.js';
import type { BlockVolume, BlockVolumeHandler } from '../ports/block-volume.js';
import { NO_BUFFER, type BufferId } from '../ports/slab.js';
import { FLAG, Frame, OPCODE, segmentIndexOf, STATUS, statusName, type Status } from '../protocol/frame.js';
import { FlushTable } from './flush.js';
import type { IoOptions } from './io-options.js';
import { KIND, OperationTable, PHASE, slotOf } from './operations.js';
import { RangeLock } from './range-lock.js';
import { ReadPath } from './read-path.js';
import type { Replica, Segment, Session } from './segment.js';

const NO_HANDLER: BlockVolumeHandler = { onDone: () => undefined, onCapacity: () => undefined };

export class VolumeIo implements BlockVolume {
  readonly name: string;
  readonly sizeBytes: number;
  readonly #options: IoOptions;
  readonly #table = new OperationTable(limits.operationsPerVolumeMax, limits.internalOperationsPerVolumeMax);
  readonly #lock: RangeLock;
  readonly #frame = new Frame();
  readonly #flushes: FlushTable;
  readonly #reads: ReadPath;
  readonly #lockWaiters = new Map<number, (granted: boolean) => void>();
  readonly #idleWaiters: (() => void)[] = [];
  #handler = NO_HANDLER;
  #refusedCapacity = false;
  #starved: number[] = [];
  #fenced = false;
  #internalRows = 0;
  readonly #onRoom = (): void => {
    this.#handler.onCapacity();
  };

  constructor(options: IoOptions) {
    this.#options = options;
    this.name = options.name;
    this.sizeBytes = options.layout.sizeBytes;
    this.#lock = new RangeLock(this.#table, options.layout.extentsPerSegment, (row) => {
      this.#start(row);
    });
    this.#reads = new ReadPath(this.#table, options, {
      mayServe: () => this.#mayServe(),
      starve: (row) => {
        this.#table.phase[row] = PHASE.STARVED;
        this.#starved.push(row);
      },
      merged: (row) => {
        this.#issue(row);
      },
      finish: (row, status, buffer, bufferOffsetBytes) => {
        this.#finish(row, status, buffer, bufferOffsetBytes);
      },
    });
    this.#flushes = new FlushTable(this.#table, options.sessions, options.epoch);
  }

  get inFlight(): number {
    return this.#table.clientUsed;
  }

  setHandler(handler: BlockVolumeHandler): void {
    this.#handler = handler;
  }

  canAccept(): boolean {
    if (this.#table.clientHasRoom()) return this.#options.budget.admits(this.#table.clientUsed, this.#onRoom);
    this.#refusedCapacity = true;
    return false;
  }

  // ---- client operations

  read(ticket: number, offsetBytes: number, lengthBytes: number): void {
    this.#admit(this.#place(KIND.READ, ticket, offsetBytes, lengthBytes));
  }

  write(ticket: number, offsetBytes: number, lengthBytes: number, buffer: BufferId, fua: boolean): void {
    assert(buffer !== NO_BUFFER, 'a write has a payload');
    const row = this.#place(KIND.WRITE, ticket, offsetBytes, lengthBytes);
    this.#table.buffer[row] = buffer;
    if (fua) this.#table.flags[row] = FLAG.FUA;
    this.#admit(row);
  }

  trim(ticket: number, offsetBytes: number, lengthBytes: number, fua: boolean): void {
    const start = Math.ceil(offsetBytes / BLOCK_BYTES) * BLOCK_BYTES;
    const end = Math.floor((offsetBytes + lengthBytes) / BLOCK_BYTES) * BLOCK_BYTES;
    if (end <= start) {
      this.#handler.onDone(ticket, STATUS.OK, NO_BUFFER, 0);
      return;
    }
    const row = this.#place(KIND.TRIM, ticket, start, end - start);
    if (fua) this.#table.flags[row] = FLAG.FUA;
    this.#admit(row);
  }

  zero(ticket: number, offsetBytes: number, lengthBytes: number, fua: boolean, mayFree: boolean): void {
    // Zeroing parts of blocks is a write of zeros; the blocks are read first.
    const aligned = offsetBytes % BLOCK_BYTES === 0 && lengthBytes % BLOCK_BYTES === 0;
    const whole = mayFree && lengthBytes === EXTENT_BYTES;
    const row = this.#place(aligned ? (whole ? KIND.TRIM : KIND.ZERO) : KIND.WRITE, ticket, offsetBytes, lengthBytes);
    if (fua) this.#table.flags[row] = FLAG.FUA;
    this.#admit(row);
  }

  flush(ticket: number): void {
    const row = this.#table.take(KIND.FLUSH);
    this.#options.budget.started(this.#table.clientUsed);
    this.#table.ticket[row] = ticket;
    if (!this.#mayServe()) {
      this.#end(row, STATUS.FENCED, NO_BUFFER, 0);
      return;
    }
    this.#table.phase[row] = PHASE.ACTIVE;
    this.#flushes.start(row);
    this.#settleFlush(row);
  }

  allocation(offsetBytes: number, lengthBytes: number): Promise<boolean[]> {
    return this.#options.hooks.allocation(offsetBytes, lengthBytes);
  }

  // ---- extent locks, for copies

  /** Resolves to a row when the extent that holds `offsetBytes` is exclusively ours, to null when the volume was fenced meanwhile. */
  lockExtent(segment: number, offsetBytes: number): Promise<number | null> {
    assert(this.#internalRows < limits.internalOperationsPerVolumeMax, 'copies hold a bounded number of extent locks');
    const row = this.#table.take(KIND.LOCK);
    this.#internalRows++;
    this.#table.segment[row] = segment;
    this.#table.offset[row] = offsetBytes - (offsetBytes % EXTENT_BYTES);
    this.#table.length[row] = EXTENT_BYTES;
    if (this.#lock.enqueue(row)) return Promise.resolve(row);
    return new Promise((resolve) => {
      this.#lockWaiters.set(row, (granted) => {
        resolve(granted ? row : null);
      });
    });
  }

  unlockExtent(row: number): void {
    this.#internalRows--;
    this.#lock.release(row);
    this.#table.free(row);
  }

  // ---- admission and start

  #place(kind: number, ticket: number, offsetBytes: number, lengthBytes: number): number {
    const { layout } = this.#options;
    assert(this.#table.clientHasRoom(), 'the front end asks canAccept first');
    assert(lengthBytes > 0 && offsetBytes + lengthBytes <= this.sizeBytes, 'pieces lie inside the volume');
    const inSegment = layout.offsetInSegment(offsetBytes);
    const skip = inSegment % BLOCK_BYTES;
    const start = inSegment - skip;
    const end = Math.ceil((inSegment + lengthBytes) / BLOCK_BYTES) * BLOCK_BYTES;
    assert((start % EXTENT_BYTES) + (end - start) <= EXTENT_BYTES, 'pieces lie inside one extent');
    const table = this.#table;
    const row = table.take(kind);
    this.#options.budget.started(table.clientUsed);
    table.ticket[row] = ticket;
    table.segment[row] = layout.segmentOf(offsetBytes);
    table.offset[row] = start;
    table.length[row] = end - start;
    table.skip[row] = skip;
    table.clientLength[row] = lengthBytes;
    return row;
  }

  #admit(row: number): void {
    const { regions, hooks } = this.#options;
    if (!this.#mayServe()) {
      this.#end(row, STATUS.FENCED, NO_BUFFER, 0);
      return;
    }
    const region = this.#regionOf(row);
    if (regions.isDirty(region)) {
      this.#table.phase[row] = PHASE.DIRTY;
      hooks.regionWanted(region);
      return;
    }
    if (this.#lock.enqueue(row)) this.#start(row);
  }

  /** The region is reconciled: operations that waited for it go on. */
  regionClean(region: number): void {
    for (let row = 0; row < this.#table.capacity; row++) {
      if (this.#table.phase[row] === PHASE.DIRTY && this.#regionOf(row) === region) {
        if (this.#lock.enqueue(row)) this.#start(row);
      }
    }
  }

  #start(row: number): void {
    const { kind, length, clientLength } = this.#table;
    if (kind[row] === KIND.LOCK) {
      const waiter = this.#lockWaiters.get(row);
      this.#lockWaiters.delete(row);
      waiter?.(true);
    } else if (!this.#mayServe()) this.#finish(row, STATUS.FENCED, NO_BUFFER, 0);
    else if (kind[row] === KIND.READ) this.#reads.send(row);
    else if (kind[row] === KIND.WRITE && clientLength[row] !== length[row]) this.#reads.send(row);
    else this.#issue(row);
  }

  /** Invariant 11: the lease is checked on entry and again before every acknowledgement. */
  #mayServe(): boolean {
    if (this.#fenced) return false;
    if (this.#options.leaseValid()) return true;
    this.#options.hooks.fenced('the node lease may have run out');
    return false;
  }

  // ---- writes, trims, zeroes

  #issue(row: number): void {
    const { minInSync, failWhenDegraded, regions } = this.#options;
    const segment = this.#segmentOf(row);
    regions.writeStarted(this.#regionOf(row));
    this.#table.phase[row] = PHASE.ACTIVE;
    if (failWhenDegraded && segment.inSyncCount < minInSync) {
      this.#finishWrite(row, STATUS.IO_ERROR);
      return;
    }
    this.#table.generation[row] = segment.generation;
    this.#table.pending[row] = segment.targetMask;
    assert(segment.inSyncMask !== 0, 'the last in-sync copy is never dropped (invariant 12)');
    for (const replica of segment.replicas) {
      if ((segment.targetMask & replica.bit) !== 0 && replica.ready) this.#sendWrite(row, segment, replica);
    }
  }

  #sendWrite(row: number, segment: Segment, replica: Replica): void {
    const table = this.#table;
    const frame = this.#frame.request(
      this.#writeOpcode(row),
      table.tag(row, replica.slot),
      replica.session.handle,
      replica.number,
    );
    frame.flags = (table.flags[row] ?? 0) | (segment.whole ? 0 : FLAG.TOMBSTONE);
    frame.generation = segment.generation;
    frame.epoch = this.#options.epoch;
    frame.offset = table.offset[row] ?? 0;
    frame.length = table.length[row] ?? 0;
    const buffer = table.buffer[row] ?? NO_BUFFER;
    frame.payloadLength = buffer === NO_BUFFER ? 0 : frame.length;
    replica.session.peer.send(frame, buffer, 0, NO_BUFFER);
  }

  #writeOpcode(row: number): number {
    switch (this.#table.kind[row]) {
      case KIND.WRITE:
        return OPCODE.WRITE;
      case KIND.TRIM:
        return OPCODE.TRIM;
      default:
        return OPCODE.ZERO;
    }
  }

  #onWriteReply(row: number, replica: Replica, status: number): void {
    const table = this.#table;
    const segment = this.#segmentOf(row);
    const bit = replica.bit;
    if (((table.pending[row] ?? 0) & bit) === 0) return;
    if (status === STATUS.FENCED) {
      this.#options.hooks.fenced(`a replica on ${replica.session.peer.name} knows a higher epoch`);
      return;
    }
    if (status === STATUS.OK) table.took[row] = (table.took[row] ?? 0) | bit;
    if (status === STATUS.NO_SPACE && replica.state === 'in-sync') {
      table.noSpace[row] = (table.noSpace[row] ?? 0) | bit;
      table.again[row] = (table.again[row] ?? 0) & ~bit;
    } else if (status !== STATUS.OK) {
      // The bit stays pending: only the committed drop clears it (invariant 5).
      this.#options.hooks.replicaFailed(replica, statusName(status));
      return;
    } else if (((table.again[row] ?? 0) & bit) !== 0) {
      table.again[row] = (table.again[row] ?? 0) & ~bit;
      this.#sendWrite(row, segment, replica);
      return;
    } else replica.session.writesAcked++;
    table.pending[row] = (table.pending[row] ?? 0) & ~bit;
    if (table.pending[row] === 0) this.#settle(row, segment);
  }

  /** Every target has answered under the current generation, or was dropped. */
  #settle(row: number, segment: Segment): void {
    const table = this.#table;
    const refused = table.noSpace[row] ?? 0;
    if (refused !== 0) {
      this.#settleRefused(row, segment, refused);
      return;
    }
    assert(table.generation[row] === segment.generation, 'acknowledged under the generation in force (invariant 1)');
    if (segment.inSyncCount < this.#options.minInSync) {
      if (this.#options.failWhenDegraded) {
        this.#finishWrite(row, STATUS.IO_ERROR);
        return;
      }
      table.phase[row] = PHASE.HELD;
      this.#lock.yield(row);
      return;
    }
    // Durable now: on every in-sync replica as its drive has it; stable media only after FLUSH, or with FUA.
    this.#finishWrite(row, this.#mayServe() ? STATUS.OK : STATUS.FENCED);
  }

  /**
   * Copies that had space must not keep what others lack: a failed write leaves all copies equal. One that refuses now may have taken it
   * under an earlier generation, and is made equal to those that never did; if all have taken it once it has happened, and not succeeded.
   */
  #settleRefused(row: number, segment: Segment, refused: number): void {
    const table = this.#table;
    const unchanged = refused & ~(table.took[row] ?? 0);
    if (unchanged === segment.targetMask) this.#finishWrite(row, STATUS.NO_SPACE);
    else if (unchanged === 0) this.#finishWrite(row, STATUS.IO_ERROR);
    else {
      table.phase[row] = PHASE.RESTORING;
      this.#options.hooks.restore(row, segment, table.offset[row] ?? 0, table.length[row] ?? 0, unchanged);
    }
  }

  restored(row: number): void {
    if (this.#table.phase[row] === PHASE.RESTORING) this.#finishWrite(row, STATUS.NO_SPACE);
  }

  #finishWrite(row: number, status: Status): void {
    this.#options.regions.writeEnded(this.#regionOf(row));
    this.#finish(row, status, NO_BUFFER, 0);
  }

  // ---- flush

  #onFlushReply(row: number, session: Session, status: number, failedSegment: number): void {
    if (!this.#flushes.awaits(row, session)) return;
    if (status === STATUS.FENCED) this.#options.hooks.fenced(`${session.peer.name} knows a higher epoch`);
    else if (status === STATUS.OK) {
      this.#flushes.answered(row, session);
      this.#settleFlush(row);
    } else this.#flushFailed(session, failedSegment, statusName(status));
  }

  /** The reply names a segment on the drive that failed: every replica on that drive fails with it. The flush goes on without them. */
  #flushFailed(session: Session, failedSegment: number, reason: string): void {
    const { segments, hooks } = this.#options;
    const candidates = segments[segmentIndexOf(failedSegment)]?.replicas ?? [];
    const failed = candidates.find((replica) => replica.session === session && replica.number === failedSegment);
    for (const { replicas } of segments) {
      for (const replica of replicas) {
        if (replica.session === session && replica.driveId === failed?.driveId && replica.state !== 'stale')
          hooks.replicaFailed(replica, reason);
      }
    }
  }

  #settleFlush(row: number): void {
    if (!this.#flushes.done(row)) return;
    // Durable now: every write that ended before this flush came, on the stable media of every in-sync replica.
    this.#end(row, this.#mayServe() ? STATUS.OK : STATUS.FENCED, NO_BUFFER, 0);
  }

  // ---- events from the peers and from membership

  onReply(session: Session, frame: Frame, buffer: BufferId): void {
    const { slab } = this.#options;
    const row = this.#table.rowOf(frame.tag);
    if (row < 0) {
      if (buffer !== NO_BUFFER) slab.release(buffer);
      return;
    }
    const { kind, phase } = this.#table;
    const opcode = frame.opcode & ~OPCODE.REPLY;
    if (opcode === OPCODE.READ) {
      const awaited = phase[row] === PHASE.MERGING || (kind[row] === KIND.READ && phase[row] === PHASE.ACTIVE);
      const source = awaited ? this.#sender(row, session, frame) : null;
      if (source !== null) this.#reads.onReply(row, source, frame, buffer);
      else if (buffer !== NO_BUFFER) slab.release(buffer);
      return;
    }
    if (buffer !== NO_BUFFER) slab.release(buffer);
    if (kind[row] === KIND.FLUSH) this.#onFlushReply(row, session, frame.status, frame.segment);
    else if (kind[row] !== KIND.READ) {
      const replica = this.#sender(row, session, frame);
      if (replica !== null) this.#onWriteReply(row, replica, frame.status);
    }
  }

  /** Who answers; null when that copy has left the segment since, whoever has its slot now. */
  #sender(row: number, session: Session, frame: Frame): Replica | null {
    const replica = this.#segmentOf(row).replicaAt(slotOf(frame.tag));
    return replica !== null && replica.session === session && replica.number === frame.segment ? replica : null;
  }

  /** The session is open (again): what its replicas still owe is sent once more. */
  sessionReady(session: Session): void {
    const table = this.#table;
    for (let row = 0; row < table.capacity; row++) {
      if (table.phase[row] === PHASE.PARKED) this.#reads.send(row);
      else if (table.phase[row] === PHASE.ACTIVE && table.kind[row] === KIND.FLUSH) {
        if (this.#flushes.awaits(row, session)) this.#flushes.send(row, session);
      } else if (this.#isWriteOut(row)) this.#replay(row, session);
    }
  }

  #replay(row: number, session: Session): void {
    const table = this.#table;
    const segment = this.#segmentOf(row);
    for (const replica of segment.replicas) {
      if (replica.session !== session || !replica.ready || ((table.pending[row] ?? 0) & replica.bit) === 0) continue;
      table.again[row] = (table.again[row] ?? 0) & ~replica.bit;
      this.#sendWrite(row, segment, replica);
    }
  }

  /** The session is gone: reads on it go elsewhere; writes wait for its return or the drop. */
  sessionDown(session: Session): void {
    const table = this.#table;
    for (let row = 0; row < table.capacity; row++) {
      if (this.#isReading(row)) {
        const replica = this.#segmentOf(row).replicaAt(table.source[row] ?? 0);
        if (replica?.session !== session) continue;
        replica.readsInFlight--;
        this.#reads.send(row);
      } else if (this.#isWriteOut(row)) {
        for (const replica of this.#segmentOf(row).replicas) {
          if (replica.session === session) table.again[row] = (table.again[row] ?? 0) & ~replica.bit;
        }
      }
    }
  }

  /** The segment's targets or generation changed, and the change is committed: everything in flight is made to conform. */
  segmentChanged(segment: Segment): void {
    const table = this.#table;
    for (let row = 0; row < table.capacity; row++) {
      if (table.phase[row] === PHASE.ACTIVE && table.kind[row] === KIND.FLUSH) {
        this.#flushes.dropStale(row);
        this.#settleFlush(row);
      } else if (table.phase[row] === PHASE.FREE || table.segment[row] !== segment.index) continue;
      // Bits of a copy that has left say nothing of the next one in its slot.
      table.tried[row] = (table.tried[row] ?? 0) & segment.slotsMask;
      table.took[row] = (table.took[row] ?? 0) & segment.slotsMask;
      const hasLostSource = this.#isReading(row) && segment.replicaAt(table.source[row] ?? 0) === null;
      if (table.phase[row] === PHASE.PARKED || hasLostSource) this.#reads.send(row);
      else if (this.#isWriteOut(row)) this.#reissue(row, segment);
    }
  }

  #isReading(row: number): boolean {
    const { kind, phase } = this.#table;
    return phase[row] === PHASE.MERGING || (kind[row] === KIND.READ && phase[row] === PHASE.ACTIVE);
  }

  #isWriteOut(row: number): boolean {
    const { kind, phase } = this.#table;
    const isWrite = kind[row] === KIND.WRITE || kind[row] === KIND.TRIM || kind[row] === KIND.ZERO;
    return isWrite && (phase[row] === PHASE.ACTIVE || phase[row] === PHASE.HELD);
  }

  /** Invariant 8: what was written under an older generation is written again under the current one, so that its stamp tells. */
  #reissue(row: number, segment: Segment): void {
    const table = this.#table;
    table.phase[row] = PHASE.ACTIVE;
    table.generation[row] = segment.generation;
    table.noSpace[row] = (table.noSpace[row] ?? 0) & segment.targetMask;
    table.again[row] = (table.again[row] ?? 0) & segment.targetMask;
    const outstanding = (table.pending[row] ?? 0) & segment.targetMask;
    table.pending[row] = segment.targetMask & ~(table.noSpace[row] ?? 0);
    for (const replica of segment.replicas) {
      if (((table.pending[row] ?? 0) & replica.bit) === 0 || !replica.ready) continue;
      if ((outstanding & replica.bit) !== 0) table.again[row] = (table.again[row] ?? 0) | replica.bit;
      else this.#sendWrite(row, segment, replica);
    }
    if (table.pending[row] === 0) this.#settle(row, segment);
  }

  /** Operations that waited for a buffer try again. */
  onSlabAvailable(): void {
    const starved = this.#starved;
    this.#starved = [];
    for (const row of starved) {
      if (this.#table.phase[row] !== PHASE.STARVED) continue;
      this.#reads.send(row);
    }
  }

  /** Ends everything with FENCED; nothing is served any more. */
  fence(): void {
    if (this.#fenced) return;
    this.#fenced = true;
    this.#options.budget.forget(this.#onRoom);
    const table = this.#table;
    const waiters = [...this.#lockWaiters];
    this.#lockWaiters.clear();
    for (const [row, waiter] of waiters) {
      this.unlockExtent(row);
      waiter(false);
    }
    for (let row = 0; row < table.capacity; row++) {
      const phase = table.phase[row];
      if (phase === PHASE.FREE || phase === PHASE.QUEUED || table.kind[row] === KIND.LOCK) continue;
      if (table.kind[row] === KIND.FLUSH) this.#end(row, STATUS.FENCED, NO_BUFFER, 0);
      else if (phase === PHASE.DIRTY) this.#end(row, STATUS.FENCED, NO_BUFFER, 0);
      else if (this.#isWriteOut(row) || phase === PHASE.RESTORING) this.#finishWrite(row, STATUS.FENCED);
      else this.#finish(row, STATUS.FENCED, NO_BUFFER, 0);
    }
  }

  /** Resolves when no client operation is in flight. */
  idle(): Promise<void> {
    if (this.#table.clientUsed === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#idleWaiters.push(resolve);
    });
  }

  // ---- ends

  /** Ends an operation that holds the range lock. */
  #finish(row: number, status: Status, buffer: BufferId, bufferOffsetBytes: number): void {
    const payload = this.#table.buffer[row] ?? NO_BUFFER;
    this.#table.buffer[row] = NO_BUFFER;
    this.#lock.release(row);
    if (payload !== NO_BUFFER) this.#options.slab.release(payload);
    this.#end(row, status, buffer, bufferOffsetBytes);
  }

  #end(row: number, status: Status, buffer: BufferId, bufferOffsetBytes: number): void {
    const table = this.#table;
    const ticket = table.ticket[row] ?? 0;
    const payload = table.buffer[row] ?? NO_BUFFER;
    if (payload !== NO_BUFFER) this.#options.slab.release(payload);
    if (table.kind[row] === KIND.FLUSH) this.#flushes.clear(row);
    table.free(row);
    this.#options.budget.ended(table.clientUsed);
    this.#handler.onDone(ticket, status, buffer, bufferOffsetBytes);
    if (this.#refusedCapacity && table.clientHasRoom()) {
      this.#refusedCapacity = false;
      this.#handler.onCapacity();
    }
    this.#options.budget.wake();
    if (table.clientUsed === 0 && this.#idleWaiters.length > 0)
      for (const resolve of this.#idleWaiters.splice(0)) resolve();
  }

  #regionOf(row: number): number {
    return this.#options.regions.regionOf(this.#table.segment[row] ?? 0, this.#table.offset[row] ?? 0);
  }

  #segmentOf(row: number): Segment {
    const segment = this.#options.segments[this.#table.segment[row] ?? 0];
    assert(segment !== undefined, 'every piece lies in a segment');
    return segment;
  }

  assertConsistent(): void {
    this.#lock.assertConsistent();
    this.#options.regions.assertConsistent();
    const table = this.#table;
    for (let row = 0; row < table.capacity; row++) {
      if (!this.#isWriteOut(row)) continue;
      const segment = this.#segmentOf(row);
      const pending = table.pending[row] ?? 0;
      assert(((table.again[row] ?? 0) & ~pending) === 0, 'asked again implies pending');
      assert((pending & ~segment.targetMask) === 0, 'only targets are awaited');
      if (table.phase[row] === PHASE.HELD) assert(pending === 0, 'a held write is on every target');
    }
  }
}

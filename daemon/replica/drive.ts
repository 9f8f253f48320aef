/**
 * One drive of this node: the data path of its replicas. A request is served by these steps, each at most once:
 * join a metadata commit if it needs one (extent-planner.ts), then the drive, then, for FUA without a durable write, a flush.
 *
 * Invariants (assertConsistent, and where they are used):
 * - data is written only to an extent that is ready: its region hot, its slot and a stamp of at least the write's generation durable (invariants 7, 8);
 * - every slot is free, or named by one extent, or on its way to being free and zero;
 * - a request is answered exactly once; after a failure of the drive, at once, and never with success;
 * - data that differs from its known checksum never leaves (invariant 13).
 */
import { assert, must } from '../base/assert.js';
import { asError, BraidError } from '../base/errors.js';
import type { DriveId, VolumeId } from '../base/ids.js';
import { limits } from '../base/limits.js';
import { BLOCK_BYTES, EXTENT_BYTES } from '../base/units.js';
import { EXTENT_RECORD_BYTES, extentSlot, type Layout, type Superblock } from '../format/records.js';
import { extentKey, uuidToBytes } from '../format/keys.js';
import type { Timer } from '../ports/clock.js';
import type { Log } from '../ports/log.js';
import type { MetaOperation, MetaStore } from '../ports/meta-store.js';
import { NO_BUFFER, type Slab } from '../ports/slab.js';
import { FLAG, OPCODE, STATUS, type Status } from '../protocol/frame.js';
import { ActivityLog } from './activity-log.js';
import { ChecksumTable } from './checksums.js';
import { type CommitPlanner, Committer, PLAN } from './committer.js';
import { DRIVE_TICK_MS, DriveIo, type DriveIoHandler } from './drive-io.js';
import { DriveFiles } from './drive-files.js';
import { checkDataArea, type DriveContents, loadContents, readSuperblock, replicaKey } from './drive-loader.js';
import { type DriveFormat, formatDrive } from './drive-format.js';
import { type DriveOptions, NO_SCRUB } from './drive-options.js';
import { DriveMaintenance, type RegionsToCool, type SegmentToOpen, type VolumeToOpen } from './drive-maintenance.js';
import type { DriveStats } from './drive-stats.js';
import { ExtentPlanner, NEED } from './extent-planner.js';
import { FreedSlots } from './freed-slots.js';
import { MapAhead } from './map-ahead.js';
import { OPERATION, type OperationTable } from './operations.js';
import { regionOf, type Replica } from './replica.js';
import { DriveScrubber, type ScrubHost } from './scrubber.js';

const ENOSPC = -28;
const EIO = -5;
/** Blocks reported as damaged, so that a client that reads one again and again fills no log. */
const REPORTED_BLOCKS_MAX = 1_024;

/** Who gets the results of a drive's operations: the replica server that it was added to. */
export interface DriveHost extends ScrubHost {
  readonly operations: OperationTable;
  /** The operation has ended. If the drive still holds its slot (`isHeld`), it releases it later. */
  onDone(op: number, status: Status, isHeld: boolean): void;
  /** One drive's part of a FLUSH has ended. */
  onFlushed(op: number, status: Status): void;
  /** The activity log has just reached `limits.hotRegionsPressure`, or a write waits for room in it. */
  onPressure(drive: ReplicaDrive): void;
  onFailed(drive: ReplicaDrive, reason: string): void;
}

type DriveState = 'loaded' | 'serving' | 'closing' | 'failed' | 'closed';

export class ReplicaDrive implements DriveIoHandler, CommitPlanner {
  readonly id: DriveId;
  readonly slotCount: number;
  /** Begins and ends passes over all that is on the drive. */
  scrubber!: DriveScrubber;
  readonly #createdMs: number;
  readonly #options: DriveOptions;
  readonly #slab: Slab;
  readonly #log: Log;
  readonly #meta: MetaStore;
  readonly #contents: DriveContents;
  readonly #io: DriveIo;
  readonly #checksums: ChecksumTable;
  readonly #activity: ActivityLog;
  readonly #freed: FreedSlots;
  readonly #files: DriveFiles;
  readonly #ahead: MapAhead;
  readonly #pressureRegions: number;
  readonly #reportedBlocks = new Set<string>();
  #state: DriveState = 'loaded';
  #failure = '';
  #checksumMismatches = 0;
  #timer: Timer | null = null;
  // Set by `attach`, before any operation.
  #host!: DriveHost;
  #table!: OperationTable;
  #planner!: ExtentPlanner;
  #committer!: Committer;
  #maintenance!: DriveMaintenance;

  /** Writes the superblock of a new drive. Its data area must exist already, with room for `slotCount` extents. */
  static format(format: DriveFormat): Promise<void> {
    return formatDrive(format);
  }

  static async open(options: DriveOptions): Promise<ReplicaDrive> {
    const meta = await options.metas.open(`${options.directory}/meta`, { create: false });
    let io: DriveIo | null = null;
    try {
      const superblock = readSuperblock(meta, options);
      const contents = loadContents(meta, superblock, options.directory);
      return await new Promise<ReplicaDrive>((resolve, reject) => {
        const drive = new ReplicaDrive(options, meta, superblock, contents);
        io = drive.#io;
        options.disks
          .open(`${options.directory}/data`, (tag, result) => drive.#io.onCompletion(tag, result))
          .then((disk) => {
            drive.#io.attach(disk);
            checkDataArea(superblock, disk.sizeBytes, options.directory);
            resolve(drive);
          })
          .catch((error: unknown) => reject(asError(error)));
      });
    } catch (error) {
      await (io as DriveIo | null)?.close();
      await meta.close();
      throw error;
    }
  }

  private constructor(options: DriveOptions, meta: MetaStore, superblock: Superblock, contents: DriveContents) {
    this.id = superblock.driveId as DriveId;
    this.slotCount = superblock.slotCount;
    this.#createdMs = superblock.createdMs;
    this.#options = options;
    this.#slab = options.slab;
    this.#log = options.log.child({ drive: this.id });
    this.#meta = meta;
    this.#contents = contents;
    this.#io = new DriveIo(this, options.clock);
    const hotRegionsMax = options.hotRegionsMax ?? limits.hotRegionsPerDriveMax;
    this.#pressureRegions = Math.ceil((hotRegionsMax * limits.hotRegionsPressure) / limits.hotRegionsPerDriveMax);
    this.#checksums = new ChecksumTable({
      hotRegionsMax: Math.max(hotRegionsMax, contents.hotRegions.length),
      coldRegionsMax: options.coldRegionsMax ?? limits.coldRegionsPerDriveMax,
      recordOf: (replica, extent) => this.recordOf(replica, extent),
    });
    this.#activity = new ActivityLog(hotRegionsMax, this.#checksums, uuidToBytes(options.bootId));
    for (const { replica, region, bootId } of contents.hotRegions) this.#activity.restore(replica, region, bootId);
    this.#freed = new FreedSlots(this.#io, contents.allocator, this.#log, () => this.#onFreed());
    this.#files = new DriveFiles(this.#io, meta, (problem) => this.fail(problem));
    this.#ahead = new MapAhead(contents.allocator, this.#checksums, contents.replicas);
  }

  /** Starts serving for `host`. */
  attach(host: DriveHost): void {
    assert(this.#state === 'loaded', 'a drive serves one host');
    this.#state = 'serving';
    this.#host = host;
    this.#table = host.operations;
    const { allocator, replicas } = this.#contents;
    const parts = {
      read: (key: Uint8Array) => this.#read(key),
      onCorrupt: (what: string) => this.#failSoon(`its metadata is damaged: ${what}`),
      io: this.#io,
      allocator,
      replicas,
      checksums: this.#checksums,
      activity: this.#activity,
      freed: this.#freed,
      ahead: this.#ahead,
    };
    this.#planner = new ExtentPlanner(this.#table, parts);
    this.#committer = new Committer(this.#meta, this, this.#table);
    this.#maintenance = new DriveMaintenance({ ...parts, committer: this.#committer });
    const { clock, scrub: settings = NO_SCRUB, onScrubbed: report = () => undefined } = this.#options;
    const rest = { meta: this.#meta, slab: this.#slab, clock, log: this.#log, committer: this.#committer };
    this.scrubber = new DriveScrubber(this, host, { ...parts, ...rest, settings, report, createdMs: this.#createdMs });
    // A crash may have come between their commit and their punch.
    for (const slot of this.#contents.freedSlots) this.#freed.unmapped(slot);
    this.#armTimer();
  }

  get isServing(): boolean {
    return this.#state === 'serving';
  }

  /** Why the drive failed; empty while it has not. */
  get failure(): string {
    return this.#failure;
  }

  stats(): DriveStats {
    return {
      ...this.#io.stats(),
      checksumMismatches: this.#checksumMismatches,
      isServing: this.isServing,
      slotCount: this.slotCount,
      freeSlots: this.#contents.allocator.freeSlots + this.#ahead.slots,
      replicas: this.#contents.replicas.size,
      hotRegions: this.#activity.count,
      activations: this.#activity.activations,
      commits: this.#state === 'loaded' ? 0 : this.#committer.commits,
      metaBytes: this.#state === 'closed' ? 0 : this.#meta.usedBytes(),
      scrub: this.scrubber.stats(),
    };
  }

  get isUnderPressure(): boolean {
    return this.#activity.count >= this.#pressureRegions;
  }

  replicaOf(volumeId: VolumeId, segment: number): Replica | null {
    return this.#contents.replicas.get(replicaKey(volumeId, segment)) ?? null;
  }

  /** Everything that is on this drive: the cluster can be rebuilt from it. */
  replicas(): Iterable<Replica> {
    return this.#contents.replicas.values();
  }

  /** The owner's last word about the replica's segment. */
  layoutOf(replica: Replica): Layout | null {
    return this.#maintenance.layoutOf(replica);
  }

  epochOf(volume: Uint8Array): number {
    return this.#maintenance.epochOf(volume);
  }

  openReplicas(volume: VolumeToOpen, segments: readonly SegmentToOpen[]) {
    return this.#maintenance.openReplicas(volume, segments);
  }

  /** Refused with BAD_REQUEST, and nothing done, when a write is in flight in one of the regions. */
  cool(requests: readonly RegionsToCool[]): Promise<Status> {
    return this.isServing ? this.#maintenance.cool(requests) : Promise.resolve(STATUS.IO_ERROR);
  }

  /** Removes the tombstones with stamps up to `generation`: those that all replicas had when they were all in sync under it. */
  purgeTombstones(replica: Replica, generation: number): Promise<Status> {
    return this.#maintenance.purgeTombstones(replica, generation);
  }

  /** Which of the extent's checksums are known, a bit each; puts those into `to`. */
  knownChecksums(replica: Replica, extent: number, to: Uint32Array): number {
    return this.#checksums.peek(replica, extent, to);
  }

  /** The extent is equal on all copies and has these checksums: keeps those that it does not know. */
  learn(replica: Replica, extent: number, checksums: Uint32Array): Promise<Status> {
    return this.isServing ? this.#maintenance.learn(replica, extent, checksums) : Promise.resolve(STATUS.IO_ERROR);
  }

  /** Makes durable that the volume is at `epoch` at least; false when the drive has failed. */
  raiseEpoch(volume: Uint8Array, epoch: number): Promise<boolean> {
    return this.#maintenance.raiseEpoch(volume, epoch);
  }

  deleteReplica(replica: Replica): Promise<Status> {
    return this.#maintenance.deleteReplica(replica);
  }

  /** Starts a READ or CHECKSUM of an allocated extent into the operation's buffer. */
  read(op: number): void {
    if (this.#state !== 'serving') return this.#host.onDone(op, STATUS.IO_ERROR, false);
    const slot = this.#slotOf(op);
    assert(slot !== 0, 'an extent without a slot is answered without I/O');
    this.#table.state[op] = OPERATION.DRIVE;
    this.#io.read(op, this.#position(op, slot), this.#table.length[op] as number, this.#table.buffer[op] as number);
  }

  /** Starts a WRITE, TRIM or ZERO. */
  change(op: number): void {
    const replica = must(this.#table.replica[op], 'the replica of an operation');
    const extent = this.#table.extent[op] as number;
    const region = regionOf(extent);
    replica.writeStarted(region);
    if (this.#state !== 'serving') return this.#end(op, STATUS.IO_ERROR);
    const isReady = replica.isReady(extent, this.#table.generation[op] as number);
    if (this.#table.opcode[op] === OPCODE.WRITE) {
      if (isReady) this.#submitWrite(op, replica, extent);
      else this.#committer.enqueue(op);
    } else if (isReady && !this.#isUnmapping(op, replica))
      this.#submitZero(op, replica, extent, replica.slotOf(extent));
    // Nothing to do: the extent has no slot, and the tombstone that was asked for, if any, is durable.
    else if (this.#planner.isIdle(op)) this.#end(op, STATUS.OK);
    else this.#committer.enqueue(op);
  }

  /** Flushes for a FLUSH: everything acknowledged before is durable when `onFlushed` reports OK. */
  flush(op: number): void {
    if (this.#state === 'serving') this.#io.flushOperation(op);
    else this.#host.onFlushed(op, STATUS.IO_ERROR);
  }

  /** A session has ended: what it has queued is dropped. */
  pump(): void {
    if (this.#state === 'serving') this.#committer.pump();
  }

  /** Starts nothing any more, answers what is queued with IO_ERROR, and resolves when nothing is in flight and everything is closed. */
  async close(): Promise<void> {
    if (this.#state === 'closing' || this.#state === 'closed') return;
    const wasServing = this.#state === 'serving';
    this.#state = 'closing';
    this.#timer?.cancel();
    this.#freed.stop();
    if (wasServing) {
      this.#committer.pump();
      await this.#committer.drained();
      this.#committer.fail();
      this.#maintenance.onFreed();
    }
    await this.#io.close();
    await this.#meta.close();
    this.#state = 'closed';
  }

  /** The drive cannot be trusted any more. */
  fail(reason: string): void {
    if (this.#state !== 'serving') return;
    this.#state = 'failed';
    this.#failure = reason;
    this.#log.error({ reason }, 'drive failed; its replicas are unusable until it is opened again');
    this.#freed.stop();
    this.#committer.fail();
    this.#io.fail();
    for (let op = 0; op < this.#table.capacity; op++) {
      if (this.#io.isInFlight(op) && this.#table.state[op] === OPERATION.DRIVE) this.#end(op, STATUS.IO_ERROR, true);
    }
    this.#maintenance.onFreed();
    this.#host.onFailed(this, reason);
    this.#options.onFailed?.(reason);
  }

  // ---- CommitPlanner

  collect(operations: MetaOperation[]): void {
    this.#freed.collect(operations);
  }

  plan(op: number, operations: MetaOperation[]): (typeof PLAN)[keyof typeof PLAN] {
    if (!this.#isCurrent(op) || this.#state === 'closing') {
      this.#end(op, this.#state === 'closing' ? STATUS.IO_ERROR : STATUS.FENCED);
      return PLAN.ENDED;
    }
    const hotBefore = this.#activity.count;
    const need = this.#planner.plan(op, operations);
    if (need === NEED.SPACE) {
      this.#end(op, STATUS.NO_SPACE);
      return PLAN.ENDED;
    }
    const hot = this.#activity.count;
    if (hot === this.#pressureRegions && hot > hotBefore) this.#host.onPressure(this);
    if (need === NEED.WAIT) {
      if (this.#activity.isFull) this.#host.onPressure(this);
      return PLAN.WAIT;
    }
    return need === NEED.COMMIT ? PLAN.COMMIT : PLAN.READY;
  }

  settle(op: number): void {
    this.#planner.settle(op);
  }

  proceed(op: number): void {
    if (!this.#isCurrent(op)) return this.#end(op, STATUS.FENCED);
    const replica = must(this.#table.replica[op], 'the replica of an operation');
    const extent = this.#table.extent[op] as number;
    if (this.#table.opcode[op] === OPCODE.WRITE) return this.#submitWrite(op, replica, extent);
    const slot = replica.slotOf(extent);
    // Durable now: the extent is unmapped or was never mapped, with its tombstone if one was asked for.
    if (slot === 0) return this.#end(op, STATUS.OK);
    this.#submitZero(op, replica, extent, slot);
  }

  abandon(op: number): void {
    this.#end(op, STATUS.IO_ERROR);
  }

  onCommitFailed(error: Error): void {
    this.fail(`its metadata cannot be written: ${error.message}`);
  }

  // ---- DriveIoHandler

  onOperationIo(op: number, result: number): void {
    const state = this.#table.state[op];
    if (state === OPERATION.ABANDONED) return this.#table.release(op);
    assert(state === OPERATION.DRIVE, 'a completion is of an operation at the drive');
    const opcode = this.#table.opcode[op];
    if (opcode === OPCODE.READ || opcode === OPCODE.CHECKSUM) this.#onRead(op, result);
    else this.#onWritten(op, result);
  }

  onFlushFailed(result: number): void {
    // What the drive had in its cache may be lost, whatever it says later.
    this.fail(`a flush failed with ${describe(result)}`);
  }

  onOperationFlushed(op: number, result: number): void {
    const status = result === 0 ? STATUS.OK : STATUS.IO_ERROR;
    if (this.#table.opcode[op] === OPCODE.FLUSH) this.#host.onFlushed(op, status);
    else this.#end(op, status);
  }

  assertConsistent(): void {
    const { allocator, replicas } = this.#contents;
    allocator.assertConsistent();
    this.#checksums.assertConsistent();
    this.#freed.assertConsistent();
    this.#activity.assertConsistent(replicas.values());
    if (this.#state === 'serving') this.#committer.assertConsistent();
    const used = new Set<number>();
    for (const replica of replicas.values()) {
      replica.assertConsistent();
      for (let extent = 0; extent < replica.extentCount; extent++) {
        const slot = replica.slotOf(extent);
        if (slot === 0) continue;
        assert(!used.has(slot) && allocator.isUsed(slot), 'a slot is named by one extent, and is not free');
        used.add(slot);
        assert(
          !this.isServing || replica.isChanging(extent) || this.#storedSlot(replica, extent) === slot,
          'the head map says what the metadata says',
        );
      }
    }
    this.#freed.forEachPending((slot) => assert(!used.has(slot), 'a freed slot is named by no extent'));
    if (this.#state !== 'serving' || this.#committer.isUnderWay) return;
    const accounted = used.size + this.#freed.pending + this.#freed.refused + allocator.freeSlots;
    assert(accounted === this.slotCount - 1, 'every slot is free, mapped, or on its way to being free');
  }

  // ---- inside

  #submitWrite(op: number, replica: Replica, extent: number): void {
    const table = this.#table;
    assert(
      replica.isReady(extent, table.generation[op] as number),
      'data follows its activation and its stamp (invariants 7, 8)',
    );
    const buffer = table.buffer[op] as number;
    const length = table.length[op] as number;
    const block = this.#firstBlock(op);
    const from = this.#slab.checksumIndex(buffer);
    replica.endAhead(extent);
    this.#checksums.record(replica, extent, block, length / BLOCK_BYTES, this.#slab.checksums, from);
    const isDurable = ((table.flags[op] as number) & FLAG.FUA) !== 0;
    table.state[op] = OPERATION.DRIVE;
    this.#io.write(op, this.#position(op, replica.slotOf(extent)), length, buffer, isDurable);
    table.buffer[op] = NO_BUFFER;
    this.#slab.release(buffer);
  }

  #submitZero(op: number, replica: Replica, extent: number, slot: number): void {
    const table = this.#table;
    assert(
      replica.isReady(extent, table.generation[op] as number),
      'zeros follow their activation and stamp (invariants 7, 8)',
    );
    const length = table.length[op] as number;
    replica.endAhead(extent);
    this.#checksums.recordZeros(replica, extent, this.#firstBlock(op), length / BLOCK_BYTES);
    table.state[op] = OPERATION.DRIVE;
    if (table.opcode[op] === OPCODE.TRIM) this.#io.punch(op, this.#position(op, slot), length);
    else this.#io.zero(op, this.#position(op, slot), length);
  }

  #onWritten(op: number, result: number): void {
    const table = this.#table;
    const length = table.length[op] as number;
    if (result !== 0) {
      const replica = must(table.replica[op], 'the replica of an operation');
      this.#checksums.forget(replica, table.extent[op] as number, this.#firstBlock(op), length / BLOCK_BYTES);
      this.#end(op, result === ENOSPC ? STATUS.NO_SPACE : STATUS.IO_ERROR);
      // What it did instead nobody knows, and the next write will hardly fare better.
      if (result !== ENOSPC) this.fail(`a write failed with ${describe(result)}`);
      return;
    }
    const isFua = ((table.flags[op] as number) & FLAG.FUA) !== 0;
    // Zeros have no durable form of their own, as writes do.
    if (isFua && table.opcode[op] !== OPCODE.WRITE) this.#io.flushOperation(op);
    else this.#end(op, STATUS.OK);
  }

  #onRead(op: number, result: number): void {
    const table = this.#table;
    if (result !== 0) return this.#host.onDone(op, STATUS.IO_ERROR, false);
    const length = table.length[op] as number;
    const replica = must(table.replica[op], 'the replica of an operation');
    const extent = table.extent[op] as number;
    const from = this.#slab.checksumIndex(table.buffer[op] as number);
    const block = this.#checksums.firstMismatch(
      replica,
      extent,
      this.#firstBlock(op),
      length / BLOCK_BYTES,
      this.#slab.checksums,
      from,
    );
    if (block >= 0) {
      this.#reportMismatch(replica, extent, block);
      return this.#host.onDone(op, STATUS.CHECKSUM_MISMATCH, false);
    }
    if (!this.#checksums.wasVerified) table.flags[op] = (table.flags[op] as number) | FLAG.UNVERIFIED;
    this.#host.onDone(op, STATUS.OK, false);
  }

  #reportMismatch(replica: Replica, extent: number, block: number): void {
    this.#checksumMismatches++;
    const { volumeId, segment } = replica;
    const name = `${volumeId}/${segment}/${extent}/${block}`;
    if (this.#reportedBlocks.has(name) || this.#reportedBlocks.size >= REPORTED_BLOCKS_MAX) return;
    this.#reportedBlocks.add(name);
    this.#log.error(
      { volume: volumeId, segment, extent, block },
      'stored data does not match its checksum; the owner repairs it from another copy',
    );
  }

  /** A WRITE, TRIM or ZERO has ended; what is durable then is said in `ReplicaServer`, where the acknowledgement leaves. */
  #end(op: number, status: Status, isHeld = false): void {
    const opcode = this.#table.opcode[op];
    if (opcode === OPCODE.WRITE || opcode === OPCODE.TRIM || opcode === OPCODE.ZERO) {
      const replica = must(this.#table.replica[op], 'the replica of an operation');
      replica.writeEnded(regionOf(this.#table.extent[op] as number));
    }
    this.#host.onDone(op, status, isHeld);
  }

  /** A TRIM of a whole extent frees its slot; any other zeroes a part of it. */
  #isUnmapping(op: number, replica: Replica): boolean {
    const { opcode, offset, length } = this.#table;
    return opcode[op] === OPCODE.TRIM && replica.isWholeExtent(offset[op] as number, length[op] as number);
  }

  #isCurrent(op: number): boolean {
    return must(this.#table.owner[op], 'the session of an operation').isCurrent;
  }

  #slotOf(op: number): number {
    return must(this.#table.replica[op], 'the replica of an operation').slotOf(this.#table.extent[op] as number);
  }

  /** Where the operation's range is in the data area. */
  #position(op: number, slot: number): number {
    return slot * EXTENT_BYTES + ((this.#table.offset[op] as number) % EXTENT_BYTES);
  }

  #firstBlock(op: number): number {
    return ((this.#table.offset[op] as number) % EXTENT_BYTES) / BLOCK_BYTES;
  }

  /** The extent's record, valid until the next call. */
  recordOf(replica: Replica, extent: number): Uint8Array | null {
    const record = this.#read(extentKey(replica.volume, replica.segment, extent));
    if (record === null || record.length === EXTENT_RECORD_BYTES) return record;
    this.#failSoon(`its metadata is damaged: the record of extent ${extent}`);
    return null;
  }

  #read(key: Uint8Array): Uint8Array | null {
    try {
      return this.#meta.get(key);
    } catch (thrown) {
      if (!(thrown instanceof BraidError)) throw thrown;
      this.#failSoon(thrown.message);
      return null;
    }
  }

  /** When the caller has finished what it is in the middle of. */
  #failSoon(reason: string): void {
    void Promise.resolve().then(() => this.fail(reason));
  }

  #storedSlot(replica: Replica, extent: number): number {
    const record = this.recordOf(replica, extent);
    return record === null ? 0 : extentSlot(record);
  }

  #onFreed(): void {
    this.#maintenance.onFreed();
    this.pump();
  }

  #armTimer(): void {
    this.#timer = this.#options.clock.after(DRIVE_TICK_MS, () => {
      if (this.#state !== 'serving') return;
      this.#armTimer();
      if (this.#io.tick()) this.fail(`an operation did not end within ${limits.driveTimeoutMs} ms`);
      else if (this.#committer.tick(DRIVE_TICK_MS))
        this.fail(`a metadata commit did not end within ${limits.driveTimeoutMs} ms`);
      else {
        this.scrubber.tick();
        this.#files.tick();
        this.#freed.tick();
      }
    });
  }
}

function describe(result: number): string {
  return result === EIO ? 'an I/O error' : `error ${-result}`;
}

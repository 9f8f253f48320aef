/**
 * Makes copies equal: delta resync of a replica that was away (invariant 9), reconciliation after an unclean owner (invariant 10), repair of
 * blocks that failed their checksum (invariant 13), restoration after a refused write.
 *
 * Every copy of an extent happens under its extent lock and reads from an in-sync source, so it neither loses nor resurrects a client's write.
 */
import { asError, BraidError } from '../base/errors.js';
import { EXTENT_BYTES, EXTENTS_PER_REGION, REGION_BYTES } from '../base/units.js';
import { limits } from '../base/limits.js';
import { sleep } from '../ports/clock.js';
import { NO_BUFFER } from '../ports/slab.js';
import { FLAG, OPCODE, STATUS, statusName, type Frame } from '../protocol/frame.js';
import { braid } from '../protocol/generated/messages.js';
import type { CoordinatorContext } from './context.js';
import type { VolumeIo } from './io.js';
import type { Membership } from './membership.js';
import type { DataReply } from './peers.js';
import type { RegionTracker } from './regions.js';
import type { Replica, Segment } from './segment.js';

const RETRY_MS = 50;

export interface CopierOptions {
  readonly context: CoordinatorContext;
  readonly epoch: number;
  readonly segments: readonly Segment[];
  readonly regions: RegionTracker;
  readonly extentsPerSegment: number;
  readonly isLocal: (replica: Replica) => boolean;
}

export class Copier {
  readonly #options: CopierOptions;
  readonly #io: VolumeIo;
  readonly #membership: Membership;
  readonly #wantedRegions: number[] = [];
  readonly #repairing = new Set<string>();
  #stopped = false;
  #reconciling = false;
  bytesDone = 0;
  bytesTotal = 0;

  constructor(options: CopierOptions, io: VolumeIo, membership: Membership) {
    this.#options = options;
    this.#io = io;
    this.#membership = membership;
  }

  stop(): void {
    this.#stopped = true;
  }

  // ---- delta resync

  /** Brings a stale, connected replica back into the in-sync set. Rejects (and leaves it stale) when source or target is lost on the way. */
  async resync(segment: Segment, replica: Replica): Promise<void> {
    replica.state = 'syncing';
    segment.refresh();
    this.#io.segmentChanged(segment); // from here on it receives every write, those in flight included
    try {
      const { freed, written } = await this.#extentsToCopy(segment, replica);
      this.bytesTotal += (freed.length + written.length) * EXTENT_BYTES;
      // In this order: on a full drive there is room for the one only after the other.
      await this.#copyAll(segment, freed, replica);
      await this.#copyAll(segment, written, replica);
      await this.#flushTarget(replica);
      if (!(await this.#membership.join(segment, replica)))
        throw new BraidError('UNAVAILABLE', 'the replica was lost before it could join');
    } finally {
      // `join` changed the state if it succeeded; otherwise the replica stays stale at the generation it had.
      if (replica.state === 'syncing' && !replica.joining) {
        replica.state = 'stale';
        segment.refresh();
        this.#io.segmentChanged(segment);
      }
    }
    await this.#adoptHotRegions(segment, replica);
    if (segment.whole) await this.#purgeTombstones(segment);
  }

  /**
   * Invariant 9: what was stamped after it fell out of sync, plus everything in the regions of its own activity log; apart, what the source
   * has no slot for.
   */
  async #extentsToCopy(segment: Segment, replica: Replica): Promise<{ freed: number[]; written: number[] }> {
    const extents = new Set<number>();
    const source = this.#sources(segment, 0)[0];
    if (source === undefined) throw new BraidError('UNAVAILABLE', 'no in-sync copy is connected');
    for (const extent of await this.listExtents(segment, source, replica.syncedGeneration, false)) extents.add(extent);
    for (const region of replica.hotRegions) {
      for (let index = 0; index < EXTENTS_PER_REGION; index++) extents.add(region * EXTENTS_PER_REGION + index);
    }
    const wanted = [...extents].filter((extent) => extent < this.#options.extentsPerSegment).sort((a, b) => a - b);
    const allocated = new Set(await this.listExtents(segment, source, 0, true));
    return {
      freed: wanted.filter((extent) => !allocated.has(extent)),
      written: wanted.filter((extent) => allocated.has(extent)),
    };
  }

  async listExtents(
    segment: Segment,
    replica: Replica,
    afterGeneration: number,
    allocatedOnly: boolean,
  ): Promise<number[]> {
    const extents: number[] = [];
    let from = 0;
    do {
      const request = braid.ListExtentsRequest.encode({ afterGeneration, from, allocatedOnly }).finish();
      const reply = await replica.session.peer.call(
        OPCODE.LIST_EXTENTS,
        replica.session.handle,
        segment.index,
        request,
      );
      if (reply.status !== STATUS.OK)
        throw new BraidError('UNAVAILABLE', `listing extents failed with ${statusName(reply.status)}`);
      const page = braid.ListExtentsReply.decode(reply.payload);
      for (const extent of page.extents) extents.push(extent);
      from = page.next;
    } while (from !== 0);
    return extents;
  }

  async #copyAll(segment: Segment, extents: readonly number[], replica: Replica): Promise<void> {
    let next = 0;
    const worker = async (): Promise<void> => {
      while (next < extents.length) {
        const extent = extents[next++] ?? 0;
        if (this.#stopped || replica.state !== 'syncing') throw new BraidError('ABORTED', 'the resync was interrupted');
        await this.#copyExtent(segment, extent * EXTENT_BYTES, 0, () => [replica]);
        this.bytesDone += EXTENT_BYTES;
      }
    };
    await Promise.all(Array.from({ length: limits.copyWindowExtents }, worker));
  }

  /** What was copied may have been flushed long ago by clients: it must be as durable here before this copy counts. */
  async #flushTarget(replica: Replica): Promise<void> {
    const { session } = replica;
    const reply = await session.peer.request(
      OPCODE.FLUSH,
      session.handle,
      0,
      this.#shape(0, 0, 0),
      NO_BUFFER,
      NO_BUFFER,
    );
    if (reply.status !== STATUS.OK)
      throw new BraidError('UNAVAILABLE', `flushing the new copy failed with ${statusName(reply.status)}`);
  }

  /** The log entries that the resync left at the replica are from now on cooled with all others. */
  async #adoptHotRegions(segment: Segment, replica: Replica): Promise<void> {
    await this.#membership.reopen(replica.session, [segment]);
    const { regions } = this.#options;
    for (const region of replica.hotRegions) regions.markHot(segment.index * regions.regionsPerSegment + region);
  }

  /** Not those of a change that a copy lost since then may miss: the generation says which. */
  async #purgeTombstones(segment: Segment): Promise<void> {
    const { generation, index } = segment;
    const purge = ({ session }: Replica): Promise<unknown> =>
      session.peer.call(OPCODE.PURGE_TOMBSTONES, session.handle, index, undefined, (frame) => {
        frame.generation = generation;
      });
    await Promise.allSettled(segment.replicas.filter((replica) => replica.ready).map(purge));
  }

  // ---- reconciliation after an unclean owner

  wantRegion(region: number): void {
    this.#wantedRegions.push(region);
    this.startReconciling();
  }

  /** Works through the dirty regions, wanted ones first, until none is left. */
  startReconciling(): void {
    if (this.#reconciling) return;
    this.#reconciling = true;
    void this.#reconcileAll();
  }

  async #reconcileAll(): Promise<void> {
    const { regions } = this.#options;
    this.bytesTotal += regions.dirtyCount * REGION_BYTES;
    for (;;) {
      const wanted = this.#wantedRegions.shift();
      const region = wanted !== undefined && regions.isDirty(wanted) ? wanted : regions.anyDirty();
      if (region === null || this.#stopped) break;
      if (await this.#reconcile(region)) {
        regions.markClean(region);
        this.#settleSegment(regions.segmentOf(region));
        this.bytesDone += REGION_BYTES;
        this.#io.regionClean(region);
      } else await sleep(this.#options.context.clock, RETRY_MS);
    }
    this.#reconciling = false;
  }

  /** When none of its regions is dirty any more, all in-sync copies of a segment have everything. */
  #settleSegment(index: number): void {
    if (this.#options.regions.hasDirty(index)) return;
    for (const replica of this.#options.segments[index]?.replicas ?? []) replica.uncertain = false;
  }

  /** True when all in-sync copies of the region are connected and equal. */
  async #reconcile(region: number): Promise<boolean> {
    const { segments, regions } = this.#options;
    const segment = segments[regions.segmentOf(region)];
    if (segment === undefined) return true;
    if (segment.readableMask === 0 || segment.readableMask !== segment.inSyncMask) return false;
    const { generation } = segment;
    const first = regions.indexInSegment(region) * REGION_BYTES;
    const copyOne = (index: number): Promise<void> =>
      this.#copyExtent(segment, first + index * EXTENT_BYTES, 0, (source) =>
        segment.replicas.filter((replica) => replica.state === 'in-sync' && (replica !== source || !segment.whole)),
      );
    try {
      for (let index = 0; index < EXTENTS_PER_REGION; index += limits.copyWindowExtents) {
        await Promise.all(Array.from({ length: limits.copyWindowExtents }, (_, lane) => copyOne(index + lane)));
      }
    } catch {
      return false;
    }
    return segment.generation === generation;
  }

  // ---- repair and restoration

  /** Rewrites an extent on replicas whose data did not match its checksum. */
  repair(segment: Segment, offsetBytes: number, badMask: number): void {
    const extentOffset = offsetBytes - (offsetBytes % EXTENT_BYTES);
    const key = `${segment.index}/${extentOffset}`;
    if (this.#repairing.has(key) || this.#repairing.size >= limits.copyWindowExtents) return;
    this.#repairing.add(key);
    const bad = (): readonly Replica[] =>
      segment.replicas.filter(
        (replica) => (badMask & replica.bit) !== 0 && replica.state === 'in-sync' && replica.ready,
      );
    const { context } = this.#options;
    this.#copyExtent(segment, extentOffset, badMask, bad)
      .then(
        () => {
          const drives = bad().map((replica) => replica.driveId);
          context.report(
            'warning',
            `drive/${drives.join(',')}`,
            `a block did not match its checksum and was rewritten from another copy (segment ${segment.index}, extent ${extentOffset / EXTENT_BYTES})`,
          );
        },
        (error: unknown) => {
          context.log.warn(
            { segment: segment.index, error: String(error) },
            'repair failed; the next read tries again',
          );
        },
      )
      .finally(() => {
        this.#repairing.delete(key);
      });
  }

  /** Makes the copies that took a write equal to one that refused it. The caller's operation holds the range lock. */
  async restore(segment: Segment, offsetBytes: number, lengthBytes: number, refusedMask: number): Promise<void> {
    while (!this.#stopped) {
      const source = this.#sources(segment, 0).find((replica) => (refusedMask & replica.bit) !== 0);
      const targets = segment.replicas.filter(
        (replica) => replica.state !== 'stale' && (refusedMask & replica.bit) === 0,
      );
      if (source === undefined && (segment.inSyncMask & refusedMask) === 0) return; // those that refused are out: the others are equal
      try {
        if (source !== undefined) {
          await this.#copyRange(segment, source, targets, offsetBytes, lengthBytes);
          return;
        }
      } catch {
        // a target or the source is in trouble: membership decides, then it is tried again
      }
      await sleep(this.#options.context.clock, RETRY_MS);
    }
  }

  // ---- one extent

  async #copyExtent(
    segment: Segment,
    offsetBytes: number,
    excludedSources: number,
    targetsOf: (source: Replica) => readonly Replica[],
  ): Promise<void> {
    const { regions } = this.#options;
    const row = await this.#io.lockExtent(segment.index, offsetBytes);
    if (row === null) throw new BraidError('FENCED', 'the volume is not owned here any more');
    const region = regions.regionOf(segment.index, offsetBytes);
    regions.writeStarted(region); // keeps the region from being cooled under the copy
    try {
      let failure = new BraidError('UNAVAILABLE', 'no in-sync copy can be read');
      for (const source of this.#sources(segment, excludedSources)) {
        const targets = targetsOf(source);
        if (targets.length === 0) return;
        try {
          await this.#copyRange(segment, source, targets, offsetBytes, EXTENT_BYTES);
          return;
        } catch (error) {
          if (error instanceof BraidError) failure = error;
          if (failure.code !== 'CORRUPT') break;
        }
      }
      throw failure;
    } finally {
      regions.writeEnded(region);
      this.#io.unlockExtent(row);
    }
  }

  async #copyRange(
    segment: Segment,
    source: Replica,
    targets: readonly Replica[],
    offsetBytes: number,
    lengthBytes: number,
  ): Promise<void> {
    const { slab } = this.#options.context;
    const { status, flags, buffer } = await this.#read(segment, source, offsetBytes, lengthBytes);
    try {
      if (status === STATUS.CHECKSUM_MISMATCH)
        throw new BraidError('CORRUPT', 'the source does not match its checksum');
      if (status !== STATUS.OK)
        throw new BraidError('UNAVAILABLE', `reading the source failed with ${statusName(status)}`);
      const zeroes = (flags & FLAG.ZEROES) !== 0;
      // All have to end, or the lock would be given up under a copy that is still on its way (invariant 3).
      const results = await Promise.allSettled(
        targets.map((target) => this.#write(segment, target, offsetBytes, lengthBytes, zeroes ? NO_BUFFER : buffer)),
      );
      const failed = results.find((result) => result.status === 'rejected');
      if (failed !== undefined) throw asError(failed.reason);
    } finally {
      if (buffer !== NO_BUFFER) slab.release(buffer);
    }
  }

  async #read(segment: Segment, source: Replica, offsetBytes: number, lengthBytes: number): Promise<DataReply> {
    const { buffers, slab } = this.#options.context;
    const replyBuffer = await buffers.alloc(lengthBytes);
    const { session } = source;
    const shape = this.#shape(segment.generation, offsetBytes, lengthBytes, FLAG.INTERNAL);
    const reply = session.peer.request(OPCODE.READ, session.handle, segment.index, shape, NO_BUFFER, replyBuffer);
    slab.release(replyBuffer); // the network holds it until the reply hands it back
    return reply;
  }

  async #write(
    segment: Segment,
    target: Replica,
    offsetBytes: number,
    lengthBytes: number,
    buffer: number,
  ): Promise<void> {
    const { session } = target;
    const zeroes = buffer === NO_BUFFER;
    const opcode = zeroes ? (lengthBytes === EXTENT_BYTES ? OPCODE.TRIM : OPCODE.ZERO) : OPCODE.WRITE;
    const shape = this.#shape(segment.generation, offsetBytes, lengthBytes, FLAG.TOMBSTONE, zeroes ? 0 : lengthBytes);
    const reply = await session.peer.request(opcode, session.handle, segment.index, shape, buffer, NO_BUFFER);
    session.writesAcked++; // a FLUSH covers copies too
    if (reply.status === STATUS.OK) return;
    if (reply.status !== STATUS.NO_SPACE || target.state === 'in-sync')
      this.#membership.replicaFailed(target, statusName(reply.status));
    throw new BraidError('UNAVAILABLE', `writing the copy failed with ${statusName(reply.status)}`);
  }

  #shape(
    generation: number,
    offsetBytes: number,
    lengthBytes: number,
    flags = 0,
    payloadLength = 0,
  ): (frame: Frame) => void {
    const { epoch } = this.#options;
    return (frame) => {
      frame.flags = flags;
      frame.generation = generation;
      frame.epoch = epoch;
      frame.offset = offsetBytes;
      frame.length = lengthBytes;
      frame.payloadLength = payloadLength;
    };
  }

  /** In-sync, connected replicas outside `excludedMask`: those that surely have everything first, then the local one. */
  #sources(segment: Segment, excludedMask: number): Replica[] {
    const { isLocal } = this.#options;
    const readable = segment.replicas.filter((replica) => (segment.readableMask & ~excludedMask & replica.bit) !== 0);
    return readable.sort(
      (a, b) => Number(a.uncertain) - Number(b.uncertain) || Number(isLocal(b)) - Number(isLocal(a)),
    );
  }
}

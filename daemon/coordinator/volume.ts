/**
 * A volume that this shard owns: takes ownership, opens its replicas, serves, heals, cools, and gives ownership back.
 *
 * Invariants (numbers of ARCHITECTURE.md)
 * - 2: the epoch is raised by compare-and-swap before any replica is opened under it.
 * - 7: regions are cooled only when no write is in flight in them and every in-sync replica is connected.
 * - 10: regions that any in-sync replica's activity log names are reconciled before they are served, unless there is but one copy.
 * - 11: a takeover happens only when the previous owner has released the volume or its node's lease has ended.
 */
import { asError, BraidError } from '../base/errors.js';
import type { VolumeId } from '../base/ids.js';
import { limits } from '../base/limits.js';
import { EXTENT_BYTES } from '../base/units.js';
import { sleep, type Timer } from '../ports/clock.js';
import type { ServedSegment, ServedVolume, VerifyReport, VolumeState } from '../ports/shard.js';
import { OPCODE, STATUS } from '../protocol/frame.js';
import { braid } from '../protocol/generated/messages.js';
import { Serial, VOLUME_TICK_MS, type CoordinatorContext } from './context.js';
import { Copier } from './copier.js';
import { Healer } from './healer.js';
import { VolumeIo } from './io.js';
import { VolumeLayout } from './layout.js';
import { loadSegments, type LoadedSegments } from './load-segments.js';
import { Membership } from './membership.js';
import { Moves } from './moves.js';
import { abandonOwnership, claim, type Ownership } from './ownership.js';
import { Progress } from './progress.js';
import { RegionTracker } from './regions.js';
import { VolumeScrub } from './scrub.js';
import type { Replica, Segment, SegmentCounts, Session } from './segment.js';
import { verifyReplicas } from './verify.js';

const COOL_IDLE_TICKS = limits.coolAfterIdleMs / VOLUME_TICK_MS;
const COOL_BATCHES_PER_TICK = 16;
/** Batches of the longest hot regions that are cooled at once when a replica's activity log fills up. */
const PRESSURE_BATCHES = 8;
/** How long opening waits without progress before it goes on without the copies that do not answer, and before it gives up without any. */
const OPEN_GRACE_MS = 2 * limits.reconnectGraceMs;
const OPEN_GIVE_UP_MS = 10_000;
/** How long a release waits for client I/O that cannot end (suspended writes). */
const RELEASE_WAIT_MS = 5_000;
const LAST_RESORT = '; if they are lost for good, detach the volume and see braid volume force-primary --help';

export class Volume {
  readonly id: VolumeId;
  readonly name: string;
  readonly epoch: number;
  readonly io: VolumeIo;
  readonly moves: Moves;
  readonly #context: CoordinatorContext;
  readonly #ownership: Ownership;
  readonly #layout: VolumeLayout;
  readonly #segments: readonly Segment[];
  readonly #sessions: Session[];
  readonly #counts: SegmentCounts;
  readonly #regions: RegionTracker;
  readonly #membership: Membership;
  readonly #copier: Copier;
  readonly scrub: VolumeScrub;
  /** A verification and the scrub take turns: they share a window of extent locks. */
  readonly #comparing = new Serial();
  readonly #healer: Healer;
  readonly #progress: Progress;
  #state: VolumeState = 'opening';
  #reason = '';
  #ticks: Timer | null = null;
  /** When opening last got further: a large volume takes its time. */
  #progressMs = 0;
  #wakeOpening: () => void = () => undefined;
  #cooling = false;
  #verifying = false;

  private constructor(
    context: CoordinatorContext,
    id: VolumeId,
    ownership: Ownership,
    { segments, sessions, counts }: LoadedSegments,
  ) {
    const { volume, epoch, revision } = ownership;
    this.id = id;
    this.name = volume.name;
    this.epoch = epoch;
    this.#context = context;
    this.#ownership = ownership;
    this.#segments = segments;
    this.#sessions = sessions;
    this.#counts = counts;
    this.#layout = new VolumeLayout(volume.sizeBytes, volume.segmentBytes, volume.stripeWidth);
    this.#regions = new RegionTracker(segments.length, this.#layout.regionsPerSegment);
    const isLocal = (replica: Replica): boolean => replica.session.peer.nodeId === context.nodeId;
    const shared = { context, epoch, segments, sessions, regions: this.#regions, isLocal };
    this.io = new VolumeIo({
      ...shared,
      name: volume.name,
      layout: this.#layout,
      minInSync: volume.minInSync,
      failWhenDegraded: volume.failWhenDegraded,
      slab: context.slab,
      budget: context.budget,
      leaseValid: context.leaseValid,
      hooks: this.#ioHooks(),
    });
    this.#membership = new Membership({
      ...shared,
      counts,
      volumeId: id,
      volume,
      ownerRevision: revision,
      events: this.#membershipEvents(),
    });
    this.#progress = new Progress(() => context.clock.nowMs());
    const naming = { volumeName: volume.name, progress: this.#progress };
    this.#copier = new Copier({ ...shared, ...naming, layout: this.#layout }, this.io, this.#membership);
    this.#healer = new Healer({
      ...{ ...shared, ...naming, counts },
      membership: this.#membership,
      copier: this.#copier,
      isServing: () => this.#state === 'serving',
    });
    this.moves = new Moves({
      ...{ context, volumeId: id, volumeName: volume.name, segments },
      membership: this.#membership,
      copier: this.#copier,
      wake: () => this.#healer.tick(),
    });
    this.scrub = new VolumeScrub({
      ...shared,
      ...{ volume, layout: this.#layout, io: this.io, copier: this.#copier, comparing: this.#comparing },
    });
  }

  #ioHooks(): ConstructorParameters<typeof VolumeIo>[0]['hooks'] {
    return {
      replicaFailed: (replica, reason) => {
        this.#membership.replicaFailed(replica, reason);
      },
      repair: (segment, offsetBytes, badMask) => {
        this.#copier.repair(segment, offsetBytes, badMask);
      },
      restore: (row, segment, offsetBytes, lengthBytes, refusedMask) => {
        void this.#copier.restore(segment, offsetBytes, lengthBytes, refusedMask).then(() => {
          this.io.restored(row);
        });
      },
      regionWanted: (region) => {
        this.#copier.wantRegion(region);
      },
      fenced: (reason) => {
        this.#fence(reason);
      },
      allocation: (offsetBytes, lengthBytes) => this.#allocation(offsetBytes, lengthBytes),
    };
  }

  #membershipEvents(): ConstructorParameters<typeof Membership>[0]['events'] {
    return {
      segmentChanged: (segment) => {
        this.io.segmentChanged(segment);
      },
      sessionReady: (session) => {
        this.io.sessionReady(session);
      },
      sessionDown: (session) => {
        this.io.sessionDown(session);
      },
      onReply: (session, frame, buffer) => {
        this.io.onReply(session, frame, buffer);
      },
      onPressure: () => {
        void this.#cool(0, PRESSURE_BATCHES);
      },
      onDamaged: (segment, replica, offsetBytes) => {
        if (this.#state === 'serving') this.#copier.repair(segment, offsetBytes, replica.bit);
      },
      onForgotten: (segment, regions) => {
        this.scrub.want(segment, regions);
      },
      fenced: (reason) => {
        this.#fence(reason);
      },
      progressed: () => {
        this.#progressMs = this.#context.clock.nowMs();
        this.#wakeOpening();
      },
    };
  }

  // ---- taking ownership

  /**
   * Becomes owner under the next epoch and opens the volume. Rejects with NOT_FOUND, CONFLICT (another live owner), ABORTED (someone
   * else was faster), UNAVAILABLE (a segment has no in-sync copy that answers).
   */
  static async take(context: CoordinatorContext, id: VolumeId): Promise<Volume> {
    const ownership = await claim(context, id);
    const volume = new Volume(context, id, ownership, await loadSegments(context, ownership.volume));
    try {
      await volume.#open();
    } catch (error) {
      await volume.release().catch((failure: unknown) => {
        context.log.warn({ volume: volume.name, error: asError(failure).message }, 'still on record as the owner');
      });
      throw error;
    }
    return volume;
  }

  async #open(): Promise<void> {
    const { clock } = this.#context;
    this.#progressMs = clock.nowMs();
    this.#membership.connect();
    while (!this.#opened(clock.nowMs() - this.#progressMs)) {
      if (this.#isFenced()) throw new BraidError('FENCED', `volume ${this.name}: ${this.#reason}`);
      if (clock.nowMs() - this.#progressMs >= OPEN_GIVE_UP_MS) throw this.#noCopy();
      await Promise.race([sleep(clock, 100), new Promise<void>((resolve) => (this.#wakeOpening = resolve))]);
    }
    await this.#membership.dropUnreachable();
    if (this.#isFenced()) throw new BraidError('FENCED', `volume ${this.name}: ${this.#reason}`);
    this.#membership.startServing();
    this.#adoptLogs();
    this.#setServing();
    this.#ticks = this.#context.ticker.add(() => this.#tick());
  }

  /** All in-sync copies are there, or the grace is over and no segment has to wait for more. */
  #opened(idleMs: number): boolean {
    if (this.#counts.incomplete === 0) return true;
    return idleMs >= OPEN_GRACE_MS && this.#segments.every((segment) => segment.hasBest);
  }

  #noCopy(): BraidError {
    const missing = this.#segments.filter((segment) => !segment.hasBest);
    const absent = missing.flatMap(({ replicas }) =>
      replicas.filter(({ state, ready }) => state === 'in-sync' && !ready),
    );
    const drives = new Set(absent.map(({ driveId }) => driveId));
    const why = 'no in-sync copy answers that surely has every acknowledged write';
    const message = `volume ${this.name}: ${why} (${missing.length} segment(s)); start the agents that hold drive ${[...drives].join(', ')}${LAST_RESORT}`;
    return new BraidError('UNAVAILABLE', message);
  }

  /** Invariant 10: unites the activity logs of the in-sync replicas; with more than one copy their regions must be made equal first. */
  #adoptLogs(): void {
    for (const segment of this.#segments) {
      for (const replica of segment.replicas) {
        if (replica.state !== 'in-sync') continue;
        for (const index of replica.hotRegions) {
          const region = segment.index * this.#regions.regionsPerSegment + index;
          if (segment.inSyncCount > 1 || !segment.whole) this.#regions.markDirty(region);
          else {
            this.#regions.markHot(region);
            this.scrub.want(segment, [index]);
          }
        }
      }
      // When all may lack something none is better than another: one that cannot be made equal may leave the set.
      const inSync = segment.replicas.filter(({ state }) => state === 'in-sync');
      const isMoot = !this.#regions.hasDirty(segment.index) || inSync.every(({ uncertain }) => uncertain);
      if (isMoot) for (const replica of segment.replicas) replica.uncertain = false;
    }
  }

  #setServing(): void {
    this.#state = 'serving';
    if (this.#regions.dirtyCount > 0) this.#copier.startReconciling();
  }

  #fence(reason: string): void {
    if (this.#state === 'fenced') return;
    this.#state = 'fenced';
    this.#reason = reason;
    this.#context.log.warn({ volume: this.name, epoch: this.epoch, reason }, 'volume is fenced');
    this.#copier.stop();
    this.scrub.close();
    this.#wakeOpening();
    // The caller may be in the middle of an operation: end all of them once it has returned.
    void Promise.resolve().then(() => {
      this.io.fence();
    });
  }

  // ---- periodic work

  #tick(): void {
    if (this.#state === 'fenced' || this.#state === 'releasing') return this.#ticks?.cancel();
    if (!this.#context.leaseValid()) this.#fence('the node lease may have run out');
    this.#regions.tick++;
    void this.#membership.dropOverdue().then(() => this.#membership.reviveSessions());
    this.#healer.tick();
    void this.#cool(COOL_IDLE_TICKS, COOL_BATCHES_PER_TICK);
    if (this.#state === 'serving') this.scrub.tick();
  }

  /** Invariant 7: orders idle regions cooled at every replica that has all of them; what fails stays hot. */
  async #cool(idleTicks: number, batches: number): Promise<void> {
    if (this.#cooling) return;
    this.#cooling = true;
    for (let batch = 0; batch < batches; batch++) {
      const regions = this.#regions.takeIdle(idleTicks, limits.coolRegionsPerBatch, (region) => {
        const segment = this.#segments[this.#regions.segmentOf(region)];
        return segment !== undefined && segment.readableMask === segment.inSyncMask;
      });
      if (regions.length === 0) break;
      if (!(await this.#coolBatch(regions))) {
        for (const region of regions) this.#regions.markHot(region);
        break;
      }
    }
    this.#cooling = false;
  }

  async #coolBatch(regions: readonly number[]): Promise<boolean> {
    const answers = this.#sessions.map(async (session) => {
      const sets = new Map<number, number[]>();
      for (const region of regions) {
        const index = this.#regions.indexInSegment(region);
        for (const replica of this.#segments[this.#regions.segmentOf(region)]?.replicas ?? []) {
          const hasAll = replica.state === 'in-sync' || this.#copier.mayCool(replica, index);
          if (replica.session !== session || !hasAll) continue;
          sets.set(replica.number, [...(sets.get(replica.number) ?? []), index]);
        }
      }
      if (sets.size === 0) return STATUS.OK;
      const list = { sets: [...sets].map(([segment, indices]) => ({ segment, regions: indices })) };
      const reply = await session.peer.call(OPCODE.COOL, session.handle, 0, braid.RegionList.encode(list).finish());
      return reply.status;
    });
    const results = await Promise.allSettled(answers);
    return results.every((result) => result.status === 'fulfilled' && result.value === STATUS.OK);
  }

  // ---- services

  async #allocation(offsetBytes: number, lengthBytes: number): Promise<boolean[]> {
    const lists = new Map<number, Set<number>>();
    const result: boolean[] = [];
    for (let offset = offsetBytes; offset < offsetBytes + lengthBytes; offset += EXTENT_BYTES) {
      const index = this.#layout.segmentOf(offset);
      let allocated = lists.get(index);
      if (allocated === undefined) {
        allocated = new Set(await this.#allocatedExtents(index));
        lists.set(index, allocated);
      }
      result.push(allocated.has(Math.floor(this.#layout.offsetInSegment(offset) / EXTENT_BYTES)));
    }
    return result;
  }

  async #allocatedExtents(index: number): Promise<number[]> {
    const segment = this.#segments[index];
    const source = segment?.readSource(0, (replica) => replica.session.peer.nodeId === this.#context.nodeId);
    if (segment === undefined || source === undefined || source === null)
      throw new BraidError('UNAVAILABLE', 'no in-sync copy is connected');
    return this.#copier.listExtents(source, 0, true);
  }

  /** One at a time: rejects with LIMIT_EXCEEDED while another one runs. */
  async verify(): Promise<VerifyReport> {
    if (this.#verifying)
      throw new BraidError(
        'LIMIT_EXCEEDED',
        `volume ${this.name} is being verified already; wait until that has ended`,
      );
    this.#verifying = true;
    try {
      return await this.#comparing.run(() => verifyReplicas(this.#segments, this.#layout, this.io, this.#copier));
    } finally {
      this.#verifying = false;
    }
  }

  served(): ServedVolume {
    let state = this.#state;
    let reason = this.#reason;
    if (state === 'serving' && this.#counts.suspended > 0) {
      state = 'suspended';
      reason = `fewer than ${this.#ownership.volume.minInSync} copies are in sync: writes wait until one is back`;
    } else if (state === 'serving' && this.#regions.dirtyCount > 0) state = 'reconciling';
    return {
      volumeId: this.id,
      epoch: this.epoch,
      state,
      reason,
      segmentsDegraded: this.#counts.degraded,
      resyncBytesDone: this.#progress.bytesCopied,
      resyncBytesTotal: this.#progress.bytesCopied + this.#progress.bytesLeft,
      copies: this.#progress.copies(),
    };
  }

  servedSegments(): ServedSegment[] {
    return this.#segments.map(({ index, generation, replicas }) => ({
      index,
      generation,
      replicas: replicas.map(({ driveId, state, ready }) => ({ driveId, state, connected: ready })),
    }));
  }

  /** Damaged extents that were rewritten from another copy. */
  get repairs(): number {
    return this.#copier.repairs;
  }

  get degradedReplicas(): number {
    return this.#counts.degradedReplicas;
  }

  // ---- giving ownership back

  /**
   * Ends client I/O, flushes and cools; a fenced volume is just let go. Then clears the Owner record, if it still names this agent: so it may
   * after a fence, too, and no lease that ends would clear it as long as the agent lives. Rejects with UNAVAILABLE when that fails.
   */
  async release(): Promise<void> {
    this.#ticks?.cancel();
    if (this.#state !== 'fenced') {
      const wasServing = this.#state === 'serving';
      this.#state = 'releasing';
      await Promise.race([this.io.idle(), sleep(this.#context.clock, RELEASE_WAIT_MS)]);
      this.#copier.stop();
      this.scrub.close();
      // Held writes are given up unacknowledged; then nothing is cooled, and the next owner makes the copies equal.
      const quiet = this.io.inFlight === 0;
      if (wasServing && quiet && !this.#isFenced())
        while (this.#regions.hotCount > 0 && (await this.#coolAll())) continue;
    }
    await this.#membership.close(!this.#isFenced());
    this.io.fence();
    await abandonOwnership(this.#context, this.id);
  }

  #isFenced(): boolean {
    return this.#state === 'fenced';
  }

  /** Cools one batch of whatever is hot; false when nothing could be cooled (the next owner reconciles it then). */
  async #coolAll(): Promise<boolean> {
    const before = this.#regions.hotCount;
    while (this.#cooling) await sleep(this.#context.clock, 10);
    await this.#cool(0, Number.POSITIVE_INFINITY);
    return this.#regions.hotCount < before;
  }

  assertConsistent(): void {
    this.io.assertConsistent();
    this.#counts.assertConsistent(this.#segments, this.#sessions);
  }
}

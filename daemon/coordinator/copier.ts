/**
 * Makes copies equal: delta resync of a replica that was away (invariant 9), reconciliation after an unclean owner (invariant 10), repair of
 * blocks that failed their checksum (invariant 13), restoration after a refused write.
 *
 * Every copy of an extent happens under its extent lock and reads from an in-sync source, so it neither loses nor resurrects a client's write.
 * A copy joins the in-sync set only when every extent that it lacked was copied; damaged ones (damage.ts) are waited for.
 */
import { asError, BraidError } from '../base/errors.js';
import { BLOCK_BYTES, EXTENT_BYTES, EXTENTS_PER_REGION, REGION_BYTES } from '../base/units.js';
import { limits } from '../base/limits.js';
import { sleep } from '../ports/clock.js';
import { OPCODE, STATUS, statusName } from '../protocol/frame.js';
import { braid } from '../protocol/generated/messages.js';
import { readExtents } from './answers.js';
import type { Verdict } from './comparison.js';
import type { CoordinatorContext, Severity } from './context.js';
import { Damage } from './damage.js';
import { Equalizer } from './equalizer.js';
import type { VolumeIo } from './io.js';
import type { VolumeLayout } from './layout.js';
import type { Membership } from './membership.js';
import type { CopyTask, Progress } from './progress.js';
import type { RegionTracker } from './regions.js';
import type { Replica, Segment } from './segment.js';
import { type LostBlock, type Outcome, type Range, Transfer } from './transfer.js';
import { inWindow } from './window.js';

const RETRY_MS = 50;
/** Of the lists of what a resync copies: those of the regions in the copy's own activity log. */
const OWN_LISTS = 2;

export interface CopierOptions {
  readonly context: CoordinatorContext;
  readonly epoch: number;
  readonly segments: readonly Segment[];
  readonly regions: RegionTracker;
  readonly volumeName: string;
  readonly layout: VolumeLayout;
  readonly isLocal: (replica: Replica) => boolean;
  readonly progress: Progress;
}

export class Copier {
  readonly #options: CopierOptions;
  readonly #io: VolumeIo;
  readonly #membership: Membership;
  /** Dirty regions that clients wait for. */
  readonly #wantedRegions = new Set<number>();
  /** Extents that are being repaired, and for which copies. */
  readonly #repairing = new Map<string, { readonly badMask: number; readonly ended: Promise<boolean> }>();
  readonly #damage: Damage;
  readonly #transfer: Transfer;
  readonly #equalizer: Equalizer;
  /** Extents of the regions in its own activity log that a replica under resync has yet to get, per region. */
  readonly #unsettled = new Map<Replica, Map<number, number>>();
  #stopped = false;
  #reconciling = false;
  /** Damaged extents that could not be rewritten, by their offset in the volume: reported once. */
  readonly #unrepaired = new Set<number>();
  /** Damaged extents that were rewritten. */
  repairs = 0;

  constructor(options: CopierOptions, io: VolumeIo, membership: Membership) {
    this.#options = options;
    this.#io = io;
    this.#membership = membership;
    const { context, layout, volumeName } = options;
    this.#damage = new Damage({
      clock: context.clock,
      report: (message) => {
        context.report('error', `volume/${volumeName}`, message);
      },
      offsetInVolume: (segment, offsetBytes) => layout.offsetInVolume(segment, offsetBytes),
    });
    const onDamaged = (segment: Segment, offsetBytes: number, source: Replica): void => {
      this.repair(segment, offsetBytes, source.bit);
    };
    this.#transfer = new Transfer({ ...options, onDamaged }, membership);
    this.#equalizer = new Equalizer(this.#transfer);
  }

  stop(): void {
    this.#stopped = true;
  }

  // ---- delta resync

  /**
   * Brings a stale, connected replica back into the in-sync set. False: it has all but damaged extents, stays syncing, and goes on with
   * `resume`. Rejects (and leaves it stale) when source or target is lost on the way.
   */
  async resync(segment: Segment, replica: Replica, task: CopyTask): Promise<boolean> {
    this.#damage.forget(replica);
    replica.state = 'syncing';
    segment.refresh();
    this.#io.segmentChanged(segment); // from here on it receives every write, those in flight included
    return this.#catchUp(segment, replica, task, async () => {
      const lists = await this.#extentsToCopy(segment, replica);
      task.expect(lists.flat().length * EXTENT_BYTES);
      const unsettled = new Map<number, number>();
      for (const extent of lists.slice(0, OWN_LISTS).flat())
        count(unsettled, Math.floor(extent / EXTENTS_PER_REGION), 1);
      this.#unsettled.set(replica, unsettled);
      return lists;
    });
  }

  /** How much `resync` or `resume` would copy if it began now. */
  async bytesToCopy(segment: Segment, replica: Replica): Promise<number> {
    if (replica.state === 'syncing') return this.#damage.extentsOf(replica).length * EXTENT_BYTES;
    return (await this.#extentsToCopy(segment, replica)).flat().length * EXTENT_BYTES;
  }

  /** Whether it is time to `resume` with a replica. */
  isDue(replica: Replica): boolean {
    return this.#damage.isDue(replica);
  }

  /** Tries again what was damaged; ends as `resync` does. */
  resume(segment: Segment, replica: Replica, task: CopyTask): Promise<boolean> {
    return this.#catchUp(segment, replica, task, () => Promise.resolve([[...this.#damage.extentsOf(replica)]]));
  }

  /**
   * Invariant 7, of a replica that is not in sync: its log may give up a region in which it has nothing any more that the others lack. What
   * it misses there is stamped above its generation at the in-sync copies, and what only it gets makes the region hot again. A resync depends
   * on it: it may touch more regions than the log has room for.
   */
  mayCool(replica: Replica, region: number): boolean {
    const unsettled = this.#unsettled.get(replica);
    return unsettled === undefined ? this.#damage.hasRegion(replica, region) : !unsettled.has(region);
  }

  /** Copies the extents of one list after those of the other, then joins. */
  async #catchUp(
    segment: Segment,
    replica: Replica,
    task: CopyTask,
    list: () => Promise<readonly number[][]>,
  ): Promise<boolean> {
    let isWaiting = false;
    try {
      const damaged: number[] = [];
      const lists = await list();
      for (const [index, extents] of lists.entries()) {
        const mayRefuse = index + 1 < lists.length;
        const { damaged: some, refused } = await this.#copyAll(segment, extents, replica, task, mayRefuse);
        damaged.push(...some);
        lists.at(-1)?.push(...refused);
      }
      isWaiting = damaged.length > 0 && replica.state === 'syncing';
      if (isWaiting) {
        this.#damage.wait(replica, damaged);
        return false;
      }
      // What was copied may have been flushed long ago by clients: it must be as durable here before this copy counts.
      await this.#transfer.flush(replica);
      if (!(await this.#membership.join(segment, replica)))
        throw new BraidError('UNAVAILABLE', 'the replica was lost before it could join');
    } finally {
      this.#unsettled.delete(replica);
      if (!isWaiting) this.#damage.forget(replica);
      // `join` changed the state if it succeeded; otherwise the replica stays stale at the generation it had.
      if (!isWaiting && replica.state === 'syncing' && !replica.joining) {
        replica.state = 'stale';
        segment.refresh();
        this.#io.segmentChanged(segment);
      }
    }
    await this.#adoptHotRegions(segment, replica);
    if (segment.whole) await this.#purgeTombstones(segment);
    return true;
  }

  /**
   * Invariant 9: what was stamped after it fell out of sync, here or at the source, plus everything in the regions of its own activity log.
   * Stamps of its own that the source lacks are of a time that was given up when an operator made an older copy the primary one. In this
   * order: those regions, which its log may give up only then, so that there is room in it for others; and what the source has no slot for
   * before the rest, as on a full drive there is room for the one only after the other.
   */
  async #extentsToCopy(segment: Segment, replica: Replica): Promise<readonly number[][]> {
    const extents = new Set<number>();
    const source = this.#transfer.sources(segment, 0)[0];
    if (source === undefined) throw new BraidError('UNAVAILABLE', 'no in-sync copy is connected');
    for (const copy of [source, replica])
      for (const extent of await this.listExtents(copy, replica.syncedGeneration, false)) extents.add(extent);
    for (const region of replica.hotRegions) {
      for (let index = 0; index < EXTENTS_PER_REGION; index++) extents.add(region * EXTENTS_PER_REGION + index);
    }
    const wanted = [...extents]
      .filter((extent) => extent < this.#options.layout.extentsPerSegment)
      .sort((a, b) => a - b);
    const allocated = new Set(await this.listExtents(source, 0, true));
    const own = new Set(replica.hotRegions);
    const isOwn = (extent: number): boolean => own.has(Math.floor(extent / EXTENTS_PER_REGION));
    const inOrder = (extents: readonly number[]): number[][] => [
      extents.filter((extent) => !allocated.has(extent)),
      extents.filter((extent) => allocated.has(extent)),
    ];
    return [...inOrder(wanted.filter(isOwn)), ...inOrder(wanted.filter((extent) => !isOwn(extent)))];
  }

  async listExtents(replica: Replica, afterGeneration: number, allocatedOnly: boolean): Promise<number[]> {
    const extents: number[] = [];
    let from = 0;
    do {
      const request = braid.ListExtentsRequest.encode({ afterGeneration, from, allocatedOnly }).finish();
      const reply = await replica.session.peer.call(
        OPCODE.LIST_EXTENTS,
        replica.session.handle,
        replica.number,
        request,
      );
      if (reply.status !== STATUS.OK)
        throw new BraidError('UNAVAILABLE', `listing extents failed with ${statusName(reply.status)}`);
      const page = readExtents(reply.payload, from, this.#options.layout.regionsPerSegment);
      for (const extent of page.extents) extents.push(extent);
      from = page.next;
    } while (from !== 0);
    return extents;
  }

  /**
   * Resolves to the extents that are damaged, and, if there will be room later, those that were refused for lack of it. Rejects when one could
   * not be copied for another reason, once no copy is under way any more: the next attempt has the whole window again.
   */
  async #copyAll(
    segment: Segment,
    extents: readonly number[],
    replica: Replica,
    task: CopyTask,
    mayRefuse: boolean,
  ): Promise<{ readonly damaged: readonly number[]; readonly refused: readonly number[] }> {
    const { pacer } = this.#options.context;
    const damaged: number[] = [];
    const refused: number[] = [];
    const unsettled = this.#unsettled.get(replica);
    const copy = async (extent: number): Promise<void> => {
      if (this.#stopped || replica.state !== 'syncing') throw new BraidError('ABORTED', 'the copying was interrupted');
      try {
        const lost = await this.#copyExtent(segment, extent * EXTENT_BYTES, 0, () => [replica]);
        if (lost.length > 0) damaged.push(extent);
        else {
          task.copied(EXTENT_BYTES);
          if (unsettled !== undefined) count(unsettled, Math.floor(extent / EXTENTS_PER_REGION), -1);
        }
      } catch (error) {
        if (!mayRefuse || !(error instanceof BraidError) || error.code !== 'NO_SPACE') throw error;
        refused.push(extent);
      }
      if (damaged.length > limits.damagedExtentsMax)
        throw new BraidError('DRIVE', 'too much of the in-sync copy cannot be read; replace its drive');
    };
    await inWindow(extents, (extent) => pacer.run(EXTENT_BYTES, () => copy(extent)));
    return { damaged, refused };
  }

  /** The copy's log learns that it has everything; the entries that the resync left there are from now on cooled with all others. */
  async #adoptHotRegions(segment: Segment, replica: Replica): Promise<void> {
    await this.#membership.reopen(replica.session, [segment]);
    const { regions } = this.#options;
    for (const region of replica.hotRegions) regions.markHot(segment.index * regions.regionsPerSegment + region);
  }

  /** Not those of a change that a copy lost since then may miss: the generation says which. */
  async #purgeTombstones(segment: Segment): Promise<void> {
    const { generation } = segment;
    const purge = ({ session, number }: Replica): Promise<unknown> =>
      session.peer.call(OPCODE.PURGE_TOMBSTONES, session.handle, number, undefined, (frame) => {
        frame.generation = generation;
      });
    await Promise.allSettled(segment.replicas.filter((replica) => replica.ready).map(purge));
  }

  // ---- reconciliation after an unclean owner

  wantRegion(region: number): void {
    this.#wantedRegions.add(region);
    this.startReconciling();
  }

  /** Works through the dirty regions, wanted ones first, until none is left. */
  startReconciling(): void {
    if (this.#reconciling) return;
    this.#reconciling = true;
    void this.#reconcileAll();
  }

  async #reconcileAll(): Promise<void> {
    const { regions, context, progress } = this.#options;
    const task = progress.begin('reconcile', null);
    task.expect(regions.dirtyCount * REGION_BYTES);
    let region = this.#nextRegion(true);
    while (region !== null && !this.#stopped) {
      const isDone = await this.#reconcile(region);
      const wasWanted = this.#wantedRegions.delete(region);
      if (isDone) {
        this.#reconciled(region);
        task.copied(REGION_BYTES);
      } else {
        if (wasWanted) this.#wantedRegions.add(region); // at the end of the line
        regions.postpone(region);
        await sleep(context.clock, RETRY_MS);
      }
      region = this.#nextRegion(isDone);
    }
    task.end();
    this.#reconciling = false;
  }

  /** Wanted regions come first, except right after a failure: one that fails again and again must not keep the others waiting. */
  #nextRegion(wantedFirst: boolean): number | null {
    const { regions } = this.#options;
    if (wantedFirst) for (const region of this.#wantedRegions) return region;
    return regions.anyDirty();
  }

  #reconciled(region: number): void {
    const { regions } = this.#options;
    regions.markClean(region);
    this.#settleSegment(regions.segmentOf(region));
    this.#io.regionClean(region);
  }

  /** When none of its regions is dirty any more, all in-sync copies of a segment have everything. */
  #settleSegment(index: number): void {
    if (this.#options.regions.hasDirty(index)) return;
    const segment = this.#options.segments[index];
    if (segment === undefined) return;
    for (const replica of segment.replicas) {
      replica.uncertain = false;
      replica.isEqualized ||= replica.state === 'in-sync' && replica.ready;
    }
    this.#membership.vouch(segment);
  }

  /** True when all in-sync copies of the region are connected and equal. */
  async #reconcile(region: number): Promise<boolean> {
    const { segments, regions, context } = this.#options;
    const segment = segments[regions.segmentOf(region)];
    if (segment === undefined) return true;
    if (segment.readableMask === 0 || segment.readableMask !== segment.inSyncMask) return false;
    const { generation } = segment;
    const first = regions.indexInSegment(region) * REGION_BYTES;
    const extents = Array.from({ length: EXTENTS_PER_REGION }, (_, index) => first + index * EXTENT_BYTES);
    const equalize = async (offsetBytes: number): Promise<void> => {
      const lost = await this.#locked(segment, offsetBytes, () => this.#equalizer.equalize(segment, offsetBytes));
      this.#noted(segment, offsetBytes, lost, 0);
      // Blocks that fail their checksum everywhere are refused by every copy alike. What cannot be read now may come back, here or there.
      if (lost.some(({ isCorrupt }) => !isCorrupt))
        throw new BraidError('DRIVE', 'a block cannot be read from any in-sync copy');
    };
    try {
      // While a client waits for a region nothing holds the copier up.
      await inWindow(extents, (offset) =>
        this.#wantedRegions.size > 0 ? equalize(offset) : context.pacer.run(EXTENT_BYTES, () => equalize(offset)),
      );
    } catch (error) {
      if (error instanceof BraidError) return false;
      throw error;
    }
    return segment.generation === generation;
  }

  // ---- repair and restoration

  /**
   * Rewrites an extent from another copy on replicas whose data did not match its checksum, or could not be read. Does nothing when enough is
   * being repaired: who finds it next asks again.
   */
  repair(segment: Segment, offsetBytes: number, badMask: number): void {
    if (!this.#repairing.has(repairKey(segment, offsetBytes))) void this.mend(segment, offsetBytes, badMask);
  }

  /** As `repair`, after one that is under way; resolves when that has ended, to whether all of the extent is right there now. */
  async mend(segment: Segment, offsetBytes: number, badMask: number): Promise<boolean> {
    const extentOffset = offsetBytes - (offsetBytes % EXTENT_BYTES);
    const key = repairKey(segment, offsetBytes);
    const underWay = this.#repairing.get(key);
    if (underWay !== undefined) {
      const isRight = await underWay.ended;
      return (badMask & ~underWay.badMask) === 0 ? isRight : this.mend(segment, offsetBytes, badMask);
    }
    if (this.#repairing.size >= limits.copyWindowExtents) return false;
    const ended = this.#repair(segment, extentOffset, badMask).finally(() => {
      this.#repairing.delete(key);
    });
    this.#repairing.set(key, { badMask, ended });
    return ended;
  }

  async #repair(segment: Segment, offsetBytes: number, badMask: number): Promise<boolean> {
    const bad = segment.replicas.filter(
      ({ bit, state, ready }) => (badMask & bit) !== 0 && state === 'in-sync' && ready,
    );
    const drives = bad.map(({ driveId }) => driveId).join(', ');
    const place = this.#options.layout.offsetInVolume(segment.index, offsetBytes);
    const where = `the copy on drive ${drives} of the ${EXTENT_BYTES} bytes at offset ${place}`;
    try {
      if (bad.length === 0) return false;
      const lost = await this.#copyExtent(segment, offsetBytes, badMask, () => bad.filter(({ ready }) => ready));
      const rest = lost.length === 0 ? '' : `; ${lost.length} other block(s) of the extent are damaged there, too`;
      this.repairs++;
      this.#report('warning', `${where} was damaged and was rewritten from another copy${rest}`);
      this.#unrepaired.delete(place);
      return lost.length === 0;
    } catch (error) {
      const { log } = this.#options.context;
      log.warn({ volume: this.#options.volumeName, where, error: String(error) }, 'repair failed; it is tried again');
      if (!this.#unrepaired.has(place) && this.#unrepaired.size < limits.damagedExtentsMax) {
        this.#unrepaired.add(place);
        const advice =
          'it is tried again; if no other copy will come back, write these bytes anew, for example from a backup';
        this.#report('error', `${where} is damaged and cannot be rewritten now (${asError(error).message}): ${advice}`);
      }
      return false;
    }
  }

  /** Compares the connected copies of an extent, under its lock; they learn from each other what they do not know (equalizer.ts). */
  async compare(segment: Segment, offsetBytes: number, stored: boolean): Promise<Verdict> {
    return this.#locked(segment, offsetBytes, () => this.#equalizer.settle(segment, offsetBytes, stored));
  }

  #report(severity: Severity, message: string): void {
    this.#options.context.report(severity, `volume/${this.#options.volumeName}`, message);
  }

  /** Makes the copies that took a write equal to one that refused it. The caller's operation holds the range lock. */
  async restore(segment: Segment, offsetBytes: number, lengthBytes: number, refusedMask: number): Promise<void> {
    while (!this.#stopped) {
      const source = this.#transfer.sources(segment, 0).find((replica) => (refusedMask & replica.bit) !== 0);
      const targets = segment.replicas.filter(
        (replica) => replica.state !== 'stale' && (refusedMask & replica.bit) === 0,
      );
      if (source === undefined && (segment.inSyncMask & refusedMask) === 0) return; // those that refused are out: the others are equal
      try {
        if (source !== undefined) {
          await this.#transfer.copyRange(segment, source, targets, { offsetBytes, lengthBytes }, false);
          return;
        }
      } catch {
        // a target or the source is in trouble: membership decides, then it is tried again
      }
      await sleep(this.#options.context.clock, RETRY_MS);
    }
  }

  // ---- one extent

  /** Resolves to the blocks that no source could give; everything else is equal then. Rejects when a target or the last source is lost. */
  #copyExtent(
    segment: Segment,
    offsetBytes: number,
    excludedSources: number,
    targetsOf: (source: Replica) => readonly Replica[],
  ): Promise<readonly LostBlock[]> {
    return this.#locked(segment, offsetBytes, async () => {
      const copy = (range: Range, isVerified: boolean): Promise<Outcome> =>
        this.#transfer.copyFromAny(
          segment,
          range,
          this.#transfer.sources(segment, excludedSources),
          targetsOf,
          isVerified,
        );
      const extent = { offsetBytes, lengthBytes: EXTENT_BYTES };
      // What the source cannot vouch for is compared with the other copies first, if there are any.
      let outcome = await copy(extent, this.#transfer.sources(segment, excludedSources).length > 1);
      if (outcome === 'unverified') {
        await this.#equalizer.settle(segment, offsetBytes, false);
        outcome = await copy(extent, false);
      }
      if (typeof outcome !== 'object') return [];
      const lost: LostBlock[] = [];
      for (let offset = offsetBytes; offset < offsetBytes + EXTENT_BYTES; offset += BLOCK_BYTES) {
        const block = await copy({ offsetBytes: offset, lengthBytes: BLOCK_BYTES }, false);
        if (typeof block === 'object') lost.push(block);
      }
      return lost;
    }).then((lost) => this.#noted(segment, offsetBytes, lost, excludedSources));
  }

  /** Runs `body` while the extent is ours: no client writes it, and its region is not cooled. */
  async #locked<T>(segment: Segment, offsetBytes: number, body: () => Promise<T>): Promise<T> {
    const { regions } = this.#options;
    const row = await this.#io.lockExtent(segment.index, offsetBytes);
    if (row === null) throw new BraidError('FENCED', 'the volume is not owned here any more');
    const region = regions.regionOf(segment.index, offsetBytes);
    regions.writeStarted(region);
    try {
      return await body();
    } finally {
      regions.writeEnded(region);
      this.#io.unlockExtent(row);
    }
  }

  /** What no copy can give is the operator's to know; where one was not asked it is not lost. */
  #noted(
    segment: Segment,
    offsetBytes: number,
    lost: readonly LostBlock[],
    excludedSources: number,
  ): readonly LostBlock[] {
    const blocks = lost.map((block) => block.offsetBytes);
    if (lost.length === 0) this.#damage.healed(segment.index, offsetBytes);
    else if (excludedSources === 0) this.#damage.found(segment.index, offsetBytes, blocks);
    return lost;
  }
}

/** Counts per region; a region without any is not in the map. */
function count(regions: Map<number, number>, region: number, change: 1 | -1): void {
  const number = (regions.get(region) ?? 0) + change;
  if (number > 0) regions.set(region, number);
  else regions.delete(region);
}

function repairKey({ index }: Segment, offsetBytes: number): string {
  return `${index}/${Math.floor(offsetBytes / EXTENT_BYTES)}`;
}

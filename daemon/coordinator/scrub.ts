/**
 * Scrub of a volume at its owner: compares the in-sync copies extent by extent, by their checksums, each under its extent lock. Copies learn
 * checksums that they do not know; what is damaged is rewritten from another copy; copies that differ although each passes its checksums
 * are reported, never "repaired": nobody can tell which is right.
 *
 * By itself it compares what the copies have stored, since the drives compare that with their data (replica/scrubber.ts). When an
 * operator asks for it all copies are read. How far it is, by segment, is in the cluster store: the next owner goes on from there.
 */
import { asError, BraidError } from '../base/errors.js';
import type { VolumeId } from '../base/ids.js';
import { limits } from '../base/limits.js';
import { EXTENT_BYTES, EXTENTS_PER_REGION } from '../base/units.js';
import { sleep } from '../ports/clock.js';
import type { ScrubStats } from '../ports/shard.js';
import { readRecord } from '../ports/stored-records.js';
import { records, type ScrubRecord, type VolumeRecord } from '../protocol/records.js';
import { storeKeys } from '../protocol/store.js';
import type { Verdict } from './comparison.js';
import type { CoordinatorContext, Serial } from './context.js';
import type { Copier } from './copier.js';
import type { VolumeIo } from './io.js';
import type { VolumeLayout } from './layout.js';
import type { RegionTracker } from './regions.js';
import type { Segment } from './segment.js';
import { allocatedExtents } from './verify.js';

/** While a segment is being reconciled, or a copy is away. */
const RETRY_MS = 1_000;
const NEVER: ScrubRecord = { startedMs: 0, completedMs: 0, running: false, reads: false, nextSegment: 0, bytesDone: 0 };

export interface VolumeScrubOptions {
  readonly context: CoordinatorContext;
  readonly volume: VolumeRecord;
  readonly segments: readonly Segment[];
  readonly regions: RegionTracker;
  readonly layout: VolumeLayout;
  readonly io: VolumeIo;
  readonly copier: Copier;
  readonly comparing: Serial;
}

export class VolumeScrub {
  readonly #options: VolumeScrubOptions;
  /** Regions in which a copy has forgotten checksums: they come first. */
  readonly #wanted = new Set<number>();
  #record = NEVER;
  #isLoaded = false;
  #isRunning = false;
  #isClosed = false;
  readonly #quietUntilMs: number;
  #passBytesTotal = 0;
  #bytes = 0;
  #errors = 0;
  #repaired = 0;
  /** Of the pass: what could not be put right. */
  #unresolved = 0;

  constructor(options: VolumeScrubOptions) {
    this.#options = options;
    this.#quietUntilMs = options.context.clock.nowMs() + limits.scrubQuietMs;
  }

  stats(): ScrubStats {
    const { startedMs, completedMs, running, bytesDone } = this.#record;
    return {
      ...{ isRunning: running, startedMs, completedMs },
      passBytesDone: running ? bytesDone : 0,
      passBytesTotal: running ? Math.max(this.#passBytesTotal, bytesDone) : 0,
      ...{ bytes: this.#bytes, errors: this.#errors, repaired: this.#repaired, unresolved: this.#unresolved },
    };
  }

  /** Begins a pass that reads all copies, from the start of the volume; one that does so already goes on. */
  start(): void {
    if (!this.#record.running || !this.#record.reads) this.#begin(true);
  }

  /** Ends the pass; the next one begins when it is due, or is asked for. */
  stop(): void {
    if (!this.#record.running) return;
    this.#record = { ...this.#record, running: false };
    this.#save();
  }

  close(): void {
    this.#isClosed = true;
  }

  /** A copy does not know all checksums of these regions any more: they are compared soon. */
  want(segment: Segment, regions: readonly number[]): void {
    const { regionsPerSegment } = this.#options.regions;
    for (const region of regions) this.#wanted.add(segment.index * regionsPerSegment + region);
  }

  /** Every VOLUME_TICK_MS while the volume is served. */
  tick(): void {
    if (this.#isRunning) return;
    const { clock } = this.#options.context;
    if (this.#wanted.size === 0 && !this.#record.running && clock.nowMs() < this.#quietUntilMs) return;
    if (this.#wanted.size > 0 || (this.#record.running && this.#isLoaded)) void this.#run();
    else if (!this.#isLoaded) void this.#load();
    else if (this.#isDue()) this.#begin(false);
  }

  /** By the wall clock, as it has to outlast owners; if that jumps a pass comes early or late. */
  #isDue(): boolean {
    const { context, volume } = this.#options;
    const { startedMs, completedMs } = this.#record;
    const { intervalMs } = context.scrub;
    return intervalMs > 0 && this.#wallMs() - Math.max(volume.createdMs, startedMs, completedMs) >= intervalMs;
  }

  #begin(reads: boolean): void {
    this.#record = { ...NEVER, startedMs: this.#wallMs(), completedMs: this.#record.completedMs, running: true, reads };
    this.#isLoaded = true;
    this.#unresolved = 0;
    this.#save();
    if (!this.#isRunning) void this.#run();
  }

  // ---- a pass

  async #run(): Promise<void> {
    this.#isRunning = true;
    const { clock, log } = this.#options.context;
    while (!this.#isClosed && (this.#wanted.size > 0 || this.#record.running)) {
      try {
        if (this.#wanted.size > 0) await this.#nextWanted();
        else await this.#nextSegment();
      } catch (error) {
        if (!(error instanceof BraidError)) throw error;
        log.debug({ volume: this.#options.volume.name, error: error.message }, 'the scrub waits');
        await sleep(clock, RETRY_MS);
      }
    }
    this.#isRunning = false;
  }

  async #nextWanted(): Promise<void> {
    const { regions, segments } = this.#options;
    for (const region of this.#wanted) {
      const segment = segments[regions.segmentOf(region)];
      const first = regions.indexInSegment(region) * EXTENTS_PER_REGION;
      for (let extent = first; segment !== undefined && extent < first + EXTENTS_PER_REGION; extent++) {
        if (this.#isClosed) return;
        await this.#extent(segment, extent, true);
      }
      this.#wanted.delete(region);
      return;
    }
  }

  async #nextSegment(): Promise<void> {
    const { segments, copier } = this.#options;
    const { nextSegment, startedMs, reads } = this.#record;
    const segment = segments[nextSegment];
    if (segment === undefined) return this.#complete();
    const extents = await allocatedExtents(connected(segment), copier);
    // What is still to come is taken to be like this segment.
    const rest = extents.length * EXTENT_BYTES * (segments.length - nextSegment);
    this.#passBytesTotal = this.#record.bytesDone + rest;
    const before = this.#record.bytesDone;
    for (const [index, extent] of extents.entries()) {
      if (this.#isClosed || !this.#record.running || this.#record.startedMs !== startedMs) return;
      await this.#extent(segment, extent, !reads);
      this.#record = { ...this.#record, bytesDone: before + (index + 1) * EXTENT_BYTES };
      if (this.#wanted.size > 0) await this.#nextWanted();
    }
    this.#record = { ...this.#record, nextSegment: nextSegment + 1 };
    if (extents.length > 0) this.#save();
  }

  #complete(): void {
    this.#record = { ...NEVER, startedMs: this.#record.startedMs, completedMs: this.#wallMs() };
    this.#save();
  }

  /** One extent of all volumes of the shard at a time, at the rate that is set; slower while clients want something. */
  #extent(segment: Segment, extent: number, stored: boolean): Promise<void> {
    const { context, comparing, io } = this.#options;
    const { clock, scrub, scrubTurns } = context;
    const inTurn = async (): Promise<void> => {
      const startedMs = clock.nowMs();
      await this.#compare(segment, extent, stored);
      const periodMs = (EXTENT_BYTES / scrub.bytesPerSecond) * 1_000;
      await sleep(clock, Math.max(0, startedMs + periodMs - clock.nowMs()));
      for (let yields = 0; yields < limits.scrubYieldsMax && io.inFlight > 0; yields++) await sleep(clock, periodMs);
    };
    return comparing.run(() => scrubTurns.run(inTurn));
  }

  async #compare(segment: Segment, extent: number, stored: boolean): Promise<void> {
    const { copier, regions } = this.#options;
    const offsetBytes = extent * EXTENT_BYTES;
    if (this.#isClosed) return;
    const isMissing = segment.readableMask === 0 || segment.readableMask !== segment.inSyncMask;
    if (isMissing || regions.isDirty(regions.regionOf(segment.index, offsetBytes)))
      throw new BraidError('UNAVAILABLE', 'the copies are being made equal, or cannot be reached');
    const verdict = await copier.compare(segment, offsetBytes, stored);
    this.#bytes += EXTENT_BYTES;
    if (verdict.isEqual && verdict.stampMax <= segment.generation) return;
    this.#errors++;
    const isMended = await this.#act(segment, offsetBytes, verdict);
    if (isMended) this.#repaired++;
    else this.#unresolved++;
  }

  /** True when all copies are right, and equal, now. */
  async #act(segment: Segment, offsetBytes: number, verdict: Verdict): Promise<boolean> {
    const { copier, layout } = this.#options;
    const where = `the ${EXTENT_BYTES} bytes at offset ${layout.offsetInVolume(segment.index, offsetBytes)}`;
    if (verdict.stampMax > segment.generation) {
      const generations = `generation ${verdict.stampMax}, the segment is at ${segment.generation}`;
      this.#report('error', `a copy of ${where} claims ${generations}: please report this, it should never happen`);
    }
    if (verdict.disputed.length > 0) {
      const advice = 'nobody can tell which is right: compare these bytes with a backup and write them anew';
      this.#report('error', `copies of ${where} differ in ${verdict.disputed.length} block(s); ${advice}`);
    }
    for (const { holder, strays } of verdict.mendable.slice(0, 1)) {
      const drives = strays.map(({ driveId }) => driveId).join(', ');
      const what = `differed in ${verdict.mendable.length} block(s) whose checksum it did not know`;
      this.#report(
        'warning',
        `the copy on drive ${drives} of ${where} ${what}; rewritten from drive ${holder.driveId}`,
      );
    }
    // One after the other: what is damaged on both may be in different blocks.
    for (const { replica } of verdict.damaged) await copier.mend(segment, offsetBytes, replica.bit);
    const { damaged } = verdict;
    const isRepaired = damaged.length === 0 || (await copier.compare(segment, offsetBytes, false)).damaged.length === 0;
    return isRepaired && verdict.disputed.length === 0 && verdict.stampMax <= segment.generation;
  }

  // ---- the record

  async #load(): Promise<void> {
    this.#isRunning = true;
    const { context, volume } = this.#options;
    try {
      const stored = await readRecord(context.store, storeKeys.scrub(volume.id as VolumeId), records.scrub);
      if (!this.#isLoaded && stored !== null) this.#record = stored.value;
      this.#isLoaded = true;
    } catch (error) {
      context.log.debug({ volume: volume.name, error: asError(error).message }, 'it is not known when it was scrubbed');
    }
    this.#isRunning = false;
  }

  #save(): void {
    const { context, volume } = this.#options;
    const key = storeKeys.scrub(volume.id as VolumeId);
    const value = records.scrub.encode(this.#record);
    // What is lost is compared again.
    context.store.txn([], [{ type: 'put', key, value }]).catch((error: unknown) => {
      context.log.debug({ volume: volume.name, error: asError(error).message }, 'how far the scrub is was not saved');
    });
  }

  #report(severity: 'warning' | 'error', message: string): void {
    const { context, volume } = this.#options;
    context.report(severity, `volume/${volume.name}`, message);
  }

  #wallMs(): number {
    return Math.floor(this.#options.context.clock.wallMs());
  }
}

function connected(segment: Segment): Segment['replicas'] {
  return segment.replicas.filter(({ bit }) => (segment.readableMask & bit) !== 0);
}

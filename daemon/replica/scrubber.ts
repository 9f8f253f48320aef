/**
 * Scrub of a drive: reads every allocated extent at a bounded rate and compares it with its stored checksums, so that rot is found while
 * another copy is there to repair from. It needs no owner: what it finds is remembered on the drive, and named to the volume's owner
 * again and again, as soon as there is one, until the extent reads right.
 *
 * Invariants
 * - An extent is judged by its record, which counts while its region is cold; hot ones are left to the next pass. Whatever was activated while
 *   the extent was being read, it is read again.
 * - At most two reads are in flight: one of the pass, one that looks again at what was found. Their buffers are of the internal pool.
 */
import { assert } from '../base/assert.js';
import { BraidError } from '../base/errors.js';
import { limits } from '../base/limits.js';
import { BLOCKS_PER_EXTENT, EXTENT_BYTES } from '../base/units.js';
import {
  damagedKey,
  isKnownKey,
  itemOfKey,
  SCRUB_KEY,
  segmentOfKey,
  TABLE,
  tablePrefix,
  volumeOfKey,
} from '../format/keys.js';
import {
  decodeScrub,
  encodeScrub,
  extentChecksum,
  extentKnown,
  NEVER_SCRUBBED,
  type ScrubRecord,
} from '../format/records.js';
import { type Clock, sleep } from '../ports/clock.js';
import type { Log } from '../ports/log.js';
import type { MetaStore } from '../ports/meta-store.js';
import type { ScrubSettings, ScrubStats } from '../ports/shard.js';
import { NO_BUFFER, POOL_INTERNAL, type BufferId, type Slab } from '../ports/slab.js';
import type { ActivityLog } from './activity-log.js';
import type { Committer } from './committer.js';
import type { DriveIo } from './drive-io.js';
import { replicaKey } from './drive-loader.js';
import { REGION, type Replica } from './replica.js';

/** How often an extent is read in which something is activated each time. */
const ATTEMPTS_MAX = 3;
const BUFFER_RETRY_MS = 100;

/** The drive that is scrubbed. */
export interface ScrubbedDrive {
  readonly isServing: boolean;
  /** The extent's record, valid until the next call. */
  recordOf(replica: Replica, extent: number): Uint8Array | null;
}

/** Who speaks with the owners of volumes. */
export interface ScrubHost {
  /** Somebody owns the volume and has this replica open. */
  hasSession(replica: Replica): boolean;
  /** Names the extent to the owner, if there is one: it does not match its checksums, or cannot be read. */
  onDamaged(replica: Replica, extent: number): void;
}

export interface ScrubberParts {
  readonly meta: MetaStore;
  readonly io: DriveIo;
  readonly committer: Committer;
  readonly activity: ActivityLog;
  readonly replicas: ReadonlyMap<string, Replica>;
  readonly slab: Slab;
  readonly clock: Clock;
  readonly log: Log;
  readonly createdMs: number;
  readonly settings: ScrubSettings;
  /** What the operator should know. */
  readonly report: (message: string) => void;
}

interface Finding {
  readonly replica: Replica;
  readonly extent: number;
}

type Reading = 'right' | 'damaged' | 'skipped';

export class DriveScrubber {
  readonly #drive: ScrubbedDrive;
  readonly #host: ScrubHost;
  readonly #parts: ScrubberParts;
  readonly #findings = new Map<string, Finding>();
  /** As it was saved last, but for the position. */
  #record: ScrubRecord;
  #isRunning = false;
  #isRechecking = false;
  /** Before that a drive that was just opened is left alone. */
  #quietUntilMs: number;
  #recheckMs = 0;
  #savedMs = 0;
  #passBytesTotal = 0;
  #passErrors = 0;
  #bytes = 0;
  #errors = 0;
  #repaired = 0;

  constructor(drive: ScrubbedDrive, host: ScrubHost, parts: ScrubberParts) {
    this.#drive = drive;
    this.#host = host;
    this.#parts = parts;
    this.#quietUntilMs = parts.clock.nowMs() + limits.scrubQuietMs;
    this.#record = NEVER_SCRUBBED;
    try {
      this.#load();
    } catch (error) {
      if (!(error instanceof BraidError)) throw error;
      parts.log.warn({ error: error.message }, 'what earlier scrubs found cannot be read; the next one finds it again');
    }
  }

  #load(): void {
    const { meta, replicas } = this.#parts;
    const stored = meta.get(SCRUB_KEY);
    if (stored !== null) this.#record = decodeScrub(stored);
    meta.scan(tablePrefix(TABLE.DAMAGED), (key) => {
      const replica = isKnownKey(key) ? replicas.get(replicaKey(volumeOfKey(key), segmentOfKey(key))) : undefined;
      if (replica !== undefined) this.#remember({ replica, extent: itemOfKey(key) });
    });
  }

  stats(): ScrubStats {
    const { startedMs, completedMs, bytesDone, isRunning } = this.#record;
    return {
      ...{ isRunning, startedMs, completedMs },
      passBytesDone: isRunning ? bytesDone : 0,
      passBytesTotal: isRunning ? Math.max(this.#passBytesTotal, bytesDone) : 0,
      ...{ bytes: this.#bytes, errors: this.#errors, repaired: this.#repaired, unresolved: this.#findings.size },
    };
  }

  /** Begins a pass, from the start of the drive; nothing changes while one is under way. */
  start(): void {
    if (this.#record.isRunning) return;
    this.#record = {
      ...NEVER_SCRUBBED,
      startedMs: this.#wallMs(),
      completedMs: this.#record.completedMs,
      isRunning: true,
    };
    this.#passErrors = 0;
    this.#save();
    void this.#run();
  }

  /** Ends the pass; the next one begins when it is due, or is asked for. */
  stop(): void {
    if (!this.#record.isRunning) return;
    this.#record = { ...this.#record, isRunning: false };
    this.#save();
  }

  /** Called every DRIVE_TICK_MS. */
  tick(): void {
    const nowMs = this.#parts.clock.nowMs();
    if (this.#findings.size > 0 && nowMs >= this.#recheckMs) {
      this.#recheckMs = nowMs + limits.scrubRecheckMs;
      void this.#recheck();
    }
    if (nowMs < this.#quietUntilMs) return;
    if (this.#record.isRunning) void this.#run();
    else if (this.#isDue()) this.start();
  }

  /** A week is measured by the wall clock, as it has to outlast restarts; if that jumps a pass comes early or late. */
  #isDue(): boolean {
    const { settings, createdMs } = this.#parts;
    const { startedMs, completedMs } = this.#record;
    const lastMs = Math.max(createdMs, startedMs, completedMs);
    return settings.intervalMs > 0 && this.#wallMs() - lastMs >= settings.intervalMs;
  }

  // ---- a pass

  async #run(): Promise<void> {
    if (this.#isRunning) return;
    this.#isRunning = true;
    const { replicas, clock } = this.#parts;
    let extents = 0;
    for (const replica of replicas.values()) extents += replica.allocated - replica.aheadCount;
    this.#passBytesTotal = extents * EXTENT_BYTES;
    // In the order of names: after a restart it is still known what comes behind the position.
    for (const name of [...replicas.keys()].sort()) {
      if (name < this.#record.replica) continue;
      const from = name === this.#record.replica ? this.#record.extent : 0;
      if (!(await this.#scrubReplica(name, from))) break;
    }
    this.#isRunning = false;
    if (this.#record.isRunning && this.#drive.isServing) this.#complete();
    else if (this.#drive.isServing) this.#quietUntilMs = clock.nowMs();
  }

  /** False when the pass was ended. */
  async #scrubReplica(name: string, from: number): Promise<boolean> {
    const { replicas, clock } = this.#parts;
    for (let extent = from; ; extent++) {
      const replica = replicas.get(name);
      // Most of a volume may never have been written: no use in waiting for what is not there.
      while (replica !== undefined && extent < replica.extentCount && replica.isBlank(extent)) extent++;
      if (replica === undefined || extent >= replica.extentCount) return this.#isWanted();
      const startedMs = clock.nowMs();
      const reading = await this.#read(replica, extent);
      if (!this.#isWanted()) return false;
      this.#record = {
        ...this.#record,
        replica: name,
        extent: extent + 1,
        bytesDone: this.#record.bytesDone + EXTENT_BYTES,
      };
      if (reading === 'damaged') this.#found(replica, extent);
      if (reading !== 'skipped') await this.#pace(startedMs);
      if (clock.nowMs() - this.#savedMs >= limits.scrubSaveMs) this.#save();
    }
  }

  #isWanted(): boolean {
    return this.#record.isRunning && this.#drive.isServing;
  }

  /** Keeps to the rate, and to a fraction of it while the drive has other things to do. */
  async #pace(startedMs: number): Promise<void> {
    const { clock, io, settings } = this.#parts;
    const periodMs = (EXTENT_BYTES / settings.bytesPerSecond) * 1_000;
    await sleep(clock, Math.max(0, startedMs + periodMs - clock.nowMs()));
    for (let yields = 0; yields < limits.scrubYieldsMax && io.inFlight > 0; yields++) await sleep(clock, periodMs);
  }

  #complete(): void {
    const completedMs = this.#wallMs();
    this.#record = { ...NEVER_SCRUBBED, startedMs: this.#record.startedMs, completedMs };
    this.#save();
    if (this.#passErrors === 0) return;
    const waiting = this.#findings.size;
    const rest =
      waiting === 0
        ? 'all are right again'
        : `${waiting} of them wait to be rewritten from another copy, for which their volumes have to be attached`;
    this.#parts.report(`the scrub found ${this.#passErrors} damaged extent(s) on this drive; ${rest}`);
  }

  // ---- one extent

  async #read(replica: Replica, extent: number): Promise<Reading> {
    const { activity, io, slab } = this.#parts;
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
      const buffer = await this.#buffer();
      if (buffer === NO_BUFFER || !this.#isCold(replica, extent)) {
        if (buffer !== NO_BUFFER) slab.release(buffer);
        return 'skipped';
      }
      const slot = replica.slotOf(extent);
      const { activations } = activity;
      const result = await new Promise<number>((resolve) => io.readSlot(slot, buffer, resolve));
      const isSame = this.#isCold(replica, extent) && replica.slotOf(extent) === slot;
      const isRight = isSame && result === 0 && this.#matches(replica, extent, slab.checksumIndex(buffer));
      slab.release(buffer);
      if (isRight) return this.#counted('right');
      if (isSame && activity.activations === activations) return this.#counted('damaged');
    }
    return 'skipped';
  }

  #counted(reading: Reading): Reading {
    this.#bytes += EXTENT_BYTES;
    return reading;
  }

  /** Whether the drive serves, and the extent's record says what has to be there. */
  #isCold(replica: Replica, extent: number): boolean {
    return this.#drive.isServing && !replica.isBlank(extent) && replica.stateOf(extent) === REGION.COLD;
  }

  #matches(replica: Replica, extent: number, from: number): boolean {
    const { slab } = this.#parts;
    const record = this.#drive.recordOf(replica, extent);
    if (record === null) return true;
    const known = extentKnown(record);
    for (let block = 0; block < BLOCKS_PER_EXTENT; block++) {
      if (((known >>> block) & 1) === 1 && extentChecksum(record, block) !== slab.checksums[from + block]) return false;
    }
    return true;
  }

  async #buffer(): Promise<BufferId> {
    const { clock, slab } = this.#parts;
    while (this.#drive.isServing) {
      const buffer = slab.alloc(EXTENT_BYTES, POOL_INTERNAL);
      if (buffer !== NO_BUFFER) return buffer;
      await sleep(clock, BUFFER_RETRY_MS);
    }
    return NO_BUFFER;
  }

  // ---- what was found

  #found(replica: Replica, extent: number): void {
    const { log, committer } = this.#parts;
    this.#passErrors++;
    if (!this.#remember({ replica, extent })) return;
    this.#errors++;
    const { volumeId, volume, segment } = replica;
    log.error({ volume: volumeId, segment, extent }, 'the scrub found a damaged extent; the owner rewrites it');
    const key = damagedKey(volume, segment, extent);
    void committer.commit((operations) => operations.push({ key, value: new Uint8Array(0) }));
    // Soon, not now: the repair makes the region hot, and the rest of it is still to be read.
    this.#recheckMs = 0;
  }

  /** False when it is known already, or too much is damaged: then the drive has to be replaced anyway. */
  #remember(finding: Finding): boolean {
    const { replica, extent } = finding;
    const name = `${replicaKey(replica.volumeId, replica.segment)}/${extent}`;
    if (this.#findings.has(name) || this.#findings.size >= limits.damagedExtentsMax) return false;
    this.#findings.set(name, finding);
    return true;
  }

  /** What reads right by now, or is gone, is done; the rest is named to its owner again. */
  async #recheck(): Promise<void> {
    if (this.#isRechecking) return;
    this.#isRechecking = true;
    const { replicas } = this.#parts;
    for (const [name, { replica, extent }] of [...this.#findings]) {
      if (!this.#drive.isServing) break;
      const isGone =
        replicas.get(replicaKey(replica.volumeId, replica.segment)) !== replica || replica.slotOf(extent) === 0;
      if (!isGone && !this.#host.hasSession(replica)) continue;
      const reading = isGone ? 'right' : await this.#read(replica, extent);
      if (reading === 'damaged') this.#host.onDamaged(replica, extent);
      if (reading !== 'right' || !this.#drive.isServing) continue;
      if (!isGone) this.#repaired++;
      this.#forget(name, replica, extent);
    }
    this.#isRechecking = false;
  }

  #forget(name: string, { volume, segment }: Replica, extent: number): void {
    assert(this.#findings.delete(name), 'a finding is done once');
    const key = damagedKey(volume, segment, extent);
    void this.#parts.committer.commit((operations) => operations.push({ key, value: null }));
  }

  #save(): void {
    const { committer, clock } = this.#parts;
    this.#savedMs = clock.nowMs();
    void committer.commit((operations) => operations.push({ key: SCRUB_KEY, value: encodeScrub(this.#record) }));
  }

  #wallMs(): number {
    return Math.floor(this.#parts.clock.wallMs());
  }
}

/**
 * The drives of this node: opens all that the store names, keeps trying those that fail, and adds new ones.
 * A drive that cannot be opened, fails, or does not answer is reported and costs nothing else: the agent and its other drives stay up.
 *
 * A shard is asked to open a drive only when what it was asked before about that drive has ended: so a drive that hangs is opened again only
 * after its last operation, and no straggler of before can overwrite what is written then (invariant 6).
 */
import { must } from '../base/assert.js';
import { asError, BraidError } from '../base/errors.js';
import type { DriveId } from '../base/ids.js';
import { limits } from '../base/limits.js';
import { EXTENT_BYTES, formatSize } from '../base/units.js';
import { sleep } from '../ports/clock.js';
import type { DriveFormatter } from '../ports/drive-formatter.js';
import type { DriveMemory, KeptDrive, KnownDrives } from '../ports/kept-drive.js';
import type { StoreWatch } from '../ports/cluster-store.js';
import type { ShardControl } from '../ports/shard.js';
import { records, type DriveRecord } from '../protocol/records.js';
import { storeKeys } from '../protocol/store.js';
import { absent, putRecord, unchanged } from './cluster-state.js';
import type { ControlContext, ShardHandle } from './context.js';
import { controlLimits } from './limits.js';
import { Loop } from './loop.js';

export interface LocalDrive {
  readonly record: DriveRecord;
  readonly state: 'opening' | 'open' | 'failed';
  /** Why it is not open, and what to do; empty when it is. */
  readonly reason: string;
  /** How often it has failed, or could not be opened, since the agent started. */
  readonly failures: number;
}

/** What is known of a drive, and what its shard is doing with it. */
interface Entry {
  record: DriveRecord;
  state: LocalDrive['state'];
  reason: string;
  failures: number;
  /** The shard opens or closes it; null while it does neither. */
  busy: Promise<void> | null;
  openedMs: number;
  /** It failed while it was open, this often in a row: it is given more and more time. */
  relapses: number;
  /** Not opened again before. */
  retryAtMs: number;
}

/** A drive that is not open, as far as it can be read. */
export interface ReadDrive {
  /** As it was remembered; the id is empty where nothing was. */
  readonly record: DriveRecord;
  /** Null when it cannot be read, with the reason. */
  readonly kept: KeptDrive | null;
  readonly reason: string;
}

export interface AddDriveRequest {
  readonly path: string;
  readonly capacityBytes: number;
  readonly driveClass: 'nvme' | 'ssd' | 'hdd';
}

/** 16 MiB, the smallest segment; anything smaller is a typing error. */
const CAPACITY_BYTES_MIN = 128 * EXTENT_BYTES;

export class DriveController {
  readonly #context: ControlContext;
  readonly #formatter: DriveFormatter;
  readonly #memory: DriveMemory;
  /** What the memory holds, as text. */
  #remembered = '';
  #remembering: Promise<void> = Promise.resolve();
  readonly #drives = new Map<DriveId, Entry>();
  readonly #loop: Loop;
  #watch: StoreWatch | null = null;
  /** Adding is rare and looks at all drives: one at a time. */
  #adding: Promise<unknown> = Promise.resolve();

  constructor(context: ControlContext, formatter: DriveFormatter, memory: DriveMemory) {
    this.#context = context;
    this.#memory = memory;
    this.#formatter = formatter;
    this.#loop = new Loop({
      name: 'drives',
      clock: context.clock,
      log: context.log,
      run: () => this.#converge(),
      retryMsMin: controlLimits.driveRetryMs,
      retryMsMax: controlLimits.driveRetryMs,
    });
  }

  /** Tries to open every drive once, for `controlLimits.driveAnswerMs` at most; failures are retried in the background. */
  async start(): Promise<void> {
    this.#watch = await this.#context.state.watchIds(storeKeys.drives, () => this.#loop.trigger());
    await this.#openAll();
    this.#loop.trigger();
  }

  async stop(): Promise<void> {
    this.#watch?.close();
    await this.#loop.stop();
    await this.#adding.catch(() => undefined);
  }

  /** In the order of their ids. */
  list(): readonly LocalDrive[] {
    return [...this.#drives.values()].map(viewOf).sort((a, b) => (a.record.id < b.record.id ? -1 : 1));
  }

  /** Those that are open, with their shards. */
  open(): { readonly driveId: DriveId; readonly shard: ShardControl }[] {
    return this.list()
      .filter(({ state }) => state === 'open')
      .map(({ record }) => ({
        driveId: record.id as DriveId,
        shard: must(this.#context.shards[record.shard], 'the shard of an open drive').control,
      }));
  }

  isOpen(id: string): boolean {
    return this.#drives.get(id as DriveId)?.state === 'open';
  }

  /** Formats a directory and takes it into the pool. Resolves when it is open. */
  add(request: AddDriveRequest): Promise<LocalDrive> {
    const added = this.#adding.then(
      () => this.#add(request),
      () => this.#add(request),
    );
    this.#adding = added;
    added.catch(() => undefined);
    return added;
  }

  async #add({ path, capacityBytes, driveClass }: AddDriveRequest): Promise<LocalDrive> {
    const { state, random, clock, node } = this.#context;
    const own = (await state.drives()).filter(({ value }) => value.nodeId === node.id).map(({ value }) => value);
    const directory = normalise(path);
    checkRequest(own, directory, capacityBytes);
    const id = random.uuid() as DriveId;
    await this.#formatter.format({ directory, capacityBytes, driveId: id });
    const createdMs = Math.floor(clock.wallMs());
    const shard = this.#leastUsedShard(own);
    const record = { id, nodeId: node.id, path: directory, driveClass, capacityBytes, shard, createdMs };
    // The directory is formatted durably; from this commit on the drive is in the pool.
    const key = storeKeys.drive(id);
    await state.commit([absent(key)], [putRecord(key, records.drive, record)]);
    const entry = this.#entryOf(record);
    await this.#open(entry);
    if (entry.state !== 'open') {
      throw new BraidError('DRIVE', `${directory} was added but does not open: ${entry.reason}`);
    }
    this.#report('info', entry, `drive ${directory} of ${formatSize(capacityBytes)} was added`);
    return viewOf(entry);
  }

  /** For `braid recover`: what the remembered drives keep, and those in further directories. Nothing is open while the store is empty. */
  async readKept(paths: readonly string[]): Promise<readonly ReadDrive[]> {
    const { node } = this.#context;
    const known = (await this.#memory.read())?.drives ?? [];
    const records: DriveRecord[] = known.map((drive) => ({ ...drive, nodeId: node.id }));
    for (const path of paths.map(normalise)) {
      if (records.some((record) => record.path === path)) continue;
      const shard = this.#leastUsedShard(records);
      records.push({ id: '', nodeId: node.id, path, driveClass: 'ssd', capacityBytes: 0, shard, createdMs: 0 });
    }
    return Promise.all(records.map((record) => this.#readKept(record)));
  }

  async #readKept(record: DriveRecord): Promise<ReadDrive> {
    const shard = this.#context.shards[record.shard] ?? this.#context.shards[0];
    try {
      const kept = (await shard?.control.readDrive(record.path)) ?? null;
      return { record, kept, reason: '' };
    } catch (thrown) {
      if (!(thrown instanceof BraidError)) throw thrown;
      return { record, kept: null, reason: thrown.message };
    }
  }

  #leastUsedShard(own: readonly DriveRecord[]): number {
    const uses = this.#context.shards.map((_, index) => own.filter(({ shard }) => shard === index).length);
    return uses.indexOf(Math.min(...uses));
  }

  /** Opens a drive that has failed, without waiting for its turn: it was repaired. One that is open stays as it is. */
  async reopen(id: string): Promise<LocalDrive> {
    await this.#noticeFailures();
    const entry = this.#drives.get(id as DriveId);
    if (entry === undefined) {
      throw new BraidError('NOT_FOUND', `there is no drive "${id}" on this node; GET /v1/drives lists them all`);
    }
    if (entry.state === 'failed') {
      await this.#answer(entry);
      await this.#open(entry);
    }
    if (entry.state === 'open') return viewOf(entry);
    const code = entry.busy === null ? 'DRIVE' : 'UNAVAILABLE';
    throw new BraidError(code, `drive ${entry.record.path} does not open: ${entry.reason}`);
  }

  async #converge(): Promise<number> {
    await this.#noticeFailures();
    await this.#openAll();
    return controlLimits.driveRetryMs;
  }

  /** Drives that a shard has given up since they were opened: closed here, and opened again by what follows. The shard has reported why. */
  async #noticeFailures(): Promise<void> {
    if (this.#drives.size === 0) return;
    for (const shard of this.#context.shards) {
      const { drives } = await shard.control.stats();
      for (const { driveId, reason } of drives.filter(({ state }) => state === 'failed')) {
        const entry = this.#drives.get(driveId);
        if (entry?.state === 'open') this.#fail(shard, entry, reason);
      }
    }
  }

  #fail(shard: ShardHandle, entry: Entry, reason: string): void {
    const nowMs = this.#context.clock.nowMs();
    const wasStable = nowMs - entry.openedMs >= controlLimits.driveStableMs;
    entry.relapses = wasStable ? 0 : entry.relapses + 1;
    entry.failures++;
    entry.state = 'failed';
    entry.reason = reason;
    const { driveRetryMs, driveRetryMsMax } = controlLimits;
    entry.retryAtMs = nowMs + Math.min(driveRetryMsMax, driveRetryMs * 2 ** entry.relapses);
    // It ends when the drive has finished, or refused, the last operation that it was asked for.
    this.#occupy(entry, shard.control.closeDrive(entry.record.id as DriveId));
  }

  /** Opens what the store names and is not open; forgets what it does not name any more. */
  async #openAll(): Promise<void> {
    const { state, node, clock } = this.#context;
    await this.#adopt();
    const own = (await state.drives()).filter(({ value }) => value.nodeId === node.id);
    await this.#remember(own.map(({ value }) => value));
    const ids = new Set(own.map(({ value }) => value.id));
    for (const [id, entry] of this.#drives) if (!ids.has(id)) this.#forget(id, entry);
    const entries = own.map(({ value }) => this.#entryOf(value));
    const due = entries.filter(({ state: now, retryAtMs }) => now !== 'open' && retryAtMs <= clock.nowMs());
    await Promise.all(due.map((entry) => this.#open(entry)));
  }

  /** Drives that this node was away with when the cluster was rebuilt, and of which nobody else knew where they are. */
  async #adopt(): Promise<void> {
    const { state, node } = this.#context;
    const lost = (await state.drives()).filter(({ value }) => value.nodeId === '');
    if (lost.length === 0) return;
    const known = (await this.#memory.read())?.drives ?? [];
    for (const drive of lost) {
      const record = known.find(({ id }) => id === drive.value.id);
      if (record === undefined) continue;
      const isMine = await state.commit(
        [unchanged(drive)],
        [putRecord(drive.key, records.drive, { ...record, nodeId: node.id })],
      );
      const advice = 'volumes that are attached use it when they are attached anew';
      if (isMine) this.#report('info', { record }, `drive ${record.path} is back: ${advice}`);
    }
  }

  /** The last drives are not forgotten: a cluster store that has none may be a new one, to be rebuilt from them. */
  #remember(drives: readonly DriveRecord[]): Promise<void> {
    const known = { clusterId: this.#context.node.clusterId, drives };
    this.#remembering = this.#remembering.then(() => this.#rememberNow(known));
    return this.#remembering;
  }

  async #rememberNow(known: KnownDrives): Promise<void> {
    const text = JSON.stringify(known);
    if (known.drives.length === 0 || text === this.#remembered) return;
    try {
      await this.#memory.write(known);
      this.#remembered = text;
    } catch (thrown) {
      const err = asError(thrown);
      this.#context.log.warn({ err }, 'the drives of this node could not be noted in its data directory');
    }
  }

  #entryOf(record: DriveRecord): Entry {
    const id = record.id as DriveId;
    const found = this.#drives.get(id);
    if (found !== undefined) return found;
    const counts = { failures: 0, openedMs: 0, relapses: 0, retryAtMs: 0 };
    const entry: Entry = { record, state: 'opening', reason: '', busy: null, ...counts };
    this.#drives.set(id, entry);
    return entry;
  }

  /** Resolves when it is open, has failed, or does not answer in time: then it goes on in the background. Never rejects for a fault of the drive. */
  async #open(entry: Entry): Promise<void> {
    if (entry.busy === null && entry.state !== 'open') {
      const before = entry.state;
      entry.state = 'opening';
      this.#occupy(entry, this.#tryOpen(entry, before));
    }
    await this.#answer(entry);
  }

  async #tryOpen(entry: Entry, before: LocalDrive['state']): Promise<void> {
    const { record } = entry;
    const failure = await this.#openAtShard(record);
    // Taken out of the pool meanwhile.
    if (this.#drives.get(record.id as DriveId) !== entry) return this.#closeAtShard(record);
    entry.state = failure === '' ? 'open' : 'failed';
    if (failure === '') entry.openedMs = this.#context.clock.nowMs();
    else entry.failures++;
    if (failure !== '' && failure !== entry.reason) {
      this.#report('error', entry, `drive ${record.path} cannot be opened: ${failure}`);
    }
    if (failure === '' && (before === 'failed' || entry.reason !== '')) {
      this.#report('info', entry, `drive ${record.path} is open again`);
    }
    entry.reason = failure;
  }

  /** Why it cannot be opened; empty when it is open. */
  async #openAtShard(record: DriveRecord): Promise<string> {
    const shard = this.#context.shards[record.shard];
    if (shard === undefined) {
      return `it belongs to shard ${record.shard} and this agent has ${this.#context.shards.length}: start it with more shards`;
    }
    try {
      await shard.control.openDrive(record.id as DriveId, record.path);
      return '';
    } catch (thrown) {
      if (!(thrown instanceof BraidError)) throw thrown;
      return thrown.message;
    }
  }

  async #closeAtShard(record: DriveRecord): Promise<void> {
    await this.#context.shards[record.shard]?.control.closeDrive(record.id as DriveId);
  }

  #occupy(entry: Entry, work: Promise<void>): void {
    const end = (thrown: unknown): void => {
      entry.busy = null;
      // The shard has ended before it answered, as the agent does.
      if (thrown instanceof BraidError) this.#context.log.warn({ drive: entry.record.id }, thrown.message);
      else if (thrown !== undefined) throw asError(thrown);
    };
    entry.busy = work.then(() => end(undefined), end);
  }

  /** Waits for what the shard does with the drive, and says so where it takes too long. */
  async #answer(entry: Entry): Promise<void> {
    const { busy } = entry;
    if (busy === null) return;
    const { clock } = this.#context;
    await Promise.race([busy, sleep(clock, controlLimits.driveAnswerMs)]);
    if (entry.busy !== busy) return;
    const reason =
      entry.state === 'opening'
        ? 'it does not answer; check the device and its file system: it is open as soon as they do'
        : `${withoutAdvice(entry.reason)}${HANGS}`;
    if (reason === entry.reason) return;
    entry.reason = reason;
    this.#report('error', entry, `drive ${entry.record.path}: ${reason}`);
  }

  /** The shard closes it in its own time. */
  #forget(id: DriveId, entry: Entry): void {
    this.#drives.delete(id);
    if (entry.state === 'open') this.#occupy(entry, this.#closeAtShard(entry.record));
  }

  #report(severity: 'info' | 'error', { record }: Pick<Entry, 'record'>, message: string): void {
    this.#context.events.report({ severity, subject: `drive/${record.id}`, message });
  }
}

/** A drive that failed, and has operations under way that do not end. */
const HANGS =
  '; operations that it was asked for have not ended, and it is opened again only when they have: check the device';

function withoutAdvice(reason: string): string {
  return reason.endsWith(HANGS) ? reason.slice(0, -HANGS.length) : reason;
}

function viewOf({ record, state, reason, failures }: Entry): LocalDrive {
  return { record, state, reason, failures };
}

function checkRequest(own: readonly DriveRecord[], directory: string, capacityBytes: number): void {
  if (!directory.startsWith('/') || directory === '/' || directory.split('/').includes('..')) {
    throw new BraidError('INVALID_ARGUMENT', `"${directory}" cannot be a drive: give the absolute path of a directory`);
  }
  if (capacityBytes < CAPACITY_BYTES_MIN) {
    throw new BraidError(
      'INVALID_ARGUMENT',
      `a drive has at least ${formatSize(CAPACITY_BYTES_MIN)}, not ${formatSize(capacityBytes)}`,
    );
  }
  const taken = own.find(({ path }) => path === directory);
  if (taken !== undefined) {
    throw new BraidError('ALREADY_EXISTS', `${directory} is drive ${taken.id} of this node already`);
  }
  if (own.length >= limits.drivesPerNodeMax) {
    throw new BraidError('LIMIT_EXCEEDED', `this node has ${own.length} drives, the most that a node can have`);
  }
}

/** Without repeated and trailing slashes. */
function normalise(path: string): string {
  return path.replace(/\/+/g, '/').replace(/(.)\/$/, '$1');
}

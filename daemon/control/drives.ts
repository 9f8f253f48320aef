/**
 * The drives of this node: opens all that the store names, keeps trying those that fail, and adds new ones.
 * A drive that cannot be opened is reported and costs nothing else: the agent and its other drives stay up.
 */
import { must } from '../base/assert.js';
import { BraidError } from '../base/errors.js';
import type { DriveId } from '../base/ids.js';
import { limits } from '../base/limits.js';
import { EXTENT_BYTES, formatSize } from '../base/units.js';
import type { DriveFormatter } from '../ports/drive-formatter.js';
import type { StoreWatch } from '../ports/cluster-store.js';
import type { ShardControl } from '../ports/shard.js';
import { records, type DriveRecord } from '../protocol/records.js';
import { storeKeys } from '../protocol/store.js';
import { absent, putRecord } from './cluster-state.js';
import type { ControlContext } from './context.js';
import { controlLimits } from './limits.js';
import { Loop } from './loop.js';

export interface LocalDrive {
  readonly record: DriveRecord;
  readonly state: 'opening' | 'open' | 'failed';
  /** Why it is not open; empty when it is. */
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
  readonly #drives = new Map<DriveId, LocalDrive>();
  readonly #loop: Loop;
  #watch: StoreWatch | null = null;
  /** Adding is rare and looks at all drives: one at a time. */
  #adding: Promise<unknown> = Promise.resolve();

  constructor(context: ControlContext, formatter: DriveFormatter) {
    this.#context = context;
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

  /** Tries to open every drive once; failures are retried in the background. */
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
    return [...this.#drives.values()].sort((a, b) => (a.record.id < b.record.id ? -1 : 1));
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
    const drive = await this.#open(record);
    if (drive.state === 'failed')
      throw new BraidError('DRIVE', `${directory} was added but does not open: ${drive.reason}`);
    this.#report('info', id, `drive ${directory} of ${formatSize(capacityBytes)} was added`);
    return drive;
  }

  #leastUsedShard(own: readonly DriveRecord[]): number {
    const uses = this.#context.shards.map((_, index) => own.filter(({ shard }) => shard === index).length);
    return uses.indexOf(Math.min(...uses));
  }

  async #converge(): Promise<number> {
    await this.#noticeFailures();
    await this.#openAll();
    return controlLimits.driveRetryMs;
  }

  /** Drives that a shard has given up since they were opened: closed here, and opened again by what follows. */
  async #noticeFailures(): Promise<void> {
    if (this.#drives.size === 0) return;
    for (const { control } of this.#context.shards) {
      const { drives } = await control.stats();
      for (const { driveId, reason } of drives.filter(({ state }) => state === 'failed')) {
        const drive = this.#drives.get(driveId);
        if (drive?.state !== 'open') continue;
        this.#drives.set(driveId, { ...drive, state: 'failed', reason });
        this.#report('error', driveId, `drive ${drive.record.path} failed: ${reason}`);
        await control.closeDrive(driveId);
      }
    }
  }

  /** Opens what the store names and is not open; forgets what it does not name any more. */
  async #openAll(): Promise<void> {
    const { state, node } = this.#context;
    const own = (await state.drives()).filter(({ value }) => value.nodeId === node.id);
    const ids = new Set(own.map(({ value }) => value.id));
    for (const [id, { record }] of this.#drives) if (!ids.has(id)) await this.#forget(id, record);
    const missing = own.filter(({ value }) => !this.isOpen(value.id));
    await Promise.all(missing.map(({ value }) => this.#open(value)));
  }

  /** Never rejects for a fault of the drive. */
  async #open(record: DriveRecord): Promise<LocalDrive> {
    const id = record.id as DriveId;
    const before = this.#drives.get(id);
    if (before?.state === 'opening') return before;
    this.#drives.set(id, { record, state: 'opening', reason: before?.reason ?? '' });
    const drive = await this.#tryOpen(record);
    this.#drives.set(id, drive);
    if (drive.state === 'failed' && drive.reason !== before?.reason) {
      this.#report('error', id, `drive ${record.path} cannot be opened: ${drive.reason}`);
    }
    if (drive.state === 'open' && before?.state === 'failed') {
      this.#report('info', id, `drive ${record.path} is open again`);
    }
    return drive;
  }

  async #tryOpen(record: DriveRecord): Promise<LocalDrive> {
    const shard = this.#context.shards[record.shard];
    if (shard === undefined) {
      const reason = `it belongs to shard ${record.shard} and this agent has ${this.#context.shards.length}: start it with more shards`;
      return { record, state: 'failed', reason };
    }
    try {
      await shard.control.openDrive(record.id as DriveId, record.path);
      return { record, state: 'open', reason: '' };
    } catch (thrown) {
      if (!(thrown instanceof BraidError)) throw thrown;
      return { record, state: 'failed', reason: thrown.message };
    }
  }

  async #forget(id: DriveId, record: DriveRecord): Promise<void> {
    await this.#context.shards[record.shard]?.control.closeDrive(id);
    this.#drives.delete(id);
  }

  #report(severity: 'info' | 'error', id: DriveId, message: string): void {
    this.#context.events.report({ severity, subject: `drive/${id}`, message });
  }
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

/**
 * Volumes of this node: follows `attachments/`, and keeps one `AttachedVolume` for each that is wanted here or still served here.
 * Which node owns a volume is decided by the shards (compare-and-swap on `owners/`), not here: this side only asks, again and again.
 */
import { must } from '../base/assert.js';
import { asError, BraidError } from '../base/errors.js';
import type { VolumeId } from '../base/ids.js';
import { limits } from '../base/limits.js';
import type { LeaseId, StoreWatch } from '../ports/cluster-store.js';
import { sleep } from '../ports/clock.js';
import type { DeviceAttacher } from '../ports/device.js';
import type { ServedSegment, ServedVolume, ShardControl } from '../ports/shard.js';
import type { VolumeRecord } from '../protocol/records.js';
import { storeKeys } from '../protocol/store.js';
import { AttachedVolume } from './attached-volume.js';
import type { ControlContext, ShardHandle } from './context.js';
import { controlLimits } from './limits.js';
import { Loop } from './loop.js';
import type { LeaseListener } from './node-registrar.js';
import { shardOf } from './placement.js';

export class AttachmentController implements LeaseListener {
  readonly #context: ControlContext;
  readonly #devices: DeviceAttacher;
  readonly #lease: () => LeaseId | null;
  readonly #volumes = new Map<VolumeId, AttachedVolume>();
  /** Follows what is wanted. */
  readonly #wantedLoop: Loop;
  /** Looks at what is served, while there is something. */
  readonly #statusLoop: Loop;
  #watch: StoreWatch | null = null;
  #isStopped = false;

  constructor(context: ControlContext, devices: DeviceAttacher, lease: () => LeaseId | null) {
    this.#context = context;
    this.#devices = devices;
    this.#lease = lease;
    devices.onDied = (volumeName, reason) => {
      for (const volume of this.#volumes.values()) if (volume.name === volumeName) volume.onDeviceDied(reason);
    };
    const { clock, log } = context;
    const retry = { retryMsMin: controlLimits.statusPollMs, retryMsMax: controlLimits.takeRetryMsMax };
    this.#wantedLoop = new Loop({ name: 'attachments', clock, log, run: () => this.#follow(), ...retry });
    this.#statusLoop = new Loop({ name: 'volume status', clock, log, run: () => this.#look(), ...retry });
  }

  async start(): Promise<void> {
    await this.#devices.cleanup().catch((error: unknown) => {
      const message = `devices of an earlier agent could not be removed: ${asError(error).message}`;
      this.#context.events.report({ severity: 'warning', subject: `node/${this.#context.node.id}`, message });
    });
    this.#watch = await this.#context.state.watchIds(storeKeys.attachments, () => this.#wantedLoop.trigger());
    this.#wantedLoop.trigger();
    this.#statusLoop.trigger();
  }

  /** Gives all volumes up cleanly and keeps their attachments for the next start. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#watch?.close();
    await Promise.all([this.#wantedLoop.stop(), this.#statusLoop.stop()]);
    const stops = await Promise.allSettled([...this.#volumes.values()].map((volume) => volume.stop()));
    for (const stop of stops) if (stop.status === 'rejected') throw stop.reason;
  }

  onGranted(): void {
    for (const volume of this.#volumes.values()) volume.republish();
    this.#wantedLoop.trigger();
  }

  async onLost(): Promise<void> {
    await Promise.all([...this.#volumes.values()].map((volume) => this.#surrender(volume)));
  }

  /** The volumes that shards serve now, as of the last look. */
  served(): readonly ServedVolume[] {
    return [...this.#volumes.values()].map(({ served }) => served).filter((served) => served !== null);
  }

  /** What the volume's shard says of its segments, by index; empty unless a copy is not in sync. */
  async degradedSegments(id: VolumeId): Promise<ReadonlyMap<number, ServedSegment>> {
    const degraded = this.#volumes.get(id)?.served?.segmentsDegraded ?? 0;
    const segments = degraded === 0 ? [] : await this.#shardOf(id).control.servedSegments(id);
    return new Map(segments.map((segment) => [segment.index, segment]));
  }

  /** Detaches a volume that is attached to this node (`AttachedVolume.detach`). */
  async detach(id: VolumeId, force: boolean): Promise<void> {
    const record = await this.#record(id);
    await this.#ensure(record).detach(force);
  }

  /** Runs `body` with the shard that serves the volume, taking it for that time if nobody else has it. */
  async hold<T>(id: VolumeId, body: (shard: ShardControl) => Promise<T>): Promise<T> {
    const record = await this.#record(id);
    return this.#ensure(record).hold(() => body(this.#shardOf(id).control));
  }

  async #surrender(volume: AttachedVolume): Promise<void> {
    while (!this.#isStopped) {
      try {
        await volume.surrender();
        return;
      } catch (thrown) {
        if (!(thrown instanceof BraidError)) throw thrown;
        this.#context.log.warn({ volumeId: volume.id, code: thrown.code }, `not given up yet: ${thrown.message}`);
        await sleep(this.#context.clock, controlLimits.releaseRetryMs);
      }
    }
  }

  async #follow(): Promise<number | null> {
    const { state, node } = this.#context;
    const attachments = await state.attachments();
    const mine = attachments.filter(({ value }) => value.nodeId === node.id);
    const wanted = new Map(mine.map(({ key, value }) => [key.slice(storeKeys.attachments.length) as VolumeId, value]));
    for (const [id, volume] of this.#volumes) if (!wanted.has(id)) volume.want(null);
    for (const [id, attachment] of wanted) {
      const record = await state.volume(id);
      // Deleted, or being deleted: the attachment goes too.
      if (record === null || record.value.deleting) this.#volumes.get(id)?.want(null);
      else this.#ensure(record.value).want(attachment);
    }
    this.#statusLoop.trigger();
    return controlLimits.resyncPeriodMs;
  }

  async #look(): Promise<number | null> {
    if (this.#volumes.size === 0) return null;
    for (const { control } of this.#context.shards) {
      const before = [...this.#volumes.values()].filter(
        ({ id, isTaken }) => isTaken && this.#shardOf(id).control === control,
      );
      if (before.length === 0) continue;
      const served = new Map((await control.servedVolumes()).map((volume) => [volume.volumeId, volume]));
      for (const volume of before) volume.observe(served.get(volume.id) ?? null);
    }
    return controlLimits.statusPollMs;
  }

  async #record(id: VolumeId): Promise<VolumeRecord> {
    const record = await this.#context.state.volume(id);
    if (record === null) throw new BraidError('NOT_FOUND', `the volume ${id} does not exist any more`);
    return record.value;
  }

  /** To be used at once: what is not wanted is forgotten when it is idle. */
  #ensure(record: VolumeRecord): AttachedVolume {
    const id = record.id as VolumeId;
    const existing = this.#volumes.get(id);
    if (existing !== undefined) return existing;
    if (this.#isStopped) throw new BraidError('UNAVAILABLE', 'this agent is stopping; ask another node');
    if (this.#volumes.size >= limits.volumesPerNodeMax) {
      throw new BraidError(
        'LIMIT_EXCEEDED',
        `this node serves ${this.#volumes.size} volumes, the most that a node can: use another node`,
      );
    }
    const volume = new AttachedVolume({
      context: this.#context,
      volume: record,
      shard: this.#shardOf(id),
      devices: this.#devices,
      lease: this.#lease,
      onIdle: () => this.#volumes.delete(id),
    });
    this.#volumes.set(id, volume);
    this.#statusLoop.trigger();
    return volume;
  }

  #shardOf(id: VolumeId): ShardHandle {
    return shardFor(this.#context.shards, id);
  }
}

/** The shard of a node that serves the volume there. */
export function shardFor(shards: readonly ShardHandle[], id: VolumeId): ShardHandle {
  return must(shards[shardOf(id, shards.length)], `the shard of volume ${id}`);
}

/**
 * One volume that this node serves or is asked to serve: brings shard and device to what is wanted, and publishes how far it is.
 *
 * Invariants
 * 1. Takes, releases and device operations of the volume run one after the other (`#exclusive`).
 * 2. A device comes after its volume is served and goes before it is released, unless ownership was lost: then it goes right after.
 * 3. After a take, whatever became of it, the volume is released before it is forgotten: an answer of the store may have been lost.
 * 4. A volume whose shard reports `fenced`, or that was served under a lost lease, is released before it is taken again.
 */
import { BraidError } from '../base/errors.js';
import type { VolumeId } from '../base/ids.js';
import type { LeaseId } from '../ports/cluster-store.js';
import type { DeviceAttacher } from '../ports/device.js';
import type { EventSeverity } from '../ports/event-sink.js';
import type { ServedVolume } from '../ports/shard.js';
import { records, type AttachmentRecord, type VolumeRecord } from '../protocol/records.js';
import { storeKeys } from '../protocol/store.js';
import { deleteKey, putRecord, unchanged } from './cluster-state.js';
import type { ControlContext, ShardHandle } from './context.js';
import { controlLimits } from './limits.js';
import { Loop } from './loop.js';
import { nbdUris } from './nbd-uri.js';
import { describeFailure, encodeStatus } from './volume-status.js';

export interface AttachedVolumeOptions {
  readonly context: ControlContext;
  readonly volume: VolumeRecord;
  readonly shard: ShardHandle;
  readonly devices: DeviceAttacher;
  /** The node's lease, null while there is none. */
  readonly lease: () => LeaseId | null;
  /** Nothing is wanted and nothing is left: forget it. */
  readonly onIdle: (id: VolumeId) => void;
}

export class AttachedVolume {
  readonly id: VolumeId;
  readonly #options: AttachedVolumeOptions;
  readonly #loop: Loop;
  #wanted: AttachmentRecord | null = null;
  /** Operators' commands that need the volume served here for a while. */
  #holds = 0;
  #isTaken = false;
  /** A take was asked for since the last release: whatever its outcome, the store may name this node as the owner. */
  #mayOwn = false;
  #served: ServedVolume | null = null;
  #mustRelease = false;
  #device = '';
  /** It died by itself and is not replaced yet. */
  #isDeviceDead = false;
  #error = '';
  #failures = 0;
  /** What is in the store: encoded record and lease, to write only what has changed. */
  #published: { readonly text: string; readonly lease: LeaseId } | null = null;
  /** The last attempt to publish was successful. */
  #isPublished = false;
  #publishing: Promise<void> = Promise.resolve();
  #tail: Promise<unknown> = Promise.resolve();

  constructor(options: AttachedVolumeOptions) {
    this.id = options.volume.id as VolumeId;
    this.#options = options;
    this.#loop = new Loop({
      name: `volume ${options.volume.name}`,
      clock: options.context.clock,
      log: options.context.log,
      run: () => this.#exclusive(() => this.#converge()),
      retryMsMin: controlLimits.takeRetryMsMin,
      retryMsMax: controlLimits.takeRetryMsMax,
    });
  }

  get name(): string {
    return this.#options.volume.name;
  }

  get isTaken(): boolean {
    return this.#isTaken;
  }

  get served(): ServedVolume | null {
    return this.#served;
  }

  want(attachment: AttachmentRecord | null): void {
    const before = this.#wanted;
    const isSame = before?.nodeId === attachment?.nodeId && before?.device === attachment?.device;
    // What failed is being retried already. An idle volume costs nothing.
    if (isSame && attachment !== null) return;
    this.#wanted = attachment;
    this.#failures = 0;
    this.#loop.trigger();
  }

  /** What the shard says; null when it does not serve the volume. */
  observe(served: ServedVolume | null): void {
    if (!this.#isTaken) return;
    const before = this.#served;
    this.#served = served;
    if (served === null || served.state === 'fenced') this.#loop.trigger();
    // An idle volume costs nothing. What could not be published is tried again.
    if (!this.#isPublished || !isSame(before, served)) this.publish();
  }

  /** The device has died by itself: it is made anew as soon as nobody uses it any more. */
  onDeviceDied(reason: string): void {
    this.#isDeviceDead = true;
    this.#report('error', `the device ${this.#device} died: ${reason}; users of it get I/O errors`);
    this.#loop.trigger();
  }

  /** The node's lease was lost: gives the volume up now. Resolves when the shard has; it is taken again when it is still wanted. */
  async surrender(): Promise<void> {
    await this.#exclusive(async () => {
      if (!this.#isTaken) return;
      this.#mustRelease = true;
      await this.#release();
    });
    this.#loop.trigger();
  }

  /** Detaches at an operator's word: the device, then the record, then (soon) the volume. Rejects with CONFLICT while the device is in use. */
  async detach(force: boolean): Promise<void> {
    await this.#exclusive(async () => {
      await this.#removeDevice(force);
      const { state, node } = this.#options.context;
      const record = await state.attachment(this.id);
      if (record !== null && record.value.nodeId === node.id)
        await state.commit([unchanged(record)], [deleteKey(record.key)]);
      this.#wanted = null;
    });
    this.#loop.trigger();
  }

  /** Runs `body` while the volume is served here, taking it for that time if need be. */
  async hold<T>(body: () => Promise<T>): Promise<T> {
    this.#holds += 1;
    try {
      await this.#exclusive(() => this.#take());
      return await body();
    } finally {
      this.#holds -= 1;
      this.#loop.trigger();
    }
  }

  /** Clean stop of the agent: the attachment stays wanted, for the next start. */
  async stop(): Promise<void> {
    await this.#loop.stop();
    await this.#exclusive(async () => {
      // A device that is in use stays, broken, until the agent is back; an idle one goes.
      await this.#removeDevice(false).catch(() => undefined);
      await this.#release();
    });
    await this.#publishing;
  }

  /** Writes the status if it has changed. Failures are logged and left to the next look. */
  publish(): void {
    this.#publishing = this.#publishing.then(() => this.#publishNow());
  }

  /** A new lease: the status went with the old one. */
  republish(): void {
    this.#published = null;
    this.publish();
  }

  async #converge(): Promise<number | null> {
    const isLost = this.#mustRelease || this.#served?.state === 'fenced';
    if (isLost) await this.#giveUp();
    if (!this.#isWanted()) {
      await this.#removeDevice(true);
      await this.#release();
      // That took its time: it may be wanted again, and then the loop runs once more.
      if (!this.#isWanted()) this.#options.onIdle(this.id);
      return null;
    }
    try {
      await this.#take();
      await this.#fitDevice();
      this.#error = '';
      this.#failures = 0;
      return null;
    } catch (thrown) {
      if (!(thrown instanceof BraidError)) throw thrown;
      return this.#failed(thrown);
    } finally {
      this.publish();
    }
  }

  #isWanted(): boolean {
    return this.#wanted !== null || this.#holds > 0;
  }

  #failed(error: BraidError): number {
    const { context, volume } = this.#options;
    const delayMs = Math.min(controlLimits.takeRetryMsMax, controlLimits.takeRetryMsMin * 2 ** this.#failures);
    this.#failures = Math.min(this.#failures + 1, 30);
    if (describeFailure(error) !== this.#error) {
      context.log.warn({ volume: volume.name, code: error.code, retryMs: delayMs }, error.message);
      // Waiting for a node's lease to end is ordinary; anything else should be seen.
      const isOrdinary = error.code === 'CONFLICT' || error.code === 'ABORTED';
      if (!isOrdinary) this.#report('warning', `not attached as wanted yet: ${error.message}`);
    }
    this.#error = describeFailure(error);
    return delayMs;
  }

  /** Somebody else may own the volume: its device has lost its server, and users of it see I/O errors. */
  async #giveUp(): Promise<void> {
    this.#report(
      'warning',
      `this node lost the volume (${this.#served?.reason || 'its lease ended'}) and takes it again`,
    );
    await this.#removeDevice(true);
    await this.#release();
    this.#mustRelease = false;
  }

  async #take(): Promise<void> {
    if (this.#options.lease() === null) {
      throw new BraidError('UNAVAILABLE', 'this node has no lease: the cluster store does not answer in time');
    }
    const wasTaken = this.#isTaken;
    this.#isTaken = true;
    this.#mayOwn = true;
    try {
      await this.#options.shard.control.takeVolume(this.id);
    } catch (error) {
      this.#isTaken = wasTaken;
      throw error;
    }
    const all = await this.#options.shard.control.servedVolumes();
    this.#served = all.find(({ volumeId }) => volumeId === this.id) ?? null;
    if (!wasTaken)
      this.#options.context.log.info({ volume: this.#options.volume.name, epoch: this.#served?.epoch }, 'volume taken');
  }

  async #release(): Promise<void> {
    if (this.#mayOwn) {
      if (this.#served !== null) this.#served = { ...this.#served, state: 'releasing' };
      this.publish();
      await this.#options.shard.control.releaseVolume(this.id);
      if (this.#isTaken) this.#options.context.log.info({ volume: this.#options.volume.name }, 'volume released');
    }
    this.#mayOwn = false;
    this.#isTaken = false;
    this.#served = null;
    this.publish();
  }

  async #fitDevice(): Promise<void> {
    const { volume, shard, devices } = this.#options;
    const isWanted = this.#wanted?.device === true;
    if (!isWanted) return this.#removeDevice(false);
    const { nbdUri } = nbdUris(volume.name, shard.addresses);
    const { device } = await devices.attach(volume.name, nbdUri, shard.addresses.nbdSocketPath, volume.sizeBytes);
    this.#device = device;
    if (this.#isDeviceDead) this.#report('info', `the device was made anew: ${device}`);
    this.#isDeviceDead = false;
  }

  async #removeDevice(force: boolean): Promise<void> {
    if (this.#device === '') return;
    await this.#options.devices.detach(this.#options.volume.name, { force });
    this.#device = '';
    this.#isDeviceDead = false;
  }

  async #publishNow(): Promise<void> {
    const { context, volume, shard } = this.#options;
    const lease = this.#options.lease();
    this.#isPublished = false;
    if (lease === null) return;
    const key = storeKeys.status(this.id);
    try {
      if (this.#wanted === null && !this.#isTaken) {
        if (this.#published !== null) await context.state.commit([], [deleteKey(key)]);
        this.#published = null;
        this.#isPublished = true;
        return;
      }
      const status = encodeStatus({
        served: this.#served,
        isTaken: this.#isTaken,
        uris: nbdUris(volume.name, shard.addresses),
        device: this.#isDeviceDead ? '' : this.#device,
        error: this.#error,
      });
      const text = JSON.stringify(status);
      const isNew = this.#published?.text !== text || this.#published.lease !== lease;
      if (isNew) await context.state.commit([], [putRecord(key, records.volumeStatus, status, lease)]);
      this.#published = { text, lease };
      this.#isPublished = true;
    } catch (thrown) {
      if (!(thrown instanceof BraidError)) throw thrown;
      context.log.warn({ volume: volume.name, code: thrown.code }, `status not published: ${thrown.message}`);
    }
  }

  #exclusive<T>(body: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(body);
    this.#tail = result.catch(() => undefined);
    return result;
  }

  #report(severity: EventSeverity, message: string): void {
    this.#options.context.events.report({ severity, subject: `volume/${this.id}`, message });
  }
}

function areSame(left: ServedVolume['copies'], right: ServedVolume['copies']): boolean {
  return (left.length === 0 && right.length === 0) || JSON.stringify(left) === JSON.stringify(right);
}

function isSame(left: ServedVolume | null, right: ServedVolume | null): boolean {
  if (left === null || right === null) return left === right;
  return (
    left.epoch === right.epoch &&
    left.state === right.state &&
    left.reason === right.reason &&
    left.segmentsDegraded === right.segmentsDegraded &&
    left.resyncBytesDone === right.resyncBytesDone &&
    left.resyncBytesTotal === right.resyncBytesTotal &&
    areSame(left.copies, right.copies)
  );
}

/**
 * Attach and detach as operators ask for them, on any node: changes what is wanted (`attachments/`) and waits until the nodes concerned
 * have followed. What is wanted stays wanted when the waiting ends in TIMEOUT.
 */
import { BraidError, type ErrorCode } from '../base/errors.js';
import type { NodeId, VolumeId } from '../base/ids.js';
import { limits } from '../base/limits.js';
import { type StoredRecord } from '../ports/stored-records.js';
import { records, type AttachmentRecord, type NodeRecord, type VolumeRecord } from '../protocol/records.js';
import { storeKeys } from '../protocol/store.js';
import { absent, deleteKey, putRecord, retryRaces, unchanged } from './cluster-state.js';
import type { ControlContext } from './context.js';
import type { NbdUris } from './nbd-uri.js';
import { failureCode, isServing } from './volume-status.js';

export interface AttachRequest {
  readonly volume: VolumeRecord;
  readonly node: NodeRecord;
  readonly device: boolean;
  readonly timeoutMs: number;
}

export interface Attached extends NbdUris {
  /** Empty when none was asked for. */
  readonly device: string;
}

/** A status may be written without its key changing hands; look again this often. */
const LOOK_AGAIN_MS = 1_000;
/** Waiting does not help against these: the host lacks something, or the request cannot be right. */
const HOPELESS: ReadonlySet<ErrorCode> = new Set(['UNSUPPORTED', 'INVALID_ARGUMENT']);

export class AttachRequests {
  readonly #context: ControlContext;

  constructor(context: ControlContext) {
    this.#context = context;
  }

  /** Idempotent on one node. CONFLICT while the volume is attached to another node that is alive; takes over from a dead one. */
  async attach(request: AttachRequest): Promise<Attached> {
    await retryRaces(`volume "${request.volume.name}"`, async () => (await this.#want(request)) || undefined);
    const attached = await this.#waitUntil(request.volume, request.timeoutMs, () => this.#attached(request));
    if (attached !== null) return attached;
    const status = await this.#context.state.status(request.volume.id as VolumeId);
    const why = status?.value.error || `node ${request.node.name} has not finished yet`;
    throw new BraidError(
      'TIMEOUT',
      `volume "${request.volume.name}" is not served on ${request.node.name} after ${request.timeoutMs} ms (${why}); ` +
        'it goes on in the background: ask again to wait for it, or detach it to give up',
    );
  }

  /** Takes the wish away without asking the node: it is dead, or does not answer. True when the volume has no owner any more in time. */
  async abandon(volume: VolumeRecord, timeoutMs: number): Promise<boolean> {
    const { state } = this.#context;
    await retryRaces(`volume "${volume.name}"`, async () => {
      const attachment = await state.attachment(volume.id as VolumeId);
      if (attachment === null) return true;
      return (await state.commit([unchanged(attachment)], [deleteKey(attachment.key)])) || undefined;
    });
    return this.waitReleased(volume, timeoutMs);
  }

  /** False when its owner still has it after `timeoutMs`, or died without a clean release. */
  async waitReleased(volume: VolumeRecord, timeoutMs: number): Promise<boolean> {
    const isReleased = await this.#waitUntil(volume, timeoutMs, async () => {
      const owner = await this.#context.state.owner(volume.id as VolumeId);
      if (owner === null || owner.value.nodeId === '') return true;
      return (await this.isAlive(owner.value.nodeId)) ? null : false;
    });
    return isReleased ?? false;
  }

  async isAlive(nodeId: string): Promise<boolean> {
    return (await this.#context.state.nodeAlive(nodeId as NodeId)) !== null;
  }

  /** One attempt to write the wish; false when somebody else changed it meanwhile. */
  async #want({ volume, node, device }: AttachRequest): Promise<boolean> {
    const { state } = this.#context;
    const id = volume.id as VolumeId;
    const [current, old] = await Promise.all([state.volume(id), state.attachment(id)]);
    if (current === null || current.value.deleting) {
      throw new BraidError('CONFLICT', `volume "${volume.name}" is being deleted: it cannot be attached any more`);
    }
    if (!(await this.isAlive(node.id))) {
      throw new BraidError('UNAVAILABLE', `node ${node.name} is not alive: start its agent, or attach to another node`);
    }
    if (old !== null && old.value.nodeId === node.id && (old.value.device || !device)) return true;
    await this.#checkMove(old, volume, node);
    if (old === null) await this.#checkRoom(node);
    const key = storeKeys.attachment(id);
    const compares = [unchanged(current), old === null ? absent(key) : unchanged(old)];
    const record = { nodeId: node.id, device };
    // From this commit on the volume is wanted there, whatever becomes of this request.
    return state.commit(compares, [putRecord(key, records.attachment, record)]);
  }

  async #checkMove(old: StoredRecord<AttachmentRecord> | null, volume: VolumeRecord, node: NodeRecord): Promise<void> {
    if (old === null || old.value.nodeId === node.id || !(await this.isAlive(old.value.nodeId))) return;
    const holder = await this.#context.state.node(old.value.nodeId as NodeId);
    const where = holder?.value.name ?? old.value.nodeId;
    throw new BraidError(
      'CONFLICT',
      `volume "${volume.name}" is attached to ${where}, which is alive: detach it there first (a dead node's volumes can be taken over)`,
    );
  }

  async #checkRoom(node: NodeRecord): Promise<void> {
    const attachments = await this.#context.state.attachments();
    const there = attachments.filter(({ value }) => value.nodeId === node.id).length;
    if (there < limits.volumesPerNodeMax) return;
    throw new BraidError(
      'LIMIT_EXCEEDED',
      `node ${node.name} has ${there} volumes attached, the most that a node can: use another`,
    );
  }

  async #attached({ volume, node, device }: AttachRequest): Promise<Attached | null> {
    const { state } = this.#context;
    const id = volume.id as VolumeId;
    const [owner, status, attachment, alive] = await Promise.all([
      state.owner(id),
      state.status(id),
      state.attachment(id),
      state.nodeAlive(node.id as NodeId),
    ]);
    if (attachment?.value.nodeId !== node.id) {
      throw new BraidError('CONFLICT', `volume "${volume.name}" was detached from ${node.name} meanwhile`);
    }
    if (owner === null || status === null || owner.value.nodeId !== node.id) return null;
    // What an agent said before it was killed stays until its lease has ended, also when it has been started again.
    if (owner.value.incarnation !== alive?.value.incarnation) return null;
    const failure = failureCode(status.value.error);
    if (failure !== null && HOPELESS.has(failure)) {
      throw new BraidError(
        failure,
        `${status.value.error}; node ${node.name} tries again until the volume is detached`,
      );
    }
    const { epoch, state: served, nbdUri, nbdTcpUri, device: path } = status.value;
    if (epoch !== owner.value.epoch || !isServing(served) || nbdUri === '') return null;
    if (device && path === '') return null;
    return { nbdUri, nbdTcpUri, device: device ? path : '' };
  }

  /** The first result of `look` that is not null; null when there is none in time. Looks at every change of status or owner. */
  async #waitUntil<T>(volume: VolumeRecord, timeoutMs: number, look: () => Promise<T | null>): Promise<T | null> {
    const { clock, state } = this.#context;
    const deadlineMs = clock.nowMs() + timeoutMs;
    const id = volume.id as VolumeId;
    let wake = (): void => undefined;
    const { revision } = await state.store.list(storeKeys.status(id));
    const watches = [storeKeys.status(id), storeKeys.owner(id)].map((key) =>
      state.store.watch(key, revision, () => wake()),
    );
    try {
      for (;;) {
        const woken = new Promise<void>((resolve) => (wake = resolve));
        const result = await look();
        const leftMs = deadlineMs - clock.nowMs();
        if (result !== null || leftMs <= 0) return result;
        const timer = clock.after(Math.min(leftMs, LOOK_AGAIN_MS), wake);
        await woken;
        timer.cancel();
      }
    } finally {
      for (const watch of watches) watch.close();
    }
  }
}

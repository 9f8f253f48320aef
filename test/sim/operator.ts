/**
 * The operators of a random run: they only say what they want, as requests to the REST API of some node would, and ask again when nothing
 * came of it. All else is done by the control plane of the nodes. They want the clients' volume on one node, then on another; a second
 * volume that is created, attached, written to, and deleted again; further drives.
 */
import { asError, BraidError } from '../../daemon/base/errors.js';
import type { NodeId, VolumeId } from '../../daemon/base/ids.js';
import { EXTENT_BYTES, MIB } from '../../daemon/base/units.js';
import type { Agent } from '../../daemon/control/agent.js';
import type { CreateVolumeRequest } from '../../daemon/control/volumes.js';
import type { AttachmentRecord, VolumeRecord } from '../../daemon/protocol/records.js';
import { records } from '../../daemon/protocol/records.js';
import { storeKeys } from '../../daemon/protocol/store.js';
import { sleep } from '../../daemon/ports/clock.js';
import type { SimNode } from './world/sim-node.js';
import type { SimRandom } from './world/sim-random.js';
import { VOLUME_NAME, type SimWorld } from './world/sim-world.js';
import { VolumeClient } from './world/volume-client.js';

/** How long an answer is waited for. */
const PATIENCE_MS = 4_000;
const SECOND_BYTES = 16 * MIB;
const ADDED_DRIVE_BYTES = 32 * MIB;

/** A volume that is to be attached to the node with this index. */
interface Wish {
  readonly name: string;
  node: number;
  readonly device: boolean;
  isWanted: boolean;
}

export interface OperatorOptions {
  /** Of the clients' volume. */
  readonly volume: Omit<CreateVolumeRequest, 'name'>;
  /** Writes to the second volume need slots that the first one may lack. */
  readonly writesSecond: boolean;
  readonly onError: (error: Error) => void;
}

export class Operator {
  readonly #world: SimWorld;
  readonly #random: SimRandom;
  readonly #options: OperatorOptions;
  readonly #wish: Wish;
  #second: Wish | null = null;
  #secondClient: VolumeClient | null = null;
  #secondCount = 0;
  readonly #deleted: VolumeId[] = [];
  readonly #withAddedDrive = new Set<number>();
  #isResting = false;

  constructor(world: SimWorld, random: SimRandom, options: OperatorOptions) {
    this.#world = world;
    this.#random = random;
    this.#options = options;
    this.#wish = this.#wishFor(VOLUME_NAME, false);
  }

  /** Has the clients' volume created; from then on it is kept attached somewhere. Resolves when it exists. */
  async begin(): Promise<void> {
    const created = await this.#create({ name: VOLUME_NAME, ...this.#options.volume });
    if (created === null) return this.begin();
    this.#world.volumeId = created.id as VolumeId;
    void this.#keep(this.#wish);
    void this.#tendSecond();
  }

  /** The node that the clients' volume is wanted on. */
  get wanted(): SimNode | undefined {
    return this.#world.nodes[this.#wish.node];
  }

  move(index: number): void {
    this.#wish.node = index;
  }

  /** Nothing new is wanted any more, and the second volume goes. */
  rest(): void {
    this.#isResting = true;
  }

  /** What is left of volumes that were deleted. */
  remains(): string[] {
    if (this.#second !== null) return [`${this.#second.name} itself`];
    return this.#deleted.flatMap((id) => this.#world.remainsOf(id));
  }

  // ---- attaching, moving and detaching

  async #keep(wish: Wish): Promise<void> {
    while (wish.isWanted) {
      await this.#pause(100, 400);
      await this.#attempt(wish.name, () => this.#fulfil(wish));
    }
  }

  async #fulfil(wish: Wish): Promise<void> {
    const isDead = this.#world.nodes[wish.node]?.alive !== true;
    if (isDead && this.#random.chance(0.5)) wish.node = this.#anyNode();
    const nodeId = `node-${wish.node}`;
    const id = this.#idOf(wish.name);
    if (id === null) return;
    const holder = this.#attachmentOf(id)?.nodeId ?? '';
    // The control plane does the rest.
    if (holder === nodeId) return;
    if (this.#isAlive(holder)) await this.#detach(wish, holder);
    const timeoutMs = this.#random.pick([50, 500, 2_000]);
    await this.#ask(async ({ attachRequests, context: { state } }) => {
      const volume = (await state.volumeByName(wish.name))?.value;
      const node = (await state.node(nodeId as NodeId))?.value;
      if (volume === undefined || node === undefined) throw new BraidError('NOT_FOUND', 'no such volume or node');
      return attachRequests.attach({ volume, node, device: wish.device, timeoutMs });
    });
  }

  /** Its node is asked; by force, one that does not answer goes without. */
  async #detach(wish: Wish, holder: string): Promise<void> {
    const node = this.#world.nodes.find(({ setup, alive }) => setup.id === holder && alive);
    const force = this.#random.chance(0.5);
    if (node !== undefined) {
      const isDone = await this.#attempt(`detach ${wish.name}`, () =>
        this.#askOf(node, async ({ attachments, context: { state, node: here } }) => {
          const volume = await state.volumeByName(wish.name);
          const attachment = volume && (await state.attachment(volume.value.id as VolumeId));
          if (volume === null || attachment?.value.nodeId !== here.id)
            throw new BraidError('ABORTED', 'it is not attached here any more');
          await attachments.detach(volume.value.id as VolumeId, force);
        }),
      );
      if (isDone) return;
    }
    await this.#ask(async ({ attachRequests, context: { state } }) => {
      const volume = await state.volumeByName(wish.name);
      if (volume !== null) await attachRequests.abandon(volume.value, this.#random.pick([0, 300]));
    });
  }

  // ---- the second volume, and drives

  async #tendSecond(): Promise<void> {
    while (!this.#isResting || this.#second !== null) {
      await this.#pause(100, 2_500);
      if (this.#second === null) await this.#attempt('create', () => this.#begetSecond());
      else if (this.#isResting) await this.#attempt('delete', () => this.#delete());
      else await this.#attempt('second volume', () => this.#tryOut());
    }
  }

  async #begetSecond(): Promise<void> {
    const replicas = 1 + this.#random.below(3);
    const name = `w${this.#secondCount++}`;
    const stripeWidth = this.#random.pick([1, 2]);
    if ((await this.#create({ name, sizeBytes: SECOND_BYTES, replicas, stripeWidth })) === null) return;
    this.#second = this.#wishFor(name, this.#random.chance(0.5));
    void this.#keep(this.#second);
  }

  async #tryOut(): Promise<void> {
    const second = this.#second;
    if (second === null) return;
    switch (this.#random.pick(['write', 'write', 'move', 'device', 'drive', 'verify', 'delete'] as const)) {
      case 'write':
        this.#write(second.name);
        return;
      case 'move':
        second.node = this.#anyNode();
        return;
      case 'device':
        this.#world.nodes[second.node]?.devices.die(second.name);
        return;
      case 'drive':
        return this.#addDrive();
      case 'verify': {
        const id = this.#idOf(this.#random.pick([second.name, VOLUME_NAME]));
        if (id !== null) await this.#ask((agent) => agent.verify(id));
        return;
      }
      case 'delete':
        await this.#delete();
    }
  }

  #write(name: string): void {
    const exported = this.#world.exported(name);
    if (exported?.node.alive !== true || !this.#options.writesSecond) return;
    if (this.#secondClient?.volume !== exported.volume)
      this.#secondClient = new VolumeClient(exported.volume, exported.node);
    const extent = this.#random.below(SECOND_BYTES / EXTENT_BYTES);
    if (exported.volume.canAccept()) void this.#secondClient.write(extent * EXTENT_BYTES, 4096, 1);
  }

  async #delete(): Promise<void> {
    const second = this.#second;
    if (second === null) return;
    const id = this.#idOf(second.name);
    if (id !== null) {
      const force = this.#isResting || this.#random.chance(0.5);
      if (force) second.isWanted = false;
      await this.#ask(async ({ volumes, context: { state } }) => {
        const found = await state.volumeByName(second.name);
        if (found !== null) await volumes.delete(second.name, found, force);
      });
      this.#deleted.push(id);
    }
    second.isWanted = false;
    this.#second = null;
  }

  async #addDrive(): Promise<void> {
    const index = this.#anyNode();
    const node = this.#world.nodes[index];
    if (node?.alive !== true || this.#withAddedDrive.has(index)) return;
    this.#withAddedDrive.add(index);
    const request = { path: '/added', capacityBytes: ADDED_DRIVE_BYTES, driveClass: 'ssd' } as const;
    await this.#askOf(node, ({ drives }) => drives.add(request));
  }

  /** Null when nothing came of it. */
  async #create(request: CreateVolumeRequest): Promise<VolumeRecord | null> {
    await this.#attempt(`create ${request.name}`, () => this.#ask(({ volumes }) => volumes.create(request)));
    const id = this.#idOf(request.name);
    const entry = id === null ? null : this.#world.storeState.get(storeKeys.volume(id));
    return entry === null ? null : records.volume.decode(entry.key, entry.value);
  }

  // ---- requests

  /** False when it failed as such requests may. */
  async #attempt(what: string, request: () => Promise<unknown>): Promise<boolean> {
    try {
      await request();
      return true;
    } catch (thrown) {
      if (thrown instanceof BraidError) this.#world.log(`operator: ${what}: ${thrown.code} ${thrown.message}`);
      else this.#options.onError(asError(thrown));
      return false;
    }
  }

  /** Of any node that is there. */
  async #ask<T>(request: (agent: Agent) => Promise<T>): Promise<T> {
    const there = this.#world.nodes.filter(({ alive }) => alive);
    if (there.length === 0) throw new BraidError('UNAVAILABLE', 'no node is there');
    return this.#askOf(this.#random.pick(there), request);
  }

  #askOf<T>(node: SimNode, request: (agent: Agent) => Promise<T>): Promise<T> {
    return Promise.race([
      node.api(request),
      sleep(this.#world.clock, PATIENCE_MS).then(() => {
        throw new BraidError('TIMEOUT', `${node.setup.id} does not answer`);
      }),
    ]);
  }

  #pause(msMin: number, msMax: number): Promise<void> {
    return sleep(this.#world.clock, this.#random.between(msMin, msMax));
  }

  // ---- what operators see

  #wishFor(name: string, device: boolean): Wish {
    return { name, node: this.#anyNode(), device, isWanted: true };
  }

  #anyNode(): number {
    return this.#random.below(this.#world.options.nodes);
  }

  #idOf(name: string): VolumeId | null {
    const entry = this.#world.storeState.get(storeKeys.name(name));
    return entry === null ? null : (records.name.decode(entry.key, entry.value) as VolumeId);
  }

  #attachmentOf(id: VolumeId): AttachmentRecord | null {
    const entry = this.#world.storeState.get(storeKeys.attachment(id));
    return entry === null ? null : records.attachment.decode(entry.key, entry.value);
  }

  #isAlive(nodeId: string): boolean {
    return nodeId !== '' && this.#world.storeState.get(storeKeys.alive(nodeId as NodeId)) !== null;
  }
}

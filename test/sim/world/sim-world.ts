/** Several simulated nodes, one volume, one seed. */
import type { DriveId, NodeId, VolumeId } from '../../../daemon/base/ids.js';
import { EXTENT_BYTES, MIB } from '../../../daemon/base/units.js';
import type { BlockVolume } from '../../../daemon/ports/block-volume.js';
import type { Log } from '../../../daemon/ports/log.js';
import type { StoreOperation } from '../../../daemon/ports/cluster-store.js';
import { records } from '../../../daemon/protocol/records.js';
import { storeKeys } from '../../../daemon/protocol/store.js';
import { SimClock } from './sim-clock.js';
import { SimStoreState } from './sim-cluster-store.js';
import { SimDiskMedia } from './sim-disk.js';
import { SimFabric } from './sim-network.js';
import { SimNode, type NodeSetup, type Survivors } from './sim-node.js';
import { SimRandom } from './sim-random.js';

export interface WorldOptions {
  readonly nodes: number;
  /** Copies of the volume, on the first nodes. */
  readonly replicas: number;
  readonly volumeBytes: number;
  readonly segmentBytes: number;
  readonly stripeWidth: number;
  readonly minInSync: number;
  readonly failWhenDegraded: boolean;
  readonly slotCount: number;
  /** Of single nodes, where they differ. */
  readonly slotCounts: readonly number[];
  readonly loseStoreReply: number;
}

export const WORLD_DEFAULTS: WorldOptions = {
  nodes: 3,
  replicas: 3,
  volumeBytes: 32 * MIB,
  segmentBytes: 16 * MIB,
  stripeWidth: 1,
  minInSync: 2,
  failWhenDegraded: false,
  slotCount: 512,
  slotCounts: [],
  loseStoreReply: 0.01,
};

export class SimWorld {
  readonly clock = new SimClock();
  readonly random: SimRandom;
  readonly fabric: SimFabric;
  readonly storeState: SimStoreState;
  readonly clusterId: string;
  readonly volumeId: VolumeId;
  readonly options: WorldOptions;
  readonly nodes: SimNode[] = [];
  /** What happened, for the trace. */
  readonly trace: string[] = [];
  readonly #survivors: Survivors[] = [];
  readonly #setups: NodeSetup[] = [];
  /** The volume as clients reach it now, and where. */
  served: { readonly volume: BlockVolume; readonly node: SimNode } | null = null;
  onServed: () => void = () => undefined;

  constructor(seed: number, options: Partial<WorldOptions> = {}) {
    this.options = { ...WORLD_DEFAULTS, ...options };
    this.random = new SimRandom(seed);
    this.clusterId = this.random.uuid();
    this.volumeId = this.random.uuid() as VolumeId;
    this.fabric = new SimFabric(this.clock, this.random.fork('network'), { delayMsMin: 0.05, delayMsMax: 2 });
    this.storeState = new SimStoreState(this.clock, this.random.fork('store'));
    for (let index = 0; index < this.options.nodes; index++) {
      const slotCount = this.options.slotCounts[index] ?? this.options.slotCount;
      const store = { loseReply: this.options.loseStoreReply };
      this.#setups.push({ id: `node-${index}` as NodeId, driveId: this.random.uuid() as DriveId, slotCount, store });
      this.#survivors.push({
        data: new SimDiskMedia(slotCount * EXTENT_BYTES),
        meta: null,
        bootId: this.random.uuid(),
      });
    }
  }

  log(message: string): void {
    this.trace.push(`${this.clock.nowMs().toFixed(3)} ${message}`);
  }

  #logOf(name: string): Log {
    const write = (level: string) => (fields: object, message: string) => {
      this.log(`${name} ${level} ${message} ${JSON.stringify(fields)}`);
    };
    const log: Log = {
      debug: () => undefined,
      info: write('info'),
      warn: write('warn'),
      error: write('error'),
      child: () => log,
    };
    return log;
  }

  async startNode(index: number): Promise<SimNode> {
    const setup = this.#setups[index];
    const survivors = this.#survivors[index];
    if (setup === undefined || survivors === undefined) throw new RangeError(`no node ${index}`);
    const random = this.random.fork(`${setup.id}/${this.clock.nowMs()}`);
    const node = new SimNode(this, setup, survivors, random, this.#logOf(setup.id), (volume, on) => {
      if (volume !== null) this.served = { volume, node: on };
      else if (this.served?.node === on) this.served = null;
      this.log(`${on.setup.id} ${volume === null ? 'stops serving' : 'serves'}`);
      this.onServed();
    });
    this.nodes[index] = node;
    await node.start(this.clusterId);
    return node;
  }

  crashNode(index: number, powerLoss: boolean): void {
    const node = this.nodes[index];
    if (node?.alive !== true) return;
    this.log(`${node.setup.id} ${powerLoss ? 'loses power' : 'is killed'}`);
    node.crash(powerLoss);
    if (this.served?.node === node) this.served = null;
  }

  /** The media of a node's drive, to break it. */
  media(index: number): SimDiskMedia {
    const survivors = this.#survivors[index];
    if (survivors === undefined) throw new RangeError(`no node ${index}`);
    return survivors.data;
  }

  /** Flips a bit in every slot of a node's drive that holds data: the first block of each. */
  damage(index: number): void {
    const media = this.#survivors[index]?.data;
    for (let slot = 0; slot < this.options.slotCount; slot++) {
      const used = media?.peek(slot * EXTENT_BYTES, 1)[0] !== 0;
      if (used) media?.flipBit(slot * EXTENT_BYTES, 0);
    }
  }

  /** Records of a volume with a replica on each of the first nodes. */
  createVolume(volumeId: VolumeId = this.volumeId, name = 'v'): void {
    const { volumeBytes, segmentBytes, stripeWidth, minInSync, failWhenDegraded } = this.options;
    const setups = this.#setups.slice(0, this.options.replicas);
    const operations: StoreOperation[] = [];
    const segments = Math.ceil(volumeBytes / (segmentBytes * stripeWidth)) * stripeWidth;
    for (let index = 0; index < segments; index++) {
      const replicas = setups.map(({ driveId }) => ({ driveId, inSync: true, syncedGeneration: 0, replaces: '' }));
      const value = records.segment.encode({ index, generation: 1, replicas });
      operations.push({ type: 'put', key: storeKeys.segment(volumeId, index), value });
    }
    const volume = records.volume.encode({
      id: volumeId,
      name,
      sizeBytes: volumeBytes,
      replicas: setups.length,
      minInSync,
      stripeWidth,
      segmentBytes,
      failWhenDegraded,
      createdMs: 0,
      deleting: false,
      labels: {},
    });
    operations.push({ type: 'put', key: storeKeys.volume(volumeId), value: volume });
    this.storeState.txn([], operations);
  }

  /** Runs events (and the promises they settle) until the condition holds; false when simulated time ran out first. */
  async runUntil(condition: () => boolean, limitMs: number): Promise<boolean> {
    const endMs = this.clock.nowMs() + limitMs;
    while (!condition()) {
      const next = this.clock.nextMs();
      if (next === null || next > endMs) {
        this.clock.runUntil(endMs);
        return false;
      }
      this.clock.step();
      await settled();
    }
    return true;
  }

  /** Waits for a promise of the simulated world. */
  async wait<T>(promise: Promise<T>, limitMs: number): Promise<T> {
    let outcome: { readonly value: T } | { readonly error: unknown } | null = null;
    promise.then(
      (value) => (outcome = { value }),
      (error: unknown) => (outcome = { error }),
    );
    await settled();
    await this.runUntil(() => outcome !== null, limitMs);
    const result = outcome as { readonly value: T } | { readonly error: unknown } | null;
    if (result === null) throw new Error(`nothing came of it within ${limitMs} simulated ms`);
    if ('error' in result) throw result.error;
    return result.value;
  }
}

/** Lets everything run that is due without the clock moving. */
export function settled(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

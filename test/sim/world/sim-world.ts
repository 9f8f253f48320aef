/** Several simulated nodes, one volume, one seed. */
import { assert, must } from '../../../daemon/base/assert.js';
import { BraidError } from '../../../daemon/base/errors.js';
import type { DriveId, NodeId, VolumeId } from '../../../daemon/base/ids.js';
import { EXTENT_BYTES, MIB } from '../../../daemon/base/units.js';
import { CLUSTER_FORMAT_VERSION } from '../../../daemon/control/agent.js';
import type { BlockVolume } from '../../../daemon/ports/block-volume.js';
import { sleep } from '../../../daemon/ports/clock.js';
import type { Log } from '../../../daemon/ports/log.js';
import type { StoreOperation } from '../../../daemon/ports/cluster-store.js';
import { SUPERBLOCK_KEY, uuidToBytes } from '../../../daemon/format/keys.js';
import { decodeSuperblock } from '../../../daemon/format/records.js';
import { records } from '../../../daemon/protocol/records.js';
import { storeKeys } from '../../../daemon/protocol/store.js';
import { SimClock } from './sim-clock.js';
import { SimStoreState } from './sim-cluster-store.js';
import { SimDiskMedia } from './sim-disk.js';
import type { SimMetaMedia } from './sim-meta-store.js';
import { SimFabric } from './sim-network.js';
import { DIRECTORY, SimNode, type NodeSetup, type Survivors } from './sim-node.js';
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
  /** 0: only when asked. */
  readonly scrubIntervalMs: number;
  readonly networkDelayMsMax: number;
  readonly lingerChance: number;
  /** Clocks of nodes are up to this much faster or slower than the cluster store's: the lease's margin allows for 0.2. */
  readonly clockSpread: number;
  /** Room of a drive's activity log. */
  readonly hotRegionsMax: number;
  /** Keep what happens: costs time. */
  readonly isTraced: boolean;
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
  scrubIntervalMs: 0,
  networkDelayMsMax: 2,
  lingerChance: 0,
  clockSpread: 0.001,
  hotRegionsMax: 64,
  isTraced: true,
};

const EVENTS_PER_TURN = 100;
/** After which an agent that gave up is started again. */
const SUPERVISOR_MS = 100;

/** A volume as clients reach it now, and where. */
export interface Export {
  readonly volume: BlockVolume;
  readonly node: SimNode;
}

/** Name of the clients' volume. */
export const VOLUME_NAME = 'v';

export class SimWorld {
  readonly clock = new SimClock();
  readonly random: SimRandom;
  readonly fabric: SimFabric;
  readonly storeState: SimStoreState;
  readonly clusterId: string;
  /** The volume of the clients. */
  volumeId: VolumeId;
  readonly options: WorldOptions;
  readonly nodes: SimNode[] = [];
  /** What happened, for the trace. */
  readonly trace: string[] = [];
  #events = 0;
  readonly #survivors: Survivors[] = [];
  readonly #setups: NodeSetup[] = [];
  readonly #exports = new Map<string, Export>();
  /** Whenever the export of the clients' volume has come or gone. */
  onServed: () => void = () => undefined;

  constructor(seed: number, options: Partial<WorldOptions> = {}) {
    this.options = { ...WORLD_DEFAULTS, ...options };
    this.random = new SimRandom(seed);
    this.clusterId = this.random.uuid();
    this.volumeId = this.random.uuid() as VolumeId;
    const { networkDelayMsMax: delayMsMax, lingerChance, clockSpread, hotRegionsMax } = this.options;
    this.fabric = new SimFabric(this.clock, this.random.fork('network'), {
      delayMsMin: 0.05,
      delayMsMax,
      lingerChance,
    });
    this.storeState = new SimStoreState(this.clock, this.random.fork('store'));
    const cluster = {
      id: this.clusterId,
      name: 'simulated',
      formatVersion: CLUSTER_FORMAT_VERSION,
      createdMs: 0,
      resyncBandwidthBytes: 0,
    };
    this.storeState.txn([], [{ type: 'put', key: storeKeys.cluster, value: records.cluster.encode(cluster) }]);
    for (let index = 0; index < this.options.nodes; index++) {
      const slotCount = this.options.slotCounts[index] ?? this.options.slotCount;
      const store = { loseReply: this.options.loseStoreReply, link: { cuts: 0 } };
      const clockRate = 1 + this.random.fork(`clock/${index}`).between(-clockSpread, clockSpread);
      const drive = { data: new SimDiskMedia(slotCount * EXTENT_BYTES), meta: null };
      const { scrubIntervalMs } = this.options;
      this.#setups.push({ id: `node-${index}` as NodeId, store, clockRate, hotRegionsMax, scrubIntervalMs });
      this.#survivors.push({ drives: new Map([[DIRECTORY, drive]]), bootId: this.random.uuid() });
    }
  }

  log(message: string): void {
    if (this.options.isTraced) this.trace.push(`${this.clock.nowMs().toFixed(3)} ${message}`);
  }

  #logOf(name: string): Log {
    const write = (level: string) => (fields: object, message: string) => {
      if (this.options.isTraced) this.log(`${name} ${level} ${message} ${JSON.stringify(fields)}`);
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

  /** Starts the agent, again and again if it gives up, as a supervisor does. */
  async startNode(index: number): Promise<SimNode> {
    const setup = this.#setups[index];
    const survivors = this.#survivors[index];
    if (setup === undefined || survivors === undefined) throw new RangeError(`no node ${index}`);
    for (;;) {
      const random = this.random.fork(`${setup.id}/${this.clock.nowMs()}`);
      const log = this.#logOf(setup.id);
      const node = new SimNode(this, setup, survivors, random, log, (...args) => this.#onExport(...args));
      this.nodes[index] = node;
      try {
        await node.start();
        return node;
      } catch (error) {
        if (!(error instanceof BraidError)) throw error;
        this.log(`${setup.id} cannot start: ${error.message}`);
        this.crashNode(index, false);
      }
      await sleep(this.clock, SUPERVISOR_MS);
      const current = this.nodes[index];
      if (current !== undefined && current !== node) return current;
    }
  }

  #onExport(name: string, volume: BlockVolume | null, node: SimNode): void {
    if (volume !== null) this.#exports.set(name, { volume, node });
    else if (this.#exports.get(name)?.node === node) this.#exports.delete(name);
    this.log(`${node.setup.id} ${volume === null ? 'stops serving' : 'serves'} ${name}`);
    if (name === VOLUME_NAME) this.onServed();
  }

  exported(name: string): Export | null {
    return this.#exports.get(name) ?? null;
  }

  /** The clients' volume. */
  get served(): Export | null {
    return this.exported(VOLUME_NAME);
  }

  crashNode(index: number, powerLoss: boolean): void {
    const node = this.nodes[index];
    if (node?.alive !== true) return;
    this.log(`${node.setup.id} ${powerLoss ? 'loses power' : 'is killed'}`);
    node.crash(powerLoss);
    for (const [name, exported] of this.#exports) if (exported.node === node) this.#exports.delete(name);
  }

  /** The media of a node's drive, to break it. */
  media(index: number): SimDiskMedia {
    const survivors = this.#survivors[index];
    if (survivors === undefined) throw new RangeError(`no node ${index}`);
    return must(survivors.drives.get(DIRECTORY), 'the drive').data;
  }

  /** What there is of a volume that was deleted: keys of the cluster store, and drives that hold more of it than its highest epoch. */
  remainsOf(id: VolumeId): string[] {
    const keys = this.storeState.list('').entries.map(({ key }) => key);
    const bytes = uuidToBytes(id);
    const drives = this.#survivors.flatMap(({ drives }, index) =>
      [...drives].filter(([, { meta }]) => meta?.mentions(bytes)).map(([directory]) => `node-${index}:${directory}`),
    );
    return [...keys.filter((key) => key.includes(id)), ...drives.map((drive) => `replicas of ${id} on ${drive}`)];
  }

  /** The metadata of the drive that the node has from the start; null while it is not formatted. */
  metaMedia(index: number): SimMetaMedia | null {
    return this.#survivors[index]?.drives.get(DIRECTORY)?.meta ?? null;
  }

  /** The nodes that hold the drives of the pool, by the drives' ids. */
  nodesOfDrives(): ReadonlyMap<string, number> {
    const { entries } = this.storeState.list(storeKeys.drives);
    const drives = entries.map(({ key, value }) => records.drive.decode(key, value));
    return new Map(drives.map(({ id, nodeId }) => [id, this.#setups.findIndex((setup) => setup.id === nodeId)]));
  }

  /** Every formatted drive. */
  drives(): { readonly name: string; readonly id: string; readonly data: SimDiskMedia; readonly meta: SimMetaMedia }[] {
    return this.#survivors.flatMap(({ drives }, index) =>
      [...drives].flatMap(([directory, { data, meta }]) => {
        const superblock = meta?.get(SUPERBLOCK_KEY) ?? null;
        if (meta === null || superblock === null) return [];
        const decoded = decodeSuperblock(superblock);
        assert(typeof decoded === 'object', 'a superblock is never damaged');
        return [{ name: `node-${index}:${directory}`, id: decoded.driveId, data, meta }];
      }),
    );
  }

  /** Cuts a node off from the cluster store; returns how to heal what this cut. */
  cutStore(index: number): () => void {
    const link = must(this.#setups[index]?.store.link, `node ${index}`);
    link.cuts++;
    return () => {
      link.cuts--;
      this.storeState.notify();
    };
  }

  /** Flips a bit in every slot of a node's drive that holds data: the first block of each. */
  damage(index: number): void {
    const media = this.media(index);
    for (let slot = 0; slot < this.options.slotCount; slot++) {
      const used = media.peek(slot * EXTENT_BYTES, 1)[0] !== 0;
      if (used) media.flipBit(slot * EXTENT_BYTES, 0);
    }
  }

  /** The drive that the node has from the start. */
  driveOf(index: number): DriveId {
    const nodeId = this.#setups[index]?.id;
    const drives = this.storeState
      .list(storeKeys.drives)
      .entries.map(({ key, value }) => records.drive.decode(key, value));
    const drive = drives.find((record) => record.nodeId === nodeId && record.path === DIRECTORY);
    return must(drive, `the drive of node ${index}`).id as DriveId;
  }

  /** Records of a volume with a replica on each of the first nodes. */
  createVolume(volumeId: VolumeId = this.volumeId, name = VOLUME_NAME): void {
    const { volumeBytes, segmentBytes, stripeWidth, minInSync, failWhenDegraded } = this.options;
    const driveIds = Array.from({ length: this.options.replicas }, (_, index) => this.driveOf(index));
    const operations: StoreOperation[] = [];
    const segments = Math.ceil(volumeBytes / (segmentBytes * stripeWidth)) * stripeWidth;
    for (let index = 0; index < segments; index++) {
      const made = { inSync: true, syncedGeneration: 0, replaces: '', staleSinceMs: 0 };
      const replicas = driveIds.map((driveId) => ({ driveId, ...made }));
      const value = records.segment.encode({ index, generation: 1, replicas });
      operations.push({ type: 'put', key: storeKeys.segment(volumeId, index), value });
    }
    const volume = records.volume.encode({
      id: volumeId,
      name,
      sizeBytes: volumeBytes,
      replicas: driveIds.length,
      minInSync,
      stripeWidth,
      segmentBytes,
      failWhenDegraded,
      createdMs: 0,
      deleting: false,
      labels: {},
    });
    operations.push({ type: 'put', key: storeKeys.volume(volumeId), value: volume });
    operations.push({ type: 'put', key: storeKeys.name(name), value: records.name.encode(volumeId) });
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
      // Now and then the process gets its turn, too: it may have a rejection to report that nobody handled.
      await (++this.#events % EVENTS_PER_TURN === 0 ? turn() : settled());
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

/** Lets everything run that is due without the clock moving: the tick queue is looked at when no promise has anything left to do. */
export function settled(): Promise<void> {
  return new Promise((resolve) => {
    process.nextTick(resolve);
  });
}

/** The same, and a turn of the process's event loop. */
export function turn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

/**
 * One simulated node: what `braidd` composes (the production `Shard` and the control plane's `Agent`, drives and all) on simulated ports, and
 * what survives its crashes. Left out are the REST API, whose requests `api` stands for, and the NBD server, of which a model client takes
 * the place.
 */
import { assert, must } from '../../../daemon/base/assert.js';
import { BraidError } from '../../../daemon/base/errors.js';
import type { NodeId, VolumeId } from '../../../daemon/base/ids.js';
import { limits } from '../../../daemon/base/limits.js';
import { OperationCounts } from '../../../daemon/base/operation-counters.js';
import { EXTENT_BYTES, MIB } from '../../../daemon/base/units.js';
import { Agent, ensureCluster } from '../../../daemon/control/agent.js';
import { ClusterState } from '../../../daemon/control/cluster-state.js';
import { Events } from '../../../daemon/control/events.js';
import { Shard, type FrontEnd } from '../../../daemon/dataplane/shard.js';
import type { BlockVolume } from '../../../daemon/ports/block-volume.js';
import { sleep } from '../../../daemon/ports/clock.js';
import type { DriveFormatter } from '../../../daemon/ports/drive-formatter.js';
import type { Log } from '../../../daemon/ports/log.js';
import { ReplicaDrive } from '../../../daemon/replica/drive.js';
import type { SimClock, SimNodeClock } from './sim-clock.js';
import { SimClusterStore, type SimStoreOptions, type SimStoreState } from './sim-cluster-store.js';
import { SimDevices } from './sim-devices.js';
import { SimDiskMedia, SimDiskOpener } from './sim-disk.js';
import { SimMetaStoreOpener, type SimMetaMedia } from './sim-meta-store.js';
import { SimNetwork, type SimFabric } from './sim-network.js';
import type { SimRandom } from './sim-random.js';
import { SimSlab } from './sim-slab.js';

/** Of the drive that every node has. */
export const DIRECTORY = '/drive';
/** Bounds of the time that a request of the REST API is on its way. */
const API_MS_MIN = 0.5;
const API_MS_MAX = 4;
const START_RETRY_MS = 50;
/** What the pool asks of a drive; a small one of a test counts as that much, and is full sooner. */
const DRIVE_BYTES_MIN = 16 * MIB;

/** A directory for a drive; formatted when it has metadata. */
export interface DriveMedia {
  readonly data: SimDiskMedia;
  meta: SimMetaMedia | null;
}

/** What a node keeps when its process dies. */
export interface Survivors {
  /** By directory. */
  readonly drives: Map<string, DriveMedia>;
  /** Changes when the node loses power. */
  bootId: string;
}

export interface NodeSetup {
  readonly id: NodeId;
  readonly store: Partial<SimStoreOptions>;
  readonly scrubIntervalMs: number;
  readonly clockRate: number;
  readonly hotRegionsMax: number;
}

/** What all nodes share. */
export interface Surroundings {
  readonly clock: SimClock;
  readonly fabric: SimFabric;
  readonly storeState: SimStoreState;
  readonly clusterId: string;
}

type Exported = (name: string, volume: BlockVolume | null, node: SimNode) => void;

export class SimNode {
  readonly setup: NodeSetup;
  readonly shard: Shard;
  readonly agent: Agent;
  readonly devices: SimDevices;
  readonly network: SimNetwork;
  readonly store: SimClusterStore;
  readonly slab: SimSlab;
  readonly incarnation: string;
  readonly clock: SimNodeClock;
  readonly #clusterId: string;
  readonly #survivors: Survivors;
  readonly #disks: SimDiskOpener;
  readonly #metas: SimMetaStoreOpener;
  readonly #random: SimRandom;
  alive = true;

  constructor(
    world: Surroundings,
    setup: NodeSetup,
    survivors: Survivors,
    random: SimRandom,
    log: Log,
    onExport: Exported,
  ) {
    this.setup = setup;
    this.#clusterId = world.clusterId;
    this.#random = random.fork('boot');
    this.#survivors = survivors;
    this.incarnation = random.uuid();
    this.clock = world.clock.nodeClock(setup.clockRate, random.below(1_000_000));
    this.slab = new SimSlab({ clock: this.clock, quotaBytes: [4 * MIB, 4 * MIB, 2 * MIB] });
    this.network = new SimNetwork(world.fabric, setup.id, this.slab);
    this.store = new SimClusterStore(world.storeState, this.clock, random.fork('store'), setup.store);
    this.devices = new SimDevices(this.clock, random.fork('devices'));
    this.#disks = new SimDiskOpener(this.slab, this.clock, random.fork('disk'));
    this.#metas = new SimMetaStoreOpener(this.clock, random.fork('meta'));
    for (const [directory, { data, meta }] of survivors.drives) {
      this.#disks.attach(`${directory}/data`, data);
      if (meta !== null) this.#metas.attach(`${directory}/meta`, meta);
    }
    const state = new ClusterState(this.store);
    const common = { state, clock: this.clock, random: random.fork('control'), log };
    const events = new Events({ ...common, nodeId: setup.id });
    this.shard = this.#composeShard(log, events, onExport);
    this.agent = this.#composeAgent({ ...common, events });
  }

  #composeShard(log: Log, events: Events, onExport: Exported): Shard {
    const shard = new Shard({
      clusterId: this.#clusterId,
      nodeId: this.setup.id,
      incarnation: this.incarnation,
      bootId: this.#survivors.bootId,
      shardIndex: 0,
      slab: this.slab,
      slabBytes: limits.slabBytes,
      network: this.network,
      setNetworkHandler: (handler) => {
        this.network.setHandler(handler);
      },
      disks: this.#disks,
      metas: this.#metas,
      store: this.store,
      clock: this.clock,
      log,
      events,
      frontEnd: this.#frontEnd(onExport),
      eventLoopDelayMsP99: () => 0,
      hotRegionsMax: this.setup.hotRegionsMax,
      scrub: { bytesPerSecond: limits.scrubBytesPerSecondDefault, intervalMs: this.setup.scrubIntervalMs },
      coldRegionsMax: 4,
    });
    this.network.onBatchStart = () => {
      shard.onBatchStart();
    };
    this.network.onBatchEnd = () => {
      shard.onBatchEnd();
    };
    return shard;
  }

  #composeAgent(common: Pick<ConstructorParameters<typeof Agent>[0], 'state' | 'clock' | 'random' | 'log' | 'events'>) {
    const { id } = this.setup;
    return new Agent({
      ...common,
      node: {
        clusterId: this.#clusterId,
        id,
        name: id,
        incarnation: this.incarnation,
        version: 'simulated',
        labels: {},
      },
      shards: [{ control: this.shard, addresses: { dataAddress: id, nbdSocketPath: `/run/${id}.sock` } }],
      devices: this.devices,
      formatter: this.#formatter(),
      // Here the cluster store is never lost.
      memory: { read: () => Promise.resolve(null), write: () => Promise.resolve() },
    });
  }

  #frontEnd(onExport: Exported): FrontEnd {
    const exported = new Map<string, string>();
    const none = new OperationCounts(1).counters(0);
    return {
      addExport: (name, volume, { uuid }) => {
        exported.set(name, uuid);
        onExport(name, volume, this);
      },
      removeExport: (name) => {
        exported.delete(name);
        onExport(name, null, this);
        return Promise.resolve();
      },
      onSlabAvailable: () => undefined,
      stats: () =>
        [...exported.values()].map((uuid) => ({
          ...{ uuid, inFlight: 0, connections: 0 },
          ...{ read: none, write: none, flush: none, trim: none },
        })),
      stop: () => undefined,
    };
  }

  /** The directory is there before, with its data area, for the node's own drive; it is made for a further one. */
  #formatter(): DriveFormatter {
    const { drives } = this.#survivors;
    return {
      format: async ({ directory, capacityBytes, driveId }) => {
        const media = drives.get(directory) ?? { data: new SimDiskMedia(capacityBytes), meta: null };
        if (media.meta !== null) throw new BraidError('CONFLICT', `${directory} holds a drive already`);
        const slotCount = media.data.sizeBytes / EXTENT_BYTES;
        const [metas, nowMs] = [this.#metas, this.clock.wallMs()];
        await ReplicaDrive.format({ directory, metas, clusterId: this.#clusterId, driveId, slotCount, nowMs });
        this.#disks.attach(`${directory}/data`, media.data);
        media.meta = must(metas.media(`${directory}/meta`), 'the metadata just written');
        drives.set(directory, media);
        return { slotCount };
      },
    };
  }

  /** Starts as `braidd` does, with the drive formatted and in the pool. Rejects when the agent gives up: then its process ends. */
  async start(): Promise<void> {
    const { random, clock } = this.agent.context;
    const cluster = await ensureCluster(this.store, { name: 'simulated', random, clock });
    assert(cluster.id === this.#clusterId, 'all nodes are of one cluster');
    await this.agent.start(`sim://${this.setup.id}`);
    const media = must(this.#survivors.drives.get(DIRECTORY), 'the directory of the drive');
    const { drives } = this.agent;
    while (!drives.list().some(({ record, state }) => record.path === DIRECTORY && state !== 'opening')) {
      const isPooled = (await this.#insist(() => this.agent.context.state.drives())).some(
        ({ value }) => value.nodeId === this.setup.id && value.path === DIRECTORY,
      );
      // The store lost what was asked of it: whoever adds a drive empties the directory and asks again.
      if (!isPooled) media.meta = null;
      const capacityBytes = Math.max(media.data.sizeBytes, DRIVE_BYTES_MIN);
      if (media.meta === null) await drives.add({ path: DIRECTORY, capacityBytes, driveClass: 'ssd' }).catch(ignore);
      else await sleep(this.clock, START_RETRY_MS);
    }
  }

  async #insist<T>(call: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await call();
      } catch {
        await sleep(this.clock, START_RETRY_MS);
      }
    }
  }

  /** A request to its REST API: arrives a little later, waits while the node is stopped, and is answered by nobody when it dies. */
  api<T>(request: (agent: Agent) => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.clock.after(this.#random.between(API_MS_MIN, API_MS_MAX), () => {
        request(this.agent).then(resolve, reject);
      });
    });
  }

  /** SIGSTOP and SIGCONT. */
  freeze(): void {
    this.clock.freeze();
    this.network.freeze();
  }

  thaw(): void {
    this.network.thaw();
    this.clock.thaw();
  }

  takeVolume(id: VolumeId): Promise<void> {
    return this.shard.takeVolume(id);
  }

  /** kill -9: the drive's cache survives. Power loss: unflushed blocks are kept, lost or torn at random. */
  crash(powerLoss: boolean): void {
    this.alive = false;
    this.clock.stop();
    this.network.die(powerLoss);
    this.store.crash();
    if (powerLoss) this.#survivors.bootId = this.#random.uuid();
    for (const { data, meta } of this.#survivors.drives.values()) {
      if (powerLoss) data.user?.crash();
      else data.user?.kill();
      meta?.user?.crash();
    }
  }
}

/** Errors of the store: the caller looks what has become of it. */
function ignore(thrown: unknown): void {
  if (!(thrown instanceof BraidError)) throw thrown;
}

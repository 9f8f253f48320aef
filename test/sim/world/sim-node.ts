/** One simulated node: the production `Shard` on simulated ports, its lease, and what survives its crashes. */
import type { DriveId, NodeId, VolumeId } from '../../../daemon/base/ids.js';
import { limits } from '../../../daemon/base/limits.js';
import { EXTENT_BYTES, MIB } from '../../../daemon/base/units.js';
import { Shard, type FrontEnd } from '../../../daemon/dataplane/shard.js';
import type { BlockVolume } from '../../../daemon/ports/block-volume.js';
import type { Log } from '../../../daemon/ports/log.js';
import { records } from '../../../daemon/protocol/records.js';
import { storeKeys } from '../../../daemon/protocol/store.js';
import { ReplicaDrive } from '../../../daemon/replica/drive.js';
import type { SimClock, SimNodeClock } from './sim-clock.js';
import { SimClusterStore, type SimStoreOptions, type SimStoreState } from './sim-cluster-store.js';
import { SimDiskOpener, type SimDiskMedia } from './sim-disk.js';
import { SimMetaStoreOpener, type SimMetaMedia } from './sim-meta-store.js';
import { SimNetwork, type SimFabric } from './sim-network.js';
import type { SimRandom } from './sim-random.js';
import { SimSlab } from './sim-slab.js';

export const DIRECTORY = '/drive';

/** What a node keeps when its process dies. */
export interface Survivors {
  readonly data: SimDiskMedia;
  meta: SimMetaMedia | null;
  /** Changes when the node loses power. */
  bootId: string;
}

export interface NodeSetup {
  readonly id: NodeId;
  readonly driveId: DriveId;
  readonly slotCount: number;
  readonly store: Partial<SimStoreOptions>;
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

type Exported = (volume: BlockVolume | null, node: SimNode) => void;

export class SimNode {
  readonly setup: NodeSetup;
  readonly shard: Shard;
  readonly network: SimNetwork;
  readonly store: SimClusterStore;
  readonly slab: SimSlab;
  readonly incarnation: string;
  readonly clock: SimNodeClock;
  readonly #survivors: Survivors;
  readonly #disks: SimDiskOpener;
  readonly #metas: SimMetaStoreOpener;
  readonly #random: SimRandom;
  #lease = '';
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
    this.#random = random.fork('boot');
    this.#survivors = survivors;
    this.incarnation = random.uuid();
    this.clock = world.clock.nodeClock(setup.clockRate, random.below(1_000_000));
    this.slab = new SimSlab({ clock: this.clock, quotaBytes: [4 * MIB, 4 * MIB, 2 * MIB] });
    this.network = new SimNetwork(world.fabric, setup.id, this.slab);
    this.store = new SimClusterStore(world.storeState, this.clock, random.fork('store'), setup.store);
    this.#disks = new SimDiskOpener(this.slab, this.clock, random.fork('disk'));
    this.#disks.attach(`${DIRECTORY}/data`, survivors.data);
    this.#metas = new SimMetaStoreOpener(this.clock, random.fork('meta'));
    if (survivors.meta !== null) this.#metas.attach(`${DIRECTORY}/meta`, survivors.meta);
    this.shard = new Shard({
      clusterId: world.clusterId,
      nodeId: setup.id,
      incarnation: this.incarnation,
      bootId: survivors.bootId,
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
      events: { report: (event) => log.info(event, 'event') },
      frontEnd: this.#frontEnd(onExport),
      eventLoopDelayMsP99: () => 0,
      hotRegionsMax: setup.hotRegionsMax,
      coldRegionsMax: 4,
    });
    this.network.onBatchStart = () => {
      this.shard.onBatchStart();
    };
    this.network.onBatchEnd = () => {
      this.shard.onBatchEnd();
    };
  }

  #frontEnd(onExport: Exported): FrontEnd {
    return {
      addExport: (_name, volume) => {
        onExport(volume, this);
      },
      removeExport: () => {
        onExport(null, this);
        return Promise.resolve();
      },
      onSlabAvailable: () => undefined,
      stats: () => [],
      stop: () => undefined,
    };
  }

  /** Formats the drive if it is new, opens it, registers the node and keeps its lease. */
  async start(clusterId: string): Promise<void> {
    const { id, driveId, slotCount } = this.setup;
    if (this.#survivors.meta === null) {
      const metas = this.#metas;
      await ReplicaDrive.format({
        directory: DIRECTORY,
        metas,
        clusterId,
        driveId,
        slotCount,
        nowMs: this.clock.wallMs(),
      });
      this.#survivors.meta = this.#metas.media(`${DIRECTORY}/meta`);
    }
    await this.shard.openDrive(driveId, DIRECTORY);
    const node = { id, name: id, apiAddress: '', dataAddresses: [id], version: '', labels: {} };
    const drive = {
      id: driveId,
      nodeId: id,
      path: DIRECTORY,
      driveClass: 'ssd',
      capacityBytes: slotCount * EXTENT_BYTES,
      shard: 0,
      createdMs: 0,
    };
    await this.#insist(() =>
      this.store.txn(
        [],
        [
          { type: 'put', key: storeKeys.node(id), value: records.node.encode(node) },
          { type: 'put', key: storeKeys.drive(driveId), value: records.drive.encode(drive) },
        ],
      ),
    );
    void this.#keepLease();
  }

  async #insist<T>(call: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await call();
      } catch {
        await this.#pause(50);
      }
    }
  }

  #pause(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      this.clock.after(delayMs, resolve);
    });
  }

  async #keepLease(): Promise<void> {
    while (this.alive) {
      try {
        await this.#renew();
      } catch {
        // the store does not answer: the deadline stands, and the shard fences itself when it is over
      }
      await this.#pause(limits.leaseRenewMs);
    }
  }

  async #renew(): Promise<void> {
    const sentMs = this.clock.nowMs();
    if (this.#lease === '' || !(await this.store.keepAlive(this.#lease))) {
      this.#lease = '';
      const lease = await this.store.grantLease(limits.leaseTtlMs);
      const value = records.nodeAlive.encode({ incarnation: this.incarnation });
      await this.store.txn([], [{ type: 'put', key: storeKeys.alive(this.setup.id), value, lease }]);
      this.#lease = lease;
    }
    this.shard.setLeaseDeadline(sentMs + limits.leaseTtlMs - limits.leaseMarginMs);
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
    const disk = this.#survivors.data.user;
    if (powerLoss) this.#survivors.bootId = this.#random.uuid();
    if (powerLoss) disk?.crash();
    else disk?.kill();
    this.#survivors.meta?.user?.crash();
  }
}

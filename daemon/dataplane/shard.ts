/**
 * One shard of the data plane, composed on ports only: the replica server of its drives, the coordinators of the volumes it owns, and the NBD
 * front end that serves them. The same class runs in a worker thread and in the simulator.
 *
 * Invariants
 * - A volume is served by at most one `Volume` object; taking and releasing it happen one after the other.
 * - Client I/O reaches a volume only between `takeVolume` and the removal of its export.
 */
import { asError, BraidError } from '../base/errors.js';
import type { DriveId, NodeId, VolumeId } from '../base/ids.js';
import { limits } from '../base/limits.js';
import type { CoordinatorContext } from '../coordinator/context.js';
import { InternalBuffers, Serial, Ticker, VOLUME_TICK_MS, type Severity } from '../coordinator/context.js';
import { CopyPacer } from '../coordinator/copy-pacer.js';
import { OperationBudget } from '../coordinator/operation-budget.js';
import { PeerPool, type PeerListener } from '../coordinator/peers.js';
import { abandonOwnership } from '../coordinator/ownership.js';
import { Volume } from '../coordinator/volume.js';
import type { BlockVolume } from '../ports/block-volume.js';
import type { Clock } from '../ports/clock.js';
import type { ClusterStore } from '../ports/cluster-store.js';
import type { DiskOpener } from '../ports/disk.js';
import type { EventSink } from '../ports/event-sink.js';
import type { Log } from '../ports/log.js';
import type { MetaStoreOpener } from '../ports/meta-store.js';
import type { Network, NetworkHandler } from '../ports/network.js';
import type {
  ScrubAction,
  ScrubSettings,
  DriveCopies,
  MoveReplicas,
  ServedSegment,
  ServedVolume,
  ShardControl,
  ShardStats,
  VerifyReport,
} from '../ports/shard.js';
import { POOL_FRONTEND, POOL_INTERNAL, POOL_PEER, type Pool, type Slab } from '../ports/slab.js';
import { OPCODE, STATUS, statusName } from '../protocol/frame.js';
import { braid } from '../protocol/generated/messages.js';
import { readRecord } from '../ports/stored-records.js';
import { records } from '../protocol/records.js';
import { storeKeys } from '../protocol/store.js';
import type { KeptDrive } from '../ports/kept-drive.js';
import { readKeptState } from '../replica/kept-state.js';
import { ReplicaDrive } from '../replica/drive.js';
import { ReplicaServer } from '../replica/server.js';
import { NO_SCRUB_STATS } from '../ports/shard.js';
import { LOOPBACK, Switchboard } from './switchboard.js';

/** What serves volumes to clients: the NBD server in production, a model client in the simulator. */
export interface FrontEnd {
  addExport(name: string, volume: BlockVolume, options: { readOnly: boolean; description: string; uuid: string }): void;
  /** Resolves when nothing of it is in flight in the volume any more. */
  removeExport(name: string): Promise<void>;
  onSlabAvailable(pool: Pool): void;
  stats(): readonly FrontEndStats[];
  stop(): void;
}

type VolumeStats = ShardStats['volumes'][number];
export interface FrontEndStats extends Pick<
  VolumeStats,
  'inFlight' | 'connections' | 'read' | 'write' | 'flush' | 'trim'
> {
  readonly uuid: string;
}

export interface ShardParts {
  readonly clusterId: string;
  readonly nodeId: NodeId;
  readonly incarnation: string;
  /** UUID of this boot of the node. */
  readonly bootId: string;
  readonly shardIndex: number;
  readonly slab: Slab;
  readonly slabBytes: number;
  readonly network: Network;
  readonly setNetworkHandler: (handler: NetworkHandler) => void;
  readonly disks: DiskOpener;
  readonly metas: MetaStoreOpener;
  readonly store: ClusterStore;
  readonly clock: Clock;
  readonly log: Log;
  readonly events: EventSink;
  readonly frontEnd: FrontEnd;
  readonly eventLoopDelayMsP99: () => number;
  /** Hot regions per drive; `limits.hotRegionsPerDriveMax` unless given. */
  readonly hotRegionsMax?: number;
  readonly scrub: ScrubSettings;
  /** Cold regions per drive whose checksums stay in memory; `limits.coldRegionsPerDriveMax` unless given. */
  readonly coldRegionsMax?: number;
}

export class Shard implements ShardControl {
  readonly #parts: ShardParts;
  readonly #switchboard: Switchboard;
  readonly #replicas: ReplicaServer;
  readonly #peers: PeerPool;
  readonly #context: CoordinatorContext;
  readonly #volumes = new Map<VolumeId, Volume>();
  readonly #serials = new Map<VolumeId, Serial>();
  #leaseDeadlineMs = Number.NEGATIVE_INFINITY;
  #deliveryQueued = false;
  #inBatch = false;
  #leaseHeldAtBatchStart = false;

  constructor(parts: ShardParts) {
    this.#parts = parts;
    const { slab, clock, log, clusterId, nodeId, incarnation, store } = parts;
    const peersHandler: NetworkHandler = {
      onAccepted: () => undefined,
      onConnected: (connection) => {
        this.#peers.onConnected(connection);
      },
      onFrame: (connection, frame, buffer) => {
        this.#peers.onFrame(connection, frame, buffer);
      },
      onClosed: (connection, reason) => {
        this.#peers.onClosed(connection, reason);
      },
    };
    const replicasHandler: NetworkHandler = {
      onAccepted: (connection) => {
        this.#replicas.onAccepted(connection);
      },
      onConnected: () => undefined,
      onFrame: (connection, frame, buffer) => {
        this.#replicas.onFrame(connection, frame, buffer);
      },
      onClosed: (connection, reason) => {
        this.#replicas.onClosed(connection, reason);
      },
    };
    this.#switchboard = new Switchboard(parts.network, slab, peersHandler, replicasHandler, () => {
      this.#queueDelivery();
    });
    parts.setNetworkHandler(this.#switchboard.handler);
    const network = this.#switchboard;
    this.#replicas = new ReplicaServer({ slab, network, clock, log, clusterId, nodeId, incarnation });
    this.#peers = new PeerPool({
      network,
      slab,
      clock,
      log,
      clusterId,
      nodeId,
      incarnation,
      resolve: (node, shard) => this.#resolve(node, shard),
    });
    const budget = new OperationBudget();
    this.#context = {
      store,
      peers: this.#peers,
      slab,
      clock,
      ticker: new Ticker(clock, VOLUME_TICK_MS),
      log,
      nodeId,
      shardIndex: parts.shardIndex,
      incarnation,
      leaseValid: () => (this.#inBatch ? this.#leaseHeldAtBatchStart : this.#leaseHeld()),
      report: (severity: Severity, subject, message) => {
        parts.events.report({ severity, subject, message });
      },
      buffers: new InternalBuffers(slab),
      budget,
      pacer: new CopyPacer(clock, () => budget.starts),
      scrub: parts.scrub,
      scrubTurns: new Serial(),
    };
    slab.onAvailable = (pool) => {
      this.#onSlabAvailable(pool);
    };
  }

  /**
   * To be called before every batch of events. The lease is looked at once for the batch: what came in with it came in before now, so
   * even if the process is stopped in the middle, its answers are those of operations that were under way while the lease held.
   */
  onBatchStart(): void {
    this.#leaseHeldAtBatchStart = this.#leaseHeld();
    this.#inBatch = true;
  }

  /** To be called after every batch of events: delivers what the shard says to itself. */
  onBatchEnd(): void {
    this.#switchboard.deliver();
    this.#inBatch = false;
  }

  #leaseHeld(): boolean {
    return this.#parts.clock.nowMs() < this.#leaseDeadlineMs;
  }

  #queueDelivery(): void {
    if (this.#inBatch || this.#deliveryQueued) return;
    this.#deliveryQueued = true;
    void Promise.resolve().then(() => {
      this.#deliveryQueued = false;
      this.#switchboard.deliver();
    });
  }

  #onSlabAvailable(pool: Pool): void {
    this.#replicas.onSlabAvailable(pool);
    if (pool === POOL_INTERNAL) this.#context.buffers.onAvailable();
    for (const volume of this.#volumes.values()) volume.io.onSlabAvailable();
    this.#parts.frontEnd.onSlabAvailable(pool);
  }

  async #resolve(nodeId: NodeId, shard: number): Promise<string> {
    if (nodeId === this.#parts.nodeId && shard === this.#parts.shardIndex) return LOOPBACK;
    const node = await readRecord(this.#parts.store, storeKeys.node(nodeId), records.node);
    const address = node?.value.dataAddresses[shard];
    if (address === undefined) throw new BraidError('NOT_FOUND', `node ${nodeId} has no data-plane shard ${shard}`);
    return address;
  }

  // ---- drives

  async openDrive(driveId: DriveId, directory: string): Promise<{ slotCount: number }> {
    const { disks, metas, slab, clock, log, clusterId, bootId, events, scrub } = this.#parts;
    const hotRegionsMax = this.#parts.hotRegionsMax ?? limits.hotRegionsPerDriveMax;
    const coldRegionsMax = this.#parts.coldRegionsMax ?? limits.coldRegionsPerDriveMax;
    const onFailed = (reason: string): void => {
      events.report({
        severity: 'error',
        subject: `drive/${driveId}`,
        message: `the drive failed: ${reason}. It is tried again by itself; once it is repaired, "braid drive reopen ${driveId}" opens it at once`,
      });
    };
    const onScrubbed = (message: string): void => {
      events.report({ severity: 'warning', subject: `drive/${driveId}`, message });
    };
    const drive = await ReplicaDrive.open({
      driveId,
      directory,
      disks,
      metas,
      slab,
      clock,
      log,
      clusterId,
      bootId,
      hotRegionsMax,
      coldRegionsMax,
      onFailed,
      onScrubbed,
      scrub,
    });
    this.#replicas.addDrive(drive);
    return { slotCount: drive.slotCount };
  }

  readDrive(directory: string): Promise<KeptDrive> {
    return readKeptState(this.#parts.metas, directory);
  }

  closeDrive(driveId: DriveId): Promise<void> {
    return this.#replicas.removeDrive(driveId);
  }

  async deleteReplicas(
    volumeId: VolumeId,
    epoch: number,
    segments: readonly { readonly index: number; readonly driveId: DriveId }[],
  ): Promise<void> {
    const peer = this.#peers.peer(this.#parts.nodeId, this.#parts.shardIndex);
    const listener: PeerListener = { onPeerReady: () => undefined, onPeerDown: () => undefined };
    await new Promise<void>((resolve) => {
      listener.onPeerReady = () => {
        resolve();
      };
      peer.subscribe(listener);
    });
    try {
      for (const { index, driveId } of segments) {
        const request = { volumeId, epoch, segments: [{ index, driveId }] };
        const reply = await peer.call(OPCODE.DELETE, 0, 0, braid.DeleteRequest.encode(request).finish());
        if (reply.status !== STATUS.OK && reply.status !== STATUS.NOT_FOUND) {
          throw new BraidError(
            'UNAVAILABLE',
            `deleting segment ${index} on drive ${driveId} failed with ${statusName(reply.status)}; it is tried again`,
          );
        }
      }
    } finally {
      peer.unsubscribe(listener);
    }
  }

  // ---- volumes

  takeVolume(volumeId: VolumeId): Promise<void> {
    return this.#serialOf(volumeId).run(async () => {
      if (this.#volumes.has(volumeId)) return;
      const volume = await Volume.take(this.#context, volumeId);
      this.#volumes.set(volumeId, volume);
      this.#parts.frontEnd.addExport(volume.name, volume.io, {
        readOnly: false,
        description: `Braid volume ${volume.name}`,
        uuid: volumeId,
      });
    });
  }

  releaseVolume(volumeId: VolumeId): Promise<void> {
    return this.#serialOf(volumeId).run(async () => {
      const volume = this.#volumes.get(volumeId);
      if (volume === undefined) {
        await abandonOwnership(this.#context, volumeId);
        return;
      }
      const [released, removed] = await Promise.allSettled([
        volume.release(),
        this.#parts.frontEnd.removeExport(volume.name),
      ]);
      this.#volumes.delete(volumeId);
      if (removed.status === 'rejected') throw removed.reason;
      if (released.status === 'rejected') throw released.reason;
    });
  }

  #serialOf(volumeId: VolumeId): Serial {
    let serial = this.#serials.get(volumeId);
    if (serial === undefined) {
      serial = new Serial();
      this.#serials.set(volumeId, serial);
    }
    return serial;
  }

  servedVolumes(): Promise<readonly ServedVolume[]> {
    return Promise.resolve([...this.#volumes.values()].map((volume) => volume.served()));
  }

  servedSegments(volumeId: VolumeId): Promise<readonly ServedSegment[]> {
    return Promise.resolve(this.#volumes.get(volumeId)?.servedSegments() ?? []);
  }

  async verifyVolume(volumeId: VolumeId): Promise<VerifyReport> {
    return this.#served(volumeId).verify();
  }

  async moveReplicas(volumeId: VolumeId, request: MoveReplicas): Promise<number> {
    return this.#served(volumeId).moves.start(request);
  }

  async cancelMoves(volumeId: VolumeId, to: DriveId | null): Promise<number> {
    return this.#served(volumeId).moves.cancel(to);
  }

  #served(volumeId: VolumeId): Volume {
    const volume = this.#volumes.get(volumeId);
    if (volume === undefined)
      throw new BraidError('NOT_FOUND', 'the volume is not served by this shard; attach it first');
    return volume;
  }

  scrubDrive(driveId: DriveId, action: ScrubAction): Promise<void> {
    const drive = this.#replicas.drive(driveId);
    if (drive?.isServing !== true)
      return Promise.reject(new BraidError('NOT_FOUND', `drive ${driveId} is not open here; braid drive ls says why`));
    drive.scrubber[action]();
    return Promise.resolve();
  }

  scrubVolume(volumeId: VolumeId, action: ScrubAction): Promise<void> {
    const volume = this.#volumes.get(volumeId);
    if (volume === undefined)
      return Promise.reject(new BraidError('NOT_FOUND', 'the volume is not served by this shard; attach it first'));
    volume.scrub[action]();
    return Promise.resolve();
  }

  copiesOf(volumeId: VolumeId): Promise<readonly DriveCopies[]> {
    const drives = [...this.#replicas.drives()].filter(({ isServing }) => isServing);
    const copies = drives.map((drive) => {
      const own = [...drive.replicas()].filter((replica) => replica.volumeId === volumeId && replica.isUncertain);
      return { driveId: drive.id, uncertainSegments: own.map(({ segment }) => segment) };
    });
    return Promise.resolve(copies);
  }

  setCopyBandwidth(bytesPerSecond: number | null): void {
    this.#context.pacer.setBandwidth(bytesPerSecond);
  }

  setLeaseDeadline(deadlineMs: number): void {
    this.#leaseDeadlineMs = deadlineMs;
  }

  // ---- figures and the end

  stats(): Promise<ShardStats> {
    const { slab, slabBytes, frontEnd, eventLoopDelayMsP99 } = this.#parts;
    const volumes = frontEnd.stats().map((stats) => ({
      volumeId: stats.uuid as VolumeId,
      inFlight: stats.inFlight,
      connections: stats.connections,
      ...volumeStats(this.#volumes.get(stats.uuid as VolumeId)),
      read: stats.read,
      write: stats.write,
      flush: stats.flush,
      trim: stats.trim,
    }));
    return Promise.resolve({
      volumes,
      drives: [...this.#replicas.drives()].map(driveStats),
      slabUsedBytes: [slab.usedBytes(POOL_FRONTEND), slab.usedBytes(POOL_PEER), slab.usedBytes(POOL_INTERNAL)],
      slabBytes,
      eventLoopDelayMsP99: eventLoopDelayMsP99(),
    });
  }

  async stop(): Promise<void> {
    for (const volumeId of [...this.#volumes.keys()]) {
      await this.releaseVolume(volumeId).catch((error: unknown) => {
        this.#parts.log.warn(
          { volumeId, error: asError(error).message },
          'not released: its next owner waits for the lease',
        );
      });
    }
    this.#parts.frontEnd.stop();
    this.#peers.stop();
    await this.#replicas.stop();
  }

  assertConsistent(): void {
    for (const volume of this.#volumes.values()) volume.assertConsistent();
    this.#replicas.assertConsistent();
  }
}

function volumeStats(volume: Volume | undefined): Pick<VolumeStats, 'degradedReplicas' | 'repairs' | 'scrub'> {
  return {
    degradedReplicas: volume?.degradedReplicas ?? 0,
    repairs: volume?.repairs ?? 0,
    scrub: volume?.scrub.stats() ?? NO_SCRUB_STATS,
  };
}

function driveStats(drive: ReplicaDrive): ShardStats['drives'][number] {
  const stats = drive.stats();
  return {
    driveId: drive.id,
    state: stats.isServing ? 'open' : 'failed',
    reason: drive.failure,
    slotCount: stats.slotCount,
    slotsFree: stats.freeSlots,
    hotRegions: stats.hotRegions,
    inFlight: stats.inFlight,
    checksumMismatches: stats.checksumMismatches,
    metadataBytes: stats.metaBytes,
    scrub: stats.scrub,
    read: stats.read,
    write: stats.write,
    flush: stats.flush,
    trim: stats.trim,
  };
}

/** Agents on a simulated cluster store and clock, with shards, drives and devices that only remember what they were told. */
import { Agent, ensureCluster } from '../../../daemon/control/agent.js';
import { ClusterState } from '../../../daemon/control/cluster-state.js';
import { Events } from '../../../daemon/control/events.js';
import { BraidError, type ErrorCode } from '../../../daemon/base/errors.js';
import type { DriveId, NodeId, VolumeId } from '../../../daemon/base/ids.js';
import type { DeviceAttacher } from '../../../daemon/ports/device.js';
import type { DriveMemory, KeptDrive, KnownDrives } from '../../../daemon/ports/kept-drive.js';
import type { DriveFormatter, FormatRequest } from '../../../daemon/ports/drive-formatter.js';
import type { Log } from '../../../daemon/ports/log.js';
import {
  NO_SCRUB_STATS,
  type DriveCopies,
  type MoveReplicas,
  type ScrubAction,
  type ServedSegment,
  type ServedVolume,
  type ShardControl,
  type ShardStats,
  type VerifyReport,
} from '../../../daemon/ports/shard.js';
import { records, type DriveRecord } from '../../../daemon/protocol/records.js';
import { storeKeys } from '../../../daemon/protocol/store.js';
import { putRecord, unchanged } from '../../../daemon/control/cluster-state.js';
import { SimClock, type SimNodeClock } from '../../sim/world/sim-clock.js';
import { SimClusterStore, SimStoreState } from '../../sim/world/sim-cluster-store.js';
import { SimRandom } from '../../sim/world/sim-random.js';

const nothing = (): void => undefined;
export const silentLog: Log = { debug: nothing, info: nothing, warn: nothing, error: nothing, child: () => silentLog };

const noOperations = { operations: 0, bytes: 0, errors: 0, latencyBuckets: [], latencySumUs: 0 };
const driveFlushes = { operations: 2, bytes: 0, errors: 1, latencyBuckets: [0, 0, 1, 1], latencySumUs: 8 };

/** A shard that takes ownership in the store as the real one does, and serves nothing. */
export class FakeShard implements ShardControl {
  readonly drives = new Map<DriveId, string>();
  readonly volumes = new Map<VolumeId, ServedVolume>();
  /** Of every volume that it serves. */
  segments: readonly ServedSegment[] = [];
  readonly deleted: string[] = [];
  readonly scrubbed: string[] = [];
  readonly deadlines: number[] = [];
  copyBandwidth: number | null = null;
  readonly moves: MoveReplicas[] = [];
  /** Errors that the next calls of a method reject with. */
  readonly failures = new Map<string, BraidError[]>();
  readonly calls: string[] = [];
  failedDrives = new Map<DriveId, string>();
  /** What is on drives, by directory. */
  readonly kept = new Map<string, KeptDrive>();
  /** Drives that do not answer: opening and closing them takes until they are taken out of here. */
  readonly hanging = new Map<DriveId, Promise<void>>();
  readonly uncertain = new Map<DriveId, readonly number[]>();
  isStopped = false;
  stopping: Promise<void> = Promise.resolve();
  readonly #state: ClusterState;
  readonly #nodeId: NodeId;
  readonly #incarnation: string;

  constructor(state: ClusterState, nodeId: NodeId, incarnation: string) {
    this.#state = state;
    this.#nodeId = nodeId;
    this.#incarnation = incarnation;
  }

  fail(method: string, code: ErrorCode, message: string): void {
    this.failures.set(method, [...(this.failures.get(method) ?? []), new BraidError(code, message)]);
  }

  /** The drive does not answer until the function that this returns is called. */
  hang(driveId: DriveId): () => void {
    let release: () => void = nothing;
    const hanging = new Promise<void>((resolve) => (release = resolve));
    this.hanging.set(driveId, hanging);
    return release;
  }

  /** Changes what is reported of a volume. */
  set(id: VolumeId, change: Partial<ServedVolume>): void {
    const volume = this.volumes.get(id);
    if (volume === undefined) throw new Error('not served');
    this.volumes.set(id, { ...volume, ...change });
  }

  async openDrive(driveId: DriveId, directory: string): Promise<{ slotCount: number }> {
    this.#called('openDrive');
    await this.hanging.get(driveId);
    this.drives.set(driveId, directory);
    return { slotCount: 8 };
  }

  async readDrive(directory: string): Promise<KeptDrive> {
    this.#called('readDrive');
    const kept = this.kept.get(directory);
    if (kept === undefined) throw new BraidError('DRIVE', `${directory} cannot be read`);
    return kept;
  }

  async closeDrive(driveId: DriveId): Promise<void> {
    this.#called('closeDrive');
    await this.hanging.get(driveId);
    this.drives.delete(driveId);
    this.failedDrives.delete(driveId);
  }

  async takeVolume(id: VolumeId): Promise<void> {
    this.#called('takeVolume');
    if (this.volumes.has(id)) return;
    const [owner, volume] = await Promise.all([this.#state.owner(id), this.#state.volume(id)]);
    if (volume === null) throw new BraidError('NOT_FOUND', 'no such volume');
    if (owner !== null && owner.value.nodeId !== '' && owner.value.nodeId !== this.#nodeId) {
      const alive = await this.#state.nodeAlive(owner.value.nodeId as NodeId);
      if (alive !== null) throw new BraidError('CONFLICT', `owned by ${owner.value.nodeId}`);
    }
    const epoch = (owner?.value.epoch ?? 0) + 1;
    const record = { epoch, nodeId: this.#nodeId, incarnation: this.#incarnation };
    const key = storeKeys.owner(id);
    const isMine = await this.#state.commit(
      [{ key, revision: owner?.revision ?? 0 }],
      [putRecord(key, records.owner, record)],
    );
    if (!isMine) throw new BraidError('ABORTED', 'someone else was faster');
    const served = { volumeId: id, epoch, state: 'serving' as const, reason: '', segmentsDegraded: 0 };
    this.volumes.set(id, { ...served, resyncBytesDone: 0, resyncBytesTotal: 0, copies: [] });
  }

  async releaseVolume(id: VolumeId): Promise<void> {
    this.#called('releaseVolume');
    const served = this.volumes.get(id);
    if (served === undefined) return;
    const owner = await this.#state.owner(id);
    if (owner !== null && owner.value.epoch === served.epoch) {
      await this.#state.commit(
        [unchanged(owner)],
        [putRecord(owner.key, records.owner, { ...owner.value, nodeId: '', incarnation: '' })],
      );
    }
    this.volumes.delete(id);
  }

  async servedVolumes(): Promise<readonly ServedVolume[]> {
    this.#called('servedVolumes');
    return [...this.volumes.values()];
  }

  async servedSegments(id: VolumeId): Promise<readonly ServedSegment[]> {
    this.#called('servedSegments');
    return this.volumes.has(id) ? this.segments : [];
  }

  async copiesOf(): Promise<readonly DriveCopies[]> {
    this.#called('copiesOf');
    return [...this.drives.keys()].map((driveId) => ({
      driveId,
      uncertainSegments: this.uncertain.get(driveId) ?? [],
    }));
  }

  async verifyVolume(id: VolumeId): Promise<VerifyReport> {
    this.#called('verifyVolume');
    if (!this.volumes.has(id)) throw new BraidError('NOT_FOUND', 'not served here');
    return {
      extentsCompared: 4,
      bytesCompared: 524_288,
      copiesMin: 2,
      differences: [{ segment: 0, extent: 3, offsetBytes: 393_216, driveIds: ['d1' as DriveId] }],
      damaged: [{ segment: 0, extent: 4, offsetBytes: 524_288, driveId: 'd1' as DriveId, problem: 'checksum' }],
    };
  }

  async scrubDrive(driveId: DriveId, action: ScrubAction): Promise<void> {
    this.#called('scrubDrive');
    this.scrubbed.push(`${action} ${driveId}`);
  }

  async scrubVolume(volumeId: VolumeId, action: ScrubAction): Promise<void> {
    this.#called('scrubVolume');
    this.scrubbed.push(`${action} ${volumeId}`);
  }

  async deleteReplicas(
    id: VolumeId,
    _epoch: number,
    segments: readonly { readonly index: number; readonly driveId: DriveId }[],
  ): Promise<void> {
    this.#called('deleteReplicas');
    for (const { index, driveId } of segments) this.deleted.push(`${id}/${index}/${driveId}`);
  }

  moveReplicas(_id: VolumeId, request: MoveReplicas): Promise<number> {
    this.#called('moveReplicas');
    this.moves.push(request);
    return Promise.resolve(1);
  }

  cancelMoves(): Promise<number> {
    this.#called('cancelMoves');
    return Promise.resolve(this.moves.splice(0).length);
  }

  setCopyBandwidth(bytesPerSecond: number | null): void {
    this.copyBandwidth = bytesPerSecond;
  }

  setLeaseDeadline(deadlineMs: number): void {
    this.calls.push('setLeaseDeadline');
    this.deadlines.push(deadlineMs);
  }

  async stats(): Promise<ShardStats> {
    this.#called('stats');
    const drives = [...this.drives.keys()].map((driveId) => ({
      ...{
        driveId,
        slotCount: 8,
        slotsFree: 6,
        hotRegions: 1,
        inFlight: 0,
        checksumMismatches: 0,
        metadataBytes: 4_096,
        scrub: { ...NO_SCRUB_STATS, isRunning: true, passBytesDone: 131_072, passBytesTotal: 262_144, errors: 2 },
      },
      state: this.failedDrives.has(driveId) ? ('failed' as const) : ('open' as const),
      reason: this.failedDrives.get(driveId) ?? '',
      ...{ read: noOperations, write: noOperations, flush: driveFlushes, trim: noOperations },
    }));
    const write = { operations: 3, bytes: 12_288, errors: 0, latencyBuckets: [0, 1, 2], latencySumUs: 9 };
    const volumes = [...this.volumes.keys()].map((volumeId) => ({
      ...{ volumeId, inFlight: 1, connections: 2, degradedReplicas: 0, repairs: 1 },
      scrub: { ...NO_SCRUB_STATS, completedMs: 1_700_000_000_000 },
      ...{ read: noOperations, write, flush: noOperations, trim: noOperations },
    }));
    return { volumes, drives, slabUsedBytes: [1, 2, 3], slabBytes: 1_024, eventLoopDelayMsP99: 0.5 };
  }

  async stop(): Promise<void> {
    await this.stopping;
    this.isStopped = true;
  }

  #called(method: string): void {
    this.calls.push(method);
    const error = this.failures.get(method)?.shift();
    if (error !== undefined) throw error;
  }
}

export class FakeDevices implements DeviceAttacher {
  readonly attached = new Map<string, string>();
  readonly busy = new Set<string>();
  readonly dead = new Set<string>();
  isClean = false;
  onDied: (name: string, reason: string) => void = () => undefined;
  #made = 0;

  async attach(name: string): Promise<{ device: string }> {
    if (this.dead.has(name)) {
      if (this.busy.has(name)) throw new BraidError('UNAVAILABLE', `the device of ${name} is dead and mounted`);
      this.dead.delete(name);
      this.attached.delete(name);
    }
    if (!this.attached.has(name)) this.attached.set(name, `/dev/loop${this.#made++}`);
    return { device: this.attached.get(name) ?? '' };
  }

  die(name: string): void {
    this.dead.add(name);
    this.onDied(name, 'its driver ended');
  }

  async detach(name: string, { force }: { force: boolean }): Promise<void> {
    if (this.busy.has(name) && !force) throw new BraidError('CONFLICT', `the device of ${name} is mounted`);
    this.attached.delete(name);
  }

  async cleanup(): Promise<void> {
    this.isClean = true;
  }
}

export class FakeFormatter implements DriveFormatter {
  readonly requests: FormatRequest[] = [];
  failure: BraidError | null = null;

  async format(request: FormatRequest): Promise<{ slotCount: number }> {
    if (this.failure !== null) throw this.failure;
    this.requests.push(request);
    return { slotCount: 8 };
  }
}

/** A node's data directory. */
export class FakeMemory implements DriveMemory {
  known: KnownDrives | null = null;

  async read(): Promise<KnownDrives | null> {
    return this.known;
  }

  async write(known: KnownDrives): Promise<void> {
    this.known = known;
  }
}

export interface TestNode {
  readonly name: string;
  readonly id: NodeId;
  readonly agent: Agent;
  readonly shard: FakeShard;
  readonly devices: FakeDevices;
  readonly formatter: FakeFormatter;
  readonly memory: FakeMemory;
  readonly store: SimClusterStore;
  readonly clock: SimNodeClock;
  readonly state: ClusterState;
}

export class World {
  readonly clock = new SimClock();
  readonly random: SimRandom;
  readonly storeState: SimStoreState;
  /** Sees everything at once; for the test's own looks. */
  readonly state: ClusterState;
  readonly #memories = new Map<string, FakeMemory>();
  #incarnations = 0;

  constructor(seed: string) {
    this.random = new SimRandom(seed);
    this.storeState = new SimStoreState(this.clock, this.random.fork('store'));
    this.state = new ClusterState(new SimClusterStore(this.storeState, this.clock, this.random.fork('test')));
  }

  /** An agent that is not started. The same name is the same node. */
  node(name: string): TestNode {
    this.#incarnations += 1;
    const incarnation = `i${this.#incarnations}`;
    const id = `id-of-${name}` as NodeId;
    const clock = this.clock.nodeClock(1, 0);
    const store = new SimClusterStore(this.storeState, clock, this.random.fork(`store of ${incarnation}`));
    const state = new ClusterState(store);
    const shard = new FakeShard(state, id, incarnation);
    const devices = new FakeDevices();
    const formatter = new FakeFormatter();
    const memory = this.#memories.get(name) ?? new FakeMemory();
    this.#memories.set(name, memory);
    const random = this.random.fork(`${name}/${incarnation}`);
    const common = { state, clock, random, log: silentLog };
    const addresses = {
      dataAddress: `10.0.0.1:${this.#incarnations}`,
      nbdSocketPath: `/run/${name}.sock`,
      // One node serves NBD over TCP, too.
      ...(name === 'node-b' ? { nbdTcpAddress: 'host-b:10809' } : {}),
    };
    const agent = new Agent({
      ...common,
      ...{
        devices,
        formatter,
        memory,
        shards: [{ control: shard, addresses }],
        events: new Events({ ...common, nodeId: id }),
      },
      node: { clusterId: 'c1', id, name, incarnation, version: '0.1.0', labels: { rack: name.slice(-1) } },
    });
    return { name, id, agent, shard, devices, formatter, memory, store, clock, state };
  }

  /** Agents node-a, node-b, ... that are started, each with one drive of 1 GiB. At most as many as asked are there. */
  async cluster(count: number): Promise<[TestNode, TestNode, TestNode]> {
    const nodes = Array.from({ length: count }, (_, index) => this.node(`node-${'abcdef'[index]}`));
    await this.run(ensureCluster(this.state.store, { name: 'test', random: this.random, clock: this.clock }));
    for (const node of nodes) {
      await this.run(node.agent.start(`http://${node.name}`));
      await this.run(
        node.agent.drives.add({ path: `/drives/${node.name}`, capacityBytes: 2 ** 30, driveClass: 'ssd' }),
      );
    }
    return nodes as [TestNode, TestNode, TestNode];
  }

  /** The process dies: nothing of it goes on, its keys stay until its lease ends. */
  crash(node: TestNode): void {
    node.store.crash();
    node.clock.stop();
  }

  /** Lets simulated time pass until `promise` settles. */
  async run<T>(promise: Promise<T>): Promise<T> {
    let isSettled = false;
    const settled = (): void => {
      isSettled = true;
    };
    promise.then(settled, settled);
    await this.#advance(() => isSettled, 600_000);
    return promise;
  }

  /** Lets simulated time pass until `condition` holds; fails after a minute of it. */
  async until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
    const endMs = this.clock.nowMs() + 60_000;
    while (!(await this.run(Promise.resolve(condition())))) {
      if (this.clock.nowMs() > endMs) throw new Error(`never happened: ${what}`);
      await this.sleep(5);
    }
  }

  async sleep(durationMs: number): Promise<void> {
    const endMs = this.clock.nowMs() + durationMs;
    await this.#advance(() => (this.clock.nextMs() ?? Infinity) > endMs, durationMs);
    this.clock.runUntil(endMs);
  }

  async #advance(isDone: () => boolean, limitMs: number): Promise<void> {
    const endMs = this.clock.nowMs() + limitMs;
    for (;;) {
      await new Promise((resolve) => setImmediate(resolve));
      if (isDone()) return;
      if (this.clock.nowMs() > endMs) throw new Error('simulated time is up');
      if (!this.clock.step()) throw new Error('nothing happens any more');
    }
  }
}

export async function putDrive(state: ClusterState, drive: DriveRecord): Promise<void> {
  await state.commit([], [putRecord(storeKeys.drive(drive.id as DriveId), records.drive, drive)]);
}

export const GIB = 2 ** 30;
export const smallVolume = (name: string, replicas = 2) => ({ name, sizeBytes: 64 * 2 ** 20, replicas });

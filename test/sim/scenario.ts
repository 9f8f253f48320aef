/**
 * One seed: a few nodes, one volume, random client I/O, random faults; then everything is healed and the end state is checked.
 *
 * Faults: kill -9 and power loss of any node (one without power at a time, and the next only when all copies are in sync again, since what was
 * acknowledged but not flushed may be lost with all its copies), links cut one way or both, connections reset, frozen nodes,
 * lost replies of the cluster store, owner moves, copies that move to other drives. Some seeds also have those of dimensions.ts; when all nodes lose power at once
 * only what was flushed has to be there.
 */
import { asError, BraidError } from '../../daemon/base/errors.js';
import type { DriveId } from '../../daemon/base/ids.js';
import { EXTENT_BYTES } from '../../daemon/base/units.js';
import { idOf } from '../../daemon/control/cluster-state.js';
import type { BlockVolume } from '../../daemon/ports/block-volume.js';
import type { VerifyReport } from '../../daemon/ports/shard.js';
import { POOL_FRONTEND, POOL_INTERNAL, POOL_PEER } from '../../daemon/ports/slab.js';
import { records } from '../../daemon/protocol/records.js';
import { storeKeys } from '../../daemon/protocol/store.js';
import { SimClient } from './client.js';
import { drawDimensions, PLAIN, TIGHT_EXTENTS, type Dimensions } from './dimensions.js';
import { Operator } from './operator.js';
import { Oracle } from './oracle.js';
import { SimWorld, turn } from './world/sim-world.js';
import type { SimRandom } from './world/sim-random.js';

export interface ScenarioOptions {
  readonly seed: number;
  /** Client operations before healing begins. */
  readonly operations: number;
  /** Without the dimensions of dimensions.ts. */
  readonly plain: boolean;
  /** Only these faults, all with the same weight, instead of those that the seed would draw. */
  readonly faults?: readonly FaultKind[];
}

export const FAULT_KINDS = [
  'kill',
  'power',
  'cut',
  'reset',
  'freeze',
  'move',
  'blackout',
  'full',
  'broken',
  'replace',
] as const;
export type FaultKind = (typeof FAULT_KINDS)[number];

export interface ScenarioResult {
  readonly seed: number;
  readonly operations: number;
  readonly acknowledged: number;
  readonly readsChecked: number;
  readonly faults: number;
  readonly simulatedMs: number;
  /** What was violated; null when nothing was. */
  readonly violation: string | null;
  readonly trace: readonly string[];
}

const HEAL_LIMIT_MS = 120_000;
/** Longest outage, plus the time to notice it, plus the lease. */
const POWER_LOSS_APART_MS = 18_000;

/** Weights of the faults in this run: some runs see only some of them (swarm testing). */
type Faults = Record<FaultKind, number>;

class Scenario {
  readonly #world: SimWorld;
  readonly #random: SimRandom;
  readonly #oracle = new Oracle();
  readonly #client: SimClient;
  readonly #options: ScenarioOptions;
  readonly #dimensions: Dimensions;
  readonly #operator: Operator;
  readonly #faults: Faults;
  readonly #pauseMs: number;
  #lastPowerLossMs = Number.NEGATIVE_INFINITY;
  #healing = false;
  #faultCount = 0;
  /** Where `#makeRoom` did so last. */
  #roomyVolume: BlockVolume | null = null;
  #failure: Error | null = null;

  constructor(options: ScenarioOptions) {
    this.#options = options;
    const { random } = new SimWorld(options.seed);
    const setup = random.fork('setup');
    const stripeWidth = setup.pick([1, 2]);
    const loseStoreReply = setup.pick([0, 0.05]);
    this.#dimensions = options.plain ? PLAIN : drawDimensions(random.fork('dimensions'));
    this.#world = new SimWorld(options.seed, { stripeWidth, loseStoreReply, ...this.#dimensions.world });
    if (!options.plain) this.#world.log(JSON.stringify(this.#dimensions));
    this.#random = this.#world.random.fork('scenario');
    const weight = (): number => (this.#random.chance(0.6) ? this.#random.between(0, 1) : 0);
    this.#faults = {
      kill: weight(),
      power: weight(),
      cut: weight(),
      reset: weight(),
      freeze: weight(),
      move: weight(),
      ...this.#dimensions.faults,
    };
    const { faults } = options;
    if (faults !== undefined) for (const kind of FAULT_KINDS) this.#faults[kind] = faults.includes(kind) ? 1 : 0;
    this.#pauseMs = this.#random.pick([100, 400, 1_500]);
    const extents = [0, 1, 2, 8, 9, 40].slice(0, 2 + this.#random.below(5));
    this.#client = new SimClient(this.#oracle, this.#random.fork('client'), {
      extents,
      depth: 1 + this.#random.below(12),
      onViolation: (error) => (this.#failure ??= error),
      log: (message) => this.#world.log(message),
    });
    const { replicas, minInSync, failWhenDegraded, volumeBytes, segmentBytes } = this.#world.options;
    this.#operator = new Operator(this.#world, this.#world.random.fork('operator'), {
      volume: { sizeBytes: volumeBytes, segmentBytes, stripeWidth, replicas, minInSync, failWhenDegraded },
      writesSecond: !this.#dimensions.isTight,
      onError: (error) => (this.#failure ??= error),
    });
    this.#world.onServed = () => {
      this.#onServed();
    };
  }

  async run(): Promise<ScenarioResult> {
    const world = this.#world;
    try {
      await this.#boot();
      this.#work();
      this.#disturb();
      await world.runUntil(
        () => this.#failure !== null || this.#client.completed >= this.#options.operations,
        HEAL_LIMIT_MS,
      );
      if (this.#failure === null) await this.#heal();
    } catch (error) {
      this.#failure ??= asError(error);
    }
    return {
      seed: this.#options.seed,
      operations: this.#client.completed,
      acknowledged: this.#client.acknowledged,
      readsChecked: this.#client.readsChecked,
      faults: this.#faultCount,
      simulatedMs: Math.round(world.clock.nowMs()),
      violation:
        this.#failure === null ? null : `${this.#failure.name}: ${this.#failure.message}\n${this.#failure.stack ?? ''}`,
      trace: world.trace,
    };
  }

  fail(error: unknown): void {
    this.#failure ??= asError(error);
  }

  /** Runs a callback of the simulated world; a violation ends the scenario. */
  #guard(step: () => void): void {
    if (this.#failure !== null) return;
    try {
      step();
    } catch (error) {
      this.#failure = asError(error);
    }
  }

  async #boot(): Promise<void> {
    const world = this.#world;
    for (let index = 0; index < world.options.nodes; index++) await world.wait(world.startNode(index), 10_000);
    await world.wait(this.#operator.begin(), 60_000);
    if (!(await world.runUntil(() => world.served !== null, 60_000))) throw new Error('the volume was never served');
  }

  #onServed(): void {
    const { served } = this.#world;
    this.#client.forget();
    if (served === null) return;
    this.#oracle.settle();
    served.volume.setHandler(this.#client.handlerFor(served.volume, served.node));
  }

  // ---- the client

  #work(): void {
    this.#world.clock.after(this.#random.between(0.1, 3) * this.#dimensions.pace, () => {
      this.#guard(() => {
        const { served } = this.#world;
        if (served?.node.alive === true && !this.#isFrozen(served.node)) this.#client.start(served.volume, served.node);
        if (this.#random.chance(0.05)) served?.node.shard.assertConsistent();
      });
      if (!this.#healing && this.#failure === null) this.#work();
    });
  }

  readonly #frozen = new Set<object>();
  /** Drives that are full or have I/O errors now: one of each at a time. */
  #full: object | null = null;
  #broken: object | null = null;

  #isFrozen(node: object): boolean {
    return this.#frozen.has(node);
  }

  // ---- faults

  #disturb(): void {
    this.#world.clock.after(this.#random.between(0.2, 2) * this.#pauseMs, () => {
      if (this.#healing || this.#failure !== null) return;
      this.#fault();
      this.#disturb();
    });
  }

  #fault(): void {
    const total = FAULT_KINDS.reduce((sum, kind) => sum + this.#faults[kind], 0);
    if (total === 0) return;
    let dice = this.#random.between(0, total);
    const kind = FAULT_KINDS.find((candidate) => (dice -= this.#faults[candidate]) < 0) ?? 'reset';
    this.#faultCount++;
    this.#apply(kind);
  }

  #apply(kind: FaultKind): void {
    const world = this.#world;
    const index = this.#random.below(world.options.nodes);
    const node = world.nodes[index];
    if (node === undefined) return;
    switch (kind) {
      case 'kill':
        this.#crash(index, false);
        return;
      case 'power':
        void this.#crashIfWhole(index);
        return;
      case 'reset':
        world.log(`${node.setup.id} connections reset`);
        if (node.alive) node.network.resetAll();
        return;
      case 'cut':
        this.#cut(index);
        return;
      case 'freeze':
        this.#freeze(index);
        return;
      case 'move':
        this.#operator.move(index);
        world.log(`operator moves the volume to ${node.setup.id}`);
        return;
      case 'blackout':
        this.#blackout();
        return;
      case 'replace':
        void this.#replace();
        return;
      case 'full':
        this.#fill(index);
        return;
      case 'broken':
        this.#break(index);
    }
  }

  #crash(index: number, powerLoss: boolean): void {
    const world = this.#world;
    const node = world.nodes[index];
    if (node?.alive !== true || this.#isFrozen(node)) return;
    const wasServing = world.served?.node === node;
    world.crashNode(index, powerLoss);
    if (wasServing) world.onServed();
    world.clock.after(this.#random.pick([20, 500, 3_000, 8_000]), () => {
      this.#restart(index);
    });
  }

  /** Only when losing one drive's cache cannot lose acknowledged data: every copy is in sync, and nobody else is down. */
  async #crashIfWhole(index: number): Promise<void> {
    const { served, nodes } = this.#world;
    if (served === null || nodes.some((node) => !node.alive) || this.#frozen.size > 0) return;
    // The owner must have noticed the last loss before "in sync" says anything.
    if (this.#world.clock.nowMs() - this.#lastPowerLossMs < POWER_LOSS_APART_MS) return;
    const volumes = await served.node.shard.servedVolumes();
    const whole = volumes.every(({ segmentsDegraded }) => segmentsDegraded === 0);
    if (!whole || !this.#isRecordedWhole() || nodes.some((node) => !node.alive)) return;
    // A drive in trouble may be about to be dropped for the one that would lose power.
    if (this.#full !== null || this.#broken !== null) return;
    if (this.#dimensions.isTight && volumes.some(({ state }) => state !== 'serving')) return;
    this.#lastPowerLossMs = this.#world.clock.nowMs();
    this.#crash(index, true);
  }

  /** All at once, whatever state the copies are in: what was flushed has to be there, the rest may be lost. */
  #blackout(): void {
    const { nodes, clock } = this.#world;
    if (this.#frozen.size > 0) return;
    this.#lastPowerLossMs = clock.nowMs();
    nodes.forEach((_, index) => {
      this.#crash(index, true);
    });
    this.#oracle.powerLost();
  }

  /** Moves the copies on one drive to another that may get them, or gives up what is on its way. */
  async #replace(): Promise<void> {
    const { served, volumeId, storeState } = this.#world;
    const key = storeKeys.segment(volumeId, 0);
    const entry = storeState.get(key);
    const holders =
      entry === null ? [] : records.segment.decode(key, entry.value).replicas.map(({ driveId }) => driveId);
    const drives = storeState.list(storeKeys.drives).entries.map((drive) => idOf(drive.key));
    const free = drives.filter((drive) => !holders.includes(drive));
    if (served === null || holders.length === 0 || free.length === 0) return;
    const [from, to] = [this.#random.pick(holders) as DriveId, this.#random.pick(free) as DriveId];
    const { shard } = served.node;
    this.#world.log(`operator moves copies from drive ${from} to ${to}`);
    try {
      if (this.#random.chance(0.2)) await shard.cancelMoves(volumeId, null);
      else await shard.moveReplicas(volumeId, { from, to, freeBytes: Number.MAX_SAFE_INTEGER });
    } catch (error) {
      if (!(error instanceof BraidError)) this.#failure ??= asError(error);
      this.#world.log(`move: ${asError(error).message}`);
    }
  }

  /** Nothing more fits the file system below one drive, for a while. */
  #fill(index: number): void {
    const { clock, nodes } = this.#world;
    if (this.#full !== null) return;
    const media = this.#world.media(index);
    this.#full = media;
    media.isFull = true;
    this.#world.log(`the drive of ${nodes[index]?.setup.id ?? ''} is full`);
    clock.after(this.#random.pick([50, 800, 4_000]), () => {
      this.#world.log('the drive has space again');
      media.isFull = false;
      this.#full = null;
    });
  }

  /** Operations of one kind fail on a part of the drive, or on all of it; later it is well, and the agent opens it anew. */
  #break(index: number): void {
    const { clock, nodes } = this.#world;
    if (this.#broken !== null) return;
    const media = this.#world.media(index);
    this.#broken = media;
    const kind = this.#random.pick(['read', 'write', 'flush', 'any'] as const);
    const slots = this.#random.pick([1, 4, media.sizeBytes / EXTENT_BYTES]);
    media.fail(kind, 0, (1 + slots) * EXTENT_BYTES); // slot 0 is never used
    this.#world.log(`the drive of ${nodes[index]?.setup.id ?? ''} fails: ${kind} on ${slots} slots`);
    clock.after(this.#random.pick([200, 2_000, 6_000]), () => {
      this.#world.log('the drive is well again');
      media.repair();
      this.#reopen(index);
    });
  }

  /** A failed drive stays failed until its agent restarts; one that is stopped restarts when it goes on. */
  #reopen(index: number): void {
    const node = this.#world.nodes[index];
    if (node !== undefined && this.#isFrozen(node)) {
      this.#world.clock.after(500, () => {
        this.#reopen(index);
      });
      return;
    }
    this.#broken = null;
    this.#crash(index, false);
  }

  /** By the cluster store: the owner may not have heard yet of a drop that it has committed. */
  #isRecordedWhole(): boolean {
    const { storeState, volumeId } = this.#world;
    const { entries } = storeState.list(storeKeys.segments(volumeId));
    return entries.every(({ key, value }) => records.segment.decode(key, value).replicas.every(({ inSync }) => inSync));
  }

  #restart(index: number): void {
    if (this.#world.nodes[index]?.alive === true) return;
    this.#world.log(`node-${index} restarts`);
    this.#world.startNode(index).catch((error: unknown) => {
      this.#failure ??= asError(error);
    });
  }

  #cut(index: number): void {
    const { fabric, options, log } = {
      fabric: this.#world.fabric,
      options: this.#world.options,
      log: this.#world.log.bind(this.#world),
    };
    const other = (index + 1 + this.#random.below(options.nodes - 1)) % options.nodes;
    const bothWays = this.#random.chance(0.6);
    log(`link node-${index} ${bothWays ? '<>' : '>'} node-${other} cut`);
    fabric.cut(`node-${index}`, `node-${other}`);
    if (bothWays) fabric.cut(`node-${other}`, `node-${index}`);
    this.#world.clock.after(this.#random.pick([50, 800, 4_000]), () => {
      log('links heal');
      fabric.healAll();
    });
  }

  /** SIGSTOP: nothing of the node runs; its timers and what arrives wait. */
  #freeze(index: number): void {
    const node = this.#world.nodes[index];
    if (node?.alive !== true || this.#isFrozen(node)) return;
    this.#world.log(`node-${index} freezes`);
    this.#frozen.add(node);
    node.freeze();
    this.#world.clock.after(this.#random.pick([200, 3_000, 9_000]), () => {
      this.#world.log(`node-${index} thaws`);
      this.#frozen.delete(node);
      this.#guard(() => {
        node.thaw();
      });
    });
  }

  // ---- the end: everything heals, and the copies are compared

  async #heal(): Promise<void> {
    const world = this.#world;
    this.#healing = true;
    this.#operator.rest();
    world.log('healing');
    this.#end();
    const areWell = (): boolean => this.#frozen.size === 0 && this.#full === null && this.#broken === null;
    await world.runUntil(areWell, 20_000);
    world.fabric.healAll();
    for (let index = 0; index < world.options.nodes; index++) this.#restart(index);
    const clean = await this.#untilClean();
    if (this.#failure !== null) return;
    if (!clean) throw new Error(`the volume was not clean within ${HEAL_LIMIT_MS} simulated ms`);
    const { served } = world;
    if (served === null) throw new Error('the volume is not served');
    this.#client.readAll(served.volume);
    if (!(await world.runUntil(() => this.#client.inFlight === 0 || this.#failure !== null, HEAL_LIMIT_MS)))
      throw new Error('reads never end');
    const report = await this.#verify(served.node.shard);
    if (report.differences.length > 0) throw new Error(`replicas differ: ${JSON.stringify(report.differences)}`);
    if (report.copiesMin !== world.options.replicas) throw new Error(`only ${report.copiesMin} copies are in sync`);
    await this.#untilDeleted();
    await world.runUntil(() => false, 100);
    this.#checkBuffers();
  }

  #end(): void {
    if (this.#dimensions.ending === 'blackout') this.#blackout();
    else if (this.#dimensions.ending === 'kill') this.#world.nodes.forEach((_, index) => this.#crash(index, false));
  }

  /** Nothing is left of volumes that were deleted, on no drive and not in the cluster store. */
  async #untilDeleted(): Promise<void> {
    const endMs = this.#world.clock.nowMs() + HEAL_LIMIT_MS;
    while (this.#operator.remains().length > 0) {
      await this.#world.runUntil(() => this.#failure !== null, 500);
      if (this.#failure !== null) throw this.#failure;
      if (this.#world.clock.nowMs() > endMs)
        throw new Error(`deleted, but not gone: ${this.#operator.remains().join(', ')}`);
    }
  }

  /** A connection may still break of what was done to it before healing began: then it is tried again. */
  async #verify(shard: SimWorld['nodes'][number]['shard']): Promise<VerifyReport> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#world.wait(shard.verifyVolume(this.#world.volumeId), HEAL_LIMIT_MS);
      } catch (error) {
        if (attempt === 5 || !(error instanceof BraidError) || error.code !== 'UNAVAILABLE') throw error;
        await this.#world.runUntil(() => false, 2_000);
      }
    }
  }

  async #untilClean(): Promise<boolean> {
    const world = this.#world;
    const endMs = world.clock.nowMs() + HEAL_LIMIT_MS;
    while (world.clock.nowMs() < endMs && this.#failure === null) {
      await world.runUntil(() => this.#failure !== null, 500);
      const node = world.served?.node;
      if (node?.alive !== true) continue;
      this.#makeRoom();
      if (this.#client.inFlight > 0) continue;
      const volume = (await node.shard.servedVolumes()).find(({ volumeId }) => volumeId === world.volumeId);
      const whole = volume?.segmentsDegraded === 0;
      const isRid = world.storeState.list(storeKeys.leftAll).entries.length === 0;
      if (volume?.state === 'serving' && whole && isRid && node === this.#operator.wanted) return true;
    }
    return false;
  }

  /** Where one drive is too small for all extents its copy cannot be made equal before some are freed. */
  #makeRoom(): void {
    const { served } = this.#world;
    if (!this.#dimensions.isTight || served === null || served.volume === this.#roomyVolume) return;
    this.#roomyVolume = served.volume;
    this.#client.trimAllBut(served.volume, TIGHT_EXTENTS);
  }

  #checkBuffers(): void {
    for (const { slab, setup } of this.#world.nodes) {
      for (const pool of [POOL_FRONTEND, POOL_PEER, POOL_INTERNAL] as const) {
        if (slab.usedBytes(pool) !== 0)
          throw new Error(`${setup.id} leaks ${slab.usedBytes(pool)} bytes of pool ${pool}`);
      }
    }
  }
}

export async function runScenario(options: ScenarioOptions): Promise<ScenarioResult> {
  const scenario = new Scenario(options);
  // An error that nobody expected ends an agent's process.
  const onRejection = (error: unknown): void => scenario.fail(error);
  process.on('unhandledRejection', onRejection);
  const result = await scenario.run();
  await turn();
  process.off('unhandledRejection', onRejection);
  return result;
}

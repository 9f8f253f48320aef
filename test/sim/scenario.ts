/**
 * One seed: a few nodes, one volume, random client I/O, random faults (faults.ts, dimensions.ts); then everything is healed and the end state is
 * checked (end-state.ts). While it runs, the oracle compares what clients read, and the watchdog whether they get on.
 */
import { asError, BraidError } from '../../daemon/base/errors.js';
import { limits } from '../../daemon/base/limits.js';
import type { BlockVolume } from '../../daemon/ports/block-volume.js';
import type { VerifyReport } from '../../daemon/ports/shard.js';
import { POOL_FRONTEND, POOL_INTERNAL, POOL_PEER } from '../../daemon/ports/slab.js';
import { storeKeys } from '../../daemon/protocol/store.js';
import { SimClient } from './client.js';
import { drawDimensions, TIGHT_EXTENTS, weightsOf, type Dimensions, type FaultKind } from './dimensions.js';
import { assertEndState, EndStateViolation, isIdle, leakedSlots } from './end-state.js';
import { Faults, type FaultHost, type FaultRecord } from './faults.js';
import { Operator } from './operator.js';
import { Oracle } from './oracle.js';
import { scrubAll } from './rot.js';
import { LivenessViolation, Watchdog } from './watchdog.js';
import { SimWorld, turn } from './world/sim-world.js';
import { SimRandom } from './world/sim-random.js';

export interface ScenarioOptions {
  readonly seed: number;
  /** Client operations before healing begins. */
  readonly operations: number;
  /** Numbers of the faults that happen; null: all that are drawn. */
  readonly only: ReadonlySet<string> | null;
  /** Only these kinds of faults, all with the same weight and no ambush, instead of those that the seed would draw. */
  readonly kinds?: readonly FaultKind[];
  /** Keep a trace, and the histories of a violation. */
  readonly isTraced: boolean;
}

export interface ScenarioResult {
  readonly seed: number;
  readonly operations: number;
  readonly acknowledged: number;
  readonly readsChecked: number;
  /** What happened to the nodes, in order. */
  readonly faults: readonly FaultRecord[];
  readonly simulatedMs: number;
  /** What was violated, with what the oracle has to say; null when nothing was. */
  readonly violation: string | null;
  readonly trace: readonly string[];
}

const BOOT_LIMIT_MS = 60_000;
const HEAL_LIMIT_MS = 120_000;
/** A region cools after 5 s without a write; copies that were dirty or full then take another turn. */
const IDLE_LIMIT_MS = 60_000;
/** Slots that a drive in trouble could not zero are tried again. */
const FREED_LIMIT_MS = 3 * limits.freedRetryMs;
const WATCH_MS = 50;
/** Where the client reads and writes: neighbours, and other regions and segments. */
const EXTENTS = [0, 1, 2, 8, 9, 40, 75, 130, 200];

class Scenario {
  readonly #world: SimWorld;
  readonly #random: SimRandom;
  readonly #oracle = new Oracle();
  readonly #client: SimClient;
  readonly #options: ScenarioOptions;
  readonly #dimensions: Dimensions;
  readonly #operator: Operator;
  readonly #faults: Faults;
  readonly #watchdog: Watchdog;
  #healing = false;
  #moment = '';
  /** Where `#makeRoom` did so last. */
  #roomyVolume: BlockVolume | null = null;
  #failure: Error | null = null;

  constructor(options: ScenarioOptions) {
    this.#options = options;
    const drawn = drawDimensions(new SimRandom(options.seed).fork('dimensions'));
    const { kinds } = options;
    this.#dimensions = kinds === undefined ? drawn : { ...drawn, weights: weightsOf(kinds), ambush: 0 };
    const { isTraced } = options;
    this.#world = new SimWorld(options.seed, { ...this.#dimensions.world, isTraced });
    this.#world.log(JSON.stringify(this.#dimensions));
    this.#random = this.#world.random.fork('scenario');
    this.#oracle = new Oracle({ nowMs: isTraced ? () => this.#world.clock.nowMs() : null });
    const extents = EXTENTS.slice(0, 2 + this.#random.below(EXTENTS.length - 1));
    this.#client = new SimClient(this.#oracle, this.#random.fork('client'), {
      extents,
      depth: this.#dimensions.depth,
      onViolation: (error) => (this.#failure ??= error),
      nowMs: () => this.#world.clock.nowMs(),
      log: isTraced ? (message) => this.#world.log(message) : null,
    });
    const {
      volumeBytes: sizeBytes,
      replicas,
      minInSync,
      segmentBytes,
      stripeWidth,
      failWhenDegraded,
    } = this.#world.options;
    this.#operator = new Operator(this.#world, this.#world.random.fork('operator'), {
      volume: { sizeBytes, segmentBytes, stripeWidth, replicas, minInSync, failWhenDegraded },
      writesSecond: !this.#dimensions.isTight,
      onError: (error) => (this.#failure ??= error),
    });
    const { weights, ambush, pauseMs, victims } = this.#dimensions;
    this.#faults = new Faults(
      this.#world,
      this.#random.fork('faults'),
      { weights, ambush, pauseMs, victims, only: options.only },
      this.#faultHost(),
    );
    this.#watchdog = new Watchdog(this.#world, this.#faults);
    this.#world.onServed = () => {
      this.#onServed();
    };
  }

  #faultHost(): FaultHost {
    return {
      move: (index) => {
        this.#operator.move(index);
      },
      powerLost: () => {
        this.#oracle.powerLost();
      },
      guard: (step) => {
        this.#guard(step);
      },
      fail: (error) => {
        this.fail(error);
      },
    };
  }

  async run(): Promise<ScenarioResult> {
    const world = this.#world;
    try {
      await this.#boot();
      this.#work();
      this.#watch();
      this.#faults.start();
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
      faults: this.#faults.history,
      simulatedMs: Math.round(world.clock.nowMs()),
      violation: this.#failure === null ? null : describe(this.#failure),
      trace: world.trace,
    };
  }

  /** The first violation counts. */
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
    for (let index = 0; index < world.options.nodes; index++) await world.wait(world.startNode(index), BOOT_LIMIT_MS);
    await world.wait(this.#operator.begin(), BOOT_LIMIT_MS);
    if (!(await world.runUntil(() => world.served !== null, BOOT_LIMIT_MS)))
      throw new Error('the volume was never served');
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
        const { served, nodes } = this.#world;
        if (served?.node.alive === true && !this.#faults.isFrozen(served.node))
          this.#client.start(served.volume, served.node);
        const node = this.#random.pick(nodes);
        if (this.#random.chance(0.05) && node.alive) node.shard.assertConsistent();
      });
      if (!this.#healing && this.#failure === null) this.#work();
    });
  }

  /** Looks for moments in which a fault is of most interest, and for a client that does not get on. */
  #watch(): void {
    this.#world.clock.after(WATCH_MS, () => {
      if (this.#healing || this.#failure !== null) return;
      void this.#lookAtVolume();
      this.#guard(() => {
        this.#watchdog.look(this.#operator.wanted, this.#client.progressMs);
      });
      this.#watch();
    });
  }

  async #lookAtVolume(): Promise<void> {
    const { served, volumeId } = this.#world;
    if (served?.node.alive !== true) {
      this.#enter('a takeover');
      return;
    }
    const { shard } = served.node;
    const volume = (await shard.servedVolumes()).find((one) => one.volumeId === volumeId);
    const replicas = (await shard.servedSegments(volumeId)).flatMap((segment) => segment.replicas);
    const isSyncing = replicas.some(({ state }) => state === 'syncing');
    this.#enter(volume?.state === 'reconciling' ? 'a reconcile' : isSyncing ? 'a resync' : '');
    const isWhole = volume?.state === 'serving' && volume.segmentsDegraded === 0;
    if (isWhole && this.#faults.isRecordedWhole()) this.#faults.isUncertain = false;
  }

  /** The volume is in the middle of something; empty: of nothing. */
  #enter(moment: string): void {
    if (moment !== '' && moment !== this.#moment) this.#faults.onMoment(moment);
    this.#moment = moment;
  }

  // ---- the end: everything heals, and the copies are compared

  async #heal(): Promise<void> {
    const world = this.#world;
    world.log('healing');
    this.#faults.stop();
    this.#operator.rest();
    if (!(await world.runUntil(() => this.#faults.areOver, HEAL_LIMIT_MS))) throw new Error('a fault never ends');
    world.storeState.isLossy = false;
    const isDone = (): boolean => this.#failure !== null || this.#client.completed >= this.#options.operations;
    if (!(await world.runUntil(isDone, HEAL_LIMIT_MS))) throw new LivenessViolation('the client does not get on');
    this.#healing = true;
    this.#faults.end(this.#dimensions.ending);
    if (!(await world.runUntil(() => this.#faults.areOver, HEAL_LIMIT_MS))) throw new Error('the ending never ends');
    const clean = await this.#untilClean();
    if (this.#failure !== null) return;
    if (!clean) throw new LivenessViolation(`the volume was not clean within ${HEAL_LIMIT_MS} simulated ms`);
    const { served } = world;
    if (served === null) throw new LivenessViolation('the volume is not served');
    this.#client.readAll(served.volume);
    if (!(await world.runUntil(() => this.#client.inFlight === 0 || this.#failure !== null, HEAL_LIMIT_MS)))
      throw new LivenessViolation('reads never end');
    if (this.#dimensions.weights.rot > 0)
      await scrubAll(world, this.#faults.rot, this.#random.fork('last rot'), HEAL_LIMIT_MS);
    const report = await this.#verify(served.node.shard);
    if (report.damaged.length > 0) throw new EndStateViolation(`damaged: ${JSON.stringify(report.damaged)}`);
    if (report.differences.length > 0)
      throw new EndStateViolation(`replicas differ: ${JSON.stringify(report.differences)}`);
    if (report.copiesMin !== world.options.replicas)
      throw new EndStateViolation(`only ${report.copiesMin} copies are in sync`);
    await this.#untilDeleted();
    await world.runUntil(() => isIdle(world), IDLE_LIMIT_MS);
    await world.runUntil(() => false, 100);
    for (let waitedMs = 0; waitedMs < FREED_LIMIT_MS && (await leakedSlots(world)).length > 0; waitedMs += 500)
      await world.runUntil(() => false, 500);
    this.#checkBuffers();
    for (const node of world.nodes) node.shard.assertConsistent();
    await assertEndState(world, this.#oracle, this.#random.fork('last power loss'));
  }

  /** Nothing is left of volumes that were deleted and of copies that moved away, on no drive and not in the cluster store. */
  async #untilDeleted(): Promise<void> {
    const endMs = this.#world.clock.nowMs() + HEAL_LIMIT_MS;
    const left = () => this.#world.storeState.list(storeKeys.leftAll).entries.map(({ key }) => key);
    const remains = () => [...this.#operator.remains(), ...left()];
    while (remains().length > 0) {
      await this.#world.runUntil(() => this.#failure !== null, 500);
      if (this.#failure !== null) throw this.#failure;
      if (this.#world.clock.nowMs() > endMs)
        throw new LivenessViolation(`deleted, but not gone: ${remains().join(', ')}`);
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
      if (volume?.state === 'serving' && whole && node === this.#operator.wanted) return true;
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

function describe(error: Error): string {
  const calls = (error.stack ?? '').split('\n').filter((line) => line.startsWith('    at '));
  return [`${error.name}: ${error.message}`, ...calls].join('\n');
}

export async function runScenario(options: ScenarioOptions): Promise<ScenarioResult> {
  const scenario = new Scenario(options);
  // In an agent it would end the process.
  const onRejection = (error: unknown): void => {
    scenario.fail(error);
  };
  process.on('unhandledRejection', onRejection);
  const result = await scenario.run();
  await turn();
  process.off('unhandledRejection', onRejection);
  return result;
}

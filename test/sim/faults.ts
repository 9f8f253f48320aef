/**
 * The faults of a run: drawn one after the other at random times, each with a number, a stream of chance of its own, and an end. So some of
 * them can be left out (`only`) and the others stay what they were, at their times: that is how a failing run is made smaller.
 *
 * `ambush`es come when the volume is in the middle of something (taken over, resynced, reconciled), which chance alone hits too rarely.
 */
import { asError, BraidError } from '../../daemon/base/errors.js';
import type { DriveId } from '../../daemon/base/ids.js';
import { EXTENT_BYTES } from '../../daemon/base/units.js';
import { records } from '../../daemon/protocol/records.js';
import { storeKeys } from '../../daemon/protocol/store.js';
import type { Dimensions, FaultKind, FaultWeights } from './dimensions.js';
import { Rot } from './rot.js';
import type { SimRandom } from './world/sim-random.js';
import type { SimNode } from './world/sim-node.js';
import type { SimWorld } from './world/sim-world.js';

/** Longest outage, plus the time to notice it, plus the lease. */
const POWER_LOSS_APART_MS = 18_000;
const AMBUSHES: readonly FaultKind[] = ['kill', 'power', 'reset', 'cut', 'freeze', 'stall', 'storeDown'];
const AMBUSH_MS_MAX = 40;

export interface FaultOptions {
  readonly weights: FaultWeights;
  readonly ambush: number;
  readonly pauseMs: number;
  /** Nodes that faults may hit. */
  readonly victims: readonly number[];
  /** Numbers of the faults that happen; null: all. */
  readonly only: ReadonlySet<string> | null;
}

/** What the scenario does about a fault. */
export interface FaultHost {
  /** The operator wants the volume on that node. */
  move(index: number): void;
  /** Every copy that counts may have lost what was not flushed. */
  powerLost(): void;
  /** Runs a step; what it throws is a violation. */
  guard(step: () => void): void;
  fail(error: unknown): void;
}

export interface FaultRecord {
  readonly number: string;
  readonly text: string;
}

export class Faults {
  readonly #world: SimWorld;
  readonly #random: SimRandom;
  readonly #options: FaultOptions;
  readonly #host: FaultHost;
  readonly #frozen = new Set<SimNode>();
  /** Drives in trouble: one trouble each. */
  readonly #drivesInTrouble = new Set<number>();
  /** Troubles per node now, and since when there is none. */
  readonly #troubles: number[];
  readonly #wellSinceMs: number[];
  #stopped = true;
  #active = 0;
  #drawn = 0;
  #moments = 0;
  #lastPowerLossMs = Number.NEGATIVE_INFINITY;
  /** Copies may lack something until all of them are in sync again. */
  isUncertain = false;
  readonly history: FaultRecord[] = [];
  readonly rot: Rot;

  constructor(world: SimWorld, random: SimRandom, options: FaultOptions, host: FaultHost) {
    this.#world = world;
    this.#random = random;
    this.#options = options;
    this.#host = host;
    this.rot = new Rot(world);
    this.#troubles = new Array<number>(world.options.nodes).fill(0);
    this.#wellSinceMs = new Array<number>(world.options.nodes).fill(0);
  }

  /** None is going on any more. */
  get areOver(): boolean {
    return this.#active === 0;
  }

  isFrozen(node: SimNode): boolean {
    return this.#frozen.has(node);
  }

  /** Since when nothing has been wrong with the node, its drive and its links; infinity while something is. */
  wellSinceMs(index: number): number {
    return this.#troubles[index] === 0 ? (this.#wellSinceMs[index] ?? 0) : Number.POSITIVE_INFINITY;
  }

  start(): void {
    this.#stopped = false;
    this.#drawLater();
  }

  #drawLater(): void {
    this.#world.clock.after(this.#random.between(0.2, 2) * this.#options.pauseMs, () => {
      if (this.#stopped) return;
      this.#draw();
      this.#drawLater();
    });
  }

  /** No new ones. */
  stop(): void {
    this.#stopped = true;
  }

  /** The last one, of all nodes, whatever was drawn before. */
  end(ending: Dimensions['ending']): void {
    // What is damaged on the last copy that has everything would be lost until it is written anew.
    if (ending !== 'calm' || !this.isRecordedWhole()) this.rot.takeAllBack();
    const random = this.#random.fork('end');
    if (ending === 'kill') for (const index of this.#world.nodes.keys()) this.#crash(index, false, random);
    else if (ending === 'blackout') this.#loseAllPower(random);
    this.#world.log(`ending: ${ending}`);
  }

  /** The volume is in the middle of something. */
  onMoment(what: string): void {
    const number = `a${++this.#moments}`;
    const random = this.#random.fork(number);
    if (this.#stopped || !random.chance(this.#options.ambush)) return;
    const kind = random.pick(AMBUSHES);
    this.#world.clock.after(random.between(0, AMBUSH_MS_MAX), () => {
      if (!this.#stopped) this.#apply(number, kind, random, ` during ${what}`);
    });
  }

  restart(index: number): void {
    if (this.#world.nodes[index]?.alive === true) return;
    this.#world.log(`node-${index} restarts`);
    this.#world.startNode(index).catch((error: unknown) => {
      this.#host.fail(error);
    });
  }

  #draw(): void {
    const number = String(++this.#drawn);
    const random = this.#random.fork(number);
    const { weights } = this.#options;
    const kinds = Object.keys(weights) as FaultKind[];
    const total = kinds.reduce((sum, kind) => sum + weights[kind], 0);
    if (total === 0) return;
    let dice = random.between(0, total);
    const kind = kinds.find((candidate) => (dice -= weights[candidate]) < 0);
    if (kind !== undefined) this.#apply(number, kind, random, '');
  }

  #apply(number: string, kind: FaultKind, random: SimRandom, when: string): void {
    if (this.#options.only?.has(number) === false) return;
    const index = random.pick(this.#options.victims);
    const text = this.#cause(kind, index, random);
    if (text === null) return;
    this.history.push({ number, text: `at ${this.#world.clock.nowMs().toFixed(1)} ms${when}: ${text}` });
    this.#world.log(`fault ${number}${when}: ${text}`);
  }

  /** What happened; null if it cannot happen now. */
  #cause(kind: FaultKind, index: number, random: SimRandom): string | null {
    switch (kind) {
      case 'kill':
        return this.#crash(index, false, random) ? `node-${index} is killed` : null;
      case 'power':
        return this.#losePower(index, random);
      case 'blackout':
        return this.#blackout(random);
      case 'reset':
        return this.#reset(index);
      case 'cut':
        return this.#cut(index, random);
      case 'isolate':
        return this.#isolate(index, random);
      case 'slowNetwork':
        return this.#slowNetwork(random);
      case 'freeze':
        return this.#freeze(index, random);
      case 'move':
        this.#host.move(index);
        return `the operator moves the volume to node-${index}`;
      case 'replace':
        return this.#replace(random);
      case 'storeDown':
        return this.#storeDown(index, random);
      case 'slowStore':
        return this.#slowStore(random);
      case 'rot':
        return this.#rotBlock(index, random);
      default:
        return this.#troubleDrive(kind, index, random);
    }
  }

  /** Something is wrong with these nodes until `end` is called. */
  #begin(indexes: readonly number[]): () => void {
    this.#active++;
    for (const index of indexes) this.#troubles[index] = (this.#troubles[index] ?? 0) + 1;
    return () => {
      this.#active--;
      for (const index of indexes) {
        this.#troubles[index] = (this.#troubles[index] ?? 0) - 1;
        this.#wellSinceMs[index] = this.#world.clock.nowMs();
      }
    };
  }

  #for(ms: number, indexes: readonly number[], undo: () => void): void {
    const end = this.#begin(indexes);
    this.#world.clock.after(ms, () => {
      this.#world.log(`what was wrong with ${indexes.map((index) => `node-${index}`).join(', ')} for ${ms} ms is over`);
      undo();
      end();
    });
  }

  #others(index: number): number[] {
    return this.#world.nodes.map((_, other) => other).filter((other) => other !== index);
  }

  // ---- nodes

  #crash(index: number, powerLoss: boolean, random: SimRandom): boolean {
    const world = this.#world;
    const node = world.nodes[index];
    if (node?.alive !== true || this.#frozen.has(node)) return false;
    const wasServing = world.served?.node === node;
    this.rot.beforeCrash(index);
    world.crashNode(index, powerLoss);
    if (wasServing) world.onServed();
    this.#for(random.pick([20, 500, 3_000, 8_000]), [index], () => {
      this.restart(index);
    });
    return true;
  }

  /** One drive's cache may be lost and nothing with it while every other copy has everything; else what was not flushed may be gone. */
  #losePower(index: number, random: SimRandom): string | null {
    const isHarmless = this.#isWhole();
    if (!this.#crash(index, true, random)) return null;
    this.#lastPowerLossMs = this.#world.clock.nowMs();
    this.isUncertain = true;
    if (!isHarmless) this.#host.powerLost();
    return `node-${index} loses power${isHarmless ? '' : ' while copies are missing'}`;
  }

  #isWhole(): boolean {
    const { nodes, clock, served } = this.#world;
    if (served === null || this.#frozen.size > 0 || nodes.some((node) => !node.alive)) return false;
    // The owner must have noticed the last loss before "in sync" says anything.
    if (this.isUncertain || clock.nowMs() - this.#lastPowerLossMs < POWER_LOSS_APART_MS) return false;
    // A drive in trouble may be about to be dropped for the one that would lose power.
    return this.#drivesInTrouble.size === 0 && this.isRecordedWhole();
  }

  /** By the cluster store: the owner may not have heard yet of a drop that it has committed. */
  isRecordedWhole(): boolean {
    const { storeState, volumeId } = this.#world;
    const { entries } = storeState.list(storeKeys.segments(volumeId));
    return entries.every(({ key, value }) => records.segment.decode(key, value).replicas.every(({ inSync }) => inSync));
  }

  /** All at once, whatever state the copies are in: what was flushed has to be there, the rest may be lost. */
  #blackout(random: SimRandom): string | null {
    if (this.#frozen.size > 0 || this.#options.victims.length < this.#world.nodes.length) return null;
    this.#loseAllPower(random);
    return 'all nodes lose power';
  }

  #loseAllPower(random: SimRandom): void {
    const { nodes, clock } = this.#world;
    this.#lastPowerLossMs = clock.nowMs();
    this.isUncertain = true;
    for (const index of nodes.keys()) this.#crash(index, true, random);
    this.#host.powerLost();
  }

  /** SIGSTOP: nothing of the node runs; its timers and what arrives wait. */
  #freeze(index: number, random: SimRandom): string | null {
    const node = this.#world.nodes[index];
    if (node?.alive !== true || this.#frozen.has(node)) return null;
    const ms = random.pick([50, 200, 3_000, 9_000]);
    this.#frozen.add(node);
    node.freeze();
    this.#for(ms, [index], () => {
      this.#frozen.delete(node);
      this.#host.guard(() => {
        node.thaw();
      });
    });
    return `node-${index} freezes for ${ms} ms`;
  }

  /** A copy moves to a node that holds none, or such moves are given up. */
  #replace(random: SimRandom): string | null {
    const { served, volumeId, storeState, nodes } = this.#world;
    const key = storeKeys.segment(volumeId, 0);
    const entry = storeState.get(key);
    if (served?.node.alive !== true || entry === null) return null;
    const holders = records.segment.decode(key, entry.value).replicas.map(({ driveId }) => driveId as DriveId);
    const nodeOf = this.#world.nodesOfDrives();
    const free = [...nodes.keys()].filter((index) => holders.every((driveId) => nodeOf.get(driveId) !== index));
    if (free.length === 0) return null;
    const [from, target] = [random.pick(holders), random.pick(free)];
    const { shard } = served.node;
    const isGivenUp = random.chance(0.2);
    const request = { from, to: this.#world.driveOf(target), freeBytes: Number.MAX_SAFE_INTEGER };
    const wish = isGivenUp ? shard.cancelMoves(volumeId, null) : shard.moveReplicas(volumeId, request);
    wish.catch((error: unknown) => {
      if (!(error instanceof BraidError)) this.#host.fail(error);
      this.#world.log(`replace: ${asError(error).message}`);
    });
    return isGivenUp ? 'the operator gives up moves of copies' : `the operator moves copies to node-${target}`;
  }

  // ---- network

  #reset(index: number): string | null {
    const node = this.#world.nodes[index];
    if (node?.alive !== true) return null;
    node.network.resetAll();
    return `connections of node-${index} are reset`;
  }

  #cut(index: number, random: SimRandom): string {
    const other = random.pick(this.#others(index));
    const directions = random.pick(['<>', '<>', '>', '<']);
    const ms = random.pick([50, 800, 4_000, 12_000]);
    const heal = this.#cutLink(index, other, directions);
    this.#for(ms, [index], heal);
    return `link node-${index} ${directions} node-${other} is cut for ${ms} ms`;
  }

  #cutLink(index: number, other: number, directions: string): () => void {
    const { fabric } = this.#world;
    const [here, there] = [`node-${index}`, `node-${other}`];
    const heals: (() => void)[] = [];
    if (directions.includes('>')) heals.push(fabric.cut(here, there));
    if (directions.includes('<')) heals.push(fabric.cut(there, here));
    return () => {
      for (const heal of heals) heal();
    };
  }

  /** From all other nodes, and perhaps from the store. */
  #isolate(index: number, random: SimRandom): string {
    const directions = random.pick(['<>', '>', '<']);
    const withStore = random.chance(0.5);
    const ms = random.pick([300, 3_000, 9_000]);
    const heals = this.#others(index).map((other) => this.#cutLink(index, other, directions));
    if (withStore) heals.push(this.#world.cutStore(index));
    this.#for(ms, [index], () => {
      for (const heal of heals) heal();
    });
    return `node-${index} is cut off (${directions})${withStore ? ', from the store as well' : ''} for ${ms} ms`;
  }

  #slowNetwork(random: SimRandom): string | null {
    const { fabric, nodes } = this.#world;
    if (fabric.slowness !== 1 || this.#options.victims.length < nodes.length) return null;
    const ms = random.pick([100, 1_500]);
    fabric.slowness = random.pick([10, 100]);
    this.#for(ms, [...nodes.keys()], () => {
      fabric.slowness = 1;
    });
    return `the network is ${fabric.slowness} times slower for ${ms} ms`;
  }

  // ---- the cluster store

  #storeDown(index: number, random: SimRandom): string | null {
    const { storeState, nodes } = this.#world;
    const ms = random.pick([100, 900, 3_000, 9_000]);
    const forAll = random.chance(0.5) && this.#options.victims.length === nodes.length;
    if (forAll && storeState.isDown) return null;
    if (forAll) storeState.isDown = true;
    const heal = forAll ? () => (storeState.isDown = false) : this.#world.cutStore(index);
    this.#for(ms, forAll ? [...nodes.keys()] : [index], () => {
      heal();
      storeState.notify();
    });
    return `the store does not answer ${forAll ? 'anybody' : `node-${index}`} for ${ms} ms`;
  }

  #slowStore(random: SimRandom): string | null {
    const { storeState, nodes } = this.#world;
    if (storeState.slowness !== 1 || this.#options.victims.length < nodes.length) return null;
    const ms = random.pick([1_000, 5_000]);
    storeState.slowness = random.pick([10, 100, 400]);
    this.#for(ms, [...nodes.keys()], () => {
      storeState.slowness = 1;
    });
    return `the store is ${storeState.slowness} times slower for ${ms} ms`;
  }

  // ---- drives

  /** Ends when it is found and repaired, or the block written anew. */
  #rotBlock(index: number, random: SimRandom): string | null {
    if (this.#drivesInTrouble.has(index) || !this.isRecordedWhole()) return null;
    const name = this.rot.strike(index, random);
    return name === null ? null : `a bit rots on node-${index}: ${name}`;
  }

  #troubleDrive(kind: 'full' | 'broken' | 'stall' | 'slow' | 'meta', index: number, random: SimRandom): string | null {
    const world = this.#world;
    if (this.#drivesInTrouble.has(index) || world.nodes[index] === undefined) return null;
    const media = world.media(index);
    const meta = world.metaMedia(index);
    if (meta === null) return null;
    this.#drivesInTrouble.add(index);
    if (kind !== 'slow') this.rot.beforeErrors(index);
    const well = (): void => {
      this.#drivesInTrouble.delete(index);
    };
    const wellAfterRestart = (): void => {
      this.#reopen(index, random);
    };
    const drive = `the drive of node-${index}`;
    switch (kind) {
      case 'full': {
        const ms = random.pick([50, 800, 4_000]);
        media.isFull = true;
        this.#for(ms, [index], () => {
          media.isFull = false;
          well();
        });
        return `${drive} is full for ${ms} ms`;
      }
      case 'slow': {
        const ms = random.pick([300, 3_000]);
        media.slowness = random.pick([10, 300]);
        meta.slowness = random.pick([1, 10, 300]);
        this.#for(ms, [index], () => {
          [media.slowness, meta.slowness] = [1, 1];
          well();
        });
        return `${drive} is ${media.slowness} times slower, its metadata ${meta.slowness} times, for ${ms} ms`;
      }
      case 'stall': {
        const ms = random.pick([100, 2_000, 13_000, 22_000]);
        media.stall();
        this.#for(ms, [index], () => {
          this.#host.guard(() => {
            media.resume();
          });
          wellAfterRestart();
        });
        return `${drive} stalls for ${ms} ms`;
      }
      case 'meta': {
        const ms = random.pick([50, 1_000, 5_000]);
        meta.failure = new BraidError('DRIVE', 'input/output error (simulated)');
        meta.chanceFailedIsThere = random.pick([0, 0.5, 1]);
        this.#for(ms, [index], () => {
          meta.failure = null;
          wellAfterRestart();
        });
        return `metadata of node-${index} cannot be written for ${ms} ms`;
      }
      case 'broken': {
        const ms = random.pick([200, 2_000, 6_000]);
        const what = random.pick(['read', 'write', 'flush', 'any'] as const);
        const slots = random.pick([1, 4, media.sizeBytes / EXTENT_BYTES]);
        media.fail(what, 0, (1 + slots) * EXTENT_BYTES); // slot 0 is never used
        this.#for(ms, [index], () => {
          media.repair();
          wellAfterRestart();
        });
        return `${drive} fails (${what} on ${slots} slots) for ${ms} ms`;
      }
    }
  }

  /** A failed drive is opened again by its agent, or the agent is restarted; one that is stopped restarts when it goes on. */
  #reopen(index: number, random: SimRandom): void {
    if (random.chance(0.5)) {
      this.#drivesInTrouble.delete(index);
      return;
    }
    const node = this.#world.nodes[index];
    if (node !== undefined && this.#frozen.has(node)) {
      this.#for(500, [index], () => {
        this.#reopen(index, random);
      });
      return;
    }
    this.#drivesInTrouble.delete(index);
    // After what the node does with the drive's answers: nothing happens in the middle of an event.
    this.#for(0, [index], () => {
      this.#crash(index, false, random);
    });
  }
}

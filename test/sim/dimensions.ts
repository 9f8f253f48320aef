/**
 * What a seed's run is like: how often each fault comes, and what else is special about the world. Most of it is off in most seeds (swarm
 * testing), so that runs explore combinations instead of a bit of everything. All is drawn from streams of their own.
 */
import type { SimRandom } from './world/sim-random.js';
import type { WorldOptions } from './world/sim-world.js';

/**
 * Of a node: killed, without power, cut from another node or from all, its connections reset, frozen. Of a drive: full, with I/O errors, stalled, slow,
 * its metadata not to be written. Of all: without power at once, slow network, slow store. `storeDown`: for one or all; `move`: of the volume;
 * `replace`: of a copy, to a node that has none; `rot`: of a block of a drive (rot.ts).
 */
export type FaultKind =
  | 'kill'
  | 'power'
  | 'blackout'
  | 'reset'
  | 'cut'
  | 'isolate'
  | 'slowNetwork'
  | 'freeze'
  | 'move'
  | 'replace'
  | 'storeDown'
  | 'slowStore'
  | 'full'
  | 'broken'
  | 'stall'
  | 'slow'
  | 'meta'
  | 'rot';

export type FaultWeights = Readonly<Record<FaultKind, number>>;

/** Each fault is on in a run with its chance here, then with a weight at random. */
const CHANCES: FaultWeights = {
  kill: 0.6,
  power: 0.5,
  cut: 0.6,
  isolate: 0.3,
  reset: 0.6,
  freeze: 0.5,
  move: 0.6,
  replace: 0.3,
  blackout: 0.3,
  slowNetwork: 0.3,
  storeDown: 0.35,
  slowStore: 0.3,
  full: 0.3,
  broken: 0.3,
  stall: 0.25,
  slow: 0.3,
  meta: 0.25,
  rot: 0.35,
};

/** All of them. */
export const FAULT_KINDS = Object.keys(CHANCES) as FaultKind[];

export interface Dimensions {
  readonly world: Partial<WorldOptions>;
  readonly weights: FaultWeights;
  /** Probability that something happens to a node just when the volume is taken over, resynced or reconciled. */
  readonly ambush: number;
  readonly pauseMs: number;
  /** The client's pauses are this many times as long, so that outages and resyncs fall into its run. */
  readonly pace: number;
  /** Operations that the client has in flight. Few where activity logs are small: what waits for a copy keeps its region in them. */
  readonly depth: number;
  /** One drive has fewer slots than the client touches extents. */
  readonly isTight: boolean;
  /** Nodes that faults may hit. One only: the others always have all they need, and the client must get on. */
  readonly victims: readonly number[];
  /** What happens to all nodes at once when the client has done its work: nothing overwrites what that leaves. */
  readonly ending: 'calm' | 'kill' | 'blackout';
}

/** The small drive's: one is the drive's own, the rest is for extents. */
const TIGHT_SLOTS = 4;
/** Extents that fit every drive, with a slot to spare for one that is being freed. */
export const TIGHT_EXTENTS = TIGHT_SLOTS - 2;

export function weightsOf(kinds: readonly FaultKind[]): FaultWeights {
  const weights = FAULT_KINDS.map((kind) => [kind, kinds.includes(kind) ? 1 : 0] as const);
  return Object.fromEntries(weights) as unknown as FaultWeights;
}

export function drawDimensions(random: SimRandom): Dimensions {
  const rot = random.fork('rot');
  const nodes = random.chance(0.4) ? 4 : 3;
  const copies = random.chance(0.4) ? { replicas: 2, minInSync: 1 } : { replicas: 3, minInSync: 2 };
  const isTight = random.chance(0.15);
  const slotCounts: number[] = [];
  if (isTight) slotCounts[random.below(copies.replicas)] = TIGHT_SLOTS;
  const hotRegionsMax = isTight ? 64 : random.pick([64, 64, 4]);
  // From a stream of its own: the others are what they were before it came.
  const streamOf = (kind: string): SimRandom => (kind === 'rot' ? rot : random);
  const weights = Object.fromEntries(
    Object.entries(CHANCES).map(([kind, chance]) => [
      kind,
      streamOf(kind).chance(chance) ? streamOf(kind).between(0, 1) : 0,
    ]),
  ) as unknown as FaultWeights;
  const all = Array.from({ length: nodes }, (_, index) => index);
  return {
    world: {
      nodes,
      ...copies,
      slotCounts,
      stripeWidth: random.pick([1, 2]),
      loseStoreReply: random.pick([0, 0, 0.05, 0.2]),
      networkDelayMsMax: random.pick([0.3, 2, 2, 20]),
      lingerChance: random.pick([0, 0.3, 1]),
      clockSpread: random.pick([0, 0.001, 0.001, 0.15]),
      hotRegionsMax,
    },
    weights,
    ambush: random.pick([0, 0.1, 0.5]),
    pauseMs: random.pick([100, 400, 1_500, 5_000]),
    pace: random.pick([1, 10, 40]),
    depth: 1 + random.below(hotRegionsMax === 64 ? 12 : 2),
    isTight,
    victims: random.chance(0.2) ? [random.below(nodes)] : all,
    ending: random.pick(['calm', 'kill', 'blackout'] as const),
  };
}

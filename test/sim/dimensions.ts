/**
 * What a seed's run is like, beyond the faults that every run may see: each dimension is on in some seeds only (swarm testing), so that
 * runs explore combinations instead of a bit of everything. All is drawn from a stream of its own: a plain run of a seed, with
 * all dimensions off, goes as if they did not exist.
 */
import type { SimRandom } from './world/sim-random.js';
import type { WorldOptions } from './world/sim-world.js';

/** Weights of faults that only some seeds have; 0: never. */
export interface ExtraFaults {
  /** Every node loses power at once, whatever state the copies are in. */
  readonly blackout: number;
  /** The file system below one drive is full for a while. */
  readonly full: number;
  /** I/O errors of one drive for a while; then it is well, and its agent restarts. */
  readonly broken: number;
  /** A copy moves to the node that holds none, or such a move is given up. */
  readonly replace: number;
}

export interface Dimensions {
  readonly world: Partial<WorldOptions>;
  readonly faults: ExtraFaults;
  /** The client's pauses are this many times as long, so that outages and resyncs fall into its run. */
  readonly pace: number;
  /** What happens to all nodes at once when the client has done its work, before everything heals: nothing overwrites what that leaves. */
  readonly ending: 'calm' | 'kill' | 'blackout';
  /** One drive has fewer slots than the client touches extents. */
  readonly isTight: boolean;
}

/** The small drive's: one is the drive's own, the rest is for extents. */
const TIGHT_SLOTS = 4;
/** Extents that fit every drive, with a slot to spare for one that is being freed. */
export const TIGHT_EXTENTS = TIGHT_SLOTS - 2;

export const PLAIN: Dimensions = {
  world: {},
  faults: { blackout: 0, full: 0, broken: 0, replace: 0 },
  pace: 1,
  ending: 'calm',
  isTight: false,
};

export function drawDimensions(random: SimRandom): Dimensions {
  const nodes = random.chance(0.4) ? 4 : 3;
  const copies = random.chance(0.4) ? { replicas: 2, minInSync: 1 } : { replicas: 3, minInSync: 2 };
  const isTight = random.chance(0.2);
  const slotCounts: number[] = [];
  if (isTight) slotCounts[random.below(copies.replicas)] = TIGHT_SLOTS;
  const weight = (): number => (random.chance(0.35) ? random.between(0, 1) : 0);
  const faults = { blackout: weight(), full: weight(), broken: weight() };
  const pace = random.pick([1, 10, 40]);
  const ending = random.pick(['calm', 'kill', 'blackout'] as const);
  // Drawn last: seeds of before go on meaning what they meant.
  const replace = nodes > copies.replicas ? weight() : 0;
  return { world: { nodes, ...copies, slotCounts }, faults: { ...faults, replace }, pace, ending, isTight };
}

/**
 * Bit rot for random runs: flips a bit in a block that some drive holds, only where the system can be expected to cope with it.
 *
 * - The drive knows the block's checksum: its region is cold. What is written to a hot region has its checksum in memory only, so rot
 *   there is taken back when the node dies (ARCHITECTURE.md, "Checksums"); rot in cold regions stays. The same holds for drives that are
 *   full or fail: nobody knows what is in a block whose write failed.
 * - The block is right on every other copy, and all copies are in sync. A copy may be lost later: what was damaged on the others then is
 *   lost until it is written anew, so it is taken back before healing, or the volume would never be whole.
 */
import { assert } from '../../daemon/base/assert.js';
import { BLOCK_BYTES, BLOCKS_PER_EXTENT, EXTENT_BYTES, EXTENTS_PER_REGION } from '../../daemon/base/units.js';
import {
  activityKey,
  itemOfKey,
  segmentOfKey,
  TABLE,
  tablePrefix,
  uuidToBytes,
  volumeOfKey,
} from '../../daemon/format/keys.js';
import { extentKnown, extentSlot } from '../../daemon/format/records.js';
import { ALL_KNOWN } from '../../daemon/protocol/extent-sums.js';
import { EndStateViolation } from './end-state.js';
import type { SimRandom } from './world/sim-random.js';
import type { SimWorld } from './world/sim-world.js';

const CLIENT_BLOCKS = 8;

interface Rotten {
  readonly node: number;
  /** Segment, extent and block: the same on every copy. */
  readonly name: string;
  readonly segment: number;
  readonly region: number;
  readonly offsetBytes: number;
  readonly bit: number;
  readonly bytes: Uint8Array;
}

export class Rot {
  readonly #world: SimWorld;
  #rotten: Rotten[] = [];

  constructor(world: SimWorld) {
    this.#world = world;
  }

  /** Flips a bit on the node's drive; null if there is no block for it, else which one. */
  strike(node: number, random: SimRandom): string | null {
    const world = this.#world;
    this.#forgetRewritten();
    const candidates: Omit<Rotten, 'bytes' | 'bit'>[] = [];
    world.metaMedia(node)?.scan(tablePrefix(TABLE.EXTENT), (key, record) => {
      const [segment, extent, slot] = [segmentOfKey(key), itemOfKey(key), extentSlot(record)];
      const region = Math.floor(extent / EXTENTS_PER_REGION);
      if (slot === 0 || volumeOfKey(key) !== world.volumeId || this.#isHot(node, segment, region)) return;
      // Half of the time where clients read and write most.
      const block = random.below(random.chance(0.5) ? CLIENT_BLOCKS : BLOCKS_PER_EXTENT);
      const name = `${segment}/${extent}/${block}`;
      if (((extentKnown(record) >>> block) & 1) === 0 || this.#rotten.some((each) => each.name === name)) return;
      candidates.push({ node, name, segment, region, offsetBytes: slot * EXTENT_BYTES + block * BLOCK_BYTES });
    });
    if (candidates.length === 0) return null;
    const victim = random.pick(candidates);
    const bit = random.below(8);
    world.media(node).flipBit(victim.offsetBytes, bit);
    this.#rotten.push({ ...victim, bit, bytes: world.media(node).peek(victim.offsetBytes, BLOCK_BYTES) });
    return victim.name;
  }

  /** The node is about to die: its drive forgets the checksums of hot regions. */
  beforeCrash(node: number): void {
    this.#takeBack((each) => each.node === node && this.#isHot(node, each.segment, each.region));
  }

  /** Writes to the node's drive fail from now on: of what they were to replace it forgets the checksums. */
  beforeErrors(node: number): void {
    this.#takeBack((each) => each.node === node);
  }

  takeAllBack(): void {
    this.#takeBack(() => true);
  }

  /** Blocks that are still as they rotted. */
  get left(): number {
    this.#forgetRewritten();
    return this.#rotten.length;
  }

  /** Extents that some drive does not know all checksums of. */
  unknownExtents(): number {
    let count = 0;
    for (let node = 0; node < this.#world.options.nodes; node++) {
      this.#world.metaMedia(node)?.scan(tablePrefix(TABLE.EXTENT), (key, record) => {
        if (volumeOfKey(key) !== this.#world.volumeId) return;
        if (extentSlot(record) !== 0 && extentKnown(record) !== ALL_KNOWN) count++;
      });
    }
    return count;
  }

  #takeBack(isWanted: (each: Rotten) => boolean): void {
    this.#forgetRewritten();
    for (const { node, offsetBytes, bit } of this.#rotten.filter(isWanted))
      this.#world.media(node).flipBit(offsetBytes, bit);
    this.#forgetRewritten();
  }

  #forgetRewritten(): void {
    this.#rotten = this.#rotten.filter(({ node, offsetBytes, bytes }) => {
      return Buffer.compare(this.#world.media(node).peek(offsetBytes, BLOCK_BYTES), bytes) === 0;
    });
  }

  #isHot(node: number, segment: number, region: number): boolean {
    const { volumeId } = this.#world;
    const key = activityKey(uuidToBytes(volumeId), segment, region);
    return (this.#world.metaMedia(node)?.get(key) ?? null) !== null;
  }
}

/** Rots blocks of every drive, and has scrubs find and repair all; afterwards every drive knows the checksums of everything. */
export async function scrubAll(world: SimWorld, rot: Rot, random: SimRandom, limitMs: number): Promise<void> {
  const { served } = world;
  assert(served !== null, 'the volume is served');
  for (const index of world.nodes.keys()) {
    const name = rot.strike(index, random);
    if (name !== null) world.log(`a bit rots on node-${index}: ${name}`);
  }
  const found = rot.left;
  for (const [index, node] of world.nodes.entries()) await node.shard.scrubDrive(world.driveOf(index), 'start');
  await served.node.shard.scrubVolume(world.volumeId, 'start');
  const isDone = async (): Promise<boolean> => {
    const all = await Promise.all(world.nodes.map((node) => node.shard.stats()));
    const scrubs = all.flatMap(({ drives, volumes }) => [...drives, ...volumes]).map(({ scrub }) => scrub);
    const isQuiet = all.every(({ drives }) => drives.every(({ hotRegions }) => hotRegions === 0));
    const isIdle = scrubs.every(({ isRunning, unresolved }) => !isRunning && unresolved === 0);
    return isQuiet && isIdle && rot.left + rot.unknownExtents() === 0;
  };
  for (const endMs = world.clock.nowMs() + limitMs; !(await isDone()); await world.runUntil(() => false, 500)) {
    const rest = `${rot.left} of ${found} rotten blocks and ${rot.unknownExtents()} extents without checksums`;
    if (world.clock.nowMs() > endMs) throw new EndStateViolation(`the scrub leaves ${rest}`);
  }
}

/**
 * Bit rot for random runs: flips a bit in a block that some drive holds, only where the system can be expected to cope with it.
 *
 * - The drive knows the block's checksum: its region is cold. What is written to a hot region has its checksum in memory only, so rot
 *   there is taken back when the node dies (ARCHITECTURE.md, "Checksums"); rot in cold regions stays. The same holds for drives that are
 *   full or fail: nobody knows what is in a block whose write failed.
 * - The block is right on every other copy, and all copies are in sync. A copy may be lost later: what was damaged on the others then is
 *   lost until it is written anew, so it is taken back before healing, or the volume would never be whole.
 */
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
  readonly #random: SimRandom;
  #rotten: Rotten[] = [];
  struck = 0;

  constructor(world: SimWorld, random: SimRandom) {
    this.#world = world;
    this.#random = random;
  }

  /** Flips a bit on the node's drive, if there is a block for it. */
  strike(node: number): void {
    const world = this.#world;
    this.#forgetRewritten();
    const candidates: Omit<Rotten, 'bytes' | 'bit'>[] = [];
    world.meta(node).scan(tablePrefix(TABLE.EXTENT), (key, record) => {
      const [segment, extent, slot] = [segmentOfKey(key), itemOfKey(key), extentSlot(record)];
      const region = Math.floor(extent / EXTENTS_PER_REGION);
      if (slot === 0 || volumeOfKey(key) !== world.volumeId || this.#isHot(node, segment, region)) return;
      // Half of the time where clients read and write most.
      const block = this.#random.below(this.#random.chance(0.5) ? CLIENT_BLOCKS : BLOCKS_PER_EXTENT);
      const name = `${segment}/${extent}/${block}`;
      if (((extentKnown(record) >>> block) & 1) === 0 || this.#rotten.some((each) => each.name === name)) return;
      candidates.push({ node, name, segment, region, offsetBytes: slot * EXTENT_BYTES + block * BLOCK_BYTES });
    });
    if (candidates.length === 0) return;
    const victim = this.#random.pick(candidates);
    const bit = this.#random.below(8);
    world.media(node).flipBit(victim.offsetBytes, bit);
    this.#rotten.push({ ...victim, bit, bytes: world.media(node).peek(victim.offsetBytes, BLOCK_BYTES) });
    this.struck++;
    world.log(`a bit rots on node-${node}: ${victim.name}`);
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
      this.#world.meta(node).scan(tablePrefix(TABLE.EXTENT), (key, record) => {
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
    return this.#world.meta(node).get(activityKey(uuidToBytes(volumeId), segment, region)) !== null;
  }
}

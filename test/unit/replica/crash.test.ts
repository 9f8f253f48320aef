/**
 * Power is lost at random points of a random workload, again and again. After each time: the drive opens, its slots are unique and free ones zero, cold
 * regions hold exactly what was acknowledged, hot ones nothing that was never written, what was flushed is there, stamps and tombstones are kept.
 */
import t from 'tap';
import {
  BLOCK_BYTES,
  BLOCKS_PER_EXTENT,
  EXTENT_BYTES,
  EXTENTS_PER_REGION,
  REGION_BYTES,
} from '../../../daemon/base/units.js';
import { slotOfFreedKey, TABLE, tablePrefix } from '../../../daemon/format/keys.js';
import { extentSlot } from '../../../daemon/format/records.js';
import { FLAG, OPCODE, STATUS } from '../../../daemon/protocol/frame.js';
import { braid } from '../../../daemon/protocol/generated/messages.js';
import { SimRandom } from '../../sim/world/sim-random.js';
import { type Coordinator, type Fields, isSame, World } from './harness.js';

const REGIONS = 4;
const EXTENTS = REGIONS * EXTENTS_PER_REGION;
const SEEDS = Number(process.env['SEEDS'] ?? 4);
const FIRST_SEED = Number(process.env['SEED'] ?? 0);
const LIVES = 6;

/** What each block may hold, by the byte that fills it; 0: zeros. */
class Model {
  /** Since the last flush, oldest first; the last is what was written last. */
  readonly blocks = Array.from({ length: EXTENTS * BLOCKS_PER_EXTENT }, () => [0]);
  /** What was acknowledged last. */
  readonly acknowledged = new Array<number>(EXTENTS * BLOCKS_PER_EXTENT).fill(0);
  readonly generations = new Array<number>(EXTENTS).fill(0);
  #fill = 0;

  /** A byte that no block holds now, nor may hold. */
  nextFill(): number {
    this.#fill = (this.#fill % 250) + 1;
    return this.#fill;
  }

  write(block: number, count: number, fill: number): void {
    for (let index = block; index < block + count; index++) this.blocks[index]?.push(fill);
  }

  /** The write changed nothing. */
  undo(block: number, count: number): void {
    for (let index = block; index < block + count; index++) this.blocks[index]?.pop();
  }

  acknowledge(block: number, count: number, fill: number, isDurable: boolean): void {
    for (let index = block; index < block + count; index++) {
      this.acknowledged[index] = fill;
      if (isDurable) this.blocks[index] = [fill];
    }
  }

  flush(): void {
    for (const versions of this.blocks) versions.splice(0, versions.length - 1);
  }

  /** A block that was read: from now on it is that. */
  settle(block: number, found: number): void {
    this.blocks[block] = [found];
    this.acknowledged[block] = found;
  }
}

const HALF_BYTES = BLOCK_BYTES / 2;
const HALVES = Array.from({ length: 256 }, (_, fill) => new Uint8Array(HALF_BYTES).fill(fill));

/** The byte that fills each half of a block; -1: more than one. */
function fillsOf(bytes: Uint8Array, block: number): number[] {
  return [block * BLOCK_BYTES, block * BLOCK_BYTES + HALF_BYTES].map((at) => {
    const fill = bytes[at] ?? 0;
    return isSame(bytes.subarray(at, at + HALF_BYTES), HALVES[fill] ?? bytes) ? fill : -1;
  });
}

class Run {
  readonly world: World;
  readonly random: SimRandom;
  readonly model = new Model();
  readonly errors: string[] = [];
  owner!: Coordinator;
  generation = 1;
  epoch = 0;
  readonly #asked = new Map<number, (status: number) => void>();

  constructor(world: World, seed: number) {
    this.world = world;
    this.random = new SimRandom(`workload/${seed}`);
  }

  async open(): Promise<number[]> {
    this.epoch++;
    this.owner = await this.world.coordinator();
    const reply = await this.owner.open(this.epoch, [
      { sizeBytes: REGIONS * REGION_BYTES, generation: this.generation },
    ]);
    return reply.segments[0]?.hotRegions ?? [];
  }

  /** One operation, on an extent that no other in flight touches. Ends when it is answered, or never. */
  async #operate(extent: number): Promise<void> {
    const { random, model, generation } = this;
    const [firstBlock, wanted, kind] = [random.below(BLOCKS_PER_EXTENT), 1 + random.below(8), random.below(10)];
    const isTrim = kind === 7 || kind === 8;
    const count = isTrim ? BLOCKS_PER_EXTENT : Math.min(wanted, BLOCKS_PER_EXTENT - firstBlock);
    const block = extent * BLOCKS_PER_EXTENT + (isTrim ? 0 : firstBlock);
    const isDurable = isTrim || random.chance(0.1);
    const flags = FLAG.TOMBSTONE | (isDurable ? FLAG.FUA : 0);
    const range = { offset: block * BLOCK_BYTES, length: count * BLOCK_BYTES, generation, flags };
    const fill = kind < 7 ? model.nextFill() : 0;
    model.write(block, count, fill);
    const payload = new Uint8Array(range.length).fill(fill);
    const opcode = kind < 7 ? OPCODE.WRITE : kind === 9 ? OPCODE.ZERO : OPCODE.TRIM;
    const status = await this.#ask(opcode, kind < 7 ? { ...range, payload } : range);
    if (kind < 7 && status === STATUS.NO_SPACE) return model.undo(block, count);
    this.#check(status, `request ${opcode}`);
    model.acknowledge(block, count, fill, isDurable);
    model.generations[extent] = generation;
  }

  /** Resolves when the reply is there; `live` looks for it. */
  #ask(opcode: number, fields: Fields): Promise<number> {
    const tag = this.owner.send(opcode, fields);
    return new Promise((resolve) => this.#asked.set(tag, resolve));
  }

  #hear(): void {
    for (const [tag, resolve] of this.#asked) {
      const reply = this.owner.replyTo(tag);
      if (reply === undefined) continue;
      this.#asked.delete(tag);
      resolve(reply.frame.status);
    }
  }

  #check(status: number, what: string): void {
    if (status !== STATUS.OK) this.errors.push(`${what} is answered ${status}`);
  }

  /** Works for `steps` events. */
  async live(steps: number): Promise<void> {
    const { random } = this;
    const busy = new Set<number>();
    this.#asked.clear();
    let isQuiet = false;
    for (let count = 0; count < steps && this.errors.length === 0; count++) {
      const extent = random.below(EXTENTS);
      if (!isQuiet && busy.size < 6 && !busy.has(extent)) {
        busy.add(extent);
        void this.#operate(extent).then(() => busy.delete(extent));
      }
      if (random.chance(0.02)) this.generation++;
      const region = random.below(REGIONS);
      const isIdle = [...busy].every((each) => Math.floor(each / EXTENTS_PER_REGION) !== region);
      if (isIdle && random.chance(0.2)) {
        for (let each = 0; each < EXTENTS_PER_REGION; each++) busy.add(region * EXTENTS_PER_REGION + each);
        const regions = braid.RegionList.encode({ sets: [{ segment: 0, regions: [region] }] }).finish();
        const release = (status: number) => {
          this.#check(status, 'COOL');
          [...busy].forEach((each) => Math.floor(each / EXTENTS_PER_REGION) === region && busy.delete(each));
        };
        void this.#ask(OPCODE.COOL, { payload: regions }).then(release);
      }
      // The model flushes when nothing is in flight: then what was acknowledged is what was written.
      if (busy.size === 0 && isQuiet) {
        await this.#flush();
        isQuiet = false;
      } else if (random.chance(0.02)) isQuiet = true;
      await this.world.step();
      this.#hear();
    }
  }

  async #flush(): Promise<void> {
    this.#check(await this.owner.status(OPCODE.FLUSH), 'FLUSH');
    this.model.flush();
  }

  /** Reads everything, and judges. */
  async judge(hotRegions: number[]): Promise<void> {
    for (let extent = 0; extent < EXTENTS; extent++) {
      const bytes = await this.owner.read(extent * EXTENT_BYTES, EXTENT_BYTES);
      const isHot = hotRegions.includes(Math.floor(extent / EXTENTS_PER_REGION));
      for (let block = 0; block < BLOCKS_PER_EXTENT; block++) {
        const index = extent * BLOCKS_PER_EXTENT + block;
        const versions = this.model.blocks[index] ?? [];
        const [first = -1, second = -1] = fillsOf(bytes, block);
        const where = `extent ${extent} block ${block}`;
        const wanted = this.model.acknowledged[index];
        if (!isHot && (first !== wanted || second !== wanted)) {
          this.errors.push(`cold ${where} holds ${first}/${second}, not ${wanted}`);
        }
        if (!versions.includes(first) || !versions.includes(second)) {
          this.errors.push(`${where} holds ${first}/${second}, which is none of ${versions.join()}`);
        }
        // What a torn write left is mended, as a coordinator would, by writing it again.
        if (first !== second) await this.#mend(index, versions.at(-1) ?? 0);
        else this.model.settle(index, first);
      }
    }
    await this.#judgeStamps();
  }

  /** Each extent is stamped with the generation of its last acknowledged change, or a later one (invariant 8). */
  async #judgeStamps(): Promise<void> {
    for (let generation = 1; generation <= this.generation; generation++) {
      const listed = new Set(await this.owner.list(generation - 1));
      for (const [extent, wanted] of this.model.generations.entries()) {
        if (wanted >= generation && !listed.has(extent))
          this.errors.push(`extent ${extent} is stamped below ${wanted}`);
      }
    }
  }

  async #mend(block: number, fill: number): Promise<void> {
    const payload = new Uint8Array(BLOCK_BYTES).fill(fill);
    const extent = Math.floor(block / BLOCKS_PER_EXTENT);
    this.#check(await this.owner.write(block * BLOCK_BYTES, payload, { generation: this.generation }), 'WRITE to mend');
    this.model.write(block, 1, fill);
    this.model.acknowledge(block, 1, fill, false);
    this.model.generations[extent] = this.generation;
  }

  /** Every slot that nothing names is zeros, and none is named twice. */
  judgeSlots(): void {
    const { disk, meta } = this.world.media();
    const used = new Set<number>();
    const claim = (slot: number) => {
      if (slot === 0) return;
      if (used.has(slot)) this.errors.push(`slot ${slot} is named twice`);
      used.add(slot);
    };
    meta.scan(tablePrefix(TABLE.EXTENT), (_key, value) => claim(extentSlot(value)));
    meta.scan(tablePrefix(TABLE.FREED), (key) => claim(slotOfFreedKey(key)));
    const zeros = new Uint8Array(EXTENT_BYTES);
    for (let slot = 1; slot < this.world.options.slotCount; slot++) {
      if (!used.has(slot) && !isSame(disk.peek(slot * EXTENT_BYTES, EXTENT_BYTES), zeros))
        this.errors.push(`free slot ${slot} is not zero`);
    }
  }
}

for (let seed = FIRST_SEED; seed < FIRST_SEED + SEEDS; seed++) {
  t.test(`power is lost again and again, seed ${seed}`, async (t) => {
    // Few slots, so that freed ones are used again soon.
    const world = await World.create({ seed, slotCount: 100, hotRegionsMax: 3 + (seed % 2) });
    const run = new Run(world, seed);
    await run.open();
    for (let life = 0; life < LIVES && run.errors.length === 0; life++) {
      await run.live(run.random.below(600));
      if (run.random.chance(0.75)) await world.crash();
      else await world.kill();
      run.judgeSlots();
      await run.judge(await run.open());
    }
    t.same(run.errors.slice(0, 5), [], `replay: SEED=${seed} SEEDS=1 node dist/test/unit/replica/crash.test.js`);
    await world.close();
  });
}

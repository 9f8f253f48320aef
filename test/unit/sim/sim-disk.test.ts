/** The simulated slab and disk keep the promises of their ports, and break exactly those that a crash may break. */
import t from 'tap';
import { crc32c, ZERO_BLOCK_CRC32C } from '../../../daemon/base/crc32c.js';
import { BLOCK_BYTES, EXTENT_BYTES, MIB } from '../../../daemon/base/units.js';
import {
  NO_BUFFER,
  POOL_FRONTEND,
  POOL_INTERNAL,
  POOL_PEER,
  type BufferId,
  type Pool,
} from '../../../daemon/ports/slab.js';
import { SimClock } from '../../sim/world/sim-clock.js';
import { type SimDisk, type SimDiskMedia, SimDiskOpener } from '../../sim/world/sim-disk.js';
import { SimRandom } from '../../sim/world/sim-random.js';
import { SimSlab } from '../../sim/world/sim-slab.js';

const PATH = '/data';

class Bench {
  readonly clock = new SimClock();
  readonly slab = new SimSlab({ clock: this.clock });
  readonly results = new Map<number, number>();
  readonly order: number[] = [];
  readonly opener: SimDiskOpener;
  readonly media: SimDiskMedia;
  disk!: SimDisk;

  constructor(seed: number) {
    this.opener = new SimDiskOpener(this.slab, this.clock, new SimRandom(seed));
    this.media = this.opener.create(PATH, MIB);
  }

  async open(): Promise<void> {
    this.disk = await this.opener.open(PATH, (tag, result) => {
      this.results.set(tag, result);
      this.order.push(tag);
    });
  }

  write(tag: number, block: number, fill: number, isDurable = false): void {
    const buffer = this.slab.alloc(BLOCK_BYTES, POOL_INTERNAL);
    this.slab.bytes(buffer, 0, BLOCK_BYTES).fill(fill);
    this.disk.write(tag, block * BLOCK_BYTES, BLOCK_BYTES, buffer, 0, isDurable);
    this.slab.release(buffer);
  }

  ended(): void {
    while (this.disk.inFlight > 0) this.clock.step();
  }

  /** What fills the first and the last byte of a block. */
  ends(block: number): [number | undefined, number | undefined] {
    const bytes = this.media.peek(block * BLOCK_BYTES, BLOCK_BYTES);
    return [bytes[0], bytes.at(-1)];
  }
}

async function bench(seed = 1): Promise<Bench> {
  const made = new Bench(seed);
  await made.open();
  return made;
}

t.test('the slab counts references and refuses what is wrong', async (t) => {
  const clock = new SimClock();
  const slab = new SimSlab({ clock, quotaBytes: [EXTENT_BYTES, EXTENT_BYTES, 2 * BLOCK_BYTES] });
  const buffer = slab.alloc(5_000, POOL_INTERNAL);
  t.equal(slab.usedBytes(POOL_INTERNAL), 2 * BLOCK_BYTES);
  slab.retain(buffer);
  slab.release(buffer);
  slab.bytes(buffer, 0, 8_192).fill(7);
  slab.release(buffer);
  t.throws(() => slab.release(buffer), /in use/, 'released twice');
  t.throws(() => slab.bytes(buffer, 0, 1), /in use/, 'used when free');
  t.throws(() => slab.retain(NO_BUFFER), /in use/);
  const next = slab.alloc(BLOCK_BYTES, POOL_INTERNAL);
  t.not(next, buffer, 'reused late');
  t.throws(() => slab.bytes(next, 1, BLOCK_BYTES), /inside/);
  t.throws(() => slab.alloc(EXTENT_BYTES + 1, POOL_PEER), /128 KiB/);
  t.throws(() => slab.assertEmpty(), /pool 2 still uses 4 KiB/);
  slab.release(next);
  slab.assertEmpty();
});

t.test('the slab has quotas, and tells when a pool that had none left has room', async (t) => {
  const clock = new SimClock();
  const slab = new SimSlab({ clock, quotaBytes: [EXTENT_BYTES, EXTENT_BYTES, EXTENT_BYTES] });
  const told: Pool[] = [];
  slab.onAvailable = (pool) => told.push(pool);
  const buffers: BufferId[] = [slab.alloc(EXTENT_BYTES, POOL_PEER), slab.alloc(EXTENT_BYTES, POOL_FRONTEND)];
  t.notOk(buffers.includes(NO_BUFFER));
  t.equal(slab.alloc(1, POOL_PEER), NO_BUFFER);
  for (const buffer of buffers) slab.release(buffer);
  t.same(told, [], 'not from inside release');
  clock.runUntil(1);
  t.same(told, [POOL_PEER]);
});

t.test('the slab computes checksums by block, the last may be short', async (t) => {
  const slab = new SimSlab({ clock: new SimClock() });
  const buffer = slab.alloc(2 * BLOCK_BYTES, POOL_PEER);
  slab.zero(buffer, 0, BLOCK_BYTES);
  slab.bytes(buffer, BLOCK_BYTES, 10).fill(3);
  slab.computeChecksums(buffer, 0, BLOCK_BYTES + 10);
  const index = slab.checksumIndex(buffer);
  t.equal(slab.checksums[index], ZERO_BLOCK_CRC32C);
  t.equal(slab.checksums[index + 1], crc32c(new Uint8Array(10).fill(3)));
  const other = slab.alloc(BLOCK_BYTES, POOL_PEER);
  slab.copy(other, 6, buffer, BLOCK_BYTES, 10);
  t.same(slab.bytes(other, 6, 10), new Uint8Array(10).fill(3));
});

t.test('writes can be read at once, operations end out of order, checksums come with reads', async (t) => {
  const it = await bench();
  for (let block = 0; block < 20; block++) it.write(block, block, block + 1);
  it.ended();
  t.notSame(
    it.order,
    [...it.order].sort((a, b) => a - b),
  );
  const buffer = it.slab.alloc(2 * BLOCK_BYTES, POOL_INTERNAL);
  it.disk.read(50, 4 * BLOCK_BYTES, 2 * BLOCK_BYTES, buffer, 0);
  it.ended();
  t.equal(it.results.get(50), 0);
  t.same([it.slab.bytes(buffer, 0, 1)[0], it.slab.bytes(buffer, BLOCK_BYTES, 1)[0]], [5, 6]);
  t.equal(it.slab.checksums[it.slab.checksumIndex(buffer)], crc32c(new Uint8Array(BLOCK_BYTES).fill(5)));
  it.disk.punch(51, 4 * BLOCK_BYTES, BLOCK_BYTES);
  it.disk.zero(52, 5 * BLOCK_BYTES, BLOCK_BYTES);
  it.ended();
  t.same(
    [it.ends(4), it.ends(5), it.ends(6)],
    [
      [0, 0],
      [0, 0],
      [7, 7],
    ],
  );
  it.slab.release(buffer);
  it.slab.assertEmpty();
  t.throws(() => it.disk.read(1, 100, BLOCK_BYTES, buffer, 0));
});

t.test('a crash keeps what was flushed or durable, and any mix of the rest', async (t) => {
  const seen = new Set<string>();
  for (let seed = 0; seed < 60; seed++) {
    const it = await bench(seed);
    it.write(1, 0, 1);
    it.ended();
    it.disk.flush(2);
    it.write(3, 0, 2);
    it.ended();
    it.write(4, 1, 9, true);
    it.ended();
    it.write(5, 0, 3);
    it.disk.crash();
    it.ended();
    t.notOk(it.results.has(5), 'nothing is called back');
    const [first, last] = it.ends(0);
    seen.add(`${first}/${last}`);
    t.same(it.ends(1), [9, 9]);
    await it.open();
    t.same(it.ends(0), [first, last]);
  }
  for (const each of ['1/1', '2/2', '3/3', '2/1', '3/2']) t.ok(seen.has(each), `${each} can happen`);
  for (const each of seen) t.match(each, /^[123]\/[123]$/, 'what was flushed is not lost');
});

t.test('a flush covers what completed before it was issued, and no more', async (t) => {
  let lost = 0;
  for (let seed = 0; seed < 40; seed++) {
    const it = await bench(seed);
    it.write(1, 0, 1);
    it.disk.flush(2);
    it.ended();
    it.disk.crash();
    if (it.ends(0)[0] === 0) lost++;
  }
  t.ok(lost > 5, 'a write in flight is not covered');
});

t.test('a killed process loses nothing that it had submitted', async (t) => {
  const it = await bench();
  it.write(1, 0, 1);
  it.disk.kill();
  t.same(it.ends(0), [1, 1]);
  await it.open();
  await t.rejects(
    it.opener.open(PATH, () => undefined),
    /in use/,
  );
});

t.test('faults: errors by range, full, stalled, bits flipped', async (t) => {
  const it = await bench();
  it.media.fail('write', 0, BLOCK_BYTES);
  it.write(1, 0, 1);
  it.write(2, 1, 1);
  it.disk.punch(3, 0, BLOCK_BYTES);
  it.disk.flush(4);
  it.ended();
  t.same(
    [1, 2, 3, 4].map((tag) => it.results.get(tag)),
    [-5, 0, -5, 0],
  );
  it.media.repair();
  it.media.isFull = true;
  it.write(5, 2, 1);
  it.ended();
  t.equal(it.results.get(5), -28);
  it.media.isFull = false;
  it.disk.stall();
  it.write(6, 3, 1);
  it.clock.runUntil(it.clock.nowMs() + 1_000);
  t.notOk(it.results.has(6));
  let isClosed = false;
  void it.disk.close().then(() => (isClosed = true));
  await new Promise((resolve) => setImmediate(resolve));
  t.notOk(isClosed, 'close waits');
  it.disk.resume();
  await new Promise((resolve) => setImmediate(resolve));
  t.ok(isClosed);
  it.media.flipBit(BLOCK_BYTES, 1);
  t.same(it.ends(1), [3, 1]);
});

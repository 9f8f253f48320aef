/** The drive's own part of a scrub: what it reads, what it takes for damage, what it remembers, and what it never waits for. */
import t from 'tap';
import { must } from '../../../daemon/base/assert.js';
import { limits } from '../../../daemon/base/limits.js';
import { BLOCK_BYTES, EXTENT_BYTES, REGION_BYTES } from '../../../daemon/base/units.js';
import { SCRUB_KEY } from '../../../daemon/format/keys.js';
import { decodeScrub, encodeScrub, NEVER_SCRUBBED } from '../../../daemon/format/records.js';
import { POOL_INTERNAL } from '../../../daemon/ports/slab.js';
import { FLAG, OPCODE, STATUS } from '../../../daemon/protocol/frame.js';
import { braid } from '../../../daemon/protocol/generated/messages.js';
import { ALL_KNOWN, decodeExtentSums } from '../../../daemon/protocol/extent-sums.js';
import { blocks, type Coordinator, World } from './harness.js';

const scrub = (world: World) => world.drive().stats().scrub;

async function pass(world: World): Promise<void> {
  world.drive().scrubber.start();
  await world.until(() => !scrub(world).isRunning, 'the pass ends');
}

/** Time for the scrub to look again; the owner's connection stays. */
async function recheck(world: World, owner?: Coordinator): Promise<void> {
  for (let waitedMs = 0; waitedMs < limits.scrubRecheckMs + 2_000; waitedMs += 1_000) {
    await owner?.status(OPCODE.PING);
    await world.forMs(1_000);
  }
}

async function damagedFrames(world: World, owner?: Coordinator): Promise<number[]> {
  await recheck(world, owner);
  return world.network.sent.filter(({ frame }) => frame.opcode === OPCODE.DAMAGED).map(({ frame }) => frame.offset);
}

/** Two regions with an extent each; the second stays hot. The session of the owner is kept alive. */
async function prepare(): Promise<{ world: World; owner: Coordinator }> {
  const world = await World.create();
  const owner = await world.opened();
  await owner.write(0, blocks(32, 1));
  await owner.write(REGION_BYTES, blocks(32, 2));
  await owner.cool([0]);
  return { world, owner };
}

t.test('cold extents are read and compared, hot ones are left to the next pass', async (t) => {
  const { world, owner } = await prepare();
  for (const slot of [1, 2]) world.media().disk.flipBit(slot * EXTENT_BYTES + 3 * BLOCK_BYTES, 0);
  await pass(world);
  t.match(scrub(world), { bytes: EXTENT_BYTES, errors: 1, repaired: 0, unresolved: 1 });
  t.ok((await damagedFrames(world, owner)).includes(0), 'the owner is told');
  await owner.write(3 * BLOCK_BYTES, blocks(1, 4));
  await owner.cool([0, 1]);
  await pass(world);
  t.match(scrub(world), { errors: 2 }, 'the second region is cold by now');
  await world.close();
});

t.test('an extent that is rewritten counts as repaired once it reads right, and not before', async (t) => {
  const { world, owner } = await prepare();
  world.media().disk.flipBit(EXTENT_BYTES, 0);
  await pass(world);
  await recheck(world, owner);
  t.match(scrub(world), { unresolved: 1, repaired: 0 });
  await owner.write(0, blocks(32, 1));
  await recheck(world, owner);
  t.match(scrub(world), { unresolved: 1, repaired: 0 }, 'a hot region is not judged');
  await owner.cool([0]);
  await recheck(world, owner);
  t.match(scrub(world), { errors: 1, unresolved: 0, repaired: 1 });
  await world.close();
});

t.test('what was found without an owner is kept over a restart, and forgotten with the replica', async (t) => {
  const { world, owner } = await prepare();
  owner.disconnect();
  world.media().disk.flipBit(EXTENT_BYTES, 0);
  await pass(world);
  t.same(await damagedFrames(world), [], 'there is nobody to tell');
  t.match(scrub(world), { unresolved: 1 });
  await world.kill();
  t.match(scrub(world), { unresolved: 1, errors: 0 });
  const later = await world.coordinator();
  await later.status(OPCODE.DELETE, { payload: later.deletePayload([0]) });
  await recheck(world);
  t.match(scrub(world), { unresolved: 0, repaired: 0 });
  await world.close();
});

t.test('a write that overtakes the read is no damage', async (t) => {
  const { world, owner } = await prepare();
  for (let count = 0; count < 30; count++) {
    world.drive().scrubber.start();
    // A hot extent is skipped, a cold one read: either way nothing is found.
    await owner.write((count % 8) * BLOCK_BYTES, blocks(1, count));
    await world.until(() => !scrub(world).isRunning);
    await owner.cool([0]);
  }
  t.match(scrub(world), { errors: 0 });
  t.ok(scrub(world).bytes > 0);
  await world.close();
});

t.test('it keeps to its rate, and goes slower while the drive is busy', async (t) => {
  const world = await World.create();
  const owner = await world.opened();
  for (let extent = 0; extent < 8; extent++) await owner.write(extent * EXTENT_BYTES, blocks(32, extent));
  await owner.cool([0]);
  const timed = async (): Promise<number> => {
    const startedMs = world.clock.nowMs();
    await pass(world);
    return world.clock.nowMs() - startedMs;
  };
  const alone = await timed();
  const periodMs = (EXTENT_BYTES / limits.scrubBytesPerSecondDefault) * 1_000;
  t.ok(alone >= 8 * periodMs, 'no faster than the rate');
  // Something is in flight at the drive at any time; the world runs only while somebody waits for it.
  const reads = new Set<number>();
  const startedMs = world.clock.nowMs();
  world.drive().scrubber.start();
  while (scrub(world).isRunning) {
    for (const tag of reads) if (owner.replyTo(tag) !== undefined) reads.delete(tag);
    while (reads.size < 8) reads.add(owner.send(OPCODE.READ, { length: BLOCK_BYTES }));
    await world.step();
  }
  const busy = world.clock.nowMs() - startedMs;
  t.ok(busy > 2 * alone, `${busy} ms while others read, ${alone} ms alone`);
  await world.close();
});

t.test('without a buffer it waits, and a drive that fails or closes under it is no problem', async (t) => {
  const { world } = await prepare();
  const taken: number[] = [];
  for (let buffer = world.slab.alloc(EXTENT_BYTES, POOL_INTERNAL); buffer !== 0;) {
    taken.push(buffer);
    buffer = world.slab.alloc(EXTENT_BYTES, POOL_INTERNAL);
  }
  world.drive().scrubber.start();
  await world.forMs(1_000);
  t.match(scrub(world), { isRunning: true, bytes: 0 });
  for (const buffer of taken) world.slab.release(buffer);
  await world.until(() => !scrub(world).isRunning);
  t.match(scrub(world), { bytes: EXTENT_BYTES });
  world.media().disk.user?.stall();
  world.drive().scrubber.start();
  await world.forMs(100);
  world.drive().fail('the test says so');
  await world.forMs(100);
  world.media().disk.user?.resume();
  await world.close();
});

t.test('the position survives a restart', async (t) => {
  const { world, owner } = await prepare();
  await owner.cool([1]);
  const at = {
    ...NEVER_SCRUBBED,
    startedMs: 5,
    isRunning: true,
    replica: 'aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa/0',
    extent: 1,
  };
  t.same(decodeScrub(encodeScrub(at)), at);
  t.same(decodeScrub(new Uint8Array(3)), NEVER_SCRUBBED);
  world.media().meta.apply([{ key: SCRUB_KEY, value: encodeScrub(at) }]);
  await world.kill();
  await world.forMs(limits.scrubQuietMs + 5_000);
  t.match(scrub(world), { isRunning: false, bytes: EXTENT_BYTES }, 'the first extent is not read again');
  t.ok(must(world.media().meta.get(SCRUB_KEY), 'the record').length > 0);
  await world.close();
});

t.test(
  'checksums of before a crash are believed where the data agrees with them, and told apart where it does not',
  async (t) => {
    const { world, owner } = await prepare();
    await owner.write(BLOCK_BYTES, blocks(1, 9)); // region 0 is hot again; block 1 is not what the record says
    await world.kill();
    const later = await world.coordinator();
    await later.open(2);
    const read = async (block: number) => {
      const { frame } = await later.call(OPCODE.READ, { offset: block * BLOCK_BYTES, length: BLOCK_BYTES });
      return frame.status === STATUS.OK ? frame.flags : frame.status;
    };
    t.equal(await read(0), 0, 'not written since');
    t.equal(await read(1), FLAG.UNVERIFIED, 'who knows');
    world.media().disk.flipBit(EXTENT_BYTES + 5 * BLOCK_BYTES, 0);
    t.equal(await read(5), FLAG.UNVERIFIED, 'rot looks the same');
    world.media().disk.flipBit(EXTENT_BYTES, 0);
    t.equal(await read(0), STATUS.CHECKSUM_MISMATCH, 'what was read right once is known');
    world.media().disk.flipBit(EXTENT_BYTES, 0);
    world.media().disk.flipBit(EXTENT_BYTES + 5 * BLOCK_BYTES, 0);
    const sumsOf = async (flags: number) =>
      decodeExtentSums((await later.call(OPCODE.CHECKSUM, { length: EXTENT_BYTES, flags })).payload);
    const { known, sums } = await sumsOf(FLAG.STORED);
    t.equal(known, (ALL_KNOWN & ~2) >>> 0, 'all but block 1');
    const payload = braid.LearnRequest.encode({ extent: 0, checksums: [...sums] }).finish();
    t.equal(await later.status(OPCODE.LEARN, { payload }), STATUS.OK);
    t.equal((await sumsOf(FLAG.STORED)).known, ALL_KNOWN);
    await later.cool([0]);
    await world.kill();
    const last = await world.coordinator();
    await last.open(3);
    world.media().disk.flipBit(EXTENT_BYTES + BLOCK_BYTES, 0);
    t.equal(await last.status(OPCODE.READ, { offset: BLOCK_BYTES, length: BLOCK_BYTES }), STATUS.CHECKSUM_MISMATCH);
    await world.close();
  },
);

t.test('a cold extent learns, too, durably', async (t) => {
  const { world } = await prepare();
  await world.kill();
  const later = await world.coordinator();
  await later.open(2);
  await later.cool([1]); // as it was not read since, nothing is known of it
  const at = { offset: REGION_BYTES, length: EXTENT_BYTES };
  const { known, sums } = decodeExtentSums((await later.call(OPCODE.CHECKSUM, at)).payload);
  t.equal(known, 0);
  const payload = braid.LearnRequest.encode({ extent: REGION_BYTES / EXTENT_BYTES, checksums: [...sums] }).finish();
  t.equal(await later.status(OPCODE.LEARN, { payload }), STATUS.OK);
  for (const bad of [
    { extent: 99_999, checksums: [...sums] },
    { extent: 0, checksums: [1] },
  ]) {
    const request = braid.LearnRequest.encode(bad).finish();
    t.equal(await later.status(OPCODE.LEARN, { payload: request }), STATUS.BAD_REQUEST);
  }
  await world.crash();
  const last = await world.coordinator();
  await last.open(3);
  t.equal(decodeExtentSums((await last.call(OPCODE.CHECKSUM, at)).payload).known, ALL_KNOWN);
  await world.close();
});

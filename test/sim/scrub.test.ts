/** Rot is found before it is needed: by the drives' scrub, by the owner's comparison; and what a crash makes a copy forget is told by the others. */
import t, { type Test } from 'tap';
import { must } from '../../daemon/base/assert.js';
import { crc32c } from '../../daemon/base/crc32c.js';
import { BLOCK_BYTES, BLOCKS_PER_EXTENT, EXTENT_BYTES } from '../../daemon/base/units.js';
import { TABLE, tablePrefix } from '../../daemon/format/keys.js';
import { encodeExtent, extentChecksum, extentKnown, extentSlot, extentStamp } from '../../daemon/format/records.js';
import type { ScrubStats } from '../../daemon/ports/shard.js';
import { ALL_KNOWN } from '../../daemon/protocol/extent-sums.js';
import {
  ALL_COLD_MS,
  begin,
  identical,
  LEASE_OVER_MS,
  LONG_MS,
  nodeOf,
  ok,
  pass,
  restart,
  serve,
  served,
  slotOf,
  untilInSync,
} from './story.js';
import type { SimWorld } from './world/sim-world.js';
import type { VolumeClient } from './world/volume-client.js';

const DAY_MS = 86_400_000;

async function driveScrub(world: SimWorld, node: number): Promise<ScrubStats> {
  return must((await nodeOf(world, node).shard.stats()).drives[0], 'its drive').scrub;
}

async function scrubDrive(world: SimWorld, node: number): Promise<void> {
  await nodeOf(world, node).shard.scrubDrive(world.driveOf(node), 'start');
  await untilIdle(world, () => driveScrub(world, node));
}

async function scrubVolume(world: SimWorld, node: number): Promise<ScrubStats> {
  const stats = async (): Promise<ScrubStats> =>
    must((await nodeOf(world, node).shard.stats()).volumes[0], 'the volume').scrub;
  await nodeOf(world, node).shard.scrubVolume(world.volumeId, 'start');
  await untilIdle(world, stats);
  return stats();
}

async function untilIdle(world: SimWorld, stats: () => Promise<ScrubStats>): Promise<void> {
  for (let waitedMs = 0; (await stats()).isRunning; waitedMs += 100) {
    if (waitedMs > LONG_MS) throw new Error('the scrub does not end');
    await pass(world, 100);
  }
}

function events(world: SimWorld, pattern: RegExp): string[] {
  return world.trace.filter((line) => line.includes('{"event":') && pattern.test(line));
}

/** Every byte of the extent on the node's drive is `fill`; found where it begins so, or where it began so before it was damaged. */
function holds(t: Test, world: SimWorld, node: number, slot: number, fill: number): void {
  const bytes = world.media(node).peek(slot, EXTENT_BYTES);
  t.ok(
    bytes.every((byte) => byte === fill),
    `node ${node} has what was written`,
  );
}

const FORGED = 99;

/** The copy in the slot differs in its first block, and its checksums agree with it: no fault of a drive does that. */
function forge(world: SimWorld, node: number, slot: number): void {
  const block = new Uint8Array(BLOCK_BYTES).fill(FORGED);
  world.media(node).put(slot, BLOCK_BYTES, block, true);
  const meta = must(world.metaMedia(node), 'its metadata');
  meta.scan(tablePrefix(TABLE.EXTENT), (key, record) => {
    if (extentSlot(record) !== slot / EXTENT_BYTES) return;
    const sums = Uint32Array.from({ length: BLOCKS_PER_EXTENT }, (_, index) => extentChecksum(record, index));
    sums[0] = crc32c(block);
    const value = encodeExtent(extentSlot(record), extentStamp(record), extentKnown(record), sums, 0);
    meta.apply([{ key, value }]);
  });
}

/** Once everything is cold, every drive has the checksums of all blocks that it has. */
function allKnown(t: Test, world: SimWorld): void {
  for (const node of [0, 1, 2]) {
    let extents = 0;
    must(world.metaMedia(node), 'its metadata').scan(tablePrefix(TABLE.EXTENT), (_, record) => {
      if (extentSlot(record) !== 0 && extentKnown(record) !== ALL_KNOWN) extents++;
    });
    t.equal(extents, 0, `node ${node} knows all checksums`);
  }
}

async function written(world: SimWorld, t: Test, client: VolumeClient): Promise<void> {
  for (const extent of [0, 1, 2]) await ok(t, world, client.write(extent * EXTENT_BYTES, EXTENT_BYTES, 11 + extent));
}

await t.test('13: the scrub of a drive finds rot, and the owner rewrites it from another copy', async (t) => {
  const { world, client } = await begin();
  await written(world, t, client);
  await pass(world, ALL_COLD_MS);
  const slot = slotOf(world, 1, 12);
  world.media(1).flipBit(slot + 5 * BLOCK_BYTES + 77, 3);
  await scrubDrive(world, 1);
  t.match(await driveScrub(world, 1), { errors: 1, bytes: 3 * EXTENT_BYTES });
  await pass(world, 30_000);
  t.match(await driveScrub(world, 1), { errors: 1, repaired: 1, unresolved: 0 });
  holds(t, world, 1, slot, 12);
  t.equal(
    events(world, /drive .* of the 131072 bytes at offset 131072 was damaged and was rewritten.*"volume\/v"/).length,
    1,
  );
  t.equal(events(world, /scrub found 1 damaged extent.*"drive\//).length, 1);
  await scrubDrive(world, 1);
  t.match(await driveScrub(world, 1), { errors: 1, repaired: 1, unresolved: 0 });
  await identical(t, world, 0);
});

await t.test('13: what cannot be read is rewritten, too', async (t) => {
  const { world, client } = await begin();
  await written(world, t, client);
  await pass(world, ALL_COLD_MS);
  const slot = slotOf(world, 1, 12);
  world.media(1).fail('read', slot, BLOCK_BYTES);
  await scrubDrive(world, 1);
  await pass(world, 1_000);
  t.equal(events(world, /was damaged and was rewritten/).length, 1);
  world.media(1).repair(); // a sector that is written anew can be read
  await pass(world, 30_000);
  t.match(await driveScrub(world, 1), { errors: 1, repaired: 1, unresolved: 0 });
});

await t.test(
  '13: rot of a volume that nobody has attached is kept until it has an owner, over a restart',
  async (t) => {
    const { world, client } = await begin();
    await written(world, t, client);
    await world.wait(nodeOf(world, 0).shard.releaseVolume(world.volumeId), LONG_MS);
    const slot = slotOf(world, 2, 13);
    world.media(2).flipBit(slot, 7);
    await scrubDrive(world, 2);
    t.match(await driveScrub(world, 2), { errors: 1, repaired: 0, unresolved: 1 });
    t.equal(events(world, /1 of them wait to be rewritten .* have to be attached/).length, 1);
    world.crashNode(2, true);
    await restart(world, [2]);
    t.match(await driveScrub(world, 2), { errors: 0, unresolved: 1 }, 'it is not forgotten');
    await serve(world, 0);
    await pass(world, 40_000);
    t.match(await driveScrub(world, 2), { repaired: 1, unresolved: 0 });
    holds(t, world, 2, slot, 13);
  },
);

await t.test('a scrub that is interrupted goes on from where it was, one that is due begins by itself', async (t) => {
  const { world, client } = await begin({ scrubIntervalMs: 7 * DAY_MS });
  await written(world, t, client);
  await pass(world, ALL_COLD_MS);
  t.match(await driveScrub(world, 1), { isRunning: false, startedMs: 0, completedMs: 0 }, 'a new drive waits');
  await nodeOf(world, 1).shard.scrubDrive(world.driveOf(1), 'start');
  await pass(world, 5);
  t.match(await driveScrub(world, 1), { isRunning: true });
  world.crashNode(1, false);
  await restart(world, [1]);
  t.match(await driveScrub(world, 1), { isRunning: true }, 'it is known that one was under way');
  await pass(world, 60_000);
  const { completedMs } = await driveScrub(world, 1);
  t.ok(completedMs > 0);
  await nodeOf(world, 1).shard.scrubDrive(world.driveOf(1), 'start');
  await nodeOf(world, 1).shard.scrubDrive(world.driveOf(1), 'stop');
  t.match(await driveScrub(world, 1), { isRunning: false, completedMs });
});

await t.test('13: the owner reads and compares all copies, repairs, and reports what nobody can decide', async (t) => {
  const { world, client } = await begin();
  await written(world, t, client);
  await pass(world, ALL_COLD_MS);
  const slots = [0, 1, 2].map((node) => slotOf(world, node, 12));
  world.media(0).flipBit(must(slots[0], 'a slot') + 3 * BLOCK_BYTES, 1);
  t.match(await scrubVolume(world, 0), { errors: 1, repaired: 1, unresolved: 0, bytes: 3 * EXTENT_BYTES });
  holds(t, world, 0, must(slots[0], 'a slot'), 12);
  await pass(world, ALL_COLD_MS);
  for (const [node, slot] of slots.entries()) world.media(node).flipBit(slot + (5 + node) * BLOCK_BYTES, 1);
  t.match(
    await scrubVolume(world, 0),
    { errors: 2, repaired: 2, unresolved: 0 },
    'each from those that are right there',
  );
  for (const [node, slot] of slots.entries()) holds(t, world, node, slot, 12);
  await pass(world, ALL_COLD_MS);
  world.crashNode(1, false);
  forge(world, 1, must(slots[1], 'a slot'));
  await restart(world, [1]);
  t.ok(await untilInSync(world, 0, 3));
  t.match(await scrubVolume(world, 0), { errors: 3, repaired: 2, unresolved: 1 });
  t.equal(events(world, / error copies of the 131072 bytes at offset 131072 differ in 1 block/).length, 1);
  t.equal(world.media(1).peek(must(slots[1], 'a slot'), 1)[0], FORGED, 'it is left as it is');
});

await t.test('13: verify goes on over damage, names it, and has it rewritten', async (t) => {
  const { world, client } = await begin();
  await written(world, t, client);
  await pass(world, ALL_COLD_MS);
  world.media(0).flipBit(slotOf(world, 0, 11), 7);
  world.media(2).fail('read', slotOf(world, 2, 13), BLOCK_BYTES);
  const { shard } = nodeOf(world, 0);
  const report = await world.wait(shard.verifyVolume(world.volumeId), LONG_MS);
  t.equal(report.extentsCompared, 3);
  t.same(report.differences, []);
  const byExtent = [...report.damaged].sort((a, b) => a.extent - b.extent);
  t.match(byExtent, [
    { segment: 0, extent: 0, offsetBytes: 0, driveId: world.driveOf(0), problem: 'checksum' },
    { segment: 0, extent: 2, driveId: world.driveOf(2), problem: 'unreadable' },
  ]);
  world.media(2).repair();
  await pass(world, 2_000);
  t.same((await world.wait(shard.verifyVolume(world.volumeId), LONG_MS)).damaged, []);
});

await t.test('13: a source that is damaged is passed by and repaired, when a copy is made equal', async (t) => {
  const { world, client } = await begin({ nodes: 4 }, 3);
  await written(world, t, client);
  await pass(world, ALL_COLD_MS);
  world.crashNode(2, false);
  await ok(t, world, client.write(EXTENT_BYTES, BLOCK_BYTES, 5));
  await pass(world, ALL_COLD_MS);
  const slot = slotOf(world, 0, 5);
  world.media(0).flipBit(slot + 9 * BLOCK_BYTES, 0);
  await restart(world, [2]);
  t.ok(await untilInSync(world, 3, 3));
  await pass(world, 2_000);
  t.equal(world.media(0).peek(slot + 9 * BLOCK_BYTES, 1)[0], 12, 'the source is right again');
  await identical(t, world, 3);
});

/** Block 1 of the second extent is written, so that its region is hot; block 20 rots on `node`, and everyone dies but their drives. */
async function hotRot(world: SimWorld, t: Test, client: VolumeClient, node: number): Promise<number> {
  await written(world, t, client);
  await pass(world, ALL_COLD_MS);
  const slot = slotOf(world, node, 12);
  world.media(node).flipBit(slot + 20 * BLOCK_BYTES, 2);
  await ok(t, world, client.write(EXTENT_BYTES + BLOCK_BYTES, BLOCK_BYTES, 5));
  return slot;
}

const ROTTEN = EXTENT_BYTES + 20 * BLOCK_BYTES;

await t.test(
  '10, 13: rot in a region that was hot in a crash does not win when the copies are made equal',
  async (t) => {
    const { world, client } = await begin();
    const slot = await hotRot(world, t, client, 0);
    for (const node of [0, 1, 2]) world.crashNode(node, false);
    await pass(world, LEASE_OVER_MS);
    await restart(world, [0, 1, 2]);
    // The rotten copy is local to the new owner: it would be the source.
    const next = await serve(world, 0);
    await ok(t, world, next.read(ROTTEN, BLOCK_BYTES), 12);
    await ok(t, world, next.read(EXTENT_BYTES + BLOCK_BYTES, BLOCK_BYTES), 5);
    await pass(world, ALL_COLD_MS);
    t.equal(world.media(0).peek(slot + 20 * BLOCK_BYTES, 1)[0], 12);
    await identical(t, world, 0);
    allKnown(t, world);
  },
);

await t.test('13: a copy whose agent was restarted is not believed what it forgot, and learns it again', async (t) => {
  const { world, client } = await begin({ nodes: 4 }, 3);
  const slot = await hotRot(world, t, client, 0);
  const { epoch } = await served(world, 3);
  world.crashNode(0, false);
  await restart(world, [0]);
  // No copy is local to the owner: the first one in line is asked.
  for (let count = 0; count < 8; count++) await ok(t, world, client.read(ROTTEN, BLOCK_BYTES), 12);
  t.equal((await served(world, 3)).epoch, epoch);
  await pass(world, ALL_COLD_MS);
  t.equal(world.media(0).peek(slot + 20 * BLOCK_BYTES, 1)[0], 12, 'and what it had was rewritten');
  await identical(t, world, 3);
  allKnown(t, world);
});

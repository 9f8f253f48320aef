/** What survives lost power: what was flushed, what left the activity log, and what a copy said when it joined. */
import t from 'tap';
import { must } from '../../daemon/base/assert.js';
import { limits } from '../../daemon/base/limits.js';
import { EXTENT_BYTES, REGION_BYTES } from '../../daemon/base/units.js';
import {
  ALL_COLD_MS,
  begin,
  blackout,
  BLOCK,
  identical,
  nodeOf,
  ok,
  pass,
  recordedInSync,
  recordedSegment,
  restart,
  serve,
  untilInSync,
} from './story.js';

const ALL_COPIES = [0, 1, 2];

await t.test('7: what has left the activity log survives lost power', async (t) => {
  const { world, client } = await begin();
  for (let extent = 0; extent < 4; extent++) await ok(t, world, client.write(extent * EXTENT_BYTES, EXTENT_BYTES, 1));
  await pass(world, ALL_COLD_MS);
  world.crashNode(2, true);
  await pass(world, 4_000);
  await restart(world, [2]);
  t.ok(await untilInSync(world, 0, 3), 'the copy is in sync again');
  await identical(t, world, 0);
});

await t.test('7: no region is cooled while an in-sync copy of it is missing', async (t) => {
  // The owner is elsewhere. One copy is out of reach, the other lost power: neither may be dropped for the other.
  const { world, client } = await begin({ nodes: 3, replicas: 2, minInSync: 1 }, 2);
  await ok(t, world, client.write(0, EXTENT_BYTES, 1));
  world.fabric.cut('node-0', 'node-2');
  world.fabric.cut('node-2', 'node-0');
  world.crashNode(1, true);
  await pass(world, 300);
  await restart(world, [1]);
  await pass(world, ALL_COLD_MS); // its log entry is all that tells what it may have lost
  world.fabric.healAll();
  await pass(world, 5_000);
  t.ok(await untilInSync(world, 2, 2), 'both copies are in sync again');
  await identical(t, world, 2);
  await ok(t, world, client.read(0, EXTENT_BYTES), 1);
});

for (const source of ALL_COPIES) {
  await t.test(`FLUSH reaches every copy: all lose power, and that of node ${source} decides`, async (t) => {
    const { world, client } = await begin();
    for (let extent = 0; extent < 4; extent++) await ok(t, world, client.write(extent * EXTENT_BYTES, EXTENT_BYTES, 1));
    await ok(t, world, client.flush());
    await blackout(world);
    const next = await serve(world, source); // the local copy is the one that the others are made equal to
    for (let extent = 0; extent < 4; extent++) await ok(t, world, next.read(extent * EXTENT_BYTES, EXTENT_BYTES), 1);
    await identical(t, world, source);
  });
}

await t.test('9: what a copy missed is durable on it before it is in sync again', async (t) => {
  const { world, client } = await begin();
  world.crashNode(2, false);
  for (let extent = 0; extent < 4; extent++) await ok(t, world, client.write(extent * EXTENT_BYTES, EXTENT_BYTES, 1));
  await ok(t, world, client.flush());
  await restart(world, [2]);
  t.ok(await untilInSync(world, 0, 3), 'the copy is in sync again');
  await blackout(world);
  const next = await serve(world, 2);
  for (let extent = 0; extent < 4; extent++) await ok(t, world, next.read(extent * EXTENT_BYTES, EXTENT_BYTES), 1);
  await identical(t, world, 2);
});

await t.test('FLUSH covers a copy whose join is being committed', async (t) => {
  const { world, client } = await begin();
  const owner = nodeOf(world, 0);
  await ok(t, world, client.write(0, EXTENT_BYTES, 1));
  world.crashNode(2, false);
  await pass(world, 3_000);
  await ok(t, world, client.write(0, BLOCK, 2));
  let isJoined = false;
  world.storeState.onChange(() => {
    if (isJoined || recordedSegment(world).replicas[2]?.inSync !== true) return;
    isJoined = true;
    owner.store.setReachable(false); // the owner does not know yet that the copy counts
  });
  await restart(world, [2]);
  await world.runUntil(() => isJoined, ALL_COLD_MS);
  await ok(t, world, client.write(0, EXTENT_BYTES, 3));
  await ok(t, world, client.flush());
  t.ok(isJoined, 'the record says that the copy is in sync');
  await blackout(world);
  const next = await serve(world, 2);
  await ok(t, world, next.read(0, EXTENT_BYTES), 3);
  await identical(t, world, 2);
});

await t.test(
  '13: an extent in a slot that was freed reads as zeros where it was not written, power lost or not',
  async (t) => {
    const { world, client } = await begin({ slotCount: 8 });
    const extents = 7; // the drive keeps one slot for itself
    for (let extent = 0; extent < extents; extent++)
      await ok(t, world, client.write(extent * EXTENT_BYTES, EXTENT_BYTES, 1));
    await ok(t, world, client.flush());
    await ok(t, world, client.trim(0, EXTENT_BYTES));
    const reused = extents * EXTENT_BYTES;
    await ok(t, world, client.write(reused, BLOCK, 2));
    await ok(t, world, client.read(reused + BLOCK, EXTENT_BYTES - BLOCK), 0);
    await blackout(world);
    const next = await serve(world, 0);
    await ok(t, world, next.read(reused + BLOCK, EXTENT_BYTES - BLOCK), 0);
    await identical(t, world, 0);
  },
);

await t.test('7: a region is not cooled under a write', async (t) => {
  const { world, client } = await begin();
  await ok(t, world, client.write(0, BLOCK, 1));
  const disk = must(world.media(1).user, 'the disk');
  const write = client.write(0, BLOCK, 2);
  await world.runUntil(() => disk.inFlight > 0, ALL_COLD_MS);
  const release = disk.hold();
  await pass(world, limits.coolAfterIdleMs + 3_000);
  release();
  await ok(t, world, write);
  t.equal(recordedInSync(world), 3, 'no copy was dropped');
  await pass(world, ALL_COLD_MS);
  await identical(t, world, 0);
});

await t.test('7: what a write needed of the metadata is durable when it is acknowledged', async (t) => {
  const { world, client } = await begin();
  for (let region = 0; region < 6; region++) {
    await ok(t, world, client.write(region * REGION_BYTES, BLOCK, 1)); // the first in its region
    world.crashNode(1, false);
    await pass(world, 100);
    await restart(world, [1]);
    t.ok(await untilInSync(world, 0, 3), 'the copy is in sync again');
  }
  await identical(t, world, 0);
});

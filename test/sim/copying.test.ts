/** Stories of copies that are made equal while clients write: what is copied neither loses nor resurrects a write. */
import t from 'tap';
import { must } from '../../daemon/base/assert.js';
import { limits } from '../../daemon/base/limits.js';
import { EXTENT_BYTES, REGION_BYTES } from '../../daemon/base/units.js';
import { STATUS } from '../../daemon/protocol/frame.js';
import type { SimDisk } from './world/sim-disk.js';
import type { SimWorld } from './world/sim-world.js';
import {
  ALL_COLD_MS,
  begin,
  BLOCK,
  identical,
  LONG_MS,
  nodeOf,
  ok,
  pass,
  restart,
  serve,
  states,
  untilInSync,
} from './story.js';

function diskOf(world: SimWorld, index: number): SimDisk {
  return must(world.media(index).user, 'the disk of a node that runs');
}

await t.test('3: a client write waits for the copy of its extent that is under way', async (t) => {
  // The owner has no copy, so that what its source answers can be held back on the link.
  const { world, client } = await begin({ nodes: 3, replicas: 2, minInSync: 1 }, 2);
  await ok(t, world, client.write(0, BLOCK, 1));
  await pass(world, ALL_COLD_MS);
  world.crashNode(1, false);
  await ok(t, world, client.write(0, BLOCK, 2));
  await pass(world, 1_000);
  await restart(world, [1]);
  const isCopying = await world.runUntil(() => diskOf(world, 0).inFlight > 0, LONG_MS);
  t.ok(isCopying, 'the source is being read');
  world.fabric.cut('node-0', 'node-2');
  await pass(world, 5);
  const write = client.write(0, BLOCK, 3);
  await pass(world, 50);
  world.fabric.healAll(); // the old data goes on to the target now
  await ok(t, world, write);
  t.ok(await untilInSync(world, 2, 2), 'the copy is in sync again');
  await identical(t, world, 2);
  await ok(t, world, client.read(0, BLOCK), 3);
});

await t.test('8: an answer to a request of an older generation does not count', async (t) => {
  const { world, client } = await begin();
  await ok(t, world, client.write(0, BLOCK, 1));
  await pass(world, ALL_COLD_MS);
  const slow = diskOf(world, 0);
  slow.stall();
  world.fabric.cut('node-0', 'node-2');
  const write = client.write(2 * REGION_BYTES, BLOCK, 2); // the first in its region: no log of the lost copy names it
  await pass(world, 50);
  world.crashNode(2, false);
  await pass(world, 3_000);
  slow.resume(); // the local copy answers the request of before the drop
  world.fabric.healAll();
  t.equal((await world.wait(write, LONG_MS)).status, STATUS.OK);
  await restart(world, [2]);
  t.ok(await untilInSync(world, 0, 3), 'the lost copy is in sync again');
  await identical(t, world, 0);
});

await t.test('9: what was freed is freed on a full copy before it gets what was written', async (t) => {
  const extents = limits.copyWindowExtents; // as many as are copied at once
  const { world, client } = await begin({ slotCounts: [64, extents + 1, 64] }); // the drive keeps one slot for itself
  for (let extent = 40; extent < 40 + extents; extent++)
    await ok(t, world, client.write(extent * EXTENT_BYTES, BLOCK, 1));
  await pass(world, ALL_COLD_MS);
  world.crashNode(1, false);
  for (let extent = 40; extent < 40 + extents; extent++)
    await ok(t, world, client.trim(extent * EXTENT_BYTES, EXTENT_BYTES));
  for (let extent = 0; extent < extents; extent++) await ok(t, world, client.write(extent * EXTENT_BYTES, BLOCK, 2));
  await restart(world, [1]);
  t.ok(await untilInSync(world, 0, 3), 'the full copy catches up');
  await identical(t, world, 0);
});

await t.test('8: what was trimmed is known until the last copy that was away has caught up', async (t) => {
  const { world, client } = await begin({ minInSync: 1 });
  for (const extent of [0, 1]) await ok(t, world, client.write(extent * EXTENT_BYTES, EXTENT_BYTES, 1));
  await pass(world, ALL_COLD_MS);
  for (const index of [1, 2]) world.crashNode(index, false);
  await ok(t, world, client.trim(0, EXTENT_BYTES));
  await restart(world, [1]);
  t.ok(await untilInSync(world, 0, 2), 'one copy is in sync again');
  await restart(world, [2]);
  t.ok(await untilInSync(world, 0, 3), 'and so is the other');
  await identical(t, world, 0);
});

await t.test('4: a copy that catches up is not read, not even by its own node', async (t) => {
  const { world, client } = await begin({ replicas: 2, minInSync: 1 });
  const last = limits.copyWindowExtents; // as many are copied at once: this one waits
  for (let extent = 0; extent <= last; extent++) await ok(t, world, client.write(extent * EXTENT_BYTES, BLOCK, 1));
  await pass(world, ALL_COLD_MS);
  world.crashNode(1, false);
  for (let extent = 0; extent <= last; extent++) await ok(t, world, client.write(extent * EXTENT_BYTES, BLOCK, 2));
  await world.wait(nodeOf(world, 0).shard.releaseVolume(world.volumeId), LONG_MS);
  await restart(world, [1]);
  const next = await serve(world, 1);
  t.ok(await world.runUntil(() => diskOf(world, 0).inFlight === limits.copyWindowExtents, LONG_MS), 'copies are made');
  const release = diskOf(world, 0).hold();
  t.same(await states(world, 1), ['in-sync', 'syncing']);
  await ok(t, world, next.read(last * EXTENT_BYTES, BLOCK), 2);
  release();
  t.ok(await untilInSync(world, 1, 2), 'both copies are in sync');
  await identical(t, world, 1);
});

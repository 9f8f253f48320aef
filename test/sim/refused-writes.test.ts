/** Stories of writes that end with an error: what the copies and the client then have. */
import t from 'tap';
import { EXTENT_BYTES } from '../../daemon/base/units.js';
import { STATUS } from '../../daemon/protocol/frame.js';
import { begin, BLOCK, identical, LONG_MS, ok, pass, restart, untilInSync, within } from './story.js';

const SMALL_SLOTS = 8;
/** The drive keeps one slot for itself. */
const SMALL_EXTENTS = SMALL_SLOTS - 1;

await t.test('one copy has no slot left: the others give back what they took', async (t) => {
  const { world, client } = await begin({ slotCounts: [16, SMALL_SLOTS, 16] });
  for (let extent = 0; extent < SMALL_EXTENTS; extent++)
    await ok(t, world, client.write(extent * EXTENT_BYTES, BLOCK, 1));
  const refused = await world.wait(client.write(SMALL_EXTENTS * EXTENT_BYTES, BLOCK, 2), LONG_MS);
  t.equal(refused.status, STATUS.NO_SPACE);
  t.ok(await untilInSync(world, 0, 3), 'no copy was dropped for it');
  await ok(t, world, client.read(SMALL_EXTENTS * EXTENT_BYTES, BLOCK), 0);
  await identical(t, world, 0);
});

await t.test('one copy finds no space for data that it has a slot for: all keep what was there', async (t) => {
  const { world, client } = await begin();
  await ok(t, world, client.write(0, EXTENT_BYTES, 1));
  world.media(1).isFull = true;
  const refused = await world.wait(client.write(0, BLOCK, 2), LONG_MS);
  t.equal(refused.status, STATUS.NO_SPACE);
  t.ok(await untilInSync(world, 0, 3), 'no copy was dropped for it');
  await ok(t, world, client.read(0, EXTENT_BYTES), 1);
  await identical(t, world, 0);
});

await t.test('a copy that took a write before it refused the same write gives it back', async (t) => {
  const { world, client } = await begin();
  await ok(t, world, client.write(0, EXTENT_BYTES, 1));
  world.media(1).isFull = true;
  world.fabric.cut('node-0', 'node-2');
  const refused = client.write(0, BLOCK, 2); // node 0 takes it, node 1 refuses, node 2 never hears of it
  await pass(world, 100);
  world.media(1).isFull = false;
  world.media(0).isFull = true;
  await pass(world, 8_000); // node 2 is dropped, and the write issued again
  world.media(0).isFull = false;
  t.equal((await world.wait(refused, LONG_MS)).status, STATUS.NO_SPACE);
  world.fabric.healAll();
  t.ok(await untilInSync(world, 0, 3), 'all are in sync');
  await ok(t, world, client.read(0, EXTENT_BYTES), 1);
  await identical(t, world, 0);
});

await t.test('12: where the volume says so, too few copies fail writes instead of suspending them', async (t) => {
  const { world, client } = await begin({ failWhenDegraded: true });
  await ok(t, world, client.write(0, BLOCK, 1));
  for (const index of [1, 2]) world.crashNode(index, false);
  const underWay = await within(world, client.write(0, BLOCK, 2), LONG_MS);
  t.equal(underWay?.status, STATUS.IO_ERROR, 'a write that the copies were lost under');
  const seen = (await world.wait(client.read(0, BLOCK), LONG_MS)).bytes[0] ?? 0;
  t.ok([1, 2].includes(seen), 'reads go on: old or new');
  const after = await within(world, client.write(0, BLOCK, 3), 1_000);
  t.equal(after?.status, STATUS.IO_ERROR, 'a write that comes later');
  await ok(t, world, client.read(0, BLOCK), seen);
  await restart(world, [1]);
  t.ok(await untilInSync(world, 0, 2), 'a copy is in sync again');
  await ok(t, world, client.write(BLOCK, BLOCK, 4));
  await ok(t, world, client.read(0, BLOCK), seen);
  await restart(world, [2]);
  t.ok(await untilInSync(world, 0, 3), 'all are');
  await identical(t, world, 0);
});

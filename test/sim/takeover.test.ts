/** Stories that lost or froze something once: joins, takeovers, restarts and flushes at the wrong moment. */
import t from 'tap';
import { EXTENT_BYTES, REGION_BYTES } from '../../daemon/base/units.js';
import { STATUS } from '../../daemon/protocol/frame.js';
import {
  begin,
  blackout,
  BLOCK,
  identical,
  LEASE_OVER_MS,
  LONG_MS,
  nodeOf,
  ok,
  pass,
  recordedSegment,
  serve,
  untilInSync,
  within,
} from './story.js';

await t.test(
  '1, 5: a copy that is lost while its join is being committed misses nothing that is acknowledged',
  async (t) => {
    const { world, client } = await begin();
    const owner = nodeOf(world, 0);
    const isRecorded = (): boolean => recordedSegment(world).replicas[2]?.inSync === true;
    world.crashNode(2, false);
    await pass(world, 3_000);
    await ok(t, world, client.write(0, BLOCK, 1));
    let isJoining = false;
    world.storeState.onChange(() => {
      if (isJoining || !isRecorded()) return;
      isJoining = true;
      owner.store.setReachable(false); // the answer is lost
    });
    await world.wait(world.startNode(2), LONG_MS);
    await world.runUntil(() => isJoining, LONG_MS);
    const late = client.write(0, BLOCK, 2);
    nodeOf(world, 2).network.resetAll(); // it never hears of the write
    await pass(world, 300);
    owner.store.setReachable(true);
    t.equal((await world.wait(late, LONG_MS)).status, STATUS.OK);
    await pass(world, 3_000);
    await identical(t, world, 0);
  },
);

for (const alone of [false, true]) {
  const story = alone ? 'on the only copy that is left' : 'on the copy that the others are made equal to';
  await t.test(`8, 10: a write that its owner left ${story} reaches those that come back`, async (t) => {
    const { world, client } = await begin();
    await ok(t, world, client.write(0, BLOCK, 1));
    world.fabric.cut('node-0', 'node-2');
    if (alone) world.fabric.cut('node-0', 'node-1');
    void client.write(2 * REGION_BYTES, BLOCK, 2); // the first write in its region, never acknowledged
    await pass(world, 50);
    for (const index of alone ? [0, 1, 2] : [0, 2]) world.crashNode(index, false);
    world.fabric.healAll();
    await pass(world, LEASE_OVER_MS);
    await world.wait(world.startNode(0), LONG_MS);
    const next = await serve(world, 0);
    t.equal((await world.wait(next.read(2 * REGION_BYTES, BLOCK), LONG_MS)).bytes[0], 2);
    for (const index of alone ? [1, 2] : [2]) await world.wait(world.startNode(index), LONG_MS);
    await pass(world, 10_000);
    await identical(t, world, 0);
  });
}

await t.test('12: all copies restart at once, the owner is elsewhere: the volume goes on', async (t) => {
  const { world, client } = await begin({ nodes: 4 }, 3);
  await ok(t, world, client.write(0, BLOCK, 1));
  for (const index of [0, 1, 2]) world.crashNode(index, false);
  await pass(world, 100);
  for (const index of [0, 1, 2]) await world.wait(world.startNode(index), LONG_MS);
  const outcome = await within(world, client.read(0, BLOCK), LONG_MS);
  t.equal(outcome?.status, STATUS.OK);
  t.equal(outcome?.bytes[0], 1);
});

await t.test('a copy that lost power is not trusted because it connects a second time', async (t) => {
  const { world, client } = await begin({ nodes: 4, replicas: 2, minInSync: 1 }, 3);
  await ok(t, world, client.write(0, EXTENT_BYTES, 1));
  await ok(t, world, client.flush());
  await ok(t, world, client.write(0, EXTENT_BYTES, 2));
  world.fabric.cut('node-3', 'node-1');
  for (const index of [0, 1]) nodeOf(world, index).network.resetAll();
  await pass(world, 5);
  world.fabric.cut('node-1', 'node-3');
  world.crashNode(0, true);
  await pass(world, 300);
  await world.wait(world.startNode(0), LONG_MS);
  await pass(world, 4_000);
  nodeOf(world, 0).network.resetAll();
  const early = await within(world, client.read(0, EXTENT_BYTES), 5_000);
  t.ok(early === null || early.bytes.every((byte) => byte === 2), 'nothing older is read');
});

await t.test('FLUSH is not acknowledged when the last copy could not be flushed', async (t) => {
  const { world, client } = await begin({ nodes: 2, replicas: 1, minInSync: 1 }, 1);
  await ok(t, world, client.write(0, BLOCK, 1));
  world.media(0).fail('flush', 0, world.media(0).sizeBytes);
  t.not((await within(world, client.flush(), 10_000))?.status, STATUS.OK);
});

await t.test('FLUSH is not acknowledged when the only copy lost power before it', async (t) => {
  const { world, client } = await begin({ nodes: 2, replicas: 1, minInSync: 1 }, 1);
  await ok(t, world, client.write(0, BLOCK, 1));
  world.crashNode(0, true);
  await pass(world, 300);
  await world.wait(world.startNode(0), LONG_MS);
  t.not((await within(world, client.flush(), 10_000))?.status, STATUS.OK);
});

await t.test('10: a region that cannot be made equal on a full drive is served without it', async (t) => {
  const { world, client } = await begin({ slotCounts: [16, 8, 16] }, 0);
  for (let extent = 0; extent < 7; extent++) await ok(t, world, client.write(extent * EXTENT_BYTES, BLOCK, 1));
  world.fabric.cut('node-0', 'node-1');
  void client.write(8 * EXTENT_BYTES, BLOCK, 2);
  await pass(world, 50);
  world.crashNode(0, false);
  world.fabric.healAll();
  await pass(world, LEASE_OVER_MS);
  await world.wait(world.startNode(0), LONG_MS);
  const next = await serve(world, 0);
  t.equal((await within(world, next.read(0, BLOCK), LONG_MS))?.bytes[0], 1);
});

await t.test('10: so it is when all copies have lost power, and none is better than another', async (t) => {
  const { world, client } = await begin({ slotCounts: [16, 8, 16] });
  for (let extent = 0; extent < 7; extent++) await ok(t, world, client.write(extent * EXTENT_BYTES, BLOCK, 1));
  await ok(t, world, client.flush());
  world.fabric.cut('node-0', 'node-1');
  void client.write(8 * EXTENT_BYTES, BLOCK, 2);
  await pass(world, 50);
  world.fabric.healAll();
  await blackout(world);
  const next = await serve(world, 0);
  const read = await within(world, next.read(0, BLOCK), LONG_MS);
  t.equal(read?.bytes[0], 1, 'what was flushed is served');
  const trim = await within(world, next.trim(8 * EXTENT_BYTES, EXTENT_BYTES), LONG_MS);
  t.equal(trim?.status, STATUS.OK, 'space can be given back');
  t.ok(await untilInSync(world, 0, 3), 'then the full copy catches up');
  await identical(t, world, 0);
});

await t.test('a copy is not dropped for one that lost power a moment ago and still looks connected', async (t) => {
  const { world, client } = await begin({ replicas: 2, minInSync: 1 }, 2);
  await ok(t, world, client.write(0, BLOCK, 1));
  world.crashNode(1, true); // silently: the owner does not know yet
  world.crashNode(0, false);
  await pass(world, 5_000);
  await world.wait(world.startNode(1), LONG_MS);
  await pass(world, 2_000);
  await world.wait(world.startNode(0), LONG_MS);
  const read = await within(world, client.read(0, BLOCK), LONG_MS);
  t.ok(read !== null && read.status === STATUS.OK, 'it is served when both are back');
  t.ok(
    read?.bytes.every((byte) => byte === 1),
    'nothing acknowledged is lost',
  );
});

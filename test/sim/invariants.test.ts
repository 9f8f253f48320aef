/** One story per invariant, in the simulated world: each fails when the mechanism behind it is taken away. */
import t from 'tap';
import { EXTENT_BYTES, REGION_BYTES } from '../../daemon/base/units.js';
import { STATUS } from '../../daemon/protocol/frame.js';
import {
  ALL_COLD_MS,
  begin,
  BLOCK,
  identical,
  LEASE_OVER_MS,
  LONG_MS,
  nodeOf,
  ok,
  pass,
  recordedInSync,
  serve,
  served,
  untilInSync,
} from './story.js';

await t.test('1, 5: a lost copy is dropped in the cluster store before what it missed is acknowledged', async (t) => {
  const { world, client } = await begin();
  await ok(t, world, client.write(0, BLOCK, 1));
  const owner = nodeOf(world, 0);
  owner.store.setReachable(false);
  world.crashNode(2, false);
  let acknowledged = false;
  const write = client.write(0, BLOCK, 2).then((outcome) => {
    acknowledged = true;
    t.equal(recordedInSync(world), 2, 'the drop was committed before the acknowledgement');
    return outcome;
  });
  await world.runUntil(() => acknowledged, 2_000);
  t.notOk(acknowledged, 'nothing is acknowledged while the drop cannot be committed');
  t.equal(recordedInSync(world), 3);
  owner.store.setReachable(true);
  await ok(t, world, write);
  await ok(t, world, client.read(0, BLOCK), 2);
});

await t.test(
  '2, 11: an owner that was frozen past its lease serves nothing, and its late writes reach nobody',
  async (t) => {
    const { world, client } = await begin();
    await ok(t, world, client.write(0, BLOCK, 1));
    const old = nodeOf(world, 0);
    old.freeze();
    await t.rejects(
      world.wait(nodeOf(world, 1).takeVolume(world.volumeId), LONG_MS),
      { code: 'CONFLICT' },
      'not before the lease has ended',
    );
    await pass(world, LEASE_OVER_MS);
    const next = await serve(world, 1);
    await ok(t, world, next.write(0, BLOCK, 2));
    old.thaw();
    const late = await world.wait(client.write(0, BLOCK, 3), LONG_MS);
    t.equal(late.status, STATUS.FENCED, 'the old owner refuses writes');
    t.equal(
      (await world.wait(client.read(0, BLOCK), LONG_MS)).status,
      STATUS.FENCED,
      'and reads, its own local copy included',
    );
    await ok(t, world, next.read(0, BLOCK), 2);
    t.ok(await untilInSync(world, 1, 3), 'the old owner is a replica again');
    await ok(t, world, next.read(0, BLOCK), 2);
    await identical(t, world, 1);
  },
);

await t.test('7, 10: what the old owner left half written is made equal before it is served', async (t) => {
  const { world, client } = await begin();
  await ok(t, world, client.write(0, EXTENT_BYTES, 1));
  world.fabric.cut('node-0', 'node-2'); // the write reaches nodes 0 and 1 only, and is never acknowledged
  void client.write(0, EXTENT_BYTES, 2);
  await pass(world, 20);
  world.crashNode(0, false);
  world.fabric.healAll();
  await pass(world, LEASE_OVER_MS);
  const next = await serve(world, 2);
  const first = await world.wait(next.read(0, EXTENT_BYTES), LONG_MS);
  t.equal(first.status, STATUS.OK);
  t.ok([1, 2].includes(first.bytes[0] ?? 0), 'old or new');
  await ok(t, world, next.read(0, EXTENT_BYTES), first.bytes[0] ?? 0);
  await identical(t, world, 2);
});

await t.test('8, 9: a copy that was away gets back what changed, what was trimmed, and little else', async (t) => {
  const { world, client } = await begin();
  for (let extent = 0; extent < 64; extent++) await ok(t, world, client.write(extent * EXTENT_BYTES, EXTENT_BYTES, 1));
  await pass(world, ALL_COLD_MS); // everything cools: no region is left in any log
  world.crashNode(2, false);
  await ok(t, world, client.write(40 * EXTENT_BYTES, BLOCK, 2));
  await ok(t, world, client.trim(41 * EXTENT_BYTES, EXTENT_BYTES));
  await world.wait(world.startNode(2), LONG_MS);
  t.ok(await untilInSync(world, 0, 3), 'it is in sync again by itself');
  t.equal((await served(world, 0)).resyncBytesDone, 2 * EXTENT_BYTES, 'two extents were copied');
  await identical(t, world, 0);
});

await t.test('9: everything in the regions of its own log comes back too', async (t) => {
  const { world, client } = await begin();
  await ok(t, world, client.write(0, EXTENT_BYTES, 1));
  world.crashNode(2, false); // region 0 is still hot there
  await ok(t, world, client.write(8 * EXTENT_BYTES, BLOCK, 2));
  await world.wait(world.startNode(2), LONG_MS);
  t.ok(await untilInSync(world, 0, 3));
  t.equal((await served(world, 0)).resyncBytesDone, REGION_BYTES, 'the whole region was copied');
  await identical(t, world, 0);
});

await t.test('12: with too few copies a write waits, and is acknowledged when a copy is back', async (t) => {
  const { world, client } = await begin();
  await ok(t, world, client.write(0, BLOCK, 1));
  world.crashNode(1, false);
  world.crashNode(2, false);
  let ended = false;
  const write = client.write(0, BLOCK, 2).finally(() => (ended = true));
  await world.runUntil(() => ended, 10_000);
  t.notOk(ended, 'one copy of three is not enough');
  t.equal((await served(world, 0)).state, 'suspended');
  await world.wait(world.startNode(1), LONG_MS);
  await ok(t, world, write);
  await ok(t, world, client.read(0, BLOCK), 2);
});

await t.test('13: a damaged block is read from another copy and rewritten', async (t) => {
  const { world, client } = await begin();
  await ok(t, world, client.write(0, EXTENT_BYTES, 7));
  await pass(world, ALL_COLD_MS);
  world.damage(0);
  await ok(t, world, client.read(0, EXTENT_BYTES), 7);
  await pass(world, 1_000);
  t.match(world.trace.join('\n'), /rewritten from another copy/, 'the operator is told');
  await identical(t, world, 0);
});

await t.test('a full drive: the write fails, no copy keeps it, nothing else is lost', async (t) => {
  const { world, client } = await begin({ slotCount: 8 });
  for (let extent = 0; extent < 7; extent++) await ok(t, world, client.write(extent * EXTENT_BYTES, BLOCK, 1));
  const refused = await world.wait(client.write(7 * EXTENT_BYTES, BLOCK, 1), LONG_MS);
  t.equal(refused.status, STATUS.NO_SPACE);
  await ok(t, world, client.read(7 * EXTENT_BYTES, BLOCK), 0);
  await ok(t, world, client.read(0, BLOCK), 1);
  await ok(t, world, client.trim(0, EXTENT_BYTES));
  await ok(t, world, client.write(7 * EXTENT_BYTES, BLOCK, 2));
  await ok(t, world, client.flush());
  await identical(t, world, 0);
});

await t.test('a clean release leaves nothing to reconcile', async (t) => {
  const { world, client } = await begin();
  await ok(t, world, client.write(0, BLOCK, 1));
  await world.wait(nodeOf(world, 0).shard.releaseVolume(world.volumeId), LONG_MS);
  const next = await serve(world, 1);
  t.equal((await served(world, 1)).resyncBytesTotal, 0);
  await ok(t, world, next.read(0, BLOCK), 1);
});

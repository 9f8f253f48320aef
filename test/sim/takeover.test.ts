/** Stories that lost or froze something once: joins, takeovers, restarts and flushes at the wrong moment. */
import t from 'tap';
import { must } from '../../daemon/base/assert.js';
import { BraidError } from '../../daemon/base/errors.js';
import { EXTENT_BYTES, MIB, REGION_BYTES } from '../../daemon/base/units.js';
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
  restart,
  serve,
  slotOf,
  untilInSync,
  within,
} from './story.js';
import type { SimWorld } from './world/sim-world.js';

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

/** Node 2's copy has been made equal and flushed, and its join is under way, until `commit` lets it happen. */
async function joinDelayed() {
  const { world, client } = await begin({ nodes: 4, minInSync: 1, volumeBytes: 16 * MIB }, 3);
  const { store, shard } = must(world.nodes[3], 'the owner');
  await ok(t, world, client.write(0, BLOCK, 1));
  world.crashNode(2, false);
  await pass(world, 3_000);
  await ok(t, world, client.write(0, BLOCK, 2));
  const txn = store.txn.bind(store);
  store.txn = () => Promise.reject(new BraidError('UNAVAILABLE', 'no changes for now'));
  const commit = (): void => {
    store.txn = txn;
  };
  await world.wait(world.startNode(2), LONG_MS);
  const isWaiting = (): boolean => world.trace.some((line) => line.includes('the cluster store does not answer'));
  t.ok(await world.runUntil(isWaiting, LONG_MS), 'the join is under way');
  return { world, client, shard, commit };
}

await t.test('FLUSH covers a copy that joins after it', async (t) => {
  const { world, client, shard, commit } = await joinDelayed();
  t.equal((await world.wait(client.write(0, EXTENT_BYTES, 3), LONG_MS)).status, STATUS.OK);
  t.equal((await world.wait(client.flush(), LONG_MS)).status, STATUS.OK);
  commit();
  await pass(world, 300);
  for (const index of [0, 1]) world.crashNode(index, false); // the copy that joined is the only one
  await pass(world, 2_500);
  world.crashNode(2, true);
  await pass(world, 3_000);
  await world.wait(world.startNode(2), LONG_MS);
  await world.wait(shard.releaseVolume(world.volumeId), LONG_MS);
  const next = await serve(world, 3);
  const read = await within(world, next.read(0, EXTENT_BYTES), LONG_MS);
  t.equal(read?.status, STATUS.OK);
  t.ok(
    read?.bytes.every((byte) => byte === 3),
    'nothing that was flushed is lost',
  );
});

await t.test('a copy that lost power while its join was being committed is not trusted', async (t) => {
  const { world, client, commit } = await joinDelayed();
  t.equal((await world.wait(client.write(0, EXTENT_BYTES, 3), LONG_MS)).status, STATUS.OK);
  world.crashNode(2, true);
  await world.wait(world.startNode(2), LONG_MS);
  await pass(world, 3_000); // its session is open again
  commit();
  await pass(world, 150);
  world.fabric.cut('node-3', 'node-0');
  world.fabric.cut('node-3', 'node-1');
  for (const index of [0, 1]) must(world.nodes[index], 'a copy').network.resetAll();
  const early = await within(world, client.read(0, EXTENT_BYTES), 1_000);
  t.ok(early === null || early.bytes.every((byte) => byte === 3), 'nothing older is read');
  world.fabric.healAll();
  await pass(world, 10_000);
  await identical(t, world, 3);
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

/** Reads of the slot that holds `fill` in its first byte fail on a node's drive from now on. */
function failReads(world: SimWorld, index: number, fill: number): void {
  world.media(index).fail('read', slotOf(world, index, fill), EXTENT_BYTES);
}

await t.test('10: a region that cannot be made equal for now keeps no other one waiting', async (t) => {
  const { world, client } = await begin({ replicas: 2, minInSync: 1 }, 2);
  world.crashNode(1, false);
  for (const region of [0, 1]) await ok(t, world, client.write(region * REGION_BYTES, BLOCK, 7 + region));
  world.crashNode(2, false);
  failReads(world, 0, 7);
  await pass(world, 6_000);
  await world.wait(world.startNode(2), LONG_MS);
  const next = await serve(world, 2);
  const first = next.read(0, BLOCK); // wanted again and again
  await pass(world, 5_000);
  const [volume] = await must(world.nodes[2], 'the owner').shard.servedVolumes();
  t.equal(volume?.resyncBytesDone, REGION_BYTES, 'the other one is done');
  t.equal((await within(world, next.read(REGION_BYTES, BLOCK), 100))?.bytes[0], 8);
  t.equal(await within(world, first, 1_000), null, 'this one waits');
  world.media(0).repair();
  t.equal((await within(world, first, 10_000))?.bytes[0], 7);
});

await t.test('10: a copy that cannot be read is not what the others wait for', async (t) => {
  const { world, client } = await begin({ nodes: 4 }, 3);
  await ok(t, world, client.write(0, BLOCK, 7));
  world.crashNode(3, false);
  failReads(world, 0, 7);
  await pass(world, 6_000);
  await world.wait(world.startNode(3), LONG_MS);
  const next = await serve(world, 3);
  t.equal((await within(world, next.read(0, BLOCK), 10_000))?.bytes[0], 7);
});

await t.test('a volume is verified once at a time', async (t) => {
  const { world, client } = await begin({}, 0);
  await ok(t, world, client.write(0, BLOCK, 1));
  const { shard } = must(world.nodes[0], 'the owner');
  const running = shard.verifyVolume(world.volumeId);
  await t.rejects(shard.verifyVolume(world.volumeId), { code: 'LIMIT_EXCEEDED' });
  t.equal((await world.wait(running, LONG_MS)).extentsCompared, 1);
  await identical(t, world, 0);
});

await t.test('a copy that was made equal after lost power is as good as any when another loses power', async (t) => {
  const { world, client } = await begin({ replicas: 2, minInSync: 1 }, 2);
  await ok(t, world, client.write(0, EXTENT_BYTES, 1));
  await ok(t, world, client.flush());
  world.crashNode(1, true);
  await pass(world, 4_000);
  await restart(world, [1]);
  t.ok(await untilInSync(world, 2, 2), 'resynced');
  await ok(t, world, client.write(0, EXTENT_BYTES, 2)); // on both; the region has been hot all the time
  world.crashNode(0, true); // the only power loss since; node 1 has everything
  world.crashNode(1, false);
  world.crashNode(2, false);
  await pass(world, LEASE_OVER_MS);
  await restart(world, [0, 1, 2]);
  const next = await serve(world, 2);
  const read = await within(world, next.read(0, EXTENT_BYTES), LONG_MS);
  t.ok(nodeOf(world, 1).alive && read?.bytes.every((byte) => byte === 2), 'nothing acknowledged is lost');
});

await t.test(
  '12: a volume is not opened on a copy that lost power while one that has everything may come back',
  async (t) => {
    const { world, client } = await begin({ replicas: 2, minInSync: 1 }, 2);
    await ok(t, world, client.write(0, EXTENT_BYTES, 1));
    await ok(t, world, client.flush());
    await ok(t, world, client.write(0, EXTENT_BYTES, 2));
    world.crashNode(0, true);
    for (const index of [1, 2]) world.crashNode(index, false);
    await pass(world, LEASE_OVER_MS);
    await restart(world, [0, 2]);
    const early = nodeOf(world, 2).takeVolume(world.volumeId);
    await t.rejects(world.wait(early, LONG_MS), { code: 'UNAVAILABLE' });
    await restart(world, [1]);
    const next = await serve(world, 2);
    await ok(t, world, next.read(0, EXTENT_BYTES), 2);
    await identical(t, world, 2);
  },
);

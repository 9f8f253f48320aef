/** Copies that move from one drive to another while clients go on, and everything that may come between. */
import t, { type Test } from 'tap';
import { EXTENT_BYTES, MIB } from '../../daemon/base/units.js';
import { STATUS } from '../../daemon/protocol/frame.js';
import {
  begin,
  BLOCK,
  holders,
  identical,
  LEASE_OVER_MS,
  leftCopies,
  LONG_MS,
  moveReplicas,
  nodeOf,
  ok,
  pass,
  recordedInSync,
  recordedSegment,
  untilRid,
  serve,
  served,
  untilInSync,
  untilMoved,
  type Story,
} from './story.js';

const EXTENTS = 24;

/** Four nodes, copies on the first three, and something written. */
async function beginWithData(t: Test, options: Parameters<typeof begin>[0] = {}): Promise<Story> {
  const story = await begin({ nodes: 4, ...options });
  for (let extent = 0; extent < EXTENTS; extent++)
    await ok(t, story.world, story.client.write(extent * EXTENT_BYTES, EXTENT_BYTES, 1 + extent));
  return story;
}

/** A copy takes some seconds. */
function slowly({ world }: Story, owner = 0): void {
  nodeOf(world, owner).shard.setCopyBandwidth(MIB);
}

async function reads({ world, client }: Story, t: Test): Promise<void> {
  for (let extent = 0; extent < EXTENTS; extent++)
    await ok(t, world, client.read(extent * EXTENT_BYTES, EXTENT_BYTES), 1 + extent);
}

await t.test(
  'a copy moves to a node that held nothing; the old one goes only then, and its space is free',
  async (t) => {
    const story = await beginWithData(t);
    const { world, client } = story;
    slowly(story);
    t.equal(await moveReplicas(world, 0, 2, 3), 2, 'both segments');
    t.equal(await moveReplicas(world, 0, 2, 3), 0, 'asked again: nothing more to do');
    await pass(world, 1_500);
    t.same(holders(world), [0, 1, 2, 3], 'both are there');
    t.equal(recordedInSync(world), 3);
    t.match((await served(world, 0)).copies, [
      { kind: 'rebuild', driveId: world.driveOf(3), bytesTotal: EXTENTS * EXTENT_BYTES },
    ]);
    await ok(t, world, client.write(0, BLOCK, 99));
    await ok(t, world, client.write(23 * EXTENT_BYTES, BLOCK, 98));
    await ok(t, world, client.trim(22 * EXTENT_BYTES, EXTENT_BYTES));
    t.ok(await untilMoved(world));
    t.same(holders(world), [0, 1, 3]);
    t.equal(recordedInSync(world), 3);
    t.equal((await served(world, 0)).resyncBytesDone, EXTENTS * EXTENT_BYTES, 'each extent was copied once');
    t.ok(await untilRid(world));
    const { drives } = await nodeOf(world, 2).shard.stats();
    t.ok(await world.runUntil(() => drives.length === 1, 1_000));
    await pass(world, 1_000);
    t.equal(
      (await nodeOf(world, 2).shard.stats()).drives[0]?.slotsFree,
      world.options.slotCount - 1,
      'all slots are free',
    );
    await identical(t, world, 0);
    // Only the new copy and one other are left to read from.
    world.crashNode(0, false);
    await pass(world, LEASE_OVER_MS);
    const next = await serve(world, 3);
    await ok(t, world, next.read(0, BLOCK), 99);
    await ok(t, world, next.read(23 * EXTENT_BYTES, BLOCK), 98);
    await ok(t, world, next.read(22 * EXTENT_BYTES, EXTENT_BYTES), 0);
    await ok(t, world, next.read(5 * EXTENT_BYTES, EXTENT_BYTES), 6);
  },
);

await t.test('and back again, once what it left behind is removed', async (t) => {
  const story = await beginWithData(t);
  const { world, client } = story;
  nodeOf(world, 2).store.setReachable(false); // its control plane hears nothing
  await moveReplicas(world, 0, 2, 3);
  t.ok(await untilMoved(world));
  await t.rejects(moveReplicas(world, 0, 3, 2), { code: 'CONFLICT', message: /earlier copy.*try again/ });
  nodeOf(world, 2).store.setReachable(true);
  t.ok(await untilRid(world));
  await pass(world, LEASE_OVER_MS);
  await ok(t, world, client.write(0, EXTENT_BYTES, 50));
  await moveReplicas(world, 0, 3, 2);
  t.ok(await untilMoved(world));
  t.same(holders(world), [0, 1, 2]);
  await ok(t, world, client.read(0, EXTENT_BYTES), 50);
  await identical(t, world, 0);
});

await t.test('a lost copy is made anew elsewhere; what it held is removed when its node is back', async (t) => {
  const story = await beginWithData(t);
  const { world, client } = story;
  world.crashNode(2, false);
  await ok(t, world, client.write(0, EXTENT_BYTES, 77));
  await moveReplicas(world, 0, 2, 3);
  t.ok(await untilMoved(world));
  t.same(holders(world), [0, 1, 3]);
  t.equal(recordedInSync(world), 3);
  await pass(world, 2_000);
  t.equal(leftCopies(world).length, 2, 'its node is away');
  await world.wait(world.startNode(2), LONG_MS);
  t.ok(await untilRid(world));
  await pass(world, 1_000);
  t.equal((await nodeOf(world, 2).shard.stats()).drives[0]?.slotsFree, world.options.slotCount - 1);
  await ok(t, world, client.read(0, EXTENT_BYTES), 77);
  await identical(t, world, 0);
});

await t.test('the next owner goes on where the last one died', async (t) => {
  const story = await beginWithData(t);
  const { world } = story;
  slowly(story);
  await moveReplicas(world, 0, 2, 3);
  await pass(world, 2_000);
  world.crashNode(0, false);
  await pass(world, LEASE_OVER_MS);
  const client = await serve(world, 1);
  await world.wait(world.startNode(0), LONG_MS);
  t.ok(await untilMoved(world));
  t.ok(await untilInSync(world, 1, 3));
  t.same(holders(world), [0, 1, 3]);
  await reads({ world, client }, t);
  await identical(t, world, 1);
});

await t.test('an owner that dies in the very moment of the change leaves the one or the other', async (t) => {
  for (const afterMs of [0, 1, 2, 3, 5, 8]) {
    const story = await beginWithData(t);
    const { world, client } = story;
    await moveReplicas(world, 0, 2, 3);
    t.ok(await world.runUntil(() => leftCopies(world).length > 0, LONG_MS));
    void client.write(0, BLOCK, 90);
    await pass(world, afterMs);
    world.crashNode(0, false);
    await pass(world, LEASE_OVER_MS);
    const next = await serve(world, 3);
    await world.wait(world.startNode(0), LONG_MS);
    t.ok(await untilMoved(world));
    t.ok(await untilInSync(world, 3, 3));
    await ok(t, world, next.read(BLOCK, EXTENT_BYTES - BLOCK), 1);
    await identical(t, world, 3);
  }
});

await t.test('cancelled, the old copies stay and the new ones are removed', async (t) => {
  const story = await beginWithData(t);
  const { world, client } = story;
  slowly(story);
  await moveReplicas(world, 0, 2, 3);
  await pass(world, 2_000);
  const { shard } = nodeOf(world, 0);
  t.equal(await world.wait(shard.cancelMoves(world.volumeId, world.driveOf(1)), LONG_MS), 0, 'to another drive');
  t.equal(await world.wait(shard.cancelMoves(world.volumeId, null), LONG_MS), 2);
  t.same(holders(world), [0, 1, 2]);
  await ok(t, world, client.write(0, EXTENT_BYTES, 55));
  await pass(world, 2_000);
  t.same((await served(world, 0)).copies, []);
  t.ok(await untilRid(world));
  await identical(t, world, 0);
});

await t.test('a new drive that dies, or is full, gives the move up; the old copies stay', async (t) => {
  const story = await beginWithData(t);
  const { world, client } = story;
  slowly(story);
  await moveReplicas(world, 0, 2, 3);
  await pass(world, 2_000);
  world.crashNode(3, false);
  await ok(t, world, client.write(0, EXTENT_BYTES, 56));
  t.ok(await untilMoved(world));
  t.same(holders(world), [0, 1, 2]);
  await pass(world, 100);
  t.match(world.trace.join('\n'), /get no new copy on drive .*cannot be reached/, 'the operator is told');
  const full = await beginWithData(t, { slotCounts: [512, 512, 512, 10] });
  await moveReplicas(full.world, 0, 2, 3);
  t.ok(await untilMoved(full.world));
  t.same(holders(full.world), [0, 1, 2]);
  await pass(full.world, 100);
  t.match(full.world.trace.join('\n'), /get no new copy on drive .*is full/);
  await reads(full, t);
});

await t.test('what may not be is refused, and changes nothing', async (t) => {
  const { world, client } = await beginWithData(t);
  const generation = recordedSegment(world).generation;
  await t.rejects(moveReplicas(world, 0, 2, 1), { code: 'CONFLICT', message: /has a copy on drive/ });
  await t.rejects(moveReplicas(world, 0, 3, 3), { code: 'INVALID_ARGUMENT' });
  t.equal(await moveReplicas(world, 0, 3, 1), 0, 'as if it were done already');
  const { shard } = nodeOf(world, 0);
  const [from, to] = [world.driveOf(2), world.driveOf(3)];
  const ask = (request: object): Promise<number> =>
    world.wait(shard.moveReplicas(world.volumeId, { from, to, freeBytes: 2 ** 40, ...request }), LONG_MS);
  await t.rejects(ask({ freeBytes: 10 * EXTENT_BYTES }), { code: 'NO_SPACE', message: /3 MiB.*1.3 MiB free/ });
  await t.rejects(ask({ segment: 7 }), { code: 'NOT_FOUND', message: /0 to 1/ });
  await t.rejects(ask({ to: world.volumeId }), { code: 'NOT_FOUND', message: /no drive/ });
  world.crashNode(3, false);
  await pass(world, LEASE_OVER_MS);
  await t.rejects(ask({}), { code: 'UNAVAILABLE', message: /not alive/ });
  await pass(world, 1_000);
  t.equal(recordedSegment(world).generation, generation);
  t.equal((await world.wait(client.write(0, BLOCK, 1), LONG_MS)).status, STATUS.OK);
});

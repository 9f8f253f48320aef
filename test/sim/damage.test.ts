/** Blocks that no in-sync copy can give: everything else becomes redundant, nothing bad is returned, and writing them anew heals. */
import t, { type Test } from 'tap';
import { must } from '../../daemon/base/assert.js';
import { BLOCK_BYTES, EXTENT_BYTES, REGION_BYTES } from '../../daemon/base/units.js';
import { STATUS } from '../../daemon/protocol/frame.js';
import {
  begin as beginStory,
  identical,
  LONG_MS,
  ok,
  pass,
  serve,
  slotOf,
  states,
  type Story,
  untilInSync,
} from './story.js';
import type { SimWorld, WorldOptions } from './world/sim-world.js';
import type { Outcome } from './world/volume-client.js';

const OWNER = 2;
const SECOND_SEGMENT = 16 * 1024 * 1024;

/** Copies on nodes 0 and 1, owner node 2, which has none. */
function begin(options: Partial<WorldOptions> = {}): Promise<Story> {
  return beginStory({ replicas: 2, minInSync: 1, ...options }, OWNER);
}

async function hotRegions(world: SimWorld, node: number): Promise<number | undefined> {
  return (await must(world.nodes[node], 'the node').shard.stats()).drives[0]?.hotRegions;
}

async function mismatches(world: SimWorld): Promise<number> {
  return must((await must(world.nodes[0], 'the source').shard.stats()).drives[0], 'its drive').checksumMismatches;
}

function reports(world: SimWorld): readonly string[] {
  return world.trace.filter((line) => line.includes('cannot be read from any in-sync copy'));
}

/** Node 1 was away and is back; block 5 of the second extent is damaged on node 0. */
async function damaged(t: Test, options: Partial<WorldOptions> = {}) {
  const { world, client } = await begin(options);
  world.crashNode(1, false);
  for (const extent of [0, 1, 2]) await ok(t, world, client.write(extent * EXTENT_BYTES, EXTENT_BYTES, 11 + extent));
  await ok(t, world, client.write(SECOND_SEGMENT, EXTENT_BYTES, 20));
  await pass(world, 20_000); // everything cools
  world.media(0).flipBit(slotOf(world, 0, 12) + 5 * BLOCK_BYTES, 0);
  await world.wait(world.startNode(1), LONG_MS);
  await pass(world, 10_000);
  return { world, client };
}

await t.test(
  '13: a block that cannot be read is served from another copy and written anew; the copy stays',
  async (t) => {
    const { world, client } = await begin();
    await ok(t, world, client.write(0, EXTENT_BYTES, 7));
    await pass(world, 20_000); // everything cools
    for (const node of [0, 1]) {
      const slot = slotOf(world, node, 7);
      world.media(node).fail('read', slot, BLOCK_BYTES);
      for (let reads = 0; reads < 4; reads++) await ok(t, world, client.read(0, BLOCK_BYTES), 7);
      await pass(world, 1_000);
      t.same(await states(world, OWNER), ['in-sync', 'in-sync']);
      const rewritten = world.trace.filter((line) => line.includes('could not be read, and was rewritten'));
      t.ok(rewritten.length > node, 'the operator is told');
      world.media(node).repair();
    }
    await identical(t, world, OWNER);
  },
);

const BAD_BLOCK = EXTENT_BYTES + 5 * BLOCK_BYTES;

await t.test(
  '13: a damaged block of the only in-sync copy keeps that block from being redundant, nothing else',
  async (t) => {
    const { world, client } = await damaged(t);
    t.same(await states(world, OWNER), ['in-sync', 'syncing'], 'the copy does not count');
    t.same(await states(world, OWNER, 1), ['in-sync', 'in-sync'], 'other segments do not wait');
    for (const fill of [11, 13]) {
      const copy = world.media(1).peek(slotOf(world, 1, fill), EXTENT_BYTES);
      t.ok(copy.every((byte) => byte === fill));
    }
    const copy = world.media(1).peek(slotOf(world, 1, 12), EXTENT_BYTES);
    t.equal(
      copy.filter((byte) => byte === 12).length,
      EXTENT_BYTES - BLOCK_BYTES,
      'all other blocks of the extent, too',
    );
    t.not((await world.wait(client.read(BAD_BLOCK, BLOCK_BYTES), LONG_MS)).status, STATUS.OK);
    await ok(t, world, client.read(EXTENT_BYTES, 5 * BLOCK_BYTES), 12);
    t.equal(reports(world).length, 1);
    t.match(reports(world)[0], `"event":"volume/v"`);
    t.match(reports(world)[0], `1 block(s) of 4096 bytes at offset ${BAD_BLOCK} `);
    const before = await mismatches(world);
    await pass(world, 60_000);
    t.same(await states(world, OWNER), ['in-sync', 'syncing']);
    t.ok((await mismatches(world)) - before <= 8, 'it is tried again less and less often');
    t.equal(reports(world).length, 1, 'the operator is told once');
  },
);

await t.test('13: writing a damaged block anew heals it, and the copy that waits joins', async (t) => {
  const { world, client } = await damaged(t);
  await ok(t, world, client.write(EXTENT_BYTES, BLOCK_BYTES, 3));
  await ok(t, world, client.write(BAD_BLOCK, BLOCK_BYTES, 4));
  t.ok(await untilInSync(world, OWNER, 2));
  await identical(t, world, OWNER);
  world.crashNode(0, false);
  await pass(world, 3_000);
  await ok(t, world, client.read(EXTENT_BYTES, BLOCK_BYTES), 3);
  await ok(t, world, client.read(BAD_BLOCK, BLOCK_BYTES), 4);
  await ok(t, world, client.read(EXTENT_BYTES + BLOCK_BYTES, 4 * BLOCK_BYTES), 12);
});

await t.test('12, 13: a suspended volume is healed by the write that it holds', async (t) => {
  const { world, client } = await begin({ minInSync: 2 });
  await ok(t, world, client.write(EXTENT_BYTES, EXTENT_BYTES, 12));
  await pass(world, 20_000);
  world.crashNode(1, false);
  const held = client.write(EXTENT_BYTES, BLOCK_BYTES, 3);
  await pass(world, 3_000);
  world.media(0).flipBit(slotOf(world, 0, 3) + 5 * BLOCK_BYTES, 0);
  await world.wait(world.startNode(1), LONG_MS);
  await pass(world, 10_000);
  t.same(await states(world, OWNER), ['in-sync', 'syncing']);
  await ok(t, world, client.write(BAD_BLOCK, BLOCK_BYTES, 4));
  await ok(t, world, held);
  await identical(t, world, OWNER);
});

await t.test(
  '7: regions that a waiting copy has all of are cooled there; the damaged one stays in its log',
  async (t) => {
    const { world, client } = await damaged(t);
    await ok(t, world, client.write(REGION_BYTES, BLOCK_BYTES, 1));
    await pass(world, 20_000);
    t.equal(await hotRegions(world, 0), 0);
    t.equal(await hotRegions(world, 1), 1);
    world.crashNode(1, false);
    await ok(t, world, client.write(REGION_BYTES + BLOCK_BYTES, BLOCK_BYTES, 2));
    await ok(t, world, client.write(BAD_BLOCK, BLOCK_BYTES, 4));
    await world.wait(world.startNode(1), LONG_MS);
    t.ok(await untilInSync(world, OWNER, 2));
    await identical(t, world, OWNER);
  },
);

await t.test('a copy that waits and goes away waits again when it is back', async (t) => {
  const { world } = await damaged(t);
  world.crashNode(1, false);
  await pass(world, 3_000);
  t.same(await states(world, OWNER), ['in-sync', 'stale']);
  await world.wait(world.startNode(1), LONG_MS);
  await pass(world, 10_000);
  t.same(await states(world, OWNER), ['in-sync', 'syncing']);
  t.equal(reports(world).length, 1);
});

await t.test('10, 13: a block that is damaged everywhere keeps no region from being served', async (t) => {
  const { world, client } = await begin();
  for (const extent of [0, 1]) await ok(t, world, client.write(extent * EXTENT_BYTES, EXTENT_BYTES, 11 + extent));
  world.crashNode(OWNER, false);
  for (const node of [0, 1]) world.media(node).flipBit(slotOf(world, node, 12) + 5 * BLOCK_BYTES, 0);
  world.media(0).flipBit(slotOf(world, 0, 12) + 6 * BLOCK_BYTES, 0); // this one is good on the other copy
  await pass(world, 6_000);
  await world.wait(world.startNode(OWNER), LONG_MS);
  const next = await serve(world, OWNER);
  await ok(t, world, next.read(0, EXTENT_BYTES), 11);
  await ok(t, world, next.read(EXTENT_BYTES + 6 * BLOCK_BYTES, 26 * BLOCK_BYTES), 12);
  t.not((await world.wait(next.read(BAD_BLOCK, BLOCK_BYTES), LONG_MS)).status, STATUS.OK);
  t.equal(reports(world).length, 1);
  await ok(t, world, next.write(BAD_BLOCK, BLOCK_BYTES, 4));
  await ok(t, world, next.read(BAD_BLOCK, BLOCK_BYTES), 4);
  await identical(t, world, OWNER);
});

await t.test('10: a block that cannot be read now on any copy may come back: its region waits', async (t) => {
  const { world, client } = await begin();
  await ok(t, world, client.write(EXTENT_BYTES, EXTENT_BYTES, 12));
  world.crashNode(OWNER, false);
  const slots = [0, 1].map((node) => slotOf(world, node, 12));
  for (const node of [0, 1]) world.media(node).fail('read', must(slots[node], 'the slot'), EXTENT_BYTES);
  await pass(world, 6_000);
  await world.wait(world.startNode(OWNER), LONG_MS);
  const next = await serve(world, OWNER);
  let read: Outcome | null = null;
  void next.read(BAD_BLOCK, BLOCK_BYTES).then((outcome) => (read = outcome));
  await pass(world, 5_000);
  t.equal(read, null);
  for (const node of [0, 1]) world.media(node).repair();
  t.ok(await world.runUntil(() => read !== null, LONG_MS));
  t.match(read, { status: STATUS.OK });
  await identical(t, world, OWNER);
});

await t.test('13: a repair from a copy that is damaged elsewhere in the extent does what it can', async (t) => {
  const { world, client } = await begin();
  await ok(t, world, client.write(EXTENT_BYTES, EXTENT_BYTES, 12));
  await pass(world, 20_000);
  for (const [node, block] of [
    [0, 5],
    [1, 6],
  ] as const)
    world.media(node).flipBit(slotOf(world, node, 12) + block * BLOCK_BYTES, 0);
  await ok(t, world, client.read(BAD_BLOCK, BLOCK_BYTES), 12); // from node 1, and rewritten on node 0
  await pass(world, 1_000);
  const repaired = world.media(0).peek(slotOf(world, 0, 12), EXTENT_BYTES);
  t.ok(repaired.every((byte) => byte === 12));
  t.match(world.trace.join('\n'), /rewritten from another copy .*; 1 other block\(s\) of the extent are damaged there/);
  t.same(reports(world), [], 'nothing is lost');
});

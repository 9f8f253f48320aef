/** Activity logs with little room: what waits for it gets it, and nobody is taken for gone meanwhile. */
import t from 'tap';
import { REGION_BYTES } from '../../daemon/base/units.js';
import { begin, BLOCK, identical, nodeOf, ok, pass, restart, untilInSync, type Story } from './story.js';

const REGIONS = 8;

async function hotRegions({ world }: Story, node: number): Promise<number | undefined> {
  return (await nodeOf(world, node).shard.stats()).drives[0]?.hotRegions;
}

await t.test('7, 9: a resync may touch more regions than the log of the copy has room for', async (t) => {
  const story = await begin({ hotRegionsMax: 3 });
  const { world, client } = story;
  for (let region = 0; region < 3; region++) await ok(t, world, client.write(region * REGION_BYTES, BLOCK, 1));
  t.not(await hotRegions(story, 2), 0, 'there is something in its log');
  world.crashNode(2, false);
  for (let region = 0; region < REGIONS; region++) await ok(t, world, client.write(region * REGION_BYTES, BLOCK, 2));
  await ok(t, world, client.trim(4 * REGION_BYTES, 32 * BLOCK));
  await restart(world, [2]);
  t.ok(await untilInSync(world, 0, 3), 'the copy is in sync again');
  await identical(t, world, 0);
});

await t.test(
  'an owner that hears of a full log again and again, and has nothing to say, keeps its connection',
  async (t) => {
    // The owner is elsewhere. One copy is out of reach, the other lost power: nothing can be cooled, and nothing is written.
    const { world, client } = await begin({ nodes: 3, replicas: 2, minInSync: 1, hotRegionsMax: 3 }, 2);
    for (let region = 0; region < 3; region++) await ok(t, world, client.write(region * REGION_BYTES, BLOCK, 1));
    world.fabric.cut('node-0', 'node-2');
    world.fabric.cut('node-2', 'node-0');
    world.crashNode(1, true);
    await pass(world, 300);
    await restart(world, [1]);
    await pass(world, 20_000);
    const closed = world.trace.filter((line) => line.includes('node-1') && line.includes('a coordinator is silent'));
    t.same(closed, []);
  },
);

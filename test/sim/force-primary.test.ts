/** The operator's last resort: an older copy becomes the primary one, and those that had more end equal to it. */
import t from 'tap';
import { must } from '../../daemon/base/assert.js';
import type { ErrorCode } from '../../daemon/base/errors.js';
import { EXTENT_BYTES, REGION_BYTES } from '../../daemon/base/units.js';
import { ClusterState } from '../../daemon/control/cluster-state.js';
import { Events } from '../../daemon/control/events.js';
import { PrimaryForcer, type ForcedSegment } from '../../daemon/control/force-primary.js';
import { silentLog } from '../unit/control/fixture.js';
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
  recordedSegment,
  restart,
  serve,
  untilInSync,
} from './story.js';
import { SimClusterStore } from './world/sim-cluster-store.js';
import type { SimWorld } from './world/sim-world.js';

const COPIES = { replicas: 2, minInSync: 1 };
/** The node that owns the volume and has no copy of it. */
const OWNER = 2;

/** As an operator does, with what the drives of the running nodes say. */
async function force(world: SimWorld, index: number): Promise<readonly ForcedSegment[]> {
  const clock = world.clock.nodeClock(1, 0);
  const random = world.random.fork(`operator ${world.clock.nowMs()}`);
  const state = new ClusterState(new SimClusterStore(world.storeState, clock, random));
  const common = { state, clock, random, log: silentLog };
  const running = world.nodes.filter(({ alive }) => alive);
  const copies = (await Promise.all(running.map(({ shard }) => shard.copiesOf(world.volumeId)))).flat();
  const reachable = new Map(copies.map(({ driveId, uncertainSegments }) => [driveId, new Set(uncertainSegments)]));
  const forcer = new PrimaryForcer({
    ...common,
    events: new Events({ ...common, nodeId: nodeOf(world, OWNER).setup.id }),
  });
  const request = { driveId: world.driveOf(index) };
  return world.wait(forcer.force(world.volumeId, request, reachable), LONG_MS);
}

async function refused(world: SimWorld, index: number): Promise<{ code: ErrorCode; message: string }> {
  return force(world, index).then(
    () => ({ code: 'INTERNAL', message: 'it was not refused' }),
    (error: unknown) => error as { code: ErrorCode; message: string },
  );
}

async function release(world: SimWorld): Promise<void> {
  await world.wait(nodeOf(world, OWNER).shard.releaseVolume(world.volumeId), LONG_MS);
}

/**
 * Both copies have 1 in the first extent of regions 0 and 2; then only node 0 has 2 there and in extents that node 1 knows nothing of, and
 * region 2 is trimmed; node 0 goes, node 1 comes back.
 */
async function diverged(isCold: boolean) {
  const { world, client } = await begin(COPIES, OWNER);
  await ok(t, world, client.write(0, EXTENT_BYTES, 1));
  await ok(t, world, client.write(2 * REGION_BYTES, EXTENT_BYTES, 1));
  await pass(world, ALL_COLD_MS);
  world.crashNode(1, false);
  await pass(world, 3_000);
  await ok(t, world, client.write(0, BLOCK, 2));
  await ok(t, world, client.write(EXTENT_BYTES, BLOCK, 2));
  await ok(t, world, client.write(REGION_BYTES, BLOCK, 2));
  await ok(t, world, client.trim(2 * REGION_BYTES, EXTENT_BYTES));
  if (isCold) await pass(world, ALL_COLD_MS);
  world.crashNode(0, false);
  await pass(world, LEASE_OVER_MS);
  await restart(world, [1]);
  await release(world);
  return world;
}

for (const isCold of [true, false]) {
  const what = isCold ? 'has cooled' : 'is still in its log';
  await t.test(`12: an older copy is made primary; what the newer one had ${what}, and is replaced`, async (t) => {
    const world = await diverged(isCold);
    await t.rejects(serve(world, OWNER), { code: 'UNAVAILABLE', message: /force-primary/ });
    await release(world);
    const [forced] = await force(world, 1);
    t.match(forced, { index: 0, generation: 2, copyGeneration: 1, missing: [world.driveOf(0)] });
    t.ok(must(forced, 'a segment').staleSinceMs > 0, 'and since when it lacks something');
    t.match(recordedSegment(world), {
      generation: 3,
      replicas: [
        { inSync: false, syncedGeneration: 1 },
        { inSync: true, syncedGeneration: 0 },
      ],
    });

    const client = await serve(world, OWNER);
    await ok(t, world, client.read(0, EXTENT_BYTES), 1);
    await ok(t, world, client.read(2 * REGION_BYTES, EXTENT_BYTES), 1);
    await ok(t, world, client.read(REGION_BYTES, BLOCK), 0);
    await ok(t, world, client.write(BLOCK, BLOCK, 3));
    await ok(t, world, client.write(3 * REGION_BYTES, BLOCK, 3));
    await pass(world, ALL_COLD_MS);

    await restart(world, [0]);
    t.ok(await untilInSync(world, OWNER, 2), 'the newer copy comes back');
    await identical(t, world, OWNER);
    world.crashNode(1, false);
    await pass(world, 3_000);
    await ok(t, world, client.read(0, BLOCK), 1);
    await ok(t, world, client.read(BLOCK, BLOCK), 3);
    await ok(t, world, client.read(EXTENT_BYTES, EXTENT_BYTES), 0);
    await ok(t, world, client.read(REGION_BYTES, EXTENT_BYTES), 0);
    await ok(t, world, client.read(2 * REGION_BYTES, EXTENT_BYTES), 1);
    await ok(t, world, client.read(3 * REGION_BYTES, BLOCK), 3);
  });
}

await t.test('12: refused while a copy in sync can be reached, or somebody has the volume', async (t) => {
  const world = await diverged(true);
  await restart(world, [0]);
  t.match(await refused(world, 1), { code: 'CONFLICT', message: /can be reached: nothing is to be forced/ });
  await serve(world, OWNER);
  t.match(await refused(world, 1), { code: 'CONFLICT', message: /a node still has it.*detach/ });
});

await t.test('12: refused for a drive that is not there, and for one without a copy', async (t) => {
  const world = await diverged(true);
  t.match(await refused(world, 0), { code: 'UNAVAILABLE', message: /not open on any node/ });
  t.match(await refused(world, OWNER), { code: 'INVALID_ARGUMENT', message: /has no copy/ });
});

await t.test('12: a copy in sync that lost power is served by force only, and the other one ends equal', async (t) => {
  const { world, client } = await begin(COPIES, OWNER);
  await ok(t, world, client.write(0, EXTENT_BYTES, 1));
  await ok(t, world, client.write(0, BLOCK, 2));
  for (const index of [0, 1]) world.crashNode(index, index === 1);
  await pass(world, LEASE_OVER_MS);
  await restart(world, [1]);
  await release(world);
  await t.rejects(serve(world, OWNER), { code: 'UNAVAILABLE' });
  await release(world);
  const [forced] = await force(world, 1);
  t.match(forced, { generation: 1, copyGeneration: 1, staleSinceMs: 0 });
  const next = await serve(world, OWNER);
  await ok(t, world, next.write(EXTENT_BYTES, BLOCK, 3));
  const { bytes } = await world.wait(next.read(0, EXTENT_BYTES), LONG_MS);
  await restart(world, [0]);
  t.ok(await untilInSync(world, OWNER, 2), 'the other copy comes back');
  await identical(t, world, OWNER);
  world.crashNode(1, false);
  await pass(world, 3_000);
  t.same((await world.wait(next.read(0, EXTENT_BYTES), LONG_MS)).bytes, bytes, 'what was read once is read again');
  await ok(t, world, next.read(EXTENT_BYTES, BLOCK), 3);
});

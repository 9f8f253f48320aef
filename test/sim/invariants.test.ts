/** One story per invariant, in the simulated world: each fails when the mechanism behind it is taken away. */
import t, { type Test } from 'tap';
import { must } from '../../daemon/base/assert.js';
import { EXTENT_BYTES, KIB, REGION_BYTES } from '../../daemon/base/units.js';
import type { ServedVolume } from '../../daemon/ports/shard.js';
import { STATUS } from '../../daemon/protocol/frame.js';
import { records } from '../../daemon/protocol/records.js';
import { storeKeys } from '../../daemon/protocol/store.js';
import { SimWorld, type WorldOptions } from './world/sim-world.js';
import { VolumeClient, type Outcome } from './world/volume-client.js';

const SEED = 1;
const LONG_MS = 60_000;

interface Story {
  readonly world: SimWorld;
  readonly client: VolumeClient;
}

async function serve(world: SimWorld, index: number): Promise<VolumeClient> {
  const node = must(world.nodes[index], 'the node');
  await world.wait(node.takeVolume(world.volumeId), LONG_MS);
  return new VolumeClient(must(world.served, 'the served volume').volume, node);
}

/** Three nodes, the volume served by node 0. */
async function begin(options: Partial<WorldOptions> = {}): Promise<Story> {
  const world = new SimWorld(SEED, { loseStoreReply: 0, ...options });
  for (let index = 0; index < world.options.nodes; index++) await world.wait(world.startNode(index), LONG_MS);
  world.createVolume();
  await world.runUntil(() => false, 1_000);
  return { world, client: await serve(world, 0) };
}

async function ok(t: Test, world: SimWorld, outcome: Promise<Outcome>, fill?: number): Promise<void> {
  const { status, bytes } = await world.wait(outcome, LONG_MS);
  t.equal(status, STATUS.OK);
  if (fill !== undefined)
    t.ok(
      bytes.every((byte) => byte === fill),
      `all bytes read as ${fill}`,
    );
}

async function served(world: SimWorld, index: number): Promise<ServedVolume> {
  const volumes = await must(world.nodes[index], 'the node').shard.servedVolumes();
  return must(volumes[0], 'the served volume');
}

async function inSyncCount(world: SimWorld, index: number): Promise<number> {
  const segments = await must(world.nodes[index], 'the node').shard.servedSegments(world.volumeId);
  return must(segments[0], 'a segment').replicas.filter(({ state }) => state === 'in-sync').length;
}

/** In-sync copies of segment 0 as the cluster store has it. */
function recordedInSync(world: SimWorld): number {
  const key = storeKeys.segment(world.volumeId, 0);
  const { value } = must(world.storeState.get(key), 'the segment record');
  return records.segment.decode(key, value).replicas.filter(({ inSync }) => inSync).length;
}

async function untilInSync(world: SimWorld, index: number, count: number): Promise<boolean> {
  for (let waitedMs = 0; waitedMs < LONG_MS; waitedMs += 200) {
    if ((await inSyncCount(world, index)) === count) return true;
    await world.runUntil(() => false, 200);
  }
  return false;
}

async function identical(t: Test, world: SimWorld, index: number): Promise<void> {
  const report = await world.wait(must(world.nodes[index], 'the node').shard.verifyVolume(world.volumeId), LONG_MS);
  t.same(report.differences, [], 'all replicas are identical');
  t.ok(report.extentsCompared > 0, 'something was compared');
}

await t.test('1, 5: a lost copy is dropped in the cluster store before what it missed is acknowledged', async (t) => {
  const { world, client } = await begin();
  await ok(t, world, client.write(0, 4 * KIB, 1));
  const owner = must(world.nodes[0], 'the owner');
  owner.store.setReachable(false);
  world.crashNode(2, false);
  let acknowledged = false;
  const write = client.write(0, 4 * KIB, 2).then((outcome) => {
    acknowledged = true;
    t.equal(recordedInSync(world), 2, 'the drop was committed before the acknowledgement');
    return outcome;
  });
  await world.runUntil(() => acknowledged, 2_000);
  t.notOk(acknowledged, 'nothing is acknowledged while the drop cannot be committed');
  t.equal(recordedInSync(world), 3);
  owner.store.setReachable(true);
  await ok(t, world, write);
  await ok(t, world, client.read(0, 4 * KIB), 2);
});

await t.test(
  '2, 11: an owner that was frozen past its lease serves nothing, and its late writes reach nobody',
  async (t) => {
    const { world, client } = await begin();
    await ok(t, world, client.write(0, 4 * KIB, 1));
    const old = must(world.nodes[0], 'the old owner');
    old.freeze();
    await t.rejects(
      world.wait(must(world.nodes[1], 'node 1').takeVolume(world.volumeId), LONG_MS),
      { code: 'CONFLICT' },
      'not before the lease has ended',
    );
    await world.runUntil(() => false, 6_000);
    const next = await serve(world, 1);
    await ok(t, world, next.write(0, 4 * KIB, 2));
    old.thaw();
    const late = await world.wait(client.write(0, 4 * KIB, 3), LONG_MS);
    t.equal(late.status, STATUS.FENCED, 'the old owner refuses writes');
    t.equal(
      (await world.wait(client.read(0, 4 * KIB), LONG_MS)).status,
      STATUS.FENCED,
      'and reads, its own local copy included',
    );
    await ok(t, world, next.read(0, 4 * KIB), 2);
    t.ok(await untilInSync(world, 1, 3), 'the old owner is a replica again');
    await ok(t, world, next.read(0, 4 * KIB), 2);
    await identical(t, world, 1);
  },
);

await t.test('7, 10: what the old owner left half written is made equal before it is served', async (t) => {
  const { world, client } = await begin();
  await ok(t, world, client.write(0, EXTENT_BYTES, 1));
  world.fabric.cut('node-0', 'node-2'); // the write reaches nodes 0 and 1 only, and is never acknowledged
  void client.write(0, EXTENT_BYTES, 2);
  await world.runUntil(() => false, 20);
  world.crashNode(0, false);
  world.fabric.healAll();
  await world.runUntil(() => false, 6_000);
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
  await world.runUntil(() => false, 20_000); // everything cools: no region is left in any log
  world.crashNode(2, false);
  await ok(t, world, client.write(40 * EXTENT_BYTES, 4 * KIB, 2));
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
  await ok(t, world, client.write(8 * EXTENT_BYTES, 4 * KIB, 2));
  await world.wait(world.startNode(2), LONG_MS);
  t.ok(await untilInSync(world, 0, 3));
  t.equal((await served(world, 0)).resyncBytesDone, REGION_BYTES, 'the whole region was copied');
  await identical(t, world, 0);
});

await t.test('12: with too few copies a write waits, and is acknowledged when a copy is back', async (t) => {
  const { world, client } = await begin();
  await ok(t, world, client.write(0, 4 * KIB, 1));
  world.crashNode(1, false);
  world.crashNode(2, false);
  let ended = false;
  const write = client.write(0, 4 * KIB, 2).finally(() => (ended = true));
  await world.runUntil(() => ended, 10_000);
  t.notOk(ended, 'one copy of three is not enough');
  t.equal((await served(world, 0)).state, 'suspended');
  await world.wait(world.startNode(1), LONG_MS);
  await ok(t, world, write);
  await ok(t, world, client.read(0, 4 * KIB), 2);
});

await t.test('13: a damaged block is read from another copy and rewritten', async (t) => {
  const { world, client } = await begin();
  await ok(t, world, client.write(0, EXTENT_BYTES, 7));
  await world.runUntil(() => false, 20_000);
  world.damage(0);
  await ok(t, world, client.read(0, EXTENT_BYTES), 7);
  await world.runUntil(() => false, 1_000);
  t.match(world.trace.join('\n'), /rewritten from another copy/, 'the operator is told');
  await identical(t, world, 0);
});

await t.test('a full drive: the write fails, no copy keeps it, nothing else is lost', async (t) => {
  const { world, client } = await begin({ slotCount: 8 });
  for (let extent = 0; extent < 7; extent++) await ok(t, world, client.write(extent * EXTENT_BYTES, 4 * KIB, 1));
  const refused = await world.wait(client.write(7 * EXTENT_BYTES, 4 * KIB, 1), LONG_MS);
  t.equal(refused.status, STATUS.NO_SPACE);
  await ok(t, world, client.read(7 * EXTENT_BYTES, 4 * KIB), 0);
  await ok(t, world, client.read(0, 4 * KIB), 1);
  await ok(t, world, client.trim(0, EXTENT_BYTES));
  await ok(t, world, client.write(7 * EXTENT_BYTES, 4 * KIB, 2));
  await ok(t, world, client.flush());
  await identical(t, world, 0);
});

await t.test('a clean release leaves nothing to reconcile', async (t) => {
  const { world, client } = await begin();
  await ok(t, world, client.write(0, 4 * KIB, 1));
  await world.wait(must(world.nodes[0], 'the owner').shard.releaseVolume(world.volumeId), LONG_MS);
  const next = await serve(world, 1);
  t.equal((await served(world, 1)).resyncBytesTotal, 0);
  await ok(t, world, next.read(0, 4 * KIB), 1);
});

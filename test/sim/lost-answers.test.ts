/** Stories of a cluster store that does not answer, or answers late, told to the production control plane; and of deletions. */
import t, { type Test } from 'tap';
import { must } from '../../daemon/base/assert.js';
import type { NodeId } from '../../daemon/base/ids.js';
import { limits } from '../../daemon/base/limits.js';
import { storeKeys } from '../../daemon/protocol/store.js';
import {
  attach,
  beginAttached,
  detach,
  intercept,
  losingCalls,
  losingReplies,
  recordedOwner,
  remove,
  unanswered,
  want,
} from './control-story.js';
import {
  begin,
  BLOCK,
  identical,
  LEASE_OVER_MS,
  LONG_MS,
  nodeOf,
  ok,
  pass,
  recordedSegment,
  untilInSync,
} from './story.js';
import { VOLUME_NAME, type SimWorld } from './world/sim-world.js';

const OWNERS = 'owners/';

/** The volume is served on node 1 soon, although node 0 lives on. */
async function movesOn(t: Test, world: SimWorld): Promise<void> {
  const startMs = world.clock.nowMs();
  const next = await attach(world, 1);
  t.ok(world.clock.nowMs() - startMs < 10_000, 'another node takes it soon');
  await ok(t, world, next.write(BLOCK, BLOCK, 2));
  await ok(t, world, next.read(0, BLOCK), 1);
  t.ok(await untilInSync(world, 1, 3));
  await identical(t, world, 1);
}

await t.test('a claim whose answer is lost is no second claim', async (t) => {
  const { world, client } = await beginAttached();
  await ok(t, world, client.write(0, BLOCK, 1));
  t.ok(await detach(world, 0));
  await pass(world, 1_000);
  t.equal(recordedOwner(world)?.nodeId, '');
  const end = intercept(world, 1, OWNERS, losingReplies(1));
  await movesOn(t, world);
  end();
  t.equal(recordedOwner(world)?.epoch, 2);
});

await t.test('a claim that nobody ever answered is given up with the wish', async (t) => {
  const { world, client } = await beginAttached();
  await ok(t, world, client.write(0, BLOCK, 1));
  t.ok(await detach(world, 0));
  await pass(world, 1_000);
  const end = intercept(world, 0, OWNERS, losingReplies(Infinity));
  t.notOk(await want(world, 0), 'it is not served');
  t.equal(recordedOwner(world)?.nodeId, 'node-0', 'but it is on record');
  t.ok(await detach(world, 0));
  await pass(world, 3_000);
  end();
  await movesOn(t, world);
});

await t.test('a release that could not be recorded is recorded later', async (t) => {
  const { world, client } = await beginAttached();
  await ok(t, world, client.write(0, BLOCK, 1));
  const end = intercept(world, 0, OWNERS, losingCalls());
  t.ok(await detach(world, 0));
  await pass(world, 6_000); // longer than one release tries
  t.equal(world.served, null);
  t.equal(recordedOwner(world)?.nodeId, 'node-0', 'it is still on record');
  end();
  await movesOn(t, world);
});

await t.test('a release whose answers are lost is one', async (t) => {
  const { world, client } = await beginAttached();
  await ok(t, world, client.write(0, BLOCK, 1));
  const end = intercept(world, 0, OWNERS, losingReplies(2));
  t.ok(await detach(world, 0));
  await movesOn(t, world);
  end();
  t.equal(recordedOwner(world)?.epoch, 2);
});

await t.test('a volume that fenced itself, and whose lease went on, is given up with the wish', async (t) => {
  const { world, client } = await beginAttached();
  await ok(t, world, client.write(0, BLOCK, 1));
  const old = nodeOf(world, 0);
  old.shard.setLeaseDeadline(0); // as if the news of renewals were late; the lease itself goes on
  old.shard.setLeaseDeadline = () => undefined;
  const isFenced = (): boolean => world.trace.some((line) => line.includes('volume is fenced'));
  t.ok(await world.runUntil(isFenced, LONG_MS));
  t.ok(await detach(world, 0));
  t.equal(recordedOwner(world)?.epoch, 1);
  await movesOn(t, world);
});

await t.test('5: a drop whose answer is lost is one drop', async (t) => {
  const { world, client } = await beginAttached();
  await ok(t, world, client.write(0, BLOCK, 1));
  const end = intercept(world, 0, storeKeys.segments(world.volumeId), losingReplies(2));
  world.crashNode(2, false);
  await ok(t, world, client.write(0, BLOCK, 2));
  end();
  t.match(recordedSegment(world), { generation: 2 });
  t.equal(recordedSegment(world).replicas.filter(({ inSync }) => inSync).length, 2);
  await world.wait(world.startNode(2), LONG_MS);
  t.ok(await untilInSync(world, 0, 3));
  await ok(t, world, client.read(0, BLOCK), 2);
  await identical(t, world, 0);
});

await t.test('a lease that is granted twice, the first time late, is one that is renewed', async (t) => {
  const { world } = await beginAttached();
  const { store, clock } = nodeOf(world, 0);
  store.setReachable(false);
  await pass(world, LEASE_OVER_MS + 1_000);
  let lateCalls = 1;
  const end = intercept(world, 0, 'alive/', (txn) => (compares, operations) => {
    if (lateCalls-- <= 0) return txn(compares, operations);
    return new Promise((_, reject) => {
      clock.after(500, () => reject(unanswered()));
      clock.after(2_000, () => void txn(compares, operations));
    });
  });
  store.setReachable(true);
  await pass(world, 10_000);
  end();
  for (let second = 0; second < 5; second++) {
    t.ok(world.storeState.get(storeKeys.alive('node-0' as NodeId)), 'the node counts as alive');
    await pass(world, limits.leaseRenewMs);
  }
});

await t.test('a creation of which only the last answer is lost has happened', async (t) => {
  const { world } = await beginAttached();
  const end = intercept(world, 0, 'names/', losingReplies(1));
  const request = { name: 'other', sizeBytes: world.options.volumeBytes, replicas: 2 };
  const volume = await world.wait(
    nodeOf(world, 0).api(({ volumes }) => volumes.create(request)),
    LONG_MS,
  );
  end();
  const { value } = must(world.storeState.get(storeKeys.name('other')), 'the name');
  t.equal(Buffer.from(value).includes(volume.id), true);
});

/** Nothing is left of the volume, on no drive and not in the store. */
async function isGone(world: SimWorld): Promise<boolean> {
  for (let waitedMs = 0; waitedMs < LONG_MS; waitedMs += 500) {
    if (world.remainsOf(world.volumeId).length === 0) return true;
    await pass(world, 500);
  }
  return false;
}

await t.test('a volume that is deleted while a node is down is gone when the node is back', async (t) => {
  const { world, client } = await beginAttached();
  for (const extent of [0, 1, 2]) await ok(t, world, client.write(extent * 128 * 1024, BLOCK, 1));
  world.crashNode(2, true);
  await pass(world, 3_000);
  t.ok(await remove(world, 1));
  await pass(world, LONG_MS);
  t.notOk(world.storeState.get(storeKeys.name(VOLUME_NAME)), 'its name is free at once');
  t.equal(world.remainsOf(world.volumeId).filter((what) => what.includes('node-')).length, 1, 'one copy is left');
  t.match(
    recordedSegment(world).replicas,
    [{ driveId: world.driveOf(2) }],
    'and recorded, so that it is not forgotten',
  );
  await world.wait(world.startNode(2), LONG_MS);
  t.ok(await isGone(world), 'its node finishes');
});

await t.test('2: the last owner of a deleted volume creates no copy of it anew', async (t) => {
  const { world, client } = await begin(); // by its shard alone: its control plane would give it up at once
  await ok(t, world, client.write(0, BLOCK, 1));
  const old = nodeOf(world, 0);
  old.freeze();
  old.network.resetAll(); // when it goes on it opens its sessions again
  t.ok(await remove(world, 1));
  await pass(world, LEASE_OVER_MS + 5_000);
  old.shard.setLeaseDeadline(Number.POSITIVE_INFINITY); // its clock tells it nothing
  old.thaw();
  await pass(world, 5_000);
  await world.wait(old.shard.releaseVolume(world.volumeId), LONG_MS);
  t.ok(await isGone(world), 'nothing is left');
});

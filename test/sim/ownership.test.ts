/** Stories of who owns a volume, told to the production control plane: takeovers, leases, and an old owner that comes back. */
import t, { type Test } from 'tap';
import { limits } from '../../daemon/base/limits.js';
import { STATUS } from '../../daemon/protocol/frame.js';
import { abandon, attach, beginAttached, detach, keepWriting, recordedOwner, want } from './control-story.js';
import { BLOCK, identical, LEASE_OVER_MS, LONG_MS, nodeOf, ok, pass, served, untilInSync, within } from './story.js';
import type { SimWorld } from './world/sim-world.js';
import type { VolumeClient } from './world/volume-client.js';

/** From the death of an owner until I/O is served elsewhere. */
const TAKEOVER_MS_MAX = 10_000;
const OUTAGE_MS = 30_000;

function cutOff(world: SimWorld, index: number): void {
  for (const { setup } of world.nodes) {
    if (setup.id === `node-${index}`) continue;
    world.fabric.cut(`node-${index}`, setup.id);
    world.fabric.cut(setup.id, `node-${index}`);
  }
}

/** The client of an old owner is refused, writes and reads, those of its node's own copy included. */
async function refused(t: Test, world: SimWorld, client: VolumeClient): Promise<void> {
  for (const late of [client.write(0, BLOCK, 99), client.read(0, BLOCK)])
    t.equal((await within(world, late, 5_000))?.status, STATUS.FENCED, 'the old owner refuses');
}

/** Whether the owner on node `index` has opened the copy of segment 0 that is on the node `copy`. */
async function connected(world: SimWorld, index: number, copy: number): Promise<boolean> {
  const [segment] = await nodeOf(world, index).shard.servedSegments(world.volumeId);
  return segment?.replicas.find(({ driveId }) => driveId === world.driveOf(copy))?.connected === true;
}

await t.test('a dead owner: its volume is served elsewhere within 10 s, lease included', async (t) => {
  const figures: number[] = [];
  for (let seed = 1; seed <= 8; seed++) {
    const { world, client } = await beginAttached({}, 0, seed);
    await ok(t, world, client.write(0, BLOCK, 1));
    await pass(world, 100 * seed);
    world.crashNode(0, seed % 2 === 0);
    const diedMs = world.clock.nowMs();
    const next = await attach(world, 1);
    await ok(t, world, next.write(BLOCK, BLOCK, 2));
    figures.push(world.clock.nowMs() - diedMs);
    await ok(t, world, next.read(0, BLOCK), 1);
    await world.wait(world.startNode(0), LONG_MS);
    t.ok(await untilInSync(world, 1, 3), 'it is a copy again');
    t.equal(recordedOwner(world)?.nodeId, 'node-1', 'and not the owner any more');
    await identical(t, world, 1);
  }
  const sorted = figures.map(Math.round).sort((a, b) => a - b);
  t.comment(`from owner death to served I/O elsewhere, simulated ms: ${sorted.join(' ')}`);
  t.ok(Math.max(...figures) <= TAKEOVER_MS_MAX, `at most ${TAKEOVER_MS_MAX} ms`);
});

for (const isClockWrong of [false, true]) {
  const how = isClockWrong ? 'and whose clock tells it nothing' : 'and comes back';
  await t.test(`2, 11: an owner that was frozen ${how} serves nothing`, async (t) => {
    const { world, client } = await beginAttached();
    const old = nodeOf(world, 0);
    await ok(t, world, client.write(0, BLOCK, 1));
    const early = client.read(0, BLOCK); // under way when the owner is stopped
    old.freeze();
    const next = await attach(world, 1);
    await ok(t, world, next.write(0, BLOCK, 2));
    if (isClockWrong) old.shard.setLeaseDeadline(Number.POSITIVE_INFINITY); // the epoch alone has to hold
    old.thaw();
    await refused(t, world, client);
    const late = await within(world, early, 1_000);
    t.ok(late?.status === STATUS.FENCED || (isClockWrong && late?.bytes[0] === 1), 'what was under way ends as it may');
    t.ok(await untilInSync(world, 1, 3), 'its copy is made equal');
    await pass(world, 10_000);
    t.equal((await served(world, 1)).epoch, 2, 'and it does not take the volume back');
    await ok(t, world, next.read(0, BLOCK), 2);
    await identical(t, world, 1);
  });
}

await t.test('11: an owner that is cut off from the store ends before another begins', async (t) => {
  const { world, client } = await beginAttached();
  const old = nodeOf(world, 0);
  const writes = keepWriting(world, client);
  await pass(world, 2_000);
  old.store.setReachable(false);
  const cutMs = world.clock.nowMs();
  let claimedMs = Infinity;
  world.storeState.onChange(() => {
    if (recordedOwner(world)?.nodeId === 'node-1') claimedMs = Math.min(claimedMs, world.clock.nowMs());
  });
  t.ok(await abandon(world, 1), 'the operator does not wait for it');
  const next = await attach(world, 1);
  const { acknowledged, acknowledgedMs } = writes;
  const goneOnMs = acknowledgedMs - cutMs;
  t.ok(goneOnMs > limits.leaseTtlMs - limits.leaseMarginMs - limits.leaseRenewMs - 200, 'it went on while it could');
  t.ok(acknowledgedMs < claimedMs, 'the last acknowledgement comes before the claim');
  t.comment(
    `I/O went on for ${goneOnMs.toFixed(0)} ms, the claim came ${(claimedMs - acknowledgedMs).toFixed(0)} ms later`,
  );
  const { bytes } = await world.wait(next.read(0, BLOCK), LONG_MS);
  t.ok(bytes[0] === acknowledged || bytes[0] === acknowledged + 1, 'nothing acknowledged is lost');
  await ok(t, world, next.write(0, BLOCK, 99));
  writes.stop();
  old.store.setReachable(true);
  await refused(t, world, client);
  t.ok(await untilInSync(world, 1, 3));
  await ok(t, world, next.read(0, BLOCK), 99);
  await identical(t, world, 1);
});

await t.test(
  'an owner that is cut off from its peers acknowledges nothing, and is not replaced by older copies',
  async (t) => {
    const { world, client } = await beginAttached();
    await ok(t, world, client.write(0, BLOCK, 1));
    cutOff(world, 0);
    const held = client.write(0, BLOCK, 2);
    t.equal(await within(world, held, 10_000), null, 'two copies are needed');
    t.ok(await detach(world, 0), 'the operator moves it');
    const attaching = attach(world, 1);
    await pass(world, 8_000);
    t.equal(world.served, null, 'its copy alone has everything: nobody else serves without it');
    world.fabric.healAll();
    const next = await attaching;
    const { bytes } = await world.wait(next.read(0, BLOCK), LONG_MS);
    t.ok(bytes[0] === 1 || bytes[0] === 2, 'the write that was given up has happened, or has not');
    await ok(t, world, next.write(0, BLOCK, 3));
    t.ok(await untilInSync(world, 1, 3));
    await ok(t, world, next.read(0, BLOCK), 3);
    await identical(t, world, 1);
  },
);

await t.test('a volume that is wanted again while it is being released can be moved later', async (t) => {
  const { world, client } = await beginAttached();
  await ok(t, world, client.write(0, BLOCK, 1));
  cutOff(world, 0);
  void client.write(0, BLOCK, 2);
  await pass(world, 5_000);
  t.ok(await detach(world, 0), 'its release waits for the write that is held');
  await pass(world, 1_000);
  t.notOk(await want(world, 0));
  t.ok(await world.runUntil(() => world.served !== null, LONG_MS), 'then it is taken again');
  world.fabric.healAll();
  t.ok(await detach(world, 0));
  const next = await attach(world, 1);
  await ok(t, world, next.write(0, BLOCK, 3));
  t.ok(await untilInSync(world, 1, 3));
  await ok(t, world, next.read(0, BLOCK), 3);
  await identical(t, world, 1);
});

await t.test('6: a copy is opened by a new owner when its drive has ended what the old one asked for', async (t) => {
  const { world, client } = await beginAttached();
  await ok(t, world, client.write(0, BLOCK, 1));
  const disk = world.media(1).user;
  disk?.stall();
  void client.write(0, BLOCK, 2);
  await pass(world, 20);
  world.crashNode(0, false);
  const next = await attach(world, 2);
  const isOpen = await connected(world, 2, 1);
  t.notOk(isOpen, 'the copy is not opened while its drive is at it');
  await ok(t, world, next.read(0, BLOCK));
  await world.wait(world.startNode(0), LONG_MS);
  const late = next.write(0, BLOCK, 3);
  disk?.resume();
  await ok(t, world, late);
  t.ok(await untilInSync(world, 2, 3));
  await ok(t, world, next.read(0, BLOCK), 3);
  await identical(t, world, 2);
});

await t.test('the store is away for 30 s: I/O goes on as long as the lease, and comes back by itself', async (t) => {
  const { world, client } = await beginAttached();
  let writes = keepWriting(world, client);
  await pass(world, 1_000);
  const { store: owners } = nodeOf(world, 0);
  const keepAlive = owners.keepAlive.bind(owners);
  let isAway = false;
  owners.keepAlive = (lease) => {
    isAway = true; // at the worst moment: the lease is about to be renewed
    for (const { store } of world.nodes) store.setReachable(false);
    owners.keepAlive = keepAlive;
    return keepAlive(lease);
  };
  await world.runUntil(() => isAway, LONG_MS);
  await pass(world, 2_000); // the lease of 5 s less margin, age of the last renewal, and the time to notice that the store is back
  for (const { store } of world.nodes) store.setReachable(true);
  await pass(world, 2_000);
  t.equal(writes.refusedMs, null, 'a short outage is not noticed');
  t.equal((await served(world, 0)).epoch, 1);
  for (const { store } of world.nodes) store.setReachable(false);
  const awayMs = world.clock.nowMs();
  await pass(world, OUTAGE_MS);
  const { acknowledged, acknowledgedMs, refusedMs } = writes;
  writes.stop();
  const leaseMs = limits.leaseTtlMs - limits.leaseMarginMs;
  t.ok(acknowledgedMs - awayMs >= leaseMs - limits.leaseRenewMs - 200 && acknowledgedMs - awayMs <= leaseMs);
  t.ok(refusedMs !== null && refusedMs < awayMs + limits.leaseTtlMs, 'fenced before the lease can have ended');
  for (const { store } of world.nodes) store.setReachable(true);
  const backMs = world.clock.nowMs();
  const next = await attach(world, 0); // the wish is there still: nothing changes
  const { bytes } = await world.wait(next.read(0, BLOCK), LONG_MS);
  t.ok(bytes[0] === acknowledged || bytes[0] === acknowledged + 1, 'nothing acknowledged is lost');
  t.comment(
    `I/O went on for ${(acknowledgedMs - awayMs).toFixed(0)} ms of the outage, and was back ${(world.clock.nowMs() - backMs).toFixed(0)} ms after it`,
  );
  t.ok(world.clock.nowMs() - backMs < LEASE_OVER_MS);
  t.equal((await served(world, 0)).epoch, 2, 'under a new epoch');
  writes = keepWriting(world, next);
  await pass(world, 1_000);
  t.equal(writes.refusedMs, null);
  writes.stop();
  await pass(world, 100);
  await identical(t, world, 0);
});

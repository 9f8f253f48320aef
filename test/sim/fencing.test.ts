/**
 * Stories of sessions that are over: owners that do not know yet that they are none, whose reads and late requests reach nobody, and connections
 * that broke, whose requests are drained and sent again.
 */
import t from 'tap';
import { must } from '../../daemon/base/assert.js';
import { STATUS } from '../../daemon/protocol/frame.js';
import { storeKeys } from '../../daemon/protocol/store.js';
import {
  begin,
  BLOCK,
  identical,
  LEASE_OVER_MS,
  LONG_MS,
  nodeOf,
  ok,
  pass,
  recordedInSync,
  restart,
  serve,
  untilInSync,
  within,
} from './story.js';
import type { SimWorld } from './world/sim-world.js';

/** The lease's promise is broken, as by a clock that is far off: the epoch alone has to hold. */
function breakLease(world: SimWorld, owner: number): void {
  world.storeState.txn([], [{ type: 'delete', key: storeKeys.alive(nodeOf(world, owner).setup.id) }]);
}

await t.test('11: an owner that comes back after its lease serves nothing, even if nobody can tell it', async (t) => {
  const { world, client } = await begin();
  await ok(t, world, client.write(0, BLOCK, 1));
  const old = nodeOf(world, 0);
  const early = client.read(0, BLOCK); // under way when the owner is stopped
  old.freeze();
  old.store.setReachable(false);
  for (const other of ['node-1', 'node-2']) {
    world.fabric.cut('node-0', other);
    world.fabric.cut(other, 'node-0'); // the new owner's OPEN does not get to the old one's copy
  }
  await pass(world, LEASE_OVER_MS);
  const next = await serve(world, 1);
  await ok(t, world, next.write(0, BLOCK, 2));
  old.thaw();
  const late = client.read(0, BLOCK);
  t.equal((await within(world, late, 1_000))?.status, STATUS.FENCED, 'a read of its own copy is refused');
  t.equal((await within(world, early, 1_000))?.status, STATUS.FENCED, 'and so is one that was under way');
  old.store.setReachable(true);
  world.fabric.healAll();
  t.ok(await untilInSync(world, 1, 3), 'it is a replica again');
  await identical(t, world, 1);
});

await t.test('11: what an owner was reading when it was stopped is not answered after its lease', async (t) => {
  const { world, client } = await begin();
  await ok(t, world, client.write(0, BLOCK, 1));
  const old = nodeOf(world, 0);
  const early = client.read(0, BLOCK);
  old.freeze();
  await pass(world, LEASE_OVER_MS);
  const next = await serve(world, 1);
  await ok(t, world, next.write(0, BLOCK, 2));
  old.thaw();
  t.equal((await within(world, early, 1_000))?.status, STATUS.FENCED);
});

await t.test('2: a request that arrives after its session has ended is not carried out', async (t) => {
  const { world, client } = await begin();
  await ok(t, world, client.write(0, BLOCK, 1));
  world.fabric.cut('node-0', 'node-1');
  void client.write(0, BLOCK, 3); // on its way to node 1 for as long as the link is cut
  await pass(world, 10);
  breakLease(world, 0);
  const next = await serve(world, 2);
  await ok(t, world, next.write(0, BLOCK, 2));
  world.fabric.healAll(); // the late request arrives, on a connection that is still good
  await pass(world, 1_000);
  await ok(t, world, next.read(0, BLOCK), 2);
  t.ok(await untilInSync(world, 2, 3), 'all copies are in sync');
  await identical(t, world, 2);
});

await t.test('2: the own copy of an owner that is none any more refuses its writes, too', async (t) => {
  const { world, client } = await begin();
  await ok(t, world, client.write(0, BLOCK, 1));
  breakLease(world, 0);
  const next = await serve(world, 2);
  await ok(t, world, next.read(0, BLOCK), 1); // the region is reconciled
  t.equal((await within(world, client.write(0, BLOCK, 2), 1_000))?.status, STATUS.FENCED);
  await ok(t, world, next.read(0, BLOCK), 1);
  t.ok(await untilInSync(world, 2, 3), 'all copies are in sync');
  await identical(t, world, 2);
});

await t.test('2: a copy that was restarted remembers the epoch that it has seen', async (t) => {
  const { world, client } = await begin({ nodes: 4 }, 3);
  await ok(t, world, client.write(0, BLOCK, 1));
  const others = ['node-0', 'node-1', 'node-2'];
  for (const other of others) {
    world.fabric.cut('node-3', other);
    world.fabric.cut(other, 'node-3');
  }
  breakLease(world, 3);
  const next = await serve(world, 0); // all copies have seen its epoch
  for (const other of ['node-0', 'node-1']) {
    world.fabric.cut('node-2', other);
    world.fabric.cut(other, 'node-2');
  }
  await ok(t, world, next.write(0, BLOCK, 2));
  t.equal(recordedInSync(world), 2, 'the copy on node 2 was dropped');
  world.crashNode(2, false);
  await restart(world, [2]);
  nodeOf(world, 3).store.setReachable(false); // neither the store nor any other copy tells the old owner
  world.fabric.heal('node-3', 'node-2');
  world.fabric.heal('node-2', 'node-3');
  const stale = await within(world, client.read(0, BLOCK), 3_000);
  t.not(stale?.status, STATUS.OK, 'the old owner finds no copy that answers');
});

await t.test('6: a write of the connection before is over when a copy takes the next session', async (t) => {
  const { world, client } = await begin();
  await ok(t, world, client.write(0, BLOCK, 1));
  const disk = must(world.media(1).user, 'the disk');
  const first = client.write(0, BLOCK, 2);
  const second = client.write(0, BLOCK, 3);
  await world.runUntil(() => disk.inFlight > 0, LONG_MS);
  const release = disk.hold(); // the drive takes its time with the first write
  nodeOf(world, 1).network.resetAll();
  await pass(world, 300);
  release();
  await ok(t, world, first);
  await ok(t, world, second);
  t.equal(recordedInSync(world), 3, 'no copy was dropped');
  await identical(t, world, 0);
  await ok(t, world, client.read(0, BLOCK), 3);
});

await t.test('1: what a copy owes is sent again when it is connected again', async (t) => {
  const { world, client } = await begin();
  await ok(t, world, client.write(0, BLOCK, 1));
  world.fabric.cut('node-0', 'node-1');
  const write = client.write(0, BLOCK, 2);
  await pass(world, 20);
  nodeOf(world, 1).network.resetAll(); // it never arrives
  world.fabric.healAll();
  t.equal((await within(world, write, LONG_MS))?.status, STATUS.OK);
  t.equal(recordedInSync(world), 3, 'no copy was dropped');
  await identical(t, world, 0);
});

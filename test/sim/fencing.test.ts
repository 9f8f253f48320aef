/** Stories of owners that do not know yet that they are none: their reads and their late requests reach nobody. */
import t from 'tap';
import { STATUS } from '../../daemon/protocol/frame.js';
import { storeKeys } from '../../daemon/protocol/store.js';
import { begin, BLOCK, identical, LEASE_OVER_MS, nodeOf, ok, pass, serve, untilInSync, within } from './story.js';

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

await t.test('2: a request that arrives after its session has ended is not carried out', async (t) => {
  const { world, client } = await begin();
  await ok(t, world, client.write(0, BLOCK, 1));
  world.fabric.cut('node-0', 'node-1');
  void client.write(0, BLOCK, 3); // on its way to node 1 for as long as the link is cut
  await pass(world, 10);
  // The lease's promise is broken, as by a clock that is far off: the epoch alone has to hold.
  world.storeState.txn([], [{ type: 'delete', key: storeKeys.alive(nodeOf(world, 0).setup.id) }]);
  const next = await serve(world, 2);
  await ok(t, world, next.write(0, BLOCK, 2));
  world.fabric.healAll(); // the late request arrives, on a connection that is still good
  await pass(world, 1_000);
  await ok(t, world, next.read(0, BLOCK), 2);
  t.ok(await untilInSync(world, 2, 3), 'all copies are in sync');
  await identical(t, world, 2);
});

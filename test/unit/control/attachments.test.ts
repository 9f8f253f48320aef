import t from 'tap';
import { BraidError } from '../../../daemon/base/errors.js';
import type { VolumeId } from '../../../daemon/base/ids.js';
import { limits } from '../../../daemon/base/limits.js';
import { putRecord } from '../../../daemon/control/cluster-state.js';
import { records, type NodeRecord, type VolumeRecord } from '../../../daemon/protocol/records.js';
import { storeKeys } from '../../../daemon/protocol/store.js';
import { smallVolume, World, type TestNode } from './fixture.js';

async function recordOf(world: World, { id }: TestNode): Promise<NodeRecord> {
  const node = await world.run(world.state.node(id));
  if (node === null) throw new Error('registered');
  return node.value;
}

async function attach(
  world: World,
  via: TestNode,
  to: TestNode,
  volume: VolumeRecord,
  device = false,
  timeoutMs = 10_000,
) {
  const node = await recordOf(world, to);
  return world.run(via.agent.attachRequests.attach({ volume, node, device, timeoutMs }));
}

async function lastEvents(world: World, { agent }: TestNode, count: number) {
  await world.run(agent.context.events.flush());
  return world.run(agent.context.events.list(undefined, count));
}

async function prepare(
  seed: string,
  count = 2,
): Promise<{ world: World; nodes: [TestNode, TestNode, TestNode]; volume: VolumeRecord; id: VolumeId }> {
  const world = new World(seed);
  const nodes = await world.cluster(count);
  const volume = await world.run(nodes[0].agent.volumes.create(smallVolume('v1')));
  return { world, nodes, volume, id: volume.id as VolumeId };
}

t.test('attach through another node waits until it is served, and is idempotent', async (t) => {
  const { world, nodes, volume, id } = await prepare('attach');
  const [a, b] = nodes;
  const attached = await attach(world, a, b, volume);
  const nbdUri = 'nbd+unix:///v1?socket=%2Frun%2Fnode-b.sock';
  t.same(attached, { nbdUri, nbdTcpUri: 'nbd://host-b:10809/v1', device: '' });
  t.same([...b.shard.volumes.keys()], [id]);
  t.same(await attach(world, b, b, volume), attached);
  t.equal((await world.run(world.state.owner(id)))?.value.epoch, 1, 'taken once');
  const withDevice = await attach(world, a, b, volume, true);
  t.equal(withDevice.device, '/dev/loop0');
  t.equal((await attach(world, a, b, volume, false)).device, '', 'who asks for no device keeps the one that is there');
  t.equal(b.devices.attached.size, 1);
});

t.test('attached to another node that is alive: CONFLICT; dead: taken over', async (t) => {
  const { world, nodes, volume, id } = await prepare('take over', 3);
  const [a, b, c] = nodes;
  await attach(world, a, b, volume);
  await t.rejects(attach(world, a, c, volume), { code: 'CONFLICT', message: /attached to node-b, which is alive/ });
  world.crash(b);
  await t.rejects(attach(world, a, c, volume), { code: 'CONFLICT' }, 'its lease is still held');
  await world.sleep(limits.leaseTtlMs);
  await attach(world, a, c, volume);
  t.same((await world.run(world.state.owner(id)))?.value, { epoch: 2, nodeId: c.id, incarnation: 'i3' });
});

t.test('attach waits for an agent that was killed and started again, whatever it said before', async (t) => {
  const { world, nodes, volume, id } = await prepare('started again');
  const [a, b] = nodes;
  await attach(world, a, b, volume);
  world.crash(b);
  // It has come as far as its lease.
  const alive = putRecord(storeKeys.alive(b.id), records.nodeAlive, { incarnation: 'i9' });
  await world.run(world.state.commit([], [alive]));
  t.match((await world.run(world.state.status(id)))?.value, { state: 'serving', epoch: 1 }, 'it has left a status');
  await t.rejects(attach(world, a, b, volume, false, 1_000), { code: 'TIMEOUT' });
});

t.test('attach to a node that is not alive is refused', async (t) => {
  const { world, nodes, volume } = await prepare('dead target');
  const [a, b] = nodes;
  world.crash(b);
  await world.sleep(limits.leaseTtlMs + 100);
  await t.rejects(attach(world, a, b, volume), { code: 'UNAVAILABLE', message: /node-b is not alive/ });
});

t.test('errors are retried and shown, and the wish outlives the request', async (t) => {
  const { world, nodes, volume, id } = await prepare('retry');
  const [a, b] = nodes;
  for (let i = 0; i < 30; i++) b.shard.fail('takeVolume', 'UNAVAILABLE', 'no copy answers');
  await t.rejects(attach(world, a, b, volume, false, 1_000), {
    code: 'TIMEOUT',
    message: /no copy answers.*background/,
  });
  const status = await world.run(world.state.status(id));
  t.match(status?.value, { state: 'waiting', error: 'no copy answers (UNAVAILABLE)', epoch: 0 });
  b.shard.failures.clear();
  await attach(world, a, b, volume);
  t.equal((await world.run(world.state.status(id)))?.value.error, '');
});

t.test('a device that this host cannot make is an error at once, and the volume is served all the same', async (t) => {
  const { world, nodes, volume, id } = await prepare('no device');
  const [a] = nodes;
  Object.assign(a.devices, {
    attach: () => Promise.reject(new BraidError('UNSUPPORTED', 'this host has no /dev/fuse')),
  });
  const startMs = world.clock.nowMs();
  await t.rejects(attach(world, a, a, volume, true, 30_000), { code: 'UNSUPPORTED', message: /no \/dev\/fuse/ });
  t.ok(world.clock.nowMs() - startMs < 5_000);
  t.equal(a.shard.volumes.size, 1);
  t.match((await world.run(world.state.status(id)))?.value, { state: 'serving', device: '' });
});

t.test('an idle volume costs no calls but the looks', async (t) => {
  const { world, nodes, volume } = await prepare('idle');
  const [a] = nodes;
  await attach(world, a, a, volume);
  await world.sleep(1_000);
  const before = a.shard.calls.length;
  await world.sleep(30_000);
  const calls = new Set(a.shard.calls.slice(before));
  t.same([...calls].sort(), ['servedVolumes', 'setLeaseDeadline', 'stats']);
});

t.test('the status is written when it changes, and only then', async (t) => {
  const { world, nodes, volume, id } = await prepare('status');
  const [a] = nodes;
  await attach(world, a, a, volume);
  const before = await world.run(world.state.status(id));
  await world.sleep(5_000);
  t.equal((await world.run(world.state.status(id)))?.revision, before?.revision);
  a.shard.set(id, { state: 'suspended', reason: 'too few copies' });
  await world.until('the change is seen', async () => (await world.state.status(id))?.value.state === 'suspended');
  t.equal((await world.run(world.state.status(id)))?.value.error, 'too few copies');
});

t.test('a status that could not be written is written later, though nothing changes any more', async (t) => {
  const { world, nodes, volume, id } = await prepare('status later');
  const [a] = nodes;
  await attach(world, a, a, volume);
  a.store.setReachable(false);
  a.shard.set(id, { state: 'suspended', reason: 'too few copies' });
  await world.sleep(2_000); // shorter than the lease
  t.equal((await world.run(world.state.status(id)))?.value.state, 'serving');
  a.store.setReachable(true);
  await world.until('the change is seen', async () => (await world.state.status(id))?.value.state === 'suspended');
});

t.test('detach: a device in use keeps everything as it is, force does not ask', async (t) => {
  const { world, nodes, volume, id } = await prepare('detach');
  const [a] = nodes;
  await attach(world, a, a, volume, true);
  a.devices.busy.add('v1');
  await t.rejects(world.run(a.agent.attachments.detach(id, false)), { code: 'CONFLICT', message: /mounted/ });
  t.ok(await world.run(world.state.attachment(id)), 'still attached');
  t.equal(a.shard.volumes.size, 1);
  await world.run(a.agent.attachments.detach(id, true));
  t.equal(await world.run(a.agent.attachRequests.waitReleased(volume, 5_000)), true);
  t.equal(a.devices.attached.size, 0);
  await world.until('the shard has let go', () => a.shard.volumes.size === 0);
  await world.until('the status is gone', async () => (await world.state.status(id)) === null);
});

t.test('a device that dies is reported and made anew at once', async (t) => {
  const { world, nodes, volume, id } = await prepare('dead device');
  const [a] = nodes;
  await attach(world, a, a, volume, true);
  const epoch = (await world.run(world.state.owner(id)))?.value.epoch;
  a.devices.die('v1');
  const startMs = world.clock.nowMs();
  await world.until('it is there again', async () => (await world.state.status(id))?.value.device === '/dev/loop1');
  t.ok(world.clock.nowMs() - startMs < 1_000);
  t.equal((await world.run(world.state.owner(id)))?.value.epoch, epoch, 'the volume was served all the time');
  t.match(await lastEvents(world, a, 2), [
    { severity: 'error', subject: 'volume/v1', message: /^the device \/dev\/loop0 died: its driver ended; / },
    { severity: 'info', subject: 'volume/v1', message: 'the device was made anew: /dev/loop1' },
  ]);
});

t.test('a device that dies in use is reported, left to its users, and made anew when they let go', async (t) => {
  const { world, nodes, volume, id } = await prepare('dead device in use');
  const [a] = nodes;
  await attach(world, a, a, volume, true);
  a.devices.busy.add('v1');
  a.devices.die('v1');
  const status = async () => (await world.state.status(id))?.value;
  await world.until('the reason is shown', async () => (await status())?.error !== '');
  t.match(await world.run(status()), { state: 'serving', device: '', error: /dead and mounted \(UNAVAILABLE\)/ });
  t.match(await lastEvents(world, a, 2), [
    { severity: 'error', message: /died/ },
    { severity: 'warning', message: /not attached as wanted yet: the device of v1 is dead and mounted/ },
  ]);
  a.devices.busy.delete('v1');
  await world.until('it is there again', async () => (await status())?.device === '/dev/loop1');
  t.match(await world.run(status()), { error: '' });
});

t.test('a device that dies and is not wanted any more goes', async (t) => {
  const { world, nodes, volume, id } = await prepare('dead and unwanted');
  const [a] = nodes;
  await attach(world, a, a, volume, true);
  a.devices.busy.add('v1');
  a.devices.die('v1');
  await world.run(a.agent.attachments.detach(id, true));
  await world.until('nothing is left', async () => (await world.state.status(id)) === null);
  t.equal(a.devices.attached.size, 0);
});

t.test('a fenced volume is released and taken anew, its device is made anew', async (t) => {
  const { world, nodes, volume, id } = await prepare('fenced');
  const [a] = nodes;
  await attach(world, a, a, volume, true);
  a.devices.busy.add('v1');
  a.shard.set(id, { state: 'fenced', reason: 'a higher epoch was seen' });
  await world.until('taken again', () => a.shard.volumes.get(id)?.epoch === 2);
  await world.until('served again', async () => (await world.state.status(id))?.value.device !== '');
  t.match((await world.run(world.state.status(id)))?.value, { epoch: 2, state: 'serving' });
});

t.test('a volume that its shard has forgotten is taken again', async (t) => {
  const { world, nodes, volume, id } = await prepare('forgotten');
  const [a] = nodes;
  await attach(world, a, a, volume);
  a.shard.volumes.clear();
  await world.until('taken again', () => a.shard.volumes.has(id));
  t.pass();
});

t.test(
  'a lost lease: volumes are given up before a new deadline is given, then taken under the next epoch',
  async (t) => {
    const { world, nodes, volume, id } = await prepare('lost lease');
    const [a] = nodes;
    await attach(world, a, a, volume);
    a.shard.fail('releaseVolume', 'UNAVAILABLE', 'the store does not answer');
    a.store.setReachable(false);
    await world.sleep(limits.leaseTtlMs + 1_000);
    const callsBefore = a.shard.calls.length;
    t.equal(a.agent.registrar.lease, null);
    t.ok((a.shard.deadlines.at(-1) ?? 0) < world.clock.nowMs(), 'the shard knows');
    a.store.setReachable(true);
    await world.until('taken again', () => a.shard.volumes.get(id)?.epoch === 2);
    const calls = a.shard.calls.slice(callsBefore).filter((call) => call !== 'servedVolumes' && call !== 'stats');
    t.same(
      calls,
      ['releaseVolume', 'releaseVolume', 'setLeaseDeadline', 'takeVolume'],
      'the release that failed was repeated first',
    );
    await world.until('published', async () => (await world.state.status(id))?.value.epoch === 2);
  },
);

t.test(
  'a clean stop releases the volume, gives the lease back and keeps the attachment for the next start',
  async (t) => {
    const { world, nodes, volume, id } = await prepare('restart');
    const [a] = nodes;
    await attach(world, a, a, volume, true);
    await world.run(a.agent.stop());
    t.equal((await world.run(world.state.owner(id)))?.value.nodeId, '');
    t.equal(await world.run(world.state.nodeAlive(a.id)), null);
    t.ok(a.shard.isStopped);
    t.equal(a.devices.attached.size, 0);
    t.equal((await world.run(world.state.attachment(id)))?.value.nodeId, a.id);
    const again = world.node('node-a');
    await world.run(again.agent.start('http://node-a'));
    await world.until('served again', () => again.shard.volumes.get(id)?.epoch === 2);
    await world.until('as a device', () => again.devices.attached.has('v1'));
    t.ok(again.devices.isClean, 'devices of the last process were cleaned up');
  },
);

t.test('verify takes a volume that nobody serves, and gives it back', async (t) => {
  const { world, nodes, volume, id } = await prepare('verify');
  const [a, b] = nodes;
  const report = await world.run(a.agent.verify(id));
  t.equal(report.extentsCompared, 4);
  await world.until('given back', async () => (await world.state.owner(id))?.value.nodeId === '');
  await attach(world, a, b, volume);
  await t.rejects(world.run(a.agent.verify(id)), { code: 'CONFLICT' }, 'not from under a live owner');
});

import t from 'tap';
import { BraidError } from '../../../daemon/base/errors.js';
import type { VolumeId } from '../../../daemon/base/ids.js';
import { planGeometry } from '../../../daemon/control/volumes.js';
import { GIB, smallVolume, World } from './fixture.js';

const MIB = 2 ** 20;
const geometry = (sizeBytes: number, driveCount: number, more = {}) =>
  planGeometry({ name: 'v', sizeBytes, replicas: 2, ...more }, driveCount);

t.test('geometry: small volumes have small segments, large ones 1 GiB or as much as it takes', async (t) => {
  t.same(geometry(MIB, 2), { stripeWidth: 1, segmentBytes: 16 * MIB });
  t.same(geometry(100 * MIB, 2), { stripeWidth: 1, segmentBytes: 128 * MIB });
  t.same(geometry(20 * GIB, 2), { stripeWidth: 1, segmentBytes: GIB });
  t.same(geometry(20 * GIB, 100), { stripeWidth: 4, segmentBytes: GIB });
  t.same(geometry(GIB, 8), { stripeWidth: 4, segmentBytes: 256 * MIB });
  t.same(geometry(2 * MIB, 100), { stripeWidth: 2, segmentBytes: 16 * MIB }, 'no wider than there are stripe units');
  t.same(geometry(64 * 1024 * GIB, 2, { stripeWidth: 3 }), { stripeWidth: 3, segmentBytes: 2 * GIB });
});

t.test('geometry: what cannot be is refused with the range', async (t) => {
  for (const [request, message] of [
    [{ sizeBytes: MIB / 2 }, /1 MiB to 64 TiB, not 512 KiB/],
    [{ sizeBytes: 65 * 1024 * GIB }, /64 TiB/],
    [{ sizeBytes: MIB + 1 }, /multiple of 512/],
    [{ sizeBytes: GIB, segmentBytes: 20 * MIB }, /power of two/],
    [{ sizeBytes: GIB, segmentBytes: 8 * MIB }, /16 MiB to 4 GiB/],
    [{ sizeBytes: 64 * 1024 * GIB, segmentBytes: 16 * MIB }, /larger segmentSize/],
  ] as const) {
    t.throws(() => planGeometry({ name: 'v', replicas: 2, ...request }, 2), { code: 'INVALID_ARGUMENT', message });
  }
});

t.test('a volume is created with its name, layout and defaults', async (t) => {
  const world = new World('create');
  const [a] = await world.cluster(3);
  const volume = await world.run(
    a.agent.volumes.create({ ...smallVolume('one', 3), stripeWidth: 2, labels: { app: 'db' } }),
  );
  t.match(volume, {
    name: 'one',
    replicas: 3,
    minInSync: 2,
    stripeWidth: 2,
    segmentBytes: 32 * MIB,
    labels: { app: 'db' },
  });
  const found = await world.run(world.state.volumeByName('one'));
  t.equal(found?.value.id, volume.id);
  const segments = await world.run(world.state.segments(volume.id as VolumeId));
  t.equal(segments.length, 2);
  for (const { value } of segments) {
    t.equal(value.generation, 1);
    t.equal(new Set(value.replicas.map(({ driveId }) => driveId)).size, 3);
    t.ok(value.replicas.every(({ inSync }) => inSync));
  }
  t.equal(world.storeState.list('creating/').entries.length, 0);
});

t.test('more segments than fit one transaction', async (t) => {
  const world = new World('many');
  const [a] = await world.cluster(2);
  const volume = await world.run(a.agent.volumes.create({ name: 'big', sizeBytes: 300 * GIB, replicas: 2 }));
  t.equal((await world.run(world.state.segments(volume.id as VolumeId))).length, 300);
});

t.test('two agents that create the same name: one wins, nothing is left of the other', async (t) => {
  const world = new World('race');
  const [a, b] = await world.cluster(2);
  const both = await world.run(
    Promise.allSettled([a.agent.volumes.create(smallVolume('same')), b.agent.volumes.create(smallVolume('same'))]),
  );
  const failed = both.filter((result) => result.status === 'rejected');
  t.equal(failed.length, 1);
  t.match(failed[0]?.reason, { code: 'ALREADY_EXISTS' });
  const volumes = await world.run(world.state.volumes());
  t.equal(volumes.length, 1);
  t.equal(world.storeState.list('segments/').entries.length, 1);
});

t.test('errors of creation', async (t) => {
  const world = new World('errors');
  const [a] = await world.cluster(2);
  const { volumes } = a.agent;
  await world.run(volumes.create(smallVolume('one')));
  await t.rejects(world.run(volumes.create(smallVolume('one'))), { code: 'ALREADY_EXISTS' });
  await t.rejects(world.run(volumes.create(smallVolume('two', 3))), { code: 'NO_SPACE', message: /3 different nodes/ });
  await t.rejects(world.run(volumes.create({ ...smallVolume('two'), minInSync: 3 })), { code: 'INVALID_ARGUMENT' });
});

t.test('the rest of a creation that did not end is swept, one that is under way is not', async (t) => {
  const world = new World('sweep');
  const [a, b] = await world.cluster(2);
  // 1,000 segments take several transactions: the agent dies in the middle.
  const dying = b.agent.volumes.create({ name: 'never', sizeBytes: 1_000 * GIB, replicas: 2 });
  dying.catch(() => undefined);
  await world.until('some segments exist', () => world.storeState.list('segments/').entries.length > 100);
  world.crash(b);
  await world.run(a.agent.volumes.sweep());
  t.ok(world.storeState.list('segments/').entries.length > 100, 'its lease may be held still');
  await world.sleep(6_000);
  await world.run(a.agent.volumes.sweep());
  t.equal(world.storeState.list('segments/').entries.length, 0);
});

t.test('a creation whose agent loses its lease ends in ABORTED and leaves nothing', async (t) => {
  const world = new World('lease');
  const [a] = await world.cluster(2);
  const creation = a.agent.volumes.create({ name: 'late', sizeBytes: 1_000 * GIB, replicas: 2 });
  creation.catch(() => undefined);
  await world.until('some segments exist', () => world.storeState.list('segments/').entries.length > 100);
  const key = world.storeState.list('creating/').entries[0]?.key ?? '';
  world.storeState.txn([], [{ type: 'delete', key }]);
  await t.rejects(world.run(creation), { code: 'ABORTED' });
  t.equal(world.storeState.list('segments/').entries.length, 0);
});

t.test('deletion frees the name at once, removes the replicas of every node, then the records', async (t) => {
  const world = new World('delete');
  const [a, b, c] = await world.cluster(3);
  const volume = await world.run(a.agent.volumes.create({ ...smallVolume('gone', 3), segmentBytes: 16 * MIB }));
  const found = await world.run(world.state.volumeByName('gone'));
  if (found === null) throw new BraidError('NOT_FOUND', 'just created');
  await world.run(b.agent.volumes.delete('gone', found, false));
  t.equal(await world.run(world.state.volumeByName('gone')), null);
  await world.run(a.agent.volumes.create(smallVolume('gone')));
  await world.until('its records are gone', async () => (await world.state.volume(volume.id as VolumeId)) === null);
  for (const { shard } of [a, b, c]) t.equal(new Set(shard.deleted).size, 4, 'each node removed its four replicas');
  t.equal((await world.run(world.state.segments(volume.id as VolumeId))).length, 0);
  t.equal((await world.run(world.state.volumes())).length, 1);
});

t.test('deletion waits for a dead node and ends when it is back', async (t) => {
  const world = new World('delete with a dead node');
  const [a, b] = await world.cluster(2);
  const volume = await world.run(a.agent.volumes.create(smallVolume('gone')));
  const found = await world.run(world.state.volumeByName('gone'));
  if (found === null) throw new BraidError('NOT_FOUND', 'just created');
  world.crash(b);
  await world.run(a.agent.volumes.delete('gone', found, false));
  await world.sleep(20_000);
  const [segment] = await world.run(world.state.segments(volume.id as VolumeId));
  t.equal(segment?.value.replicas.length, 1, 'the replica of the dead node is left');
  const again = world.node('node-b');
  await world.run(again.agent.start('http://node-b'));
  await world.until('its records are gone', async () => (await world.state.volume(volume.id as VolumeId)) === null);
  t.equal(again.shard.deleted.length, 1);
});

t.test('an attached volume is deleted only by force, and is given up first', async (t) => {
  const world = new World('delete attached');
  const [a, b] = await world.cluster(2);
  const volume = await world.run(a.agent.volumes.create(smallVolume('used')));
  const node = (await world.run(world.state.node(b.id)))?.value;
  if (node === undefined) throw new Error('registered');
  await world.run(a.agent.attachRequests.attach({ volume, node, device: true, timeoutMs: 10_000 }));
  const found = await world.run(world.state.volumeByName('used'));
  if (found === null) throw new Error('exists');
  await t.rejects(world.run(a.agent.volumes.delete('used', found, false)), {
    code: 'CONFLICT',
    message: /attached to node-b/,
  });
  await world.run(a.agent.volumes.delete('used', found, true));
  await world.until('its records are gone', async () => (await world.state.volume(volume.id as VolumeId)) === null);
  t.equal(b.shard.volumes.size, 0);
  t.equal(b.devices.attached.size, 0);
  t.ok(
    b.shard.calls.lastIndexOf('releaseVolume') < b.shard.calls.lastIndexOf('deleteReplicas'),
    'released before its data went',
  );
});

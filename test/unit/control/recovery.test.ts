import t from 'tap';
import type { VolumeId } from '../../../daemon/base/ids.js';
import { putRecord } from '../../../daemon/control/cluster-state.js';
import { ensureCluster } from '../../../daemon/control/agent.js';
import type { KeptDrive } from '../../../daemon/ports/kept-drive.js';
import { records, type SegmentRecord } from '../../../daemon/protocol/records.js';
import { storeKeys } from '../../../daemon/protocol/store.js';
import { smallVolume, World, type TestNode } from './fixture.js';

const NO_CHOICE = { accept: [], skip: [] };

/** What the drives of a cluster with one volume keep, read by agents of a new one on an empty store. */
async function lost(name: string) {
  const old = new World(name);
  const before = await old.cluster(2);
  const volume = await old.run(before[0].agent.volumes.create(smallVolume('v1')));
  const segments = await old.run(old.state.segments(volume.id as VolumeId));
  const world = new World(`${name} again`);
  const agents = before.slice(0, 2).map(({ name: node }) => world.node(node));
  for (const [index, node] of agents.entries()) node.memory.known = (before[index] as TestNode).memory.known;
  const id = agents[0]?.memory.known?.clusterId;
  const { random, clock } = world;
  const cluster = await world.run(ensureCluster(world.state.store, { name: 'test', id, random, clock }));
  for (const node of agents) {
    const [record] = node.memory.known?.drives ?? [];
    const copies = segments.map(({ value }) => ({
      ...{ volumeId: volume.id as VolumeId, layout: value, highestStamp: 1 },
    }));
    const kept: KeptDrive = {
      ...{ clusterId: cluster.id, driveId: record?.id ?? '', slotCount: 8_192, createdMs: 1 },
      ...{ volumes: [{ id: volume.id as VolumeId, epoch: 7, record: volume }], copies },
    };
    node.shard.kept.set(record?.path ?? '', kept);
    await world.run(node.agent.start(`http://${node.name}`));
  }
  const [a, b] = agents as [TestNode, TestNode];
  const read = async () => [
    ...(await world.run(a.agent.recovery.readOwn([]))),
    ...(await world.run(b.agent.recovery.readOwn([]))),
  ];
  return { world, a, b, volume, segments, read };
}

t.test('a node remembers its drives, and its cluster, apart from the store', async (t) => {
  const world = new World('memory');
  const [a] = await world.cluster(1);
  await world.until('it is noted', () => a.memory.known !== null);
  t.match(a.memory.known, { clusterId: 'c1', drives: [{ path: '/drives/node-a' }] });
  const { world: fresh, a: again } = await lost('forget nothing');
  await fresh.sleep(20_000);
  t.match(again.memory.known?.drives, [{ path: '/drives/node-a' }], 'an empty store does not make it forget them');
});

t.test('what the drives keep is restored, and opened', async (t) => {
  const { world, a, b, volume, segments, read } = await lost('restore');
  const { plan, mustRestart } = await world.run(a.agent.recovery.restore(await read(), NO_CHOICE));
  t.match(plan, { problems: [], volumes: [{ name: 'v1', decision: 'restore' }] });
  t.equal(mustRestart, false);
  t.strictSame((await world.run(world.state.volumeByName('v1')))?.value, volume);
  const restored = await world.run(world.state.segments(volume.id as VolumeId));
  t.strictSame(
    restored.map(({ value }) => value),
    segments.map(({ value }) => value),
  );
  t.match((await world.run(world.state.owner(volume.id as VolumeId)))?.value, { epoch: 1_007, nodeId: '' });
  await world.until('the drives are open', () => [a, b].every(({ agent }) => agent.drives.list()[0]?.state === 'open'));
  t.equal(await world.run(world.state.store.get(storeKeys.recovering)), null);
  await t.rejects(world.run(a.agent.recovery.restore([], NO_CHOICE)), {
    code: 'CONFLICT',
    message: /in use.*drives, volumes/,
  });
  await t.rejects(world.run(a.agent.recovery.readOwn([])), { code: 'CONFLICT' });
});

t.test('nothing is written while something is doubtful', async (t) => {
  const { world, a, read } = await lost('doubt');
  const [first] = await read();
  const some = first === undefined ? [] : [first];
  await t.rejects(world.run(a.agent.recovery.restore(some, NO_CHOICE)), {
    ...{ code: 'CONFLICT', message: /volume v1 \(.*drive .* is not there.*accept or skip it/ },
  });
  t.same(await world.run(world.state.drives()), []);
  await world.run(a.agent.recovery.restore(some, { ...NO_CHOICE, skip: ['v1'] }));
  t.equal((await world.run(world.state.drives())).length, 1);
  t.same(await world.run(world.state.volumes()), []);
});

t.test('an attempt that did not end is cleared away by the next one, unless it is in use', async (t) => {
  const { world, a, volume, read } = await lost('unfinished');
  const put = a.state.commit.bind(a.state);
  let commits = 0;
  a.state.commit = (...change) => (++commits > 2 ? Promise.reject(new Error('the agent dies')) : put(...change));
  const all = await read();
  await t.rejects(world.run(a.agent.recovery.restore(all, NO_CHOICE)), /the agent dies/);
  a.state.commit = put;
  t.not(await world.run(world.state.store.get(storeKeys.recovering)), null);
  const garbage: SegmentRecord = { index: 9, generation: 1, replicas: [] };
  const key = storeKeys.segment(volume.id as VolumeId, 9);
  await world.run(world.state.commit([], [putRecord(key, records.segment, garbage)]));
  await world.run(a.agent.volumes.sweep());
  t.equal(
    (await world.run(world.state.segments(volume.id as VolumeId))).length > 1,
    true,
    'nothing is swept meanwhile',
  );
  await world.run(a.agent.recovery.restore(all, NO_CHOICE));
  t.equal((await world.run(world.state.segments(volume.id as VolumeId))).length, 1);
});

t.test('a drive that nobody knew of is taken up by the node that comes back with it', async (t) => {
  const { world, a, b, read } = await lost('adopt');
  const own = (await read()).filter(({ record }) => record.nodeId === a.id);
  await world.run(a.agent.recovery.restore(own, { ...NO_CHOICE, accept: ['v1'] }));
  await world.until('its node has it', async () =>
    (await world.state.drives()).every(({ value }) => value.nodeId !== ''),
  );
  const found = (await world.run(world.state.drives())).find(({ value }) => value.nodeId === b.id);
  t.match(found?.value, { path: '/drives/node-b' });
});

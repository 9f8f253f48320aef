import t from 'tap';
import type { VolumeId } from '../../../daemon/base/ids.js';
import { planForce, withPrimary, type ReachableDrives } from '../../../daemon/control/force-primary.js';
import { putRecord } from '../../../daemon/control/cluster-state.js';
import { records, type ReplicaRecord, type SegmentRecord } from '../../../daemon/protocol/records.js';
import { storeKeys } from '../../../daemon/protocol/store.js';
import { smallVolume, World } from './fixture.js';

const inSync = (driveId: string): ReplicaRecord => ({
  driveId,
  inSync: true,
  syncedGeneration: 0,
  replaces: '',
  staleSinceMs: 0,
});
const stale = (driveId: string, syncedGeneration: number): ReplicaRecord => ({
  ...{ driveId, inSync: false, syncedGeneration, replaces: '', staleSinceMs: 5 },
});
const segment = (index: number, generation: number, ...replicas: ReplicaRecord[]): SegmentRecord => ({
  ...{ index, generation, replicas },
});
/** Open drives, and segments on them that may lack something. */
const open = (drives: Record<string, number[]>): ReachableDrives =>
  new Map(Object.entries(drives).map(([id, uncertain]) => [id, new Set(uncertain)]));

t.test('the copies that are left behind go back to what they surely have in common with the primary one', async (t) => {
  const before = segment(3, 9, inSync('a'), inSync('b'), stale('c', 6), stale('d', 4));
  t.strictSame(withPrimary(before, ['c'], 10, 77), {
    ...{ index: 3, generation: 10 },
    replicas: [
      { driveId: 'a', inSync: false, syncedGeneration: 6, replaces: '', staleSinceMs: 77 },
      { driveId: 'b', inSync: false, syncedGeneration: 6, replaces: '', staleSinceMs: 77 },
      inSync('c'),
      { driveId: 'd', inSync: false, syncedGeneration: 4, replaces: '', staleSinceMs: 5 },
    ],
  });
  t.match(withPrimary(before, ['d'], 10, 77).replicas, [{ syncedGeneration: 4 }, {}, { syncedGeneration: 4 }, {}]);
  t.match(withPrimary(before, ['a'], 10, 77).replicas, [
    { inSync: true },
    { inSync: false, syncedGeneration: 9 },
    { syncedGeneration: 6 },
    { syncedGeneration: 4 },
  ]);
  t.throws(() => withPrimary(before, ['a'], 9, 77), /raises the generation/);
  t.throws(() => withPrimary(before, ['x'], 10, 77), /a copy in sync/);
});

t.test('only segments without a good copy are forced', async (t) => {
  const segments = [
    segment(0, 3, inSync('a'), stale('b', 2)),
    segment(1, 1, inSync('a'), inSync('b')),
    segment(2, 5, inSync('a'), inSync('c'), stale('b', 0)),
    segment(3, 2, inSync('a'), stale('c', 1)),
  ];
  t.strictSame(planForce('v', segments, { driveId: 'b' }, open({ b: [] })), [
    { index: 0, generation: 3, copyGeneration: 2, staleSinceMs: 5, missing: ['a'] },
    { index: 2, generation: 5, copyGeneration: 0, staleSinceMs: 5, missing: ['a', 'c'] },
  ]);
  t.match(planForce('v', segments, { driveId: 'b', segment: 2 }, open({ b: [] })), [{ index: 2 }]);
  const refused = (request: { driveId: string; segment?: number }, drives: Record<string, number[]>) => () =>
    planForce('v', segments, request, open(drives));
  t.throws(refused({ driveId: 'b' }, { a: [], b: [] }), {
    code: 'CONFLICT',
    message: /every segment has a copy in sync/,
  });
  t.throws(refused({ driveId: 'b', segment: 1 }, { b: [] }), { code: 'CONFLICT', message: /segment 1 has a copy/ });
  t.throws(refused({ driveId: 'b', segment: 9 }, { b: [] }), { code: 'NOT_FOUND' });
  t.throws(refused({ driveId: 'b' }, { c: [] }), { code: 'UNAVAILABLE', message: /braid drive ls/ });
  t.throws(refused({ driveId: 'b', segment: 3 }, { b: [] }), {
    code: 'INVALID_ARGUMENT',
    message: /drives with copies are a, c/,
  });
});

t.test('a copy in sync that lost power counts as good only when all in sync are there', async (t) => {
  const segments = [segment(0, 3, inSync('a'), inSync('b'), stale('c', 1))];
  t.match(planForce('v', segments, { driveId: 'a' }, open({ a: [0] })), [{ copyGeneration: 3, missing: ['b'] }]);
  t.throws(() => planForce('v', segments, { driveId: 'a' }, open({ a: [0], b: [0] })), { code: 'CONFLICT' });
  t.throws(() => planForce('v', segments, { driveId: 'a' }, open({ a: [1] })), { code: 'CONFLICT' });
  t.throws(() => planForce('v', segments, { driveId: 'c' }, open({ a: [0], c: [] })), {
    ...{ code: 'CONFLICT', message: /drive a is in sync but for.*choose that one/ },
  });
});

t.test(
  'nothing is forced while the volume is attached, or when it changes meanwhile; what is forced is told',
  async (t) => {
    const world = new World('force primary');
    const [a, b] = await world.cluster(2);
    const volume = await world.run(a.agent.volumes.create(smallVolume('v1')));
    const id = volume.id as VolumeId;
    const [record] = await world.run(world.state.segments(id));
    const [first, second] = record?.value.replicas ?? [];
    const driveId = String(second?.driveId);
    const reachable = open({ [driveId]: [] });
    const replicas = [inSync(String(first?.driveId)), stale(driveId, 1)];
    const key = storeKeys.segment(id, 0);
    await world.run(world.state.commit([], [putRecord(key, records.segment, segment(0, 2, ...replicas))]));
    await world.run(
      world.state.commit(
        [],
        [putRecord(storeKeys.attachment(id), records.attachment, { nodeId: b.id, device: false })],
      ),
    );
    await t.rejects(world.run(a.agent.forcer.force(id, { driveId }, reachable)), {
      code: 'CONFLICT',
      message: /detach/,
    });
    await world.run(world.state.store.txn([], [{ type: 'delete', key: storeKeys.attachment(id) }]));
    const isReleased = async () => ((await world.state.owner(id))?.value.nodeId ?? '') === '';
    await world.until('the node has let go of it', isReleased);

    t.match(await world.run(a.agent.forcer.plan(id, { driveId }, reachable)), [{ index: 0, copyGeneration: 1 }]);
    t.match((await world.run(world.state.segments(id)))[0]?.value, { generation: 2 }, 'a plan changes nothing');
    const commit = a.state.commit.bind(a.state);
    a.state.commit = async (...change) => {
      a.state.commit = commit;
      await world.state.commit([], [putRecord(key, records.segment, segment(0, 2, ...replicas))]);
      return commit(...change);
    };
    await t.rejects(world.run(a.agent.forcer.force(id, { driveId }, reachable)), { code: 'ABORTED' });
    t.match(await world.run(a.agent.forcer.force(id, { driveId }, reachable)), [{ index: 0, generation: 2 }]);
    t.match((await world.run(world.state.segments(id)))[0]?.value, {
      generation: 3,
      replicas: [{ inSync: false }, { inSync: true }],
    });
    await world.run(a.agent.context.events.flush());
    const events = await world.run(world.state.events());
    t.match(
      events.find(({ severity }) => severity === 'error'),
      { subject: 'volume/v1', message: /an operator made the copy on drive .* up to generation 1 of 2.*given up/ },
    );
  },
);

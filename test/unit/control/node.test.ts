import t from 'tap';
import { ensureCluster } from '../../../daemon/control/agent.js';
import { BraidError } from '../../../daemon/base/errors.js';
import type { DriveId } from '../../../daemon/base/ids.js';
import { limits } from '../../../daemon/base/limits.js';
import { controlLimits } from '../../../daemon/control/limits.js';
import { GIB, putDrive, World } from './fixture.js';

t.test('the first agent makes the cluster record, all others find it', async (t) => {
  const world = new World('cluster');
  const make = (name: string) => ensureCluster(world.state.store, { name, random: world.random, clock: world.clock });
  const both = await world.run(Promise.all([make('x'), make('y')]));
  t.equal(both[0].id, both[1].id);
});

t.test('a node registers, renews its lease, and gives shards a deadline before the lease can end', async (t) => {
  const world = new World('lease');
  const [a] = await world.cluster(1);
  t.match((await world.run(world.state.node(a.id)))?.value, {
    name: 'node-a',
    apiAddress: 'http://node-a',
    dataAddresses: ['10.0.0.1:1'],
  });
  t.equal((await world.run(world.state.nodeAlive(a.id)))?.value.incarnation, 'i1');
  const startMs = world.clock.nowMs();
  const before = a.shard.deadlines.length;
  await world.sleep(10 * limits.leaseRenewMs);
  t.ok(a.shard.deadlines.length - before >= 9, 'renewed about each second');
  const last = a.shard.deadlines.at(-1) ?? 0;
  t.ok(last > startMs + 9 * limits.leaseRenewMs);
  t.ok(last <= world.clock.nowMs() + limits.leaseTtlMs - limits.leaseMarginMs);
  t.ok(await world.run(world.state.nodeAlive(a.id)));
});

t.test('a restart after a crash does not wait for the old lease', async (t) => {
  const world = new World('restart');
  const [a] = await world.cluster(1);
  world.crash(a);
  const again = world.node('node-a');
  await world.run(again.agent.start('http://node-a'));
  t.equal((await world.run(world.state.nodeAlive(a.id)))?.value.incarnation, 'i2');
  await world.sleep(2 * limits.leaseTtlMs);
  t.equal(
    (await world.run(world.state.nodeAlive(a.id)))?.value.incarnation,
    'i2',
    'the end of the old lease does not take the new key',
  );
  await world.run(again.agent.context.events.flush());
  const events = await world.run(again.agent.context.events.list(undefined, 10));
  t.ok(events.some(({ message }) => /without a clean stop/.test(message)));
});

t.test('two nodes cannot have one name', async (t) => {
  const world = new World('namesake');
  const [a] = await world.cluster(1);
  const other = world.node('node-x');
  const impostor = { ...other.agent.context.node, name: a.name };
  Object.assign(other.agent.context, { node: impostor });
  await t.rejects(world.run(other.agent.start('http://x')), {
    code: 'ALREADY_EXISTS',
    message: /choose another nodeName/,
  });
});

t.test('readiness says what is missing', async (t) => {
  const world = new World('ready');
  const cold = world.node('node-a');
  t.match(await world.run(cold.agent.notReady()), ['the agent is starting', /holds no lease/]);
  const [a] = await world.cluster(1);
  t.same(await world.run(a.agent.notReady()), []);
  a.store.setReachable(false);
  await world.sleep(limits.leaseTtlMs);
  t.match(await world.run(a.agent.notReady()), [/holds no lease/, /cluster store cannot be read/]);
});

t.test('drives are opened at start; one that fails is reported, retried, and holds nothing up', async (t) => {
  const world = new World('drives');
  const node = world.node('node-a');
  const drive = {
    id: 'd1',
    nodeId: node.id,
    path: '/drives/1',
    driveClass: 'ssd',
    capacityBytes: GIB,
    shard: 0,
    createdMs: 1,
  };
  await world.run(putDrive(world.state, drive));
  await world.run(putDrive(world.state, { ...drive, id: 'd2', path: '/drives/2' }));
  await world.run(putDrive(world.state, { ...drive, id: 'd3', path: '/drives/3', shard: 7 }));
  await world.run(putDrive(world.state, { ...drive, id: 'other', nodeId: 'elsewhere' }));
  // Both drives fail, at the start and right after it.
  for (let i = 0; i < 4; i++) node.shard.fail('openDrive', 'DRIVE', 'the data file has vanished');
  await world.run(node.agent.start('http://node-a'));
  const states = () => Object.fromEntries(node.agent.drives.list().map(({ record, state }) => [record.id, state]));
  t.equal(states()['d3'], 'failed');
  t.notOk(node.agent.drives.isOpen('d1') && node.agent.drives.isOpen('d2'));
  t.match(node.agent.drives.list()[2]?.reason, /start it with more shards/);
  await world.until('both are open', () => states()['d1'] === 'open' && states()['d2'] === 'open');
  await world.run(node.agent.context.events.flush());
  const events = await world.run(node.agent.context.events.list(undefined, 20));
  t.ok(events.some(({ subject, message }) => subject === 'drive/d1' && /vanished/.test(message)));
  t.ok(events.some(({ subject, message }) => subject === 'drive/d1' && /open again/.test(message)));
});

t.test('a drive that fails later is closed, reported, and opened again when it can be', async (t) => {
  const world = new World('drive fails');
  const [a] = await world.cluster(1);
  const id = a.agent.drives.list()[0]?.record.id as DriveId;
  a.shard.failedDrives.set(id, 'I/O error');
  for (let i = 0; i < 3; i++) a.shard.fail('openDrive', 'DRIVE', 'I/O error still');
  await world.until('it counts as failed', () => !a.agent.drives.isOpen(id));
  await world.until('it is open again', () => a.agent.drives.isOpen(id));
  t.ok(a.shard.calls.includes('closeDrive'));
});

t.test('a drive that does not answer holds up neither the start nor other drives', async (t) => {
  const world = new World('hanging drive');
  const node = world.node('node-a');
  const drive = {
    id: 'd1',
    nodeId: node.id,
    path: '/drives/1',
    driveClass: 'ssd',
    capacityBytes: GIB,
    shard: 0,
    createdMs: 1,
  };
  await world.run(putDrive(world.state, drive));
  await world.run(putDrive(world.state, { ...drive, id: 'd2', path: '/drives/2' }));
  const answer = node.shard.hang('d1' as DriveId);
  const startMs = world.clock.nowMs();
  await world.run(node.agent.start('http://node-a'));
  t.ok(world.clock.nowMs() - startMs < 2 * controlLimits.driveAnswerMs, 'the agent has started');
  t.match(node.agent.drives.list(), [
    { state: 'opening', reason: /does not answer; check the device/ },
    { state: 'open', reason: '' },
  ]);
  // The other drive fails meanwhile, and comes back.
  node.shard.failedDrives.set('d2' as DriveId, 'I/O error');
  await world.until('the other one has failed', () => !node.agent.drives.isOpen('d2'));
  await world.until('the other one is open again', () => node.agent.drives.isOpen('d2'));
  t.equal(node.shard.calls.filter((call) => call === 'openDrive').length, 3, 'what hangs is asked once');
  answer();
  await world.until('it is open', () => node.agent.drives.isOpen('d1'));
  t.match(node.agent.drives.list()[0], { state: 'open', reason: '', failures: 0 });
});

t.test('a drive that failed and hangs is opened only when what it was asked for has ended', async (t) => {
  const world = new World('hanging failed drive');
  const [a] = await world.cluster(1);
  const id = a.agent.drives.list()[0]?.record.id as DriveId;
  const answer = a.shard.hang(id);
  a.shard.failedDrives.set(id, 'an operation did not end in time');
  await world.until('it counts as failed', () => !a.agent.drives.isOpen(id));
  const opened = a.shard.calls.filter((call) => call === 'openDrive').length;
  await t.rejects(world.run(a.agent.drives.reopen(id)), {
    code: 'UNAVAILABLE',
    message: /did not end in time; operations/,
  });
  await world.sleep(60_000);
  t.equal(a.shard.calls.filter((call) => call === 'openDrive').length, opened);
  t.match(a.agent.drives.list()[0]?.reason, /in time; operations that it was asked for have not ended/);
  a.shard.hanging.delete(id);
  answer();
  await world.until('it is open again', () => a.agent.drives.isOpen(id));
});

t.test('a drive that fails again and again is opened ever more rarely; reopen does it at once', async (t) => {
  const world = new World('relapsing drive');
  const [a] = await world.cluster(1);
  const id = a.agent.drives.list()[0]?.record.id as DriveId;
  const waits: number[] = [];
  for (let time = 0; time < 6; time++) {
    a.shard.failedDrives.set(id, 'I/O error');
    await world.until('it counts as failed', () => !a.agent.drives.isOpen(id));
    const failedMs = world.clock.nowMs();
    while (!a.agent.drives.isOpen(id)) await world.sleep(100);
    waits.push(world.clock.nowMs() - failedMs);
  }
  t.ok(
    waits.every((wait, index) => index === 0 || wait > 1.5 * (waits[index - 1] ?? 0)),
    waits.map(Math.round).join(),
  );
  a.shard.failedDrives.set(id, 'I/O error');
  await world.until('it counts as failed', () => !a.agent.drives.isOpen(id));
  const askedMs = world.clock.nowMs();
  t.match(await world.run(a.agent.drives.reopen(id)), { state: 'open', reason: '', failures: 7 });
  t.ok(world.clock.nowMs() - askedMs < 1_000);
  t.match(await world.run(a.agent.drives.reopen(id)), { state: 'open' }, 'again: nothing to do');
  // Noticed by the command itself, not by the next look.
  a.shard.failedDrives.set(id, 'I/O error');
  a.shard.fail('openDrive', 'DRIVE', 'still broken');
  await t.rejects(world.run(a.agent.drives.reopen(id)), { code: 'DRIVE', message: /does not open: still broken/ });
  await t.rejects(world.run(a.agent.drives.reopen('none')), { code: 'NOT_FOUND' });
  // After a long time without trouble it is forgiven.
  await world.run(a.agent.drives.reopen(id));
  await world.sleep(controlLimits.driveStableMs);
  a.shard.failedDrives.set(id, 'I/O error');
  await world.until('it counts as failed', () => !a.agent.drives.isOpen(id));
  const failedMs = world.clock.nowMs();
  await world.until('it is open again', () => a.agent.drives.isOpen(id));
  t.ok(world.clock.nowMs() - failedMs < 2 * controlLimits.driveRetryMs);
});

t.test('an agent ends although a drive hangs', async (t) => {
  const world = new World('hanging end');
  const [a] = await world.cluster(1);
  a.shard.stopping = new Promise(() => undefined);
  await world.run(a.agent.stop());
  t.equal(await world.run(world.state.nodeAlive(a.id)), null, 'the lease is given back');
});

t.test('adding a drive formats, records and opens it', async (t) => {
  const world = new World('add');
  const [a] = await world.cluster(1);
  const add = (path: string, capacityBytes = GIB) =>
    world.run(a.agent.drives.add({ path, capacityBytes, driveClass: 'nvme' }));
  const { record, state } = await add('/drives//new/');
  t.equal(state, 'open');
  t.match((await world.run(world.state.drive(record.id as DriveId)))?.value, {
    path: '/drives/new',
    driveClass: 'nvme',
    nodeId: a.id,
  });
  t.equal(a.formatter.requests.at(-1)?.directory, '/drives/new');
  await t.rejects(add('/drives/new'), { code: 'ALREADY_EXISTS' });
  await t.rejects(add('relative'), { code: 'INVALID_ARGUMENT' });
  await t.rejects(add('/drives/../etc'), { code: 'INVALID_ARGUMENT' });
  await t.rejects(add('/drives/tiny', 1_000), { code: 'INVALID_ARGUMENT', message: /16 MiB/ });
  a.formatter.failure = new BraidError('CONFLICT', 'not empty');
  await t.rejects(add('/drives/full'), { code: 'CONFLICT' });
  t.equal(a.agent.drives.list().length, 2);
});

t.test('events: newest page, pages after a cursor, names for ids, bounded', async (t) => {
  const world = new World('events');
  const [a] = await world.cluster(1);
  const { events } = a.agent.context;
  for (let i = 0; i < 1_200; i++) {
    events.report({ severity: 'info', subject: `node/${a.id}`, message: `event ${i}` });
    if (i % 100 === 99) await world.run(events.flush());
  }
  await world.run(events.flush());
  const newest = await world.run(events.list(undefined, 3));
  t.same(
    newest.map(({ message }) => message),
    ['event 1197', 'event 1198', 'event 1199'],
  );
  t.equal(newest[0]?.subject, 'node/node-a');
  const after = await world.run(events.list(newest[0]?.id, 10));
  t.same(
    after.map(({ message }) => message),
    ['event 1198', 'event 1199'],
  );
  const all = await world.run(events.list('', 5_000));
  t.ok(all.length >= 1_000 && all.length < 1_100, `${all.length} are kept`);
});

t.test('events are dropped, not queued for ever, while the store does not answer', async (t) => {
  const world = new World('lost events');
  const [a] = await world.cluster(1);
  a.store.setReachable(false);
  for (let i = 0; i < 1_000; i++)
    a.agent.context.events.report({ severity: 'warning', subject: 'cluster', message: `lost ${i}` });
  await world.sleep(1_000);
  a.store.setReachable(true);
  await world.run(a.agent.context.events.flush());
  const kept = await world.run(a.agent.context.events.list('', 5_000));
  t.ok(kept.length < 300);
  t.equal(kept.at(-1)?.message, 'lost 999');
});

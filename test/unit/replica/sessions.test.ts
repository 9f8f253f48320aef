/** Sessions of the replica server: greeting, epochs, fencing, drain, and requests that make no sense. */
import t from 'tap';
import { BLOCK_BYTES, EXTENT_BYTES, GIB, MIB } from '../../../daemon/base/units.js';
import { limits } from '../../../daemon/base/limits.js';
import { FLAG, OPCODE, STATUS } from '../../../daemon/protocol/frame.js';
import { braid } from '../../../daemon/protocol/generated/messages.js';
import { blocks, CLUSTER, Coordinator, isSame, OTHER_VOLUME, VOLUME, World } from './harness.js';

function hello(fields: Partial<braid.Hello.$Properties>): Uint8Array {
  return braid.Hello.encode({
    clusterId: CLUSTER,
    nodeId: 'n',
    incarnation: 'i',
    versionMin: 1,
    versionMax: 1,
    ...fields,
  }).finish();
}

t.test('HELLO is checked, and everything else before it closes', async (t) => {
  const world = await World.create();
  const connect = (connection: number) => {
    world.server.onAccepted(connection);
    return new Coordinator(world, connection);
  };
  const good = await connect(51).call(OPCODE.HELLO, { payload: hello({}) });
  t.match(braid.Hello.decode(good.payload), {
    clusterId: CLUSTER,
    nodeId: 'node-1',
    incarnation: 'one',
    versionMin: 1,
  });
  const foreign = connect(52);
  t.equal(await foreign.status(OPCODE.HELLO, { payload: hello({ clusterId: OTHER_VOLUME }) }), STATUS.WRONG_CLUSTER);
  const future = connect(53);
  t.equal(
    await future.status(OPCODE.HELLO, { payload: hello({ versionMin: 2, versionMax: 3 }) }),
    STATUS.UNSUPPORTED_VERSION,
  );
  connect(54).send(OPCODE.PING);
  connect(55).send(OPCODE.WRITE, { payload: blocks(1, 1) });
  connect(56).send(OPCODE.HELLO, { payload: Uint8Array.of(255, 255, 255) });
  for (const connection of [52, 53, 54, 55, 56]) t.ok(world.network.closed.has(connection), `${connection} is closed`);
  t.notOk(world.network.closed.has(51));
  await world.close();
});

t.test('PING is answered, and a silent connection is closed', async (t) => {
  const world = await World.create();
  const [quiet, lively] = [await world.opened(), await world.coordinator()];
  const endMs = world.clock.nowMs() + 2 * limits.heartbeatTimeoutMs + 2_000;
  while (world.clock.nowMs() < endMs) {
    t.equal(await lively.status(OPCODE.PING), STATUS.OK);
    await world.forMs(limits.heartbeatIntervalMs);
  }
  t.ok(world.network.closed.has(quiet.connection));
  t.notOk(world.network.closed.has(lively.connection));
  t.equal(world.server.load().sessions, 0);
  await world.close();
});

t.test('OPEN tells what is here, creates what is missing, and knows what is elsewhere', async (t) => {
  const world = await World.create({ drives: 2 });
  const coordinator = await world.coordinator();
  const elsewhere = world.random.uuid();
  const reply = await coordinator.open(3, [
    { index: 0 },
    { index: 1, driveId: world.driveIds[1] as string },
    { index: 2, driveId: elsewhere },
  ]);
  t.match(reply.segments, [
    { index: 0, status: STATUS.OK, hotRegions: [], extents: 0 },
    { index: 1, status: STATUS.OK, hotRegions: [], extents: 0 },
    { index: 2, status: STATUS.NOT_FOUND },
  ]);
  await coordinator.write(40 * MIB, blocks(1, 1), { segment: 1 });
  t.equal(await coordinator.status(OPCODE.READ, { segment: 2, length: BLOCK_BYTES }), STATUS.BAD_REQUEST);
  t.equal(await coordinator.status(OPCODE.FLUSH), STATUS.OK, 'flushes both drives');
  const again = await coordinator.open(3, [{ index: 1, driveId: world.driveIds[1] as string }]);
  t.equal(again.session, coordinator.session, 'the same owner extends its session');
  t.match(again.segments, [{ index: 1, status: STATUS.OK, hotRegions: [10], extents: 1 }]);
  const drive = world.drive(0);
  const replica = drive.replicaOf(VOLUME as never, 0);
  t.same(replica && drive.layoutOf(replica), { generation: 1, segment: Uint8Array.of(1, 2, 3) });
  await world.close();
});

t.test('a lower epoch is fenced, also after a restart, also on another drive of the node', async (t) => {
  const world = await World.create({ drives: 2 });
  const owner = await world.coordinator();
  await owner.open(7);
  const old = await world.coordinator();
  t.equal(await old.status(OPCODE.OPEN, { payload: old.openPayload(6, [{}]) }), STATUS.FENCED);
  t.equal(await owner.write(0, blocks(1, 1)), STATUS.OK, 'the owner is not disturbed');
  await world.crash();
  const late = await world.coordinator();
  t.equal(
    await late.status(OPCODE.OPEN, { payload: late.openPayload(6, [{ driveId: world.driveIds[1] as string }]) }),
    STATUS.FENCED,
  );
  await late.open(7);
  t.equal(await late.status(OPCODE.WRITE, { payload: blocks(1, 1), epoch: 6 }), STATUS.FENCED);
  await world.close();
});

t.test('a higher epoch ends the session of the old owner', async (t) => {
  const world = await World.create();
  const [old, owner] = [await world.opened(), await world.coordinator()];
  await old.write(0, blocks(1, 1));
  await owner.open(2);
  for (const opcode of [OPCODE.READ, OPCODE.TRIM, OPCODE.FLUSH, OPCODE.COOL, OPCODE.LIST_EXTENTS]) {
    t.equal(await old.status(opcode, { length: BLOCK_BYTES }), STATUS.FENCED);
  }
  t.equal(await old.write(0, blocks(1, 2)), STATUS.FENCED);
  t.not(owner.session, old.session);
  t.equal(
    await owner.status(OPCODE.READ, { session: old.session, length: BLOCK_BYTES }),
    STATUS.FENCED,
    'handles are personal',
  );
  t.ok(isSame(await owner.read(0, BLOCK_BYTES), blocks(1, 1)));
  await world.close();
});

t.test('a new session waits until every operation of the old one has ended (invariant 6)', async (t) => {
  const world = await World.create();
  const old = await world.opened();
  await old.write(0, blocks(1, 1));
  const disk = world.media().disk.user;
  disk?.stall();
  const stuck = old.send(OPCODE.WRITE, { payload: blocks(1, 2) });
  const queued = old.send(OPCODE.WRITE, { offset: EXTENT_BYTES, payload: blocks(1, 3) });
  const dropped = old.send(OPCODE.WRITE, { offset: 2 * EXTENT_BYTES, payload: blocks(1, 4) });
  const owner = await world.coordinator();
  const open = owner.send(OPCODE.OPEN, { payload: owner.openPayload(2, [{}]) });
  await world.forMs(3_000);
  t.equal(owner.replyTo(open), undefined, 'not while a write of the old session is at the drive');
  t.equal(
    (await old.reply(queued)).frame.status,
    STATUS.FENCED,
    'its commit was under way: its data is not written any more',
  );
  t.equal((await old.reply(dropped)).frame.status, STATUS.FENCED);
  disk?.resume();
  t.equal((await owner.reply(open)).frame.status, STATUS.OK);
  t.equal(old.replyTo(stuck)?.frame.status, STATUS.OK, 'it had been answered before');
  const sent = world.network.sent;
  const at = (connection: number, tag: number) =>
    sent.findIndex((each) => each.connection === connection && each.frame.tag === tag);
  t.ok(at(old.connection, stuck) < at(owner.connection, open));
  await world.close();
});

t.test('reads that wait for a buffer are dropped with their session', async (t) => {
  const world = await World.create({ peerPoolBytes: EXTENT_BYTES });
  const old = await world.opened();
  await old.write(0, blocks(1, 1));
  const owner = await world.coordinator();
  const opening = owner.openPayload(2, [{}]);
  const tags = [1, 2, 3].map(() => old.send(OPCODE.READ, { length: EXTENT_BYTES }));
  const opened = owner.send(OPCODE.OPEN, { payload: opening, buffer: owner.controlBuffer(opening) });
  t.equal((await owner.reply(opened)).frame.status, STATUS.OK);
  t.same(
    tags.map((tag) => old.replyTo(tag)?.frame.status),
    [STATUS.OK, STATUS.FENCED, STATUS.FENCED],
  );
  await world.close();
});

t.test('of two OPENs in a race the later wins', async (t) => {
  const world = await World.create();
  const [first, second, third] = [await world.coordinator(), await world.coordinator(), await world.coordinator()];
  const open = (coordinator: Coordinator, epoch: number) =>
    coordinator.send(OPCODE.OPEN, { payload: coordinator.openPayload(epoch, [{}]) });
  const tags = [open(first, 4), open(second, 4), open(third, 3)] as const;
  t.equal((await first.reply(tags[0])).frame.status, STATUS.FENCED);
  t.equal((await second.reply(tags[1])).frame.status, STATUS.OK);
  t.equal((await third.reply(tags[2])).frame.status, STATUS.FENCED);
  const more = [open(second, 4), open(third, 5), open(first, 6), open(second, 5)] as const;
  t.equal((await second.reply(more[0])).frame.status, STATUS.FENCED);
  t.equal((await third.reply(more[1])).frame.status, STATUS.FENCED);
  t.equal((await first.reply(more[2])).frame.status, STATUS.OK);
  t.equal((await second.reply(more[3])).frame.status, STATUS.FENCED);
  t.equal(world.server.load().sessions, 1);
  await world.close();
});

t.test('an OPEN that is overtaken while its commit is under way is fenced', async (t) => {
  const world = await World.create();
  const [slow, fast] = [await world.coordinator(), await world.coordinator()];
  const overtaken = slow.send(OPCODE.OPEN, { payload: slow.openPayload(4, [{}]) });
  await new Promise((resolve) => setImmediate(resolve));
  t.equal(world.drive().stats().commits, 1, 'its epoch is being persisted');
  const open = fast.send(OPCODE.OPEN, { payload: fast.openPayload(5, [{}]) });
  t.equal((await slow.reply(overtaken)).frame.status, STATUS.FENCED);
  t.equal((await fast.reply(open)).frame.status, STATUS.OK);
  await world.close();
});

t.test('a session serves only the connection that opened it', async (t) => {
  const world = await World.create();
  const [owner, other] = [await world.opened(), await world.coordinator()];
  await other.open(1, [{}], OTHER_VOLUME);
  for (const opcode of [OPCODE.READ, OPCODE.ZERO, OPCODE.FLUSH, OPCODE.CLOSE, OPCODE.COOL]) {
    t.equal(await other.status(opcode, { session: owner.session, length: BLOCK_BYTES }), STATUS.FENCED);
  }
  t.equal(await owner.write(0, blocks(1, 1)), STATUS.OK);
  t.ok(isSame(await other.read(0, BLOCK_BYTES), new Uint8Array(BLOCK_BYTES)), 'volumes do not mix');
  await world.close();
});

t.test('duplicate OPENs of one owner give one session', async (t) => {
  const world = await World.create();
  const owner = await world.coordinator();
  const tags = [1, 2, 3].map(() => owner.send(OPCODE.OPEN, { payload: owner.openPayload(1, [{}]) }));
  const handles = [];
  for (const tag of tags) handles.push(braid.OpenReply.decode((await owner.reply(tag)).payload).session);
  t.equal(new Set(handles).size, 1);
  await world.close();
});

t.test('a broken connection ends its sessions, and the same epoch may come back', async (t) => {
  const world = await World.create();
  const owner = await world.opened();
  const tags = [0, 1, 2].map((extent) =>
    owner.send(OPCODE.WRITE, { offset: extent * EXTENT_BYTES, payload: blocks(1, extent) }),
  );
  owner.disconnect();
  const again = await world.coordinator();
  await again.open(1);
  for (const tag of tags) t.equal(owner.replyTo(tag), undefined, 'nobody is told');
  t.equal(await again.write(0, blocks(1, 9)), STATUS.OK);
  t.ok(again.session > owner.session);
  const pending = again.send(OPCODE.OPEN, { payload: again.openPayload(1, [{ index: 4 }]) });
  again.disconnect();
  await world.idle();
  t.equal(again.replyTo(pending), undefined);
  t.equal(world.server.load().sessions, 0);
  await world.close();
});

t.test('CLOSE ends the session after its operations', async (t) => {
  const world = await World.create();
  const owner = await world.opened();
  await owner.write(0, blocks(1, 1));
  const write = owner.send(OPCODE.WRITE, { payload: blocks(1, 2) });
  const close = owner.send(OPCODE.CLOSE);
  t.equal((await owner.reply(close)).frame.status, STATUS.OK);
  t.equal(owner.replyTo(write)?.frame.status, STATUS.OK);
  t.equal(await owner.write(0, blocks(1, 3)), STATUS.FENCED);
  t.equal(await owner.status(OPCODE.CLOSE), STATUS.FENCED);
  await world.close();
});

t.test('a CLOSE at any moment of an OPEN of the same owner leaves one session or none (invariant 6)', async (t) => {
  // What an OPEN without anything to persist does is a chain of promises: the CLOSE comes between any two of them.
  for (let steps = 0; steps < 40; steps++) {
    const world = await World.create();
    const owner = await world.opened();
    const open = owner.send(OPCODE.OPEN, { payload: owner.openPayload(1, [{}]) });
    for (let step = 0; step < steps; step++) await Promise.resolve();
    const close = owner.send(OPCODE.CLOSE);
    t.equal((await owner.reply(close)).frame.status, STATUS.OK);
    const reply = await owner.reply(open);
    t.equal(reply.frame.status, STATUS.OK);
    const { session } = braid.OpenReply.decode(reply.payload);
    const isKept = world.server.load().sessions === 1;
    t.equal(isKept, session !== owner.session, 'the session that was opened, unless the CLOSE came after it');
    await world.close();
  }
});

t.test('malformed and out-of-range requests are refused and change nothing', async (t) => {
  const world = await World.create();
  const owner = await world.opened({ sizeBytes: 16 * MIB });
  const one = blocks(1, 1);
  const bad: [string, number, object][] = [
    ['offset not aligned', OPCODE.WRITE, { offset: 512, payload: one }],
    ['length not aligned', OPCODE.READ, { length: 512 }],
    ['no length', OPCODE.READ, {}],
    ['across extents', OPCODE.WRITE, { offset: EXTENT_BYTES - BLOCK_BYTES, payload: blocks(2, 1) }],
    ['beyond the segment', OPCODE.WRITE, { offset: 16 * MIB, payload: one }],
    ['far beyond', OPCODE.READ, { offset: 2 ** 47, length: BLOCK_BYTES }],
    ['payload shorter than the range', OPCODE.WRITE, { length: 2 * BLOCK_BYTES, payload: one }],
    ['no payload', OPCODE.WRITE, { length: BLOCK_BYTES }],
    ['payload where none belongs', OPCODE.TRIM, { length: BLOCK_BYTES, payload: one }],
    ['flush with payload', OPCODE.FLUSH, { payload: one }],
    ['unknown segment', OPCODE.WRITE, { segment: 9, payload: one }],
    ['no generation', OPCODE.WRITE, { generation: 0, payload: one }],
    ['unknown data opcode', 33, { length: BLOCK_BYTES }],
    ['unknown control opcode', 12, {}],
    ['a second HELLO', OPCODE.HELLO, { payload: hello({}) }],
    [
      'regions out of range',
      OPCODE.COOL,
      { payload: braid.RegionList.encode({ sets: [{ segment: 0, regions: [4] }] }).finish() },
    ],
    [
      'cooling an unknown segment',
      OPCODE.COOL,
      { payload: braid.RegionList.encode({ sets: [{ segment: 3, regions: [0] }] }).finish() },
    ],
    ['garbage', OPCODE.COOL, { payload: Uint8Array.of(0xff, 0xff) }],
    ['listing an unknown segment', OPCODE.LIST_EXTENTS, { segment: 3 }],
    ['OPEN of garbage', OPCODE.OPEN, { payload: Uint8Array.of(9, 9, 9) }],
    ['OPEN without segments', OPCODE.OPEN, { payload: owner.openPayload(1, []) }],
    ['OPEN at epoch 0', OPCODE.OPEN, { payload: owner.openPayload(0, [{}]) }],
    ['OPEN of a segment twice', OPCODE.OPEN, { payload: owner.openPayload(1, [{}, {}]) }],
    ['OPEN with too large a segment', OPCODE.OPEN, { payload: owner.openPayload(1, [{ sizeBytes: 5 * GIB }]) }],
    ['OPEN of no UUID', OPCODE.OPEN, { payload: owner.openPayload(1, [{}], 'vol') }],
    ['DELETE of no UUID', OPCODE.DELETE, { payload: owner.deletePayload([0], 'vol') }],
  ];
  for (const [what, opcode, fields] of bad) {
    t.equal(await owner.status(opcode, fields), STATUS.BAD_REQUEST, what);
  }
  t.same(await owner.list(), []);
  t.equal(await owner.status(OPCODE.WRITE, { session: 99, payload: one }), STATUS.FENCED, 'unknown session');
  t.equal(world.drive().stats().hotRegions, 0);
  await world.close();
});

t.test('too many requests pause their connections; what comes regardless is answered OVERLOADED', async (t) => {
  const world = await World.create({ diskDelayMsMax: 50 });
  const owner = await world.opened();
  await owner.write(0, blocks(1, 1));
  world.media().disk.user?.stall();
  const tags = [];
  for (let count = 0; count < limits.replicaOperationsMax + 5; count++) {
    tags.push(owner.send(OPCODE.FLUSH));
    if (count === limits.replicaOperationsMax / 2) t.notOk(world.network.paused.has(owner.connection));
  }
  t.ok(world.network.paused.has(owner.connection));
  t.equal(owner.replyTo(tags.at(-1) as number)?.frame.status, STATUS.OVERLOADED);
  world.media().disk.user?.resume();
  await world.idle();
  t.notOk(world.network.paused.has(owner.connection), 'read from again');
  const statuses = new Map<number, number>();
  for (const { frame } of world.network.sent)
    if (frame.opcode === (OPCODE.FLUSH | OPCODE.REPLY))
      statuses.set(frame.status, (statuses.get(frame.status) ?? 0) + 1);
  t.same([...statuses].sort(), [
    [STATUS.OK, limits.replicaOperationsMax],
    [STATUS.OVERLOADED, 5],
  ]);
  await world.close();
});

t.test('DELETE frees everything of a replica that no session uses, and can be repeated', async (t) => {
  const world = await World.create();
  const owner = await world.coordinator();
  await owner.open(5, [{ index: 0 }, { index: 1 }]);
  for (let extent = 0; extent < 50; extent++)
    await owner.write(extent * EXTENT_BYTES, blocks(32, extent), { segment: extent % 2 });
  await owner.trim(0, { flags: FLAG.TOMBSTONE });
  const other = await world.coordinator();
  t.equal(await other.status(OPCODE.DELETE, { payload: other.deletePayload([0, 1]) }), STATUS.BAD_REQUEST, 'in use');
  t.equal(
    await owner.status(OPCODE.DELETE, { payload: owner.deletePayload([1]) }),
    STATUS.OK,
    'the owner may give up one',
  );
  t.equal(await owner.status(OPCODE.READ, { segment: 1, length: BLOCK_BYTES }), STATUS.BAD_REQUEST);
  t.same(
    await owner.list(),
    Array.from({ length: 25 }, (_, index) => 2 * index),
    'the other is whole, with its tombstone',
  );
  t.equal(await owner.status(OPCODE.CLOSE), STATUS.OK);
  t.equal(await other.status(OPCODE.DELETE, { payload: other.deletePayload([0, 1, 2]) }), STATUS.OK);
  t.equal(await other.status(OPCODE.DELETE, { payload: other.deletePayload([0]) }), STATUS.OK, 'once more');
  await world.until(() => world.drive().stats().freeSlots === 256);
  t.match(world.drive().stats(), { hotRegions: 0, replicas: 0 });
  t.equal(await other.status(OPCODE.OPEN, { payload: other.openPayload(4, [{}]) }), STATUS.FENCED, 'the epoch is kept');
  await world.crash();
  t.match(world.drive().stats(), { hotRegions: 0, replicas: 0 });
  const fresh = await world.coordinator();
  t.match((await fresh.open(6)).segments, [{ status: STATUS.OK, extents: 0 }]);
  await world.close();
});

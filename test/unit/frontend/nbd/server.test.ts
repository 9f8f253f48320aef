import t from 'tap';
import { limits } from '../../../../daemon/base/limits.js';
import { KIB, MIB } from '../../../../daemon/base/units.js';
import { CMD, ERRNO, REP } from '../../../../daemon/frontend/nbd/protocol.js';
import { NbdServer } from '../../../../daemon/frontend/nbd/server.js';
import { POOL_FRONTEND, POOL_INTERNAL } from '../../../../daemon/ports/slab.js';
import { STATUS } from '../../../../daemon/protocol/frame.js';
import { SimSlab } from '../../../sim/world/sim-slab.js';
import { TestClock, TestVolume, silentLog } from './doubles.js';
import { Harness, handshakeBytes } from './harness.js';
import { TestTransport } from './test-transport.js';

const { READ, WRITE } = CMD;
const OPTIONS = { readOnly: false, description: 'more', uuid: 'u-2' };

t.test('several exports behind one listener', async (t) => {
  const h = new Harness();
  const other = new TestVolume(h.slab, MIB).fill();
  h.server.addExport('other', other, OPTIONS);
  const client = h.connect('simple', 'other');
  const cookie = client.ask(READ, 0, 512);
  other.endAll();
  t.same(client.data(cookie), Buffer.from(other.data.subarray(0, 512)));
  t.throws(() => h.server.addExport('other', other, OPTIONS), { code: 'ALREADY_EXISTS' });
  t.throws(() => h.server.addExport('', other, OPTIONS), { code: 'INVALID_ARGUMENT' });
  t.throws(() => h.server.addExport('a\0b', other, OPTIONS), { code: 'INVALID_ARGUMENT' });
  t.throws(() => h.server.addExport('x'.repeat(5000), other, OPTIONS), { code: 'INVALID_ARGUMENT' });
  h.checkNoLeak();
});

t.test('requests that come right behind the handshake are handed to the transport', async (t) => {
  const h = new Harness();
  const client = h.transport.connect();
  h.transport.say(client, Buffer.concat([handshakeBytes('simple', 'disk'), Buffer.from([1, 2, 3])]));
  t.same([...client.leftover], [1, 2, 3]);
  h.transport.say(client, Buffer.from([4]));
  t.ok(client.isClosing, 'but the transport must not deliver them as handshake');
  h.checkNoLeak();
});

t.test('a handshake that goes wrong or takes too long ends the connection', async (t) => {
  const h = new Harness();
  const wrong = h.transport.connect();
  h.transport.say(wrong, Buffer.alloc(40, 0xff));
  t.ok(wrong.isClosing);
  const slow = h.transport.connect();
  const quick = h.connect('simple');
  h.clock.advance(limits.nbdHandshakeTimeoutMs - 1);
  t.notOk(slow.isClosing);
  h.clock.advance(1);
  t.ok(slow.isClosing);
  t.notOk(quick.isClosing);
  h.transport.vanish(quick);
  h.checkNoLeak();
  t.equal(h.clock.timerCount, 0);
});

t.test('the connections of an export are bounded', async (t) => {
  const h = new Harness();
  const clients = Array.from({ length: limits.nbdConnectionsPerVolumeMax }, () => h.connect('simple'));
  t.equal(h.server.stats()[0]?.connections, limits.nbdConnectionsPerVolumeMax);
  const refused = h.transport.connect();
  h.transport.say(refused, handshakeBytes('simple', 'disk'));
  t.notOk(refused.isStarted);
  t.equal(refused.take().readUInt32BE(18 + 12), REP.ERR_POLICY);
  const first = clients[0];
  if (first !== undefined) h.transport.vanish(first);
  t.ok(h.connect('simple').isStarted, 'one that leaves makes room');
  h.checkNoLeak();
});

t.test('removing an export', async (t) => {
  const h = new Harness();
  h.volume.fill();
  h.volume.capacity = 3;
  const client = h.connect('simple');
  const structured = h.connect('contexts');
  const started = client.ask(READ, 0, 512);
  const partly = client.ask(WRITE, MIB, 512 * KIB, 0, new Uint8Array(512 * KIB));
  const gated = client.ask(READ, 0, MIB);
  const waiting = structured.ask(READ, 0, 512);
  const lookups = [structured.ask(CMD.BLOCK_STATUS, 0, MIB), structured.ask(CMD.BLOCK_STATUS, 0, MIB)];
  let isRemoved = false;
  const removal = h.server.removeExport('disk').then(() => (isRemoved = true));
  h.check();
  t.equal(client.reply(gated)?.error, ERRNO.ESHUTDOWN, 'what had not started');
  t.equal(structured.reply(waiting)?.error, ERRNO.ESHUTDOWN);
  t.equal(structured.reply(lookups[1] ?? 0)?.error, ERRNO.ESHUTDOWN);
  t.equal(client.reply(client.ask(READ, 0, 512))?.error, ERRNO.ESHUTDOWN, 'what comes now');
  t.equal(client.reply(client.ask(WRITE, 0, MIB, 0, new Uint8Array(MIB)))?.error, ERRNO.ESHUTDOWN);
  const late = h.transport.connect();
  h.transport.say(late, handshakeBytes('simple', 'disk'));
  t.notOk(late.isStarted, 'nobody attaches any more');
  await t.rejects(h.server.removeExport('disk'), { code: 'NOT_FOUND' });
  await t.resolves(new Promise(setImmediate));
  t.notOk(isRemoved, 'the volume still works on pieces');
  h.volume.endAll();
  await removal;
  t.equal(client.data(started).length, 512, 'what was under way has succeeded');
  t.equal(client.reply(partly)?.error, ERRNO.ESHUTDOWN);
  t.equal(structured.reply(lookups[0] ?? 0)?.error, 0);
  t.ok(client.isClosing && structured.isClosing);
  t.same(h.server.stats(), []);
  h.transport.settle();
  h.transport.vanish(late);
  h.server.assertConsistent();
  h.server.addExport('disk', new TestVolume(h.slab, MIB), OPTIONS);
  t.ok(h.connect('simple').isStarted, 'the name is free again');
  t.equal(h.slab.usedBytes(POOL_FRONTEND), 0);
});

t.test('removing an export does not wait for a client that is slow to send or in the middle of a stream', async (t) => {
  const h = new Harness();
  h.volume.fill();
  const slow = h.connect('simple');
  slow.ask(WRITE, 0, MIB, 0, new Uint8Array(MIB), 2);
  const reader = h.connect('simple');
  h.volume.capacity = 12;
  reader.ask(READ, 0, 4 * MIB);
  h.volume.end(6);
  const removal = h.server.removeExport('disk');
  t.ok(reader.isClosing, 'a stream cannot be refused any more');
  h.volume.endAll();
  await removal;
  t.ok(slow.isClosing);
  h.transport.deliverKept();
  h.transport.settle();
  h.server.assertConsistent();
  t.equal(h.slab.usedBytes(POOL_FRONTEND), 0);
  h.server.stop();
  t.equal(h.slab.usedBytes(POOL_INTERNAL), 0);
});

t.test('a slab without room for the zeroes', async (t) => {
  const clock = new TestClock();
  const slab = new SimSlab({ clock, quotaBytes: [MIB, MIB, 64 * KIB] });
  const make = () =>
    new NbdServer({ transport: new TestTransport(slab), slab, frontendBytes: Infinity, clock, log: silentLog });
  t.throws(make, { code: 'LIMIT_EXCEEDED' });
});

t.test('counters and latencies', async (t) => {
  const h = new Harness();
  const client = h.connect('structured');
  client.ask(WRITE, 0, MIB, 0, new Uint8Array(MIB));
  client.ask(READ, 0, 4096);
  client.ask(READ, 0, 511);
  t.match(h.server.stats()[0], {
    name: 'disk',
    uuid: 'u-1',
    connections: 1,
    inFlight: 2,
    write: { inFlight: 1, operations: 0 },
  });
  h.clock.advance(3);
  h.volume.endAll();
  client.ask(WRITE, 0, 512, 0, new Uint8Array(512));
  h.volume.end(0, STATUS.IO_ERROR);
  const stats = h.server.stats()[0];
  t.match(stats?.write, { operations: 2, bytes: MIB, errors: 1, inFlight: 0, latencySumUs: 3000 });
  t.match(stats?.read, { operations: 2, bytes: 4096, errors: 1, inFlight: 0 });
  t.equal(stats?.read.latencyBuckets[12], 1, '3,000 microseconds are less than 2^12');
  t.equal(stats?.read.latencyBuckets[0], 1, 'what is refused takes no time');
  client.ask(WRITE, 0, 512, 0, new Uint8Array(512));
  h.transport.vanish(client);
  h.volume.endAll();
  h.checkNoLeak();
});

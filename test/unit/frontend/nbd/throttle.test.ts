import t from 'tap';
import { limits } from '../../../../daemon/base/limits.js';
import { EXTENT_BYTES, KIB, MIB } from '../../../../daemon/base/units.js';
import { CMD, CMD_FLAG, ERRNO } from '../../../../daemon/frontend/nbd/protocol.js';
import { POOL_FRONTEND } from '../../../../daemon/ports/slab.js';
import { STATUS } from '../../../../daemon/protocol/frame.js';
import { Harness, type ClientKind } from './harness.js';

const { READ, WRITE } = CMD;
const LIMIT = limits.nbdUnsentBytesPerConnectionMax;

t.test('a client that takes nothing holds no more than the limit, and others go on', async (t) => {
  for (const kind of ['simple', 'structured'] as ClientKind[]) {
    const h = new Harness();
    h.volume.fill();
    const client = h.connect(kind);
    const other = h.connect(kind);
    client.isTaking = false;
    const cookies = Array.from({ length: 200 }, (_, i) => client.ask(READ, (i % 8) * MIB, MIB));
    h.volume.endAll();
    h.check();
    t.equal(client.unsentBytes, LIMIT);
    t.equal(h.slab.usedBytes(POOL_FRONTEND), 0, 'the test transport copies');
    const elsewhere = other.ask(READ, 0, 4 * KIB);
    const written = client.ask(WRITE, 0, 4 * KIB, 0, h.volume.data.slice(0, 4 * KIB));
    h.volume.endAll();
    t.equal(other.data(elsewhere).length, 4 * KIB);
    t.equal(client.reply(written)?.error, 0, 'only reads are throttled');
    let rounds = 0;
    while (cookies.some((cookie) => client.reply(cookie) === null)) {
      h.transport.drain(client, MIB);
      h.check();
      h.volume.endAll();
      t.ok(client.unsentBytes <= LIMIT);
      if (++rounds > 400) break;
    }
    t.ok(rounds > 100 && rounds <= 400, `${rounds} rounds`);
    cookies.forEach((cookie, i) =>
      t.equal(client.data(cookie).compare(h.volume.data.subarray((i % 8) * MIB, ((i % 8) + 1) * MIB)), 0),
    );
    client.unsentBytes = 0;
    h.checkNoLeak();
  }
});

t.test('throttled reads end with their connection, and with their export', async (t) => {
  for (const end of ['vanish', 'remove'] as const) {
    const h = new Harness();
    h.volume.fill();
    const client = h.connect('structured');
    client.isTaking = false;
    const cookies = Array.from({ length: 40 }, (_, i) => client.ask(READ, (i % 8) * MIB, MIB));
    for (let i = 0; i < 20; i++) h.volume.end();
    if (end === 'vanish') h.transport.vanish(client);
    const removed = end === 'remove' ? h.server.removeExport('disk') : Promise.resolve();
    h.volume.endAll();
    await removed;
    if (end === 'remove') t.equal(client.reply(cookies[39] ?? 0)?.error, ERRNO.ESHUTDOWN);
    h.transport.settle();
    t.equal(h.slab.usedBytes(POOL_FRONTEND), 0);
  }
});

t.test('errors and holes make room for throttled reads', async (t) => {
  const h = new Harness();
  const client = h.connect('structured');
  client.isTaking = false;
  const failing = client.ask(READ, 0, 8 * MIB);
  const waiting = Array.from({ length: 8 }, (_, i) => client.ask(READ, i * MIB, MIB));
  t.equal(h.volume.pending.length * EXTENT_BYTES, LIMIT);
  h.volume.end(0, STATUS.IO_ERROR);
  h.check();
  h.volume.endAll();
  t.equal(client.reply(failing)?.error, ERRNO.EIO);
  for (const cookie of waiting) t.equal(client.reply(cookie)?.error, 0);
  h.checkNoLeak();
});

t.test('a read that is sent as a whole goes on when it has begun', async (t) => {
  const h = new Harness();
  h.volume.fill();
  const client = h.connect('structured');
  client.isTaking = false;
  const before = client.ask(READ, 0, LIMIT - 64 * KIB);
  const whole = client.ask(READ, 64 * KIB, 128 * KIB, CMD_FLAG.DF);
  const behind = client.ask(READ, 0, 512);
  h.volume.endAll();
  t.equal(client.data(before).length, LIMIT - 64 * KIB);
  t.equal(client.data(whole).length, 128 * KIB);
  t.equal(client.reply(behind), null);
  h.transport.drain(client, 2 * LIMIT);
  h.volume.endAll();
  t.equal(client.data(behind).length, 512);
  client.unsentBytes = 0;
  h.checkNoLeak();
});

t.test('while the pool is short, a connection has less of it, and more as soon as it is not', async (t) => {
  const h = new Harness({ frontendBytes: 2 * MIB });
  h.volume.fill();
  const client = h.connect('structured');
  const other = h.connect('structured');
  client.isTaking = false;
  const before = other.ask(READ, 0, MIB + EXTENT_BYTES);
  t.equal(h.volume.pending.length, 9, 'more than half of the pool');
  const cookie = client.ask(READ, 0, MIB);
  t.equal((h.volume.pending.length - 9) * EXTENT_BYTES, limits.nbdUnsentBytesAssured);
  while (h.volume.pending.length > 9) h.volume.end(9);
  h.volume.endAll();
  h.check();
  t.equal(other.data(before).length, MIB + EXTENT_BYTES);
  t.equal(client.reply(cookie), null, 'nothing tells that there is room');
  h.clock.advance(limits.nbdThrottleTickMs);
  h.volume.endAll();
  t.equal(client.data(cookie).length, MIB);
  t.equal(h.clock.timerCount, 0, 'nobody looks when nobody waits');
  client.unsentBytes = 0;
  h.checkNoLeak();
});

t.test('a write of several pieces is refused as a whole before any of it is written', async (t) => {
  const h = new Harness();
  const client = h.connect('structured');
  const payload = new Uint8Array(512 * KIB).fill(7);
  const past = client.ask(WRITE, 8 * MIB - 256 * KIB, 512 * KIB, 0, payload);
  const misaligned = client.ask(WRITE, 0, 384 * KIB + 1, 0, payload);
  t.equal(h.volume.started.length, 0);
  t.equal(client.reply(past)?.error, ERRNO.ENOSPC);
  t.equal(client.reply(misaligned)?.error, ERRNO.EINVAL);
  const valid = client.ask(WRITE, 8 * MIB - 512 * KIB, 512 * KIB, 0, payload);
  h.volume.endAll();
  t.equal(client.reply(valid)?.error, 0);
  h.checkNoLeak();
});

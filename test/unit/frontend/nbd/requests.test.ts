import t from 'tap';
import { limits } from '../../../../daemon/base/limits.js';
import { EXTENT_BYTES, KIB, MIB } from '../../../../daemon/base/units.js';
import { CMD, CMD_FLAG, ERRNO } from '../../../../daemon/frontend/nbd/protocol.js';
import { POOL_FRONTEND } from '../../../../daemon/ports/slab.js';
import { STATUS, type Status } from '../../../../daemon/protocol/frame.js';
import { Harness, type ClientKind } from './harness.js';
import type { TestClient } from './test-transport.js';

const { READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS } = CMD;

/** One request, its pieces ended in order; the errno of its reply. */
function errorOf(h: Harness, client: TestClient, type: number, offset = 0, length = 0, flags = 0): number {
  const cookie = client.ask(type, offset, length, flags, new Uint8Array(Math.min(length, MIB)));
  h.volume.endAll();
  h.check();
  return client.reply(cookie)?.error ?? -1;
}

t.test('a read of one piece', async (t) => {
  for (const kind of ['simple', 'structured'] as ClientKind[]) {
    const h = new Harness();
    h.volume.fill();
    const client = h.connect(kind);
    const cookie = client.ask(READ, 512, 4096);
    t.equal(client.reply(cookie), null);
    h.volume.end();
    t.same(client.data(cookie), Buffer.from(h.volume.data.subarray(512, 4608)));
    h.checkNoLeak();
  }
});

t.test('holes are described to structured clients and written out to simple ones', async (t) => {
  const h = new Harness();
  const simple = h.connect('simple');
  const structured = h.connect('structured');
  h.volume.isImmediate = true;
  const cookies = [simple, structured].map((client) => client.ask(READ, 100 * 512, 300 * KIB));
  t.same(simple.data(cookies[0] ?? 0), Buffer.alloc(300 * KIB));
  t.same(structured.data(cookies[1] ?? 0), Buffer.alloc(300 * KIB));
  t.ok(structured.reply(1)?.parts.every(({ isHole }) => isHole));
  t.equal(structured.reply(1)?.parts.length, 3);
  h.checkNoLeak();
});

t.test('structured reads are answered in the order in which pieces end', async (t) => {
  const h = new Harness();
  h.volume.fill();
  const client = h.connect('structured');
  const cookie = client.ask(READ, 64 * KIB, 512 * KIB);
  t.same(
    h.volume.started.map(({ length }) => length / KIB),
    [64, 128, 128, 128, 64],
    'cut at the extents of the volume',
  );
  for (const index of [4, 2, 0, 1, 0]) h.volume.end(index);
  t.same(client.data(cookie), Buffer.from(h.volume.data.subarray(64 * KIB, 576 * KIB)));
  const offsets = client.reply(cookie)?.parts.map(({ at }) => at / KIB);
  t.same(offsets, [448, 192, 0, 320, 64]);
  h.checkNoLeak();
});

t.test('a structured read that fails reports it last, and the connection lives', async (t) => {
  const h = new Harness();
  h.volume.fill();
  const client = h.connect('structured');
  const cookie = client.ask(READ, 0, 384 * KIB);
  h.volume.end(0);
  h.volume.end(1, STATUS.CHECKSUM_MISMATCH);
  t.equal(client.reply(cookie), null, 'not before the last piece has ended');
  h.volume.end(0);
  t.equal(client.reply(cookie)?.error, ERRNO.EIO);
  t.equal(errorOf(h, client, READ, 0, 512), 0);
  h.checkNoLeak();
});

t.test('a simple reply is sent in order of offset, and nothing is sent within', async (t) => {
  const h = new Harness();
  h.volume.fill();
  const client = h.connect('simple');
  const large = client.ask(READ, 0, 512 * KIB);
  const flush = client.ask(FLUSH);
  const bad = client.ask(99);
  t.equal(client.reply(bad)?.error, ERRNO.EINVAL, 'before the header others may pass');
  h.volume.end(3);
  h.volume.end(0);
  t.equal(h.slab.usedBytes(POOL_FRONTEND), 3 * 128 * KIB, 'the first piece was sent at once, the last is held');
  h.volume.end(2);
  const write = client.ask(WRITE, 2 * MIB, 512, 0, new Uint8Array(512));
  h.volume.end(2);
  h.check();
  t.equal(client.reply(flush), null, 'the flush has ended but waits for the stream');
  h.volume.endAll();
  t.same(client.data(large), Buffer.from(h.volume.data.subarray(0, 512 * KIB)));
  t.same(client.order, [bad, large, flush, write]);
  h.checkNoLeak();
});

t.test('reads of several pieces have the simple replies of a connection to themselves', async (t) => {
  const h = new Harness();
  h.volume.fill();
  const client = h.connect('simple');
  const other = h.connect('simple');
  const cookies = [0, 1, 2, 3].map((i) => client.ask(READ, i * MIB, i % 2 === 0 ? 4 * KIB : MIB));
  t.same(
    h.volume.pending.map(({ offset }) => offset / MIB),
    [0],
    'the large read waits for the small one before it, and all others wait behind',
  );
  const elsewhere = other.ask(READ, 4 * MIB, MIB);
  t.equal(h.volume.pending.length, 9, 'other connections do not wait');
  h.volume.endAll();
  h.check();
  cookies.forEach((cookie, i) =>
    t.equal(client.data(cookie).compare(h.volume.data.subarray(i * MIB, i * MIB + (i % 2 === 0 ? 4 * KIB : MIB))), 0),
  );
  t.same(client.order, cookies);
  t.equal(other.data(elsewhere).length, MIB);
  h.checkNoLeak();
});

t.test('a simple read that fails before its header is an error, after it the end of the connection', async (t) => {
  const h = new Harness();
  h.volume.fill();
  const client = h.connect('simple');
  const early = client.ask(READ, 0, 384 * KIB);
  h.volume.end(1);
  h.volume.end(1);
  h.volume.end(0, STATUS.IO_ERROR);
  t.equal(client.reply(early)?.error, ERRNO.EIO);
  client.ask(READ, 0, 384 * KIB);
  const waiting = client.ask(READ, 0, 512);
  h.volume.end(0);
  h.volume.end(1, STATUS.IO_ERROR);
  t.ok(client.isClosing, 'closed, since the header had promised data');
  h.volume.endAll();
  t.equal(client.reply(waiting), null);
  h.checkNoLeak();
});

t.test('DF: one chunk, of at most an extent', async (t) => {
  const h = new Harness();
  h.volume.fill();
  h.volume.allocated[2] = false;
  h.volume.allocated[4] = false;
  h.volume.allocated[5] = false;
  const client = h.connect('structured');
  const ask = (offset: number, length: number) => {
    const cookie = client.ask(READ, offset, length, CMD_FLAG.DF);
    while (h.volume.pending.length > 0) h.volume.end(h.volume.pending.length - 1);
    h.check();
    return cookie;
  };
  for (const [offset, length, isHole] of [
    [0, 64 * KIB, false],
    [96 * KIB, 64 * KIB, false],
    [512, 128 * KIB, false],
    [255 * KIB, 64 * KIB, false],
    [600 * KIB, 128 * KIB, true],
  ] as const) {
    const cookie = ask(offset, length);
    t.equal(client.data(cookie).length, length);
    t.equal(client.reply(cookie)?.parts.length, 1);
    t.equal(client.reply(cookie)?.parts[0]?.isHole, isHole);
  }
  const mixed = client.data(ask(255 * KIB, 64 * KIB));
  t.same(mixed.subarray(0, KIB), Buffer.from(h.volume.data.subarray(255 * KIB, 256 * KIB)));
  t.same(mixed.subarray(KIB), Buffer.alloc(63 * KIB), 'holes are written out');
  t.equal(client.reply(ask(0, 128 * KIB + 512))?.error, ERRNO.EOVERFLOW);
  t.equal(errorOf(h, h.connect('simple'), READ, 0, 512, CMD_FLAG.DF), ERRNO.EINVAL);
  h.checkNoLeak();
});

t.test('writes are written, whole or cut, with and without FUA', async (t) => {
  const h = new Harness();
  const client = h.connect('simple');
  const payload = new Uint8Array(300 * KIB).map((_, i) => i % 251);
  const cookie = client.ask(WRITE, 100 * KIB, payload.length, CMD_FLAG.FUA, payload);
  t.equal(h.volume.started.length, 4);
  t.ok(h.volume.started.every(({ fua }) => fua));
  for (const index of [2, 0, 1]) h.volume.end(index);
  t.equal(client.reply(cookie), null, 'acknowledged when all pieces are');
  h.volume.end();
  t.equal(client.reply(cookie)?.error, 0);
  t.same(h.volume.data.subarray(100 * KIB, 400 * KIB), payload);
  t.equal(errorOf(h, client, WRITE, 512, 1024), 0);
  t.equal(h.volume.started.at(-1)?.fua, false);
  h.checkNoLeak();
});

t.test('pieces of a write start while others are still on the wire', async (t) => {
  const h = new Harness();
  const client = h.connect('structured');
  const cookie = client.ask(WRITE, 0, MIB, 0, new Uint8Array(MIB).fill(7), 3);
  t.equal(h.volume.pending.length, 5);
  h.volume.endAll();
  h.check();
  t.equal(client.reply(cookie), null);
  h.transport.deliverKept();
  h.volume.endAll();
  t.equal(client.reply(cookie)?.error, 0);
  t.ok(h.volume.data.subarray(0, MIB).every((byte) => byte === 7));
  h.checkNoLeak();
});

t.test('the first error of a write wins, later pieces are taken off the wire and not started', async (t) => {
  const h = new Harness();
  const client = h.connect('simple');
  h.volume.capacity = 2;
  const cookie = client.ask(WRITE, 0, MIB, 0, new Uint8Array(MIB), 2);
  h.volume.end(1, STATUS.NO_SPACE);
  h.check();
  h.transport.deliverKept();
  t.equal(client.reply(cookie), null, 'a piece is under way');
  h.volume.end(0, STATUS.IO_ERROR);
  t.equal(client.reply(cookie)?.error, ERRNO.ENOSPC);
  t.equal(h.volume.started.length, 2);
  h.checkNoLeak();
});

t.test('TRIM, WRITE_ZEROES and FLUSH', async (t) => {
  const h = new Harness();
  h.volume.fill();
  const client = h.connect('structured');
  t.equal(errorOf(h, client, TRIM, 0, 256 * KIB, CMD_FLAG.FUA), 0);
  t.equal(errorOf(h, client, WRITE_ZEROES, MIB - 512, 1024), 0);
  t.equal(errorOf(h, client, WRITE_ZEROES, MIB, 512, CMD_FLAG.NO_HOLE), 0);
  t.equal(errorOf(h, client, FLUSH, 0, 0, CMD_FLAG.FUA), 0, 'FUA is valid on everything');
  t.same(
    h.volume.started.map(({ kind, fua, mayFree }) => [kind, fua, mayFree]),
    [
      ['trim', true, true],
      ['trim', true, true],
      ['zero', false, true],
      ['zero', false, true],
      ['zero', false, false],
      ['flush', false, false],
    ],
  );
  h.checkNoLeak();
});

t.test('a huge TRIM goes through its window, and others are served meanwhile', async (t) => {
  const h = new Harness({ sizeBytes: 64 * MIB });
  const client = h.connect('simple');
  const large = client.ask(TRIM, 0, 64 * MIB);
  t.equal(h.volume.pending.length, limits.nbdPiecesPerRequestMax);
  const small = client.ask(READ, 0, 512);
  h.volume.end(limits.nbdPiecesPerRequestMax);
  t.equal(client.reply(small)?.error, 0);
  while (h.volume.pending.length > 0) {
    t.ok(h.volume.pending.length <= limits.nbdPiecesPerRequestMax);
    h.volume.end();
  }
  t.equal(client.reply(large)?.error, 0);
  t.equal(h.volume.started.length, 513);
  h.checkNoLeak();
});

t.test('a stream keeps within its window of pieces under way and held', async (t) => {
  const h = new Harness({ sizeBytes: 32 * MIB });
  h.volume.fill();
  const client = h.connect('simple');
  const cookie = client.ask(READ, 0, 32 * MIB);
  while (h.volume.pending.length > 1) h.volume.end(1);
  t.equal(h.volume.started.length, limits.nbdPiecesPerRequestMax);
  h.check();
  h.volume.endAll();
  t.equal(client.data(cookie).compare(h.volume.data), 0);
  h.checkNoLeak();
});

t.test('what is not valid is refused', async (t) => {
  const h = new Harness({ sizeBytes: MIB });
  for (const kind of ['simple', 'structured'] as ClientKind[]) {
    const client = h.connect(kind);
    const { EINVAL, ENOSPC, EOVERFLOW } = ERRNO;
    const cases: [name: string, type: number, offset: number, length: number, flags: number, error: number][] = [
      ['an unknown command', 8, 0, 512, 0, EINVAL],
      ['CACHE', CACHE, 0, 512, 0, EINVAL],
      ['a read beyond the end', READ, MIB - 512, 1024, 0, EINVAL],
      ['a read far beyond', READ, 2 ** 53, 512, 0, EINVAL],
      ['a write beyond the end', WRITE, MIB, 512, 0, ENOSPC],
      ['zeroes beyond the end', WRITE_ZEROES, MIB - 512, 0xfffffe00, 0, ENOSPC],
      ['a trim beyond the end', TRIM, MIB, 512, 0, EINVAL],
      ['an empty read', READ, 0, 0, 0, EINVAL],
      ['an empty write', WRITE, 0, 0, 0, EINVAL],
      ['an empty trim', TRIM, 0, 0, 0, EINVAL],
      ['a misaligned offset', READ, 1, 512, 0, EINVAL],
      ['a misaligned length', WRITE, 0, 511, 0, EINVAL],
      ['a flush with a range', FLUSH, 0, 512, 0, EINVAL],
      ['an unknown flag', READ, 0, 512, 32, EINVAL],
      ['a flag of another command', WRITE, 0, 512, CMD_FLAG.NO_HOLE, EINVAL],
      ['FAST_ZERO, which is not offered', WRITE_ZEROES, 0, 512, CMD_FLAG.FAST_ZERO, EINVAL],
      ['BLOCK_STATUS without a context', BLOCK_STATUS, 0, 512, 0, EINVAL],
    ];
    for (const [name, type, offset, length, flags, error] of cases) {
      t.equal(errorOf(h, client, type, offset, length, flags), error, `${name}, ${kind}`);
    }
    const large = new Harness({ sizeBytes: 64 * MIB });
    const tooLarge = kind === 'simple' ? EINVAL : EOVERFLOW;
    t.equal(errorOf(large, large.connect(kind), READ, 0, limits.nbdRequestBytesMax + 512), tooLarge);
  }
  t.same(h.volume.started, [], 'the volume has seen none of it');
  h.checkNoLeak();
});

t.test('a read-only export refuses to be changed', async (t) => {
  const h = new Harness({ readOnly: true });
  const client = h.connect('structured');
  for (const type of [WRITE, TRIM, WRITE_ZEROES]) t.equal(errorOf(h, client, type, 0, 512 * KIB), ERRNO.EPERM);
  t.equal(errorOf(h, client, READ, 0, 512), 0);
  t.equal(errorOf(h, client, FLUSH), 0);
  t.equal(h.volume.started.length, 2);
  h.checkNoLeak();
});

t.test('statuses become errnos', async (t) => {
  const h = new Harness();
  const client = h.connect('simple');
  const expected: [Status, number][] = [
    [STATUS.OK, 0],
    [STATUS.IO_ERROR, ERRNO.EIO],
    [STATUS.NO_SPACE, ERRNO.ENOSPC],
    [STATUS.FENCED, ERRNO.ESHUTDOWN],
    [STATUS.CHECKSUM_MISMATCH, ERRNO.EIO],
    [STATUS.BAD_REQUEST, ERRNO.EINVAL],
    [STATUS.NOT_FOUND, ERRNO.EIO],
    [STATUS.OVERLOADED, ERRNO.EIO],
  ];
  for (const [status, error] of expected) {
    const cookie = client.ask(WRITE, 0, 4096, 0, new Uint8Array(4096));
    h.volume.end(0, status);
    t.equal(client.reply(cookie)?.error, error);
  }
  h.checkNoLeak();
});

t.test('BLOCK_STATUS', async (t) => {
  const h = new Harness({ sizeBytes: MIB + 512 });
  for (const index of [0, 1, 4]) h.volume.allocated[index] = true;
  const client = h.connect('contexts');
  const ask = async (offset: number, length: number, flags = 0) => {
    const cookie = client.ask(BLOCK_STATUS, offset, length, flags);
    await t.resolves(new Promise(setImmediate));
    const status = client.reply(cookie)?.status ?? null;
    if (status === null) return client.reply(cookie)?.error;
    const words = Array.from({ length: status.length / 4 }, (_, i) => Buffer.from(status).readUInt32BE(4 * i));
    return words.map((word, i) => (i % 2 === 1 ? word / 512 : word));
  };
  t.same(await ask(0, MIB + 512), [1, 512, 0, 512, 3, 256, 0, 769, 3], 'merged, from the context');
  t.same(await ask(0, MIB, CMD_FLAG.REQ_ONE), [1, 512, 0]);
  t.same(await ask(512, 512, CMD_FLAG.REQ_ONE), [1, 1, 0], 'one descriptor, never beyond the request');
  t.same(await ask(255 * KIB, 2 * KIB), [1, 2, 0, 2, 3], 'from the offset, to the end of the request');
  t.equal(await ask(MIB, 1024), ERRNO.EINVAL);
  h.volume.allocationFails = true;
  t.equal(await ask(0, MIB), ERRNO.EIO);
  h.checkNoLeak();
});

t.test('BLOCK_STATUS of a large volume is answered in parts', async (t) => {
  const h = new Harness({ sizeBytes: 64 * MIB });
  const asked: number[] = [];
  Object.defineProperty(h.volume, 'sizeBytes', { value: 2 ** 40 });
  h.volume.allocation = async (_, length) => {
    asked.push(length);
    return Array.from({ length: length / EXTENT_BYTES }, (_, i) => i % 2 === 0);
  };
  const client = h.connect('contexts');
  const cookie = client.ask(BLOCK_STATUS, 512, 0xfffffe00);
  await t.resolves(new Promise(setImmediate));
  t.same(asked, [1 << 30]);
  t.equal(client.reply(cookie)?.status?.length, 4 + 8 * 8192);
  h.checkNoLeak();
});

t.test('DISC closes behind the replies that are due', async (t) => {
  const h = new Harness();
  h.volume.fill();
  const client = h.connect('simple');
  const cookies = [
    client.ask(READ, 0, MIB),
    client.ask(WRITE, MIB, 512, 0, new Uint8Array(512)),
    client.ask(READ, 0, 512),
  ];
  client.ask(DISC);
  client.ask(WRITE, 0, 512, 0, new Uint8Array(512));
  client.unanswered--;
  t.notOk(client.isClosing);
  h.volume.endAll();
  t.ok(client.isClosing);
  for (const cookie of cookies) t.equal(client.reply(cookie)?.error, 0);
  t.equal(h.volume.started.length, 10, 'what came after DISC is not served');
  const idle = h.connect('structured');
  idle.ask(DISC);
  t.ok(idle.isClosing);
  h.checkNoLeak();
});

t.test('a client that vanishes leaves nothing behind', async (t) => {
  const h = new Harness();
  h.volume.fill();
  h.volume.capacity = 6;
  const gone = h.connect('simple');
  const stays = h.connect('simple');
  gone.ask(READ, 0, MIB);
  gone.ask(READ, 0, 512);
  gone.ask(FLUSH);
  gone.ask(WRITE, 4 * MIB, MIB, 0, new Uint8Array(MIB), 4);
  const cookie = stays.ask(READ, 0, 4096);
  h.volume.end(1);
  h.volume.end(0);
  h.check();
  h.transport.vanish(gone);
  h.check();
  const pendingBytes = h.volume.pending.reduce((sum, { kind, length }) => sum + (kind === 'read' ? length : 0), 0);
  t.equal(h.slab.usedBytes(POOL_FRONTEND), pendingBytes, 'held data and waiting payload are released at once');
  h.transport.deliverKept();
  h.volume.endAll();
  t.equal(stays.data(cookie).length, 4096);
  t.notOk(
    h.volume.started.some(({ kind }) => kind === 'write'),
    'nothing of it started later',
  );
  h.checkNoLeak();
});

t.test('a look-up that is under way when its client vanishes ends without a reply', async (t) => {
  const h = new Harness();
  const gone = h.connect('contexts');
  for (let i = 0; i < 3; i++) gone.ask(BLOCK_STATUS, 0, MIB);
  const stays = h.connect('contexts');
  const cookie = stays.ask(BLOCK_STATUS, 0, MIB);
  h.transport.vanish(gone);
  h.check();
  await t.resolves(new Promise(setImmediate));
  t.equal(stays.reply(cookie)?.error, 0);
  h.checkNoLeak();
});

t.test('requests wait in line for the volume to accept them', async (t) => {
  const h = new Harness();
  h.volume.capacity = 1;
  const client = h.connect('structured');
  const cookies = Array.from({ length: limits.nbdRequestsPerConnectionMax }, (_, i) =>
    client.ask(i % 2 === 0 ? READ : WRITE, i * 4096, 4096, 0, new Uint8Array(4096)),
  );
  t.equal(h.volume.pending.length, 1);
  h.check();
  h.volume.endAll();
  t.same(client.reply(cookies[0] ?? 0)?.error, 0);
  t.same(client.order, cookies);
  h.checkNoLeak();
});

t.test('a volume that ends pieces within the call that starts them', async (t) => {
  const h = new Harness({ sizeBytes: 32 * MIB });
  h.volume.fill();
  h.volume.isImmediate = true;
  for (const kind of ['simple', 'structured'] as ClientKind[]) {
    const client = h.connect(kind);
    const cookies = [client.ask(READ, 0, 32 * MIB), client.ask(TRIM, 0, 512), client.ask(READ, MIB, 512)];
    t.equal(client.data(cookies[0] ?? 0).length, 32 * MIB);
    for (const cookie of cookies) t.equal(client.reply(cookie)?.error, 0);
    h.check();
  }
  h.checkNoLeak();
});

import t, { type Test } from 'tap';
import { NO_BUFFER, POOL_FRONTEND, POOL_PEER } from '../../../../daemon/ports/slab.js';
import { Frame, OPCODE, STATUS } from '../../../../daemon/protocol/frame.js';
import { frameBytes, RawClient, TestEngine } from './support.js';

const EXTENT = 131_072;

/** One engine with a connection to itself: both ends. */
async function connectedPair(local: TestEngine): Promise<{ near: number; far: number }> {
  const near = local.engine.network.connect(`127.0.0.1:${local.engine.listenFrames('127.0.0.1', 0)}`);
  await local.until(() => local.connected.length > 0 && local.accepted.length > 0);
  return { near, far: local.accepted[0] as number };
}

async function end(t: Test, local: TestEngine): Promise<void> {
  t.equal(local.usedBytes(), 0, 'no buffer is left');
  await local.engine.stop();
}

t.test('all fields of a frame arrive, with payload and checksums', async (t) => {
  const local = new TestEngine();
  const { near, far } = await connectedPair(local);
  const { network, slab } = local.engine;
  const frame = new Frame().request(OPCODE.WRITE, 0xfffffffe, 2, 3);
  Object.assign(frame, { flags: 0x8003, generation: 4, epoch: 5, offset: 2 ** 40 + 4096, length: 8192, status: 6 });
  frame.payloadLength = 5000;
  const buffer = local.fill(12_288, POOL_FRONTEND, 0xab);
  slab.computeChecksums(buffer, 4096, 5000); // the last block is short
  network.send(near, frame, buffer, 4096, NO_BUFFER);
  slab.release(buffer);
  const received = await local.nextFrame();
  t.equal(received.connection, far);
  t.same(received.frame, frame);
  t.same(Buffer.from(slab.bytes(received.buffer, 0, 5000)), Buffer.alloc(5000, 0xab));
  slab.release(received.buffer);
  await end(t, local);
});

t.test('a READ reply lands in the announced buffer', async (t) => {
  const local = new TestEngine();
  const { near } = await connectedPair(local);
  const { network, slab } = local.engine;
  const reply = local.fill(EXTENT, POOL_FRONTEND, 0);
  const request = new Frame().request(OPCODE.READ, 77, 1, 0);
  request.length = EXTENT;
  network.send(near, request, NO_BUFFER, 0, reply);
  t.throws(() => network.send(near, request, NO_BUFFER, 0, reply), /one reply at a time/);
  const asked = await local.nextFrame();
  const data = local.fill(EXTENT, POOL_PEER, 0x77);
  asked.frame.toReply(STATUS.OK).payloadLength = EXTENT;
  network.send(asked.connection, asked.frame, data, 0, NO_BUFFER);
  slab.release(data);
  const answered = await local.nextFrame();
  t.equal(answered.buffer, reply);
  t.equal(answered.frame.tag, 77);
  t.equal(slab.bytes(reply, EXTENT - 1, 1)[0], 0x77);
  slab.release(reply);
  slab.release(reply);
  await end(t, local);
});

t.test('a READ reply without payload gives the announced buffer back', async (t) => {
  const local = new TestEngine();
  const { near } = await connectedPair(local);
  const { network, slab } = local.engine;
  const reply = slab.alloc(4096, POOL_FRONTEND);
  const request = new Frame().request(OPCODE.READ, 1, 1, 0);
  request.length = 4096;
  network.send(near, request, NO_BUFFER, 0, reply);
  slab.release(reply);
  const asked = await local.nextFrame();
  network.send(asked.connection, asked.frame.toReply(STATUS.IO_ERROR), NO_BUFFER, 0, NO_BUFFER);
  const answered = await local.nextFrame();
  t.equal(answered.buffer, NO_BUFFER);
  t.equal(answered.frame.status, STATUS.IO_ERROR);
  await end(t, local);
});

t.test('thousands of frames of many sizes arrive in order', async (t) => {
  const local = new TestEngine();
  const { near } = await connectedPair(local);
  const { network, slab } = local.engine;
  const count = 5_000;
  const frame = new Frame();
  const lengths = [0, 4096, 0, 512, 65_536, 0, EXTENT, 8192];
  let sent = 0;
  let next = 0;
  const failures: string[] = [];
  const pump = () => {
    while (sent < count && sent - next < 16) {
      const length = lengths[sent % lengths.length] as number;
      frame.request(OPCODE.WRITE, sent, 0, 0).payloadLength = length;
      const buffer = length === 0 ? NO_BUFFER : local.fill(length, POOL_FRONTEND, sent & 0xff);
      network.send(near, frame, buffer, 0, NO_BUFFER);
      if (buffer !== NO_BUFFER) slab.release(buffer);
      sent++;
    }
  };
  local.onFrame = (_connection, received, buffer) => {
    const length = received.payloadLength;
    if (received.tag !== next) failures.push(`frame ${received.tag} arrived instead of ${next}`);
    if (buffer !== NO_BUFFER) {
      if (slab.bytes(buffer, length - 1, 1)[0] !== (next & 0xff)) failures.push(`the payload of ${next} is wrong`);
      slab.release(buffer);
    }
    next++;
    pump();
  };
  pump();
  await local.until(() => next === count);
  t.same(failures, []);
  await end(t, local);
});

t.test('control frames carry a copied payload', async (t) => {
  const local = new TestEngine();
  const { near } = await connectedPair(local);
  const payload = Buffer.alloc(EXTENT, 'control');
  const frame = new Frame().request(OPCODE.HELLO, 1, 0, 0);
  local.engine.network.sendControl(near, frame, payload);
  local.engine.network.sendControl(near, frame.toReply(STATUS.OK), Buffer.from('reply'));
  payload.fill(0);
  const large = await local.nextFrame();
  t.same(Buffer.from(local.engine.slab.bytes(large.buffer, 0, EXTENT)), Buffer.alloc(EXTENT, 'control'));
  const small = await local.nextFrame();
  t.equal(Buffer.from(local.engine.slab.bytes(small.buffer, 0, 5)).toString(), 'reply');
  local.engine.slab.release(large.buffer);
  local.engine.slab.release(small.buffer);
  await end(t, local);
});

t.test('malformed bytes close the connection with a reason', async (t) => {
  const payload = Buffer.alloc(9000, 'p');
  const good = frameBytes(OPCODE.WRITE, payload);
  const spoiled = (at: number) => {
    const bytes = Buffer.from(good);
    bytes[at] = (bytes[at] as number) ^ 1;
    return bytes;
  };
  const cases: [string, Buffer, RegExp][] = [
    ['wrong magic', Buffer.from('GET / HTTP/1.1\r\nHost: braid\r\n\r\n'.padEnd(64)), /wrong magic/],
    ['corrupt header', spoiled(10), /checksum of a frame header/],
    ['wrong version', frameBytes(OPCODE.WRITE, payload, (header) => (header[4] = 9)), /unknown protocol version/],
    ['oversize', frameBytes(OPCODE.WRITE, payload, (header) => header.writeUInt32LE(131_073, 44)), /more than 131072/],
    ['corrupt table', spoiled(65), /checksum table/],
    ['corrupt payload', spoiled(good.length - 1), /payload of a frame does not match/],
    ['stray READ reply', frameBytes(OPCODE.READ | OPCODE.REPLY, payload), /names no buffer/],
    ['end in the middle', good.subarray(0, 1000), /in the middle of a message/],
  ];
  for (const [name, bytes, reason] of cases) {
    const local = new TestEngine();
    const client = new RawClient(local.engine.listenFrames('127.0.0.1', 0));
    client.socket.end(bytes);
    await local.until(() => local.closed.size > 0);
    t.match([...local.closed.values()][0], reason, name);
    t.equal(local.received.length, 0, `${name}: no frame was delivered`);
    await client.closed();
    await end(t, local);
  }
});

t.test('a refused connection and one to a name that does not exist are reported', async (t) => {
  const local = new TestEngine();
  const refused = local.engine.network.connect('127.0.0.1:1');
  const unknown = local.engine.network.connect('no-such-host.invalid:7000');
  await local.until(() => local.closed.size === 2);
  t.match(local.closed.get(refused), /cannot connect: ECONNREFUSED/);
  t.match(local.closed.get(unknown), /cannot be resolved/);
  local.engine.network.send(refused, new Frame(), NO_BUFFER, 0, NO_BUFFER);
  await end(t, local);
});

t.test('connections to localhost by name, and ids that are not used again', async (t) => {
  const local = new TestEngine();
  const port = local.engine.listenFrames('localhost', 0);
  const seen = new Set<number>();
  for (let round = 0; round < 20; round++) {
    const connection = local.engine.network.connect(`localhost:${port}`);
    t.notOk(seen.has(connection));
    t.ok(connection > 0);
    seen.add(connection);
    await local.until(() => local.connected.includes(connection) || local.closed.has(connection));
    local.engine.network.close(connection);
    await local.until(() => local.closed.has(connection));
  }
  await end(t, local);
});

t.test('an exhausted pool stops the reading, not the connection', async (t) => {
  const local = new TestEngine();
  const { near } = await connectedPair(local);
  const { network, slab } = local.engine;
  const hoard: number[] = [];
  for (let buffer; (buffer = slab.alloc(EXTENT, POOL_PEER)) !== NO_BUFFER;) hoard.push(buffer);
  const source = local.fill(EXTENT, POOL_FRONTEND, 1);
  const frame = new Frame().request(OPCODE.WRITE, 0, 0, 0);
  frame.payloadLength = EXTENT;
  for (let tag = 0; tag < 40; tag++) {
    frame.tag = tag;
    network.send(near, frame, source, 0, NO_BUFFER);
  }
  slab.release(source);
  await local.until(() => local.engine.stats().poolWaits > 0);
  t.equal(local.received.length, 0);
  // The handler asks for the pool as well and gets its turn.
  let isAvailable = false;
  slab.onAvailable = (pool) => {
    t.equal(pool, POOL_PEER);
    isAvailable = true;
    hoard.push(slab.alloc(4096, POOL_PEER));
  };
  t.equal(slab.alloc(4096, POOL_PEER), NO_BUFFER);
  for (const buffer of hoard.splice(0, 3)) slab.release(buffer);
  for (let tag = 0; tag < 40; tag++) {
    const { frame, buffer } = await local.nextFrame();
    t.equal(frame.tag, tag);
    slab.release(buffer);
  }
  t.ok(isAvailable);
  for (const buffer of hoard) slab.release(buffer);
  await end(t, local);
});

t.test('receiving can be stopped and resumed', async (t) => {
  const local = new TestEngine();
  const { near, far } = await connectedPair(local);
  const { network } = local.engine;
  network.setReceiving(far, false);
  for (let tag = 0; tag < 100; tag++) network.send(near, new Frame().request(OPCODE.PING, tag, 0, 0), 0, 0, 0);
  await new Promise((resolve) => setTimeout(resolve, 30));
  t.equal(local.received.length, 0);
  network.setReceiving(far, true);
  for (let tag = 0; tag < 100; tag++) t.equal((await local.nextFrame()).frame.tag, tag);
  await end(t, local);
});

t.test('closing gives back announced and queued buffers', async (t) => {
  const local = new TestEngine();
  const { near, far } = await connectedPair(local);
  const { network, slab } = local.engine;
  network.setReceiving(far, false);
  const reply = slab.alloc(4096, POOL_FRONTEND);
  const frame = new Frame().request(OPCODE.READ, 1, 0, 0);
  frame.length = 4096;
  network.send(near, frame, NO_BUFFER, 0, reply);
  const data = local.fill(EXTENT, POOL_FRONTEND, 1);
  frame.request(OPCODE.WRITE, 2, 0, 0).payloadLength = EXTENT;
  for (let count = 0; count < 200; count++) network.send(near, frame, data, 0, NO_BUFFER);
  slab.release(reply);
  slab.release(data);
  network.close(near);
  await local.until(() => local.closed.has(near));
  t.equal(local.closed.get(near), 'closed by us');
  local.onFrame = (_connection, _frame, buffer) => {
    if (buffer !== NO_BUFFER) slab.release(buffer);
  };
  network.setReceiving(far, true);
  await local.until(() => local.closed.has(far));
  await end(t, local);
});

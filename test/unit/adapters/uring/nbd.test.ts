import { existsSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { once } from 'node:events';
import t from 'tap';
import type { UringEngine } from '../../../../daemon/adapters/uring.js';
import { SystemClock } from '../../../../daemon/adapters/clock.js';
import { limits } from '../../../../daemon/base/limits.js';
import { EXTENT_BYTES, MIB } from '../../../../daemon/base/units.js';
import { NbdServer } from '../../../../daemon/frontend/nbd/server.js';
import { NbdRequest, type NbdTransportHandler } from '../../../../daemon/ports/nbd-transport.js';
import { NO_BUFFER, POOL_FRONTEND, type BufferId } from '../../../../daemon/ports/slab.js';
import { silentLog, TestVolume } from '../../frontend/nbd/doubles.js';
import { handshakeBytes } from '../../frontend/nbd/harness.js';
import { crc32c, RawClient, scratch, SLAB_BYTES, TestEngine } from './support.js';

const READ = 0;
const WRITE = 1;
const EIO = 5;

/** NBD connections of an engine whose events are kept; `HELLO` ends the handshake. */
class NbdRecorder implements NbdTransportHandler {
  readonly requests: { connection: number; request: NbdRequest; buffer: BufferId }[] = [];
  readonly accepted: [connection: number, listener: number][] = [];
  readonly closed: string[] = [];
  readonly drained: number[] = [];
  readonly #engine: UringEngine;

  constructor(engine: UringEngine) {
    this.#engine = engine;
    engine.setNbdHandler(this);
  }

  onAccepted(connection: number, listener: number): void {
    this.accepted.push([connection, listener]);
    this.#engine.nbd.sendBytes(connection, Buffer.from('NBDMAGIC'), false);
  }

  onBytes(connection: number, bytes: Uint8Array): void {
    if (Buffer.from(bytes.subarray(0, 5)).toString() !== 'HELLO') throw new Error('not the handshake');
    this.#engine.nbd.startTransmission(connection, bytes.subarray(5));
  }

  onRequest(connection: number, request: NbdRequest, buffer: BufferId): void {
    this.requests.push({ connection, request: Object.assign(new NbdRequest(), request), buffer });
  }

  onDrained(connection: number): void {
    this.drained.push(connection);
  }

  onClosed(_connection: number, reason: string): void {
    this.closed.push(reason);
  }
}

function requestBytes(type: number, cookie: number, offset: bigint, length: number, flags = 0): Buffer {
  const bytes = Buffer.alloc(28);
  bytes.writeUInt32BE(0x25609513, 0);
  bytes.writeUInt16BE(flags, 4);
  bytes.writeUInt16BE(type, 6);
  bytes.writeUInt32BE(cookie, 12);
  bytes.writeBigUInt64BE(offset, 16);
  bytes.writeUInt32BE(length, 24);
  return bytes;
}

async function start() {
  const local = new TestEngine();
  const recorder = new NbdRecorder(local.engine);
  const { port, listener } = local.engine.listenNbdTcp('127.0.0.1', 0);
  const client = new RawClient(port);
  t.equal((await client.read(8)).toString(), 'NBDMAGIC');
  return { local, recorder, client, listener };
}

t.test('a request behind the handshake in one segment is not lost', async (t) => {
  const { local, recorder, client, listener } = await start();
  client.socket.write(Buffer.concat([Buffer.from('HELLO'), requestBytes(READ, 1, 4096n, 512)]));
  client.socket.write(requestBytes(READ, 2, 2n ** 60n, 512, 3));
  await local.until(() => recorder.requests.length === 2);
  t.equal(recorder.accepted[0]?.[1], listener);
  const [first, second] = recorder.requests.map(({ request }) => request);
  t.same({ ...first }, { ...new NbdRequest(), type: READ, cookieLow: 1, offset: 4096, length: 512, totalLength: 512 });
  t.equal(second?.offset, 2 ** 53, 'an offset that is no exact number is out of range, not wrong');
  t.equal(second?.flags, 3);
  await local.engine.stop();
});

t.test('writes arrive in pieces cut at extents, at their place in the block', async (t) => {
  const { local, recorder, client } = await start();
  const { slab } = local.engine;
  const payload = Buffer.alloc(400_000, 'abcdefghijk');
  const start512 = 131_072 - 1024;
  client.socket.write(
    Buffer.concat([Buffer.from('HELLO'), requestBytes(WRITE, 9, BigInt(start512), payload.length, 1), payload]),
  );
  await local.until(() => recorder.requests.at(-1)?.request.last === true);
  let at = 0;
  for (const [index, { request, buffer }] of recorder.requests.entries()) {
    t.equal(request.offset, start512 + at);
    t.equal(request.first, index === 0);
    t.equal(request.totalLength, payload.length);
    t.equal(request.flags, 1);
    t.equal(request.cookieLow, 9);
    const bytes = slab.bytes(buffer, request.offset % 4096, request.length);
    t.equal(Buffer.compare(bytes, payload.subarray(at, at + request.length)), 0);
    const isWholeBlocks = request.offset % 4096 === 0 && request.length % 4096 === 0;
    if (isWholeBlocks) t.equal(slab.checksums[slab.checksumIndex(buffer) + 2], crc32c(bytes.subarray(8192, 12_288)));
    at += request.length;
    slab.release(buffer);
  }
  t.equal(at, payload.length);
  t.equal(recorder.requests.length, 5);
  t.equal(local.usedBytes(), 0);
  await local.engine.stop();
});

t.test('simple and structured replies', async (t) => {
  const { local, recorder, client } = await start();
  const { nbd, slab } = local.engine;
  client.socket.write('HELLO');
  for (let cookie = 1; cookie <= 4; cookie++) client.socket.write(requestBytes(READ, cookie, 0n, 4096));
  await local.until(() => recorder.requests.length === 4);
  const connection = recorder.requests[0]?.connection ?? 0;
  const buffer = local.fill(4096, POOL_FRONTEND, 0x41);
  nbd.sendSimpleReply(connection, 0, 1, EIO, 0);
  nbd.sendSimpleReply(connection, 0, 2, 0, 4096);
  nbd.sendData(connection, buffer, 0, 1024, false);
  nbd.sendData(connection, buffer, 1024, 3072, true);
  nbd.sendDataChunk(connection, 7, 3, 8192, buffer, 512, 512, false);
  nbd.sendHoleChunk(connection, 7, 3, 8704, 3584, true);
  nbd.sendStatusChunk(connection, 7, 4, EIO);
  slab.release(buffer);
  t.equal((await client.read(16)).toString('hex'), '67446698000000050000000000000001');
  t.equal((await client.read(16)).toString('hex'), '67446698000000000000000000000002');
  t.same(await client.read(4096), Buffer.alloc(4096, 0x41));
  t.equal((await client.read(28)).toString('hex'), '668e33ef00000001000000070000000300000208' + '0000000000002000');
  t.same(await client.read(512), Buffer.alloc(512, 0x41));
  t.equal(
    (await client.read(32)).toString('hex'),
    '668e33ef0001000200000007000000030000000c' + '000000000000220000000e00',
  );
  t.equal(
    (await client.read(26)).toString('hex'),
    '668e33ef000180010000000700000004' + '00000006' + '00000005' + '0000',
  );
  t.equal(local.engine.stats().nbdReplies, 4);
  t.equal(local.usedBytes(), 0);
  nbd.close(connection);
  await client.closed();
  await local.engine.stop();
});

t.test('a connection has at most 256 requests in flight', async (t) => {
  const { local, recorder, client } = await start();
  client.socket.write('HELLO');
  for (let cookie = 0; cookie < 300; cookie++) client.socket.write(requestBytes(READ, cookie, 0n, 512));
  await local.until(() => recorder.requests.length === 256);
  await new Promise((resolve) => setTimeout(resolve, 20));
  t.equal(recorder.requests.length, 256);
  for (const { connection, request } of recorder.requests.splice(0)) {
    local.engine.nbd.sendSimpleReply(connection, request.cookieHigh, request.cookieLow, EIO, 0);
  }
  await local.until(() => recorder.requests.length === 44);
  await local.engine.stop();
});

t.test('payload that the client has not taken is counted, and its end is told', async (t) => {
  const { local, recorder, client } = await start();
  const { nbd, slab } = local.engine;
  client.socket.pause();
  client.socket.write(Buffer.concat([Buffer.from('HELLO'), requestBytes(READ, 1, 0n, 512)]));
  await local.until(() => recorder.requests.length === 1);
  const connection = recorder.requests[0]?.connection ?? 0;
  const buffer = local.fill(131_072, POOL_FRONTEND, 0x42);
  for (let sent = 0; sent < 200; sent++) nbd.sendData(connection, buffer, 0, 131_072, sent === 199);
  t.equal(nbd.unsentBytes(connection), 200 * 131_072, 'also what is not submitted yet');
  slab.release(buffer);
  await new Promise((resolve) => setTimeout(resolve, 50));
  t.ok(nbd.unsentBytes(connection) > limits.nbdUnsentBytesPerConnectionMax, 'more than sockets hold');
  t.same(recorder.drained, []);
  client.socket.resume();
  t.equal((await client.read(200 * 131_072)).length, 200 * 131_072);
  await local.until(() => nbd.unsentBytes(connection) === 0);
  t.same(recorder.drained, [connection]);
  t.equal(local.usedBytes(), 0);
  await local.engine.stop();
});

t.test('an exhausted pool holds writes back until there is room', async (t) => {
  const { local, recorder, client } = await start();
  const { slab } = local.engine;
  const hoard: number[] = [];
  for (let buffer; (buffer = slab.alloc(131_072, POOL_FRONTEND)) !== NO_BUFFER;) hoard.push(buffer);
  t.equal(hoard.length * EXTENT_BYTES, SLAB_BYTES * limits.slabFrontendShare);
  client.socket.write('HELLO');
  client.socket.write(Buffer.concat([requestBytes(WRITE, 1, 0n, 8192), Buffer.alloc(8192, 1)]));
  await local.until(() => local.engine.stats().poolWaits === 1);
  slab.release(hoard.pop() as number);
  await local.until(() => recorder.requests.length === 1);
  for (const buffer of [...hoard, recorder.requests[0]?.buffer as number]) slab.release(buffer);
  t.equal(local.usedBytes(), 0);
  await local.engine.stop();
});

t.test('clients that take no replies leave room for those that do', async (t) => {
  const DEAF = 12;
  const HANDSHAKE_BYTES = 18 + 32 + 34 + 20; // greeting; export, block sizes and acknowledgement of NBD_OPT_GO
  const slabBytes = 32 * MIB;
  const local = new TestEngine(slabBytes);
  const { engine } = local;
  const frontendBytes = slabBytes * limits.slabFrontendShare;
  const server = new NbdServer({
    transport: engine.nbd,
    slab: engine.slab,
    frontendBytes,
    clock: new SystemClock(),
    log: silentLog,
  });
  engine.setNbdHandler(server);
  engine.slab.onAvailable = (pool) => server.onSlabAvailable(pool);
  const volume = new TestVolume(engine.slab, 32 * EXTENT_BYTES).fill();
  volume.isImmediate = true;
  volume.frontendBytes = frontendBytes;
  server.addExport('disk', volume, { readOnly: false, description: '', uuid: 'u-1' });
  const { port } = engine.listenNbdTcp('127.0.0.1', 0);
  const reads = (count: number): Buffer =>
    Buffer.concat(
      Array.from({ length: count }, (_, cookie) =>
        requestBytes(READ, cookie, BigInt((cookie % 32) * EXTENT_BYTES), EXTENT_BYTES),
      ),
    );
  const deaf = Array.from({ length: DEAF }, () => connect(port, '127.0.0.1').pause());
  for (const socket of deaf)
    socket.write(Buffer.concat([handshakeBytes('simple', 'disk'), reads(limits.nbdRequestsPerConnectionMax)]));
  await local.until(() => engine.slab.usedBytes(POOL_FRONTEND) > frontendBytes / 2);
  await new Promise((resolve) => setTimeout(resolve, 100));
  const client = new RawClient(port);
  client.socket.write(handshakeBytes('simple', 'disk'));
  await client.read(HANDSHAKE_BYTES);
  const payload = Buffer.alloc(EXTENT_BYTES, 5);
  client.socket.write(Buffer.concat([requestBytes(WRITE, 1, 0n, EXTENT_BYTES), payload, reads(64)]));
  t.equal((await client.read(16)).readUInt32BE(4), 0, 'it writes');
  t.equal((await client.read(64 * (16 + EXTENT_BYTES))).length, 64 * (16 + EXTENT_BYTES), 'and reads');
  const taken = deaf.map(() => 0);
  for (const [index, socket] of deaf.entries())
    socket.on('data', (chunk) => (taken[index] = (taken[index] ?? 0) + chunk.length)).resume();
  const total = HANDSHAKE_BYTES + limits.nbdRequestsPerConnectionMax * (16 + EXTENT_BYTES);
  await local.until(() => taken.every((bytes) => bytes === total)); // those that listen again get all of it
  await local.until(() => engine.slab.usedBytes(POOL_FRONTEND) === 0);
  for (const socket of [...deaf, client.socket]) socket.destroy();
  await engine.stop();
});

t.test('what is no NBD request closes the connection with a reason', async (t) => {
  for (const [bytes, reason] of [
    [Buffer.alloc(28, 'x'), /no NBD request/],
    [requestBytes(WRITE, 1, 0n, 33_554_433), /NBD write of more than 33554432/],
  ] as const) {
    const { local, recorder, client } = await start();
    client.socket.write(Buffer.concat([Buffer.from('HELLO'), bytes]));
    await local.until(() => recorder.closed.length === 1);
    t.match(recorder.closed[0], reason);
    await client.closed();
    await local.engine.stop();
  }
});

t.test('unix sockets: a dead one is replaced, a living one is not, closing removes it', async (t) => {
  const local = new TestEngine();
  const recorder = new NbdRecorder(local.engine);
  const path = join(scratch(t), 'nbd.sock');
  const server = createServer().listen(path);
  await once(server, 'listening');
  t.throws(() => local.engine.listenNbdUnix(path), { code: 'UNAVAILABLE', message: /EADDRINUSE/ });
  server.close();
  await once(server, 'close');
  const listener = local.engine.listenNbdUnix(path);
  const client = new RawClient(path);
  t.equal((await client.read(8)).toString(), 'NBDMAGIC');
  t.same(recorder.accepted[0]?.[1], listener);
  local.engine.closeListener(listener);
  t.notOk(existsSync(path));
  client.socket.end();
  await local.until(() => recorder.closed.length === 1);
  t.equal(recorder.closed[0], 'closed by the peer');
  await local.engine.stop();
});

/** The engine as a whole: its place in the event loop, several of them, and its ends. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import t from 'tap';
import { UringEngine } from '../../../daemon/adapters/uring.js';
import { POOL_PEER } from '../../../daemon/ports/slab.js';
import { Frame, OPCODE } from '../../../daemon/protocol/frame.js';
import { abi, checkAbi } from '../../../native/index.js';
import { scratch, SLAB_BYTES, TestEngine, within } from './uring/support.js';

const WORKER = fileURLToPath(new URL('./uring/echo-worker.js', import.meta.url));

/** A worker with an engine of its own, and the port it listens on. */
async function startEcho(mode: string, folder = ''): Promise<{ worker: Worker; port: number }> {
  const worker = new Worker(WORKER, { workerData: { mode, folder } });
  const [port] = (await within(once(worker, 'message'), 'the worker listens')) as [number];
  return { worker, port };
}

/** Sends PINGs and waits for each answer. */
async function ping(local: TestEngine, port: number, count: number): Promise<number> {
  const connection = local.engine.network.connect(`127.0.0.1:${port}`);
  const frame = new Frame();
  for (let tag = 0; tag < count; tag++) {
    local.engine.network.send(connection, frame.request(OPCODE.PING, tag, 0, 0), 0, 0, 0);
    const reply = await local.nextFrame();
    if (reply.frame.tag !== tag) throw new Error(`the answer to ${tag} is for ${reply.frame.tag}`);
  }
  return connection;
}

t.test('two engines in two worker threads and one in the main thread talk to each other', async (t) => {
  const local = new TestEngine();
  const echoes = await Promise.all([startEcho('echo'), startEcho('echo')]);
  for (const { worker, port } of echoes) {
    const connection = await ping(local, port, 50);
    local.engine.network.close(connection);
    await local.until(() => local.closed.has(connection));
    worker.postMessage('stop');
    const [code] = (await within(once(worker, 'exit'), 'the worker exits by itself')) as [number];
    t.equal(code, 0);
  }
  t.equal(local.usedBytes(), 0);
  await local.engine.stop();
});

t.test('two engines share one thread', async (t) => {
  const [a, b] = [new TestEngine(), new TestEngine()];
  const port = b.engine.listenFrames('127.0.0.1', 0);
  const connection = a.engine.network.connect(`127.0.0.1:${port}`);
  const frame = new Frame();
  for (let tag = 0; tag < 200; tag++) {
    a.engine.network.send(connection, frame.request(OPCODE.PING, tag, 0, 0), 0, 0, 0);
    const request = await b.nextFrame();
    b.engine.network.send(request.connection, request.frame.toReply(0), 0, 0, 0);
    t.equal((await a.nextFrame()).frame.tag, tag);
  }
  await b.engine.stop();
  await a.until(() => a.closed.has(connection));
  // The one that is left has the thread to itself again.
  await ping(a, a.engine.listenFrames('127.0.0.1', 0), 0);
  await a.until(() => a.accepted.length > 0);
  await a.engine.stop();
});

t.test('timers, immediates and files of the same thread go on while the engine waits', async (t) => {
  const { engine } = new TestEngine();
  const startedAt = performance.now();
  await sleep(50);
  const elapsedMs = performance.now() - startedAt;
  t.ok(elapsedMs >= 49 && elapsedMs < 2_000, `a timer of 50 ms took ${elapsedMs.toFixed(1)} ms`);
  await new Promise((resolve) => setImmediate(resolve));
  const path = join(scratch(t), 'file');
  await writeFile(path, 'contents');
  t.equal(await readFile(path, 'utf8'), 'contents');
  await engine.stop();
});

t.test('an idle engine uses no processor time', async (t) => {
  const { engine } = new TestEngine();
  engine.listenFrames('127.0.0.1', 0);
  await sleep(20);
  const before = engine.stats().enters;
  await sleep(300);
  t.ok(engine.stats().enters - before < 20, 'it sleeps');
  await engine.stop();
});

t.test('promises that a handler resolves go on within the batch', async (t) => {
  const local = new TestEngine();
  const port = local.engine.listenFrames('127.0.0.1', 0);
  const startedAt = performance.now();
  await ping(Object.assign(local, { onFrame: echoOrKeep(local) }), port, 1_000);
  t.ok(performance.now() - startedAt < 5_000, 'a thousand round trips, each with an await, need no timer to go on');
  await local.engine.stop();
});

function echoOrKeep(local: TestEngine): TestEngine['onFrame'] {
  return (connection, frame, buffer) => {
    if (frame.opcode & OPCODE.REPLY) {
      local.received.push({ connection, frame: new Frame().copyFrom(frame), buffer });
    } else {
      const reply = new Frame().copyFrom(frame).toReply(0);
      void Promise.resolve().then(() => local.engine.network.send(connection, reply, 0, 0, 0));
    }
  };
}

t.test('an exception in a handler is uncaught and ends the thread', async (t) => {
  const local = new TestEngine();
  const { worker, port } = await startEcho('throw');
  const failed = once(worker, 'error') as Promise<[Error]>;
  const connection = local.engine.network.connect(`127.0.0.1:${port}`);
  local.engine.network.send(connection, new Frame().request(OPCODE.PING, 1, 0, 0), 0, 0, 0);
  const [error] = await within(failed, 'the worker fails');
  t.match(error.message, 'a handler failed');
  await local.until(() => local.closed.has(connection));
  await local.engine.stop();
});

t.test('a worker can be terminated with I/O in flight', async (t) => {
  const local = new TestEngine();
  for (let round = 0; round < 5; round++) {
    const { worker, port } = await startEcho('busy', scratch(t));
    const connection = local.engine.network.connect(`127.0.0.1:${port}`);
    const buffer = local.fill(131_072, POOL_PEER, round);
    const frame = new Frame().request(OPCODE.WRITE, 1, 0, 0);
    frame.length = frame.payloadLength = 131_072;
    for (let tag = 0; tag < 100; tag++) local.engine.network.send(connection, frame, buffer, 0, 0);
    local.engine.slab.release(buffer);
    await local.until(() => local.received.length > 0);
    await within(worker.terminate(), 'the worker ends');
    await local.until(() => local.closed.has(connection));
    for (const { buffer } of local.received.splice(0)) if (buffer !== 0) local.engine.slab.release(buffer);
  }
  t.equal(local.usedBytes(), 0);
  await local.engine.stop();
});

t.test('a process ends with and without stopping its engine', async (t) => {
  for (const mode of ['exit', 'return']) {
    const child = fork(WORKER, [mode, scratch(t)], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    const [code, signal] = (await within(once(child, 'exit'), `the process ends (${mode})`)) as [number, string];
    t.same([code, signal], [0, null], mode);
  }
});

t.test('an engine that has stopped can be asked, and asked to stop again', async (t) => {
  const { engine } = new TestEngine();
  await Promise.all([engine.stop(), engine.stop()]);
  t.equal(engine.slab.alloc(4096, POOL_PEER), 0);
  t.equal(engine.slab.usedBytes(POOL_PEER), 0);
  t.equal(engine.stats().connections, 0);
  t.throws(() => engine.listenFrames('127.0.0.1', 0), { code: 'UNAVAILABLE' });
});

t.test('options and addresses that cannot work are refused with what to do', async (t) => {
  t.throws(() => UringEngine.start({ slabBytes: 12_345 }), { code: 'INVALID_ARGUMENT', message: /128 KiB/ });
  const { engine } = new TestEngine(SLAB_BYTES);
  const port = engine.listenFrames('127.0.0.1', 0);
  t.throws(() => engine.listenFrames('127.0.0.1', port), { code: 'UNAVAILABLE', message: /EADDRINUSE/ });
  t.throws(() => engine.listenNbdUnix(`/tmp/${'x'.repeat(120)}`), { code: 'UNAVAILABLE', message: /ENAMETOOLONG/ });
  t.throws(() => engine.network.connect('nowhere'), { code: 'INVALID_ARGUMENT' });
  await engine.stop();
});

t.test('an addon of another build is refused', async (t) => {
  t.throws(() => checkAbi({ ...abi, EVENT_FRAME: 99 }), { message: /EVENT_FRAME.*npm run build/ });
  t.throws(() => checkAbi({ ...abi, NEW: 1 }), { message: /NEW/ });
  checkAbi(abi);
});

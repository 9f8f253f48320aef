/** Real NBD clients against the real engine and the NBD server, over a volume in memory: unix socket and TCP. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { SystemClock } from '../../daemon/adapters/clock.js';
import { createLog } from '../../daemon/adapters/log.js';
import { UringEngine } from '../../daemon/adapters/uring.js';
import { limits } from '../../daemon/base/limits.js';
import { EXTENT_BYTES, MIB } from '../../daemon/base/units.js';
import { NbdServer } from '../../daemon/frontend/nbd/server.js';
import type { BlockVolume, BlockVolumeHandler } from '../../daemon/ports/block-volume.js';
import { NO_BUFFER, POOL_FRONTEND, POOL_INTERNAL, type BufferId, type Slab } from '../../daemon/ports/slab.js';
import { STATUS } from '../../daemon/protocol/frame.js';
import { nbdConformance } from './nbd-conformance.js';
import { PlainClient } from './nbd-plain-client.js';

const SIZE_BYTES = 64 * MIB;
const SLAB_BYTES = 48 * MIB;
const PIECES_MAX = 128;
const DEADLINE_MS = 10_000;

/** Pieces end one event-loop turn later, in an order that is not theirs. */
class MemoryVolume implements BlockVolume {
  readonly name = 'memory';
  readonly sizeBytes = SIZE_BYTES;
  readonly #data = Buffer.alloc(SIZE_BYTES);
  readonly #allocated = new Array<boolean>(SIZE_BYTES / EXTENT_BYTES).fill(false);
  readonly #slab: Slab;
  #handler: BlockVolumeHandler | null = null;
  #pending: (() => void)[] = [];
  #inFlight = 0;
  #hasRefused = false;
  /** For the next read: whoever is accepted has a buffer. */
  #spare = NO_BUFFER;

  constructor(slab: Slab) {
    this.#slab = slab;
  }

  setHandler(handler: BlockVolumeHandler): void {
    this.#handler = handler;
  }

  canAccept(): boolean {
    if (this.#spare === NO_BUFFER) this.#spare = this.#slab.alloc(EXTENT_BYTES, POOL_FRONTEND);
    const can = this.#inFlight < PIECES_MAX && this.#spare !== NO_BUFFER;
    if (!can) this.#hasRefused = true;
    return can;
  }

  read(ticket: number, offset: number, length: number): void {
    const buffer = this.#spare;
    this.#spare = NO_BUFFER;
    this.#later(() => {
      const at = offset % 4096;
      if (this.#allocated[Math.floor(offset / EXTENT_BYTES)] !== true) {
        this.#slab.release(buffer);
        this.#done(ticket, NO_BUFFER, 0);
        return;
      }
      this.#slab.bytes(buffer, at, length).set(this.#data.subarray(offset, offset + length));
      this.#done(ticket, buffer, at);
    });
  }

  write(ticket: number, offset: number, length: number, buffer: BufferId): void {
    this.#later(() => {
      this.#data.set(this.#slab.bytes(buffer, offset % 4096, length), offset);
      this.#allocated[Math.floor(offset / EXTENT_BYTES)] = true;
      this.#slab.release(buffer);
      this.#done(ticket, NO_BUFFER, 0);
    });
  }

  trim(ticket: number, offset: number, length: number): void {
    this.zero(ticket, offset, length, false, true);
  }

  zero(ticket: number, offset: number, length: number, _fua: boolean, mayFree: boolean): void {
    this.#later(() => {
      this.#data.fill(0, offset, offset + length);
      if (mayFree && length === EXTENT_BYTES) this.#allocated[offset / EXTENT_BYTES] = false;
      this.#done(ticket, NO_BUFFER, 0);
    });
  }

  flush(ticket: number): void {
    this.#later(() => this.#done(ticket, NO_BUFFER, 0));
  }

  async allocation(offset: number, length: number): Promise<boolean[]> {
    return this.#allocated.slice(offset / EXTENT_BYTES, Math.ceil((offset + length) / EXTENT_BYTES));
  }

  dispose(): void {
    if (this.#spare !== NO_BUFFER) this.#slab.release(this.#spare);
    this.#spare = NO_BUFFER;
  }

  #later(end: () => void): void {
    this.#inFlight++;
    this.#pending.push(end);
    if (this.#pending.length === 1) setImmediate(() => this.#endPending());
  }

  #endPending(): void {
    const pending = this.#pending;
    this.#pending = [];
    while (pending.length > 0) (pending.length % 3 === 0 ? pending.shift() : pending.pop())?.();
    if (!this.#hasRefused || !this.canAccept()) return;
    this.#hasRefused = false;
    this.#handler?.onCapacity();
  }

  #done(ticket: number, buffer: BufferId, bufferOffset: number): void {
    this.#inFlight--;
    this.#handler?.onDone(ticket, STATUS.OK, buffer, bufferOffset);
  }
}

type World = { engine: UringEngine; server: NbdServer; volume: MemoryVolume; socket: string; port: number };

async function start(t: Test): Promise<World> {
  const directory = await mkdtemp(join(tmpdir(), 'braid-nbd-'));
  const engine = UringEngine.start({ slabBytes: SLAB_BYTES });
  const { slab, nbd: transport } = engine;
  const frontendBytes = SLAB_BYTES * limits.slabFrontendShare;
  const server = new NbdServer({ transport, slab, frontendBytes, clock: new SystemClock(), log: createLog('warn') });
  engine.setNbdHandler(server);
  slab.onAvailable = (pool) => server.onSlabAvailable(pool);
  const volume = new MemoryVolume(slab);
  server.addExport('disk', volume, { readOnly: false, description: 'in memory', uuid: 'memory' });
  const socket = join(directory, 'nbd.sock');
  engine.listenNbdUnix(socket);
  const { port } = engine.listenNbdTcp('127.0.0.1', 0);
  t.teardown(async () => {
    await engine.stop();
    await rm(directory, { recursive: true, force: true });
  });
  return { engine, server, volume, socket, port };
}

/** Everything that the clients have used is given back. */
async function checkNoLeak(t: Test, { engine, server, volume }: World): Promise<void> {
  const deadlineMs = performance.now() + DEADLINE_MS;
  while (engine.stats().connections > 0 && performance.now() < deadlineMs) await delay(10);
  server.assertConsistent();
  t.match(server.stats()[0], { connections: 0, inFlight: 0 });
  await server.removeExport('disk');
  server.stop();
  volume.dispose();
  while (engine.slab.usedBytes(POOL_FRONTEND) > 0 && performance.now() < deadlineMs) await delay(10);
  t.equal(engine.slab.usedBytes(POOL_FRONTEND), 0, 'no client buffer is held');
  t.equal(engine.slab.usedBytes(POOL_INTERNAL), 0, 'nor one of the server');
}

// Tap's default of half a minute is too little on a busy machine.
t.setTimeout(10 * 60_000);

t.test('over a unix socket', async (t) => {
  const world = await start(t);
  const { socket } = world;
  const uri = `nbd+unix:///disk?socket=${socket}`;
  await nbdConformance(t, { uri, sizeBytes: SIZE_BYTES, exportName: 'disk', socket });
  await checkNoLeak(t, world);
});

t.test('over TCP', async (t) => {
  const world = await start(t);
  const socket = { host: '127.0.0.1', port: world.port };
  const uri = `nbd://127.0.0.1:${world.port}/disk`;
  await nbdConformance(t, { uri, sizeBytes: SIZE_BYTES, exportName: 'disk', socket });
  await checkNoLeak(t, world);
});

t.test('a client that asks and does not read leaves room for others', async (t) => {
  const world = await start(t);
  const { engine, socket } = world;
  const data = Buffer.alloc(32 * MIB, 'braid');
  const other = await PlainClient.open({ path: socket }, 'disk');
  await other.write(0, data);
  const deaf = await PlainClient.open({ path: socket }, 'disk');
  deaf.setReading(false);
  const reads = Array.from({ length: 200 }, (_, index) => deaf.read((index % 32) * MIB, MIB));
  await delay(300);
  const usedBytes = engine.slab.usedBytes(POOL_FRONTEND);
  // What it has asked for, and the volume's spare buffer.
  t.ok(usedBytes <= limits.nbdUnsentBytesPerConnectionMax + EXTENT_BYTES, `${usedBytes} bytes are held`);
  for (let index = 0; index < 32; index++) {
    const offset = index * MIB;
    t.equal(data.compare(await other.read(offset, MIB), 0, MIB, offset, offset + MIB), 0);
  }
  deaf.setReading(true);
  for (const [index, read] of reads.entries()) {
    const offset = (index % 32) * MIB;
    t.equal(data.compare(await read, 0, MIB, offset, offset + MIB), 0);
  }
  await Promise.all([deaf.close(), other.close()]);
  await checkNoLeak(t, world);
});

/** What the tests of the engine share: an engine whose events can be waited for, and raw frames. */
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { UringEngine } from '../../../../daemon/adapters/uring.js';
import type { NetworkHandler } from '../../../../daemon/ports/network.js';
import { POOL_FRONTEND, POOL_INTERNAL, POOL_PEER, type BufferId, type Pool } from '../../../../daemon/ports/slab.js';
import { Frame } from '../../../../daemon/protocol/frame.js';

const DEADLINE_MS = 10_000;
const POLL_MS = 5;
export const SLAB_BYTES = 8 * 1024 * 1024;

export interface Received {
  connection: number;
  frame: Frame;
  buffer: BufferId;
}

/** An engine whose network events are kept. */
export class TestEngine implements NetworkHandler {
  readonly engine: UringEngine;
  readonly accepted: number[] = [];
  readonly connected: number[] = [];
  readonly received: Received[] = [];
  readonly closed = new Map<number, string>();
  readonly #waiting: { condition: () => boolean; resolve: () => void }[] = [];

  constructor(slabBytes = SLAB_BYTES) {
    this.engine = UringEngine.start({ slabBytes });
    this.engine.setNetworkHandler(this);
    this.engine.onBatchEnd = () => this.check();
  }

  onAccepted(connection: number): void {
    this.accepted.push(connection);
  }

  onConnected(connection: number): void {
    this.connected.push(connection);
  }

  onFrame(connection: number, frame: Frame, buffer: BufferId): void {
    this.received.push({ connection, frame: new Frame().copyFrom(frame), buffer });
  }

  onClosed(connection: number, reason: string): void {
    this.closed.set(connection, reason);
  }

  /** Resolves once the condition holds; it is evaluated after each batch of events, and now and then. */
  async until(condition: () => boolean): Promise<void> {
    if (condition()) return;
    const { promise, resolve } = deferred();
    this.#waiting.push({ condition, resolve });
    const poll = setInterval(() => this.check(), POLL_MS);
    await within(promise, condition.toString()).finally(() => clearInterval(poll));
  }

  check(): void {
    for (const waiter of this.#waiting) if (waiter.condition()) waiter.resolve();
  }

  async nextFrame(): Promise<Received> {
    await this.until(() => this.received.length > 0);
    return this.received.shift() as Received;
  }

  fill(lengthBytes: number, pool: Pool, byte: number): BufferId {
    const { slab } = this.engine;
    const buffer = slab.alloc(lengthBytes, pool);
    if (buffer === 0) throw new Error('the pool is exhausted');
    slab.bytes(buffer, 0, lengthBytes).fill(byte);
    slab.computeChecksums(buffer, 0, lengthBytes);
    return buffer;
  }

  usedBytes(): number {
    const pools: Pool[] = [POOL_FRONTEND, POOL_PEER, POOL_INTERNAL];
    return pools.map((pool) => this.engine.slab.usedBytes(pool)).reduce((sum, bytes) => sum + bytes, 0);
  }
}

export async function within<T>(promise: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const deadline = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not in time: ${what}`)), DEADLINE_MS);
  });
  try {
    return await Promise.race([promise, deadline]);
  } finally {
    clearTimeout(timer);
  }
}

/** A directory on a file system with O_DIRECT, removed at the end of the test. */
export function scratch(t: { teardown: (remove: () => void) => void }): string {
  const path = mkdtempSync(join(process.cwd(), 'build', 'uring-test-'));
  t.teardown(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** A plain TCP client of the engine, with what it has received so far. */
export class RawClient {
  readonly socket: Socket;
  bytes = Buffer.alloc(0);
  isClosed = false;
  #changed: () => void = () => {};

  constructor(target: number | string) {
    this.socket = typeof target === 'number' ? connect(target, '127.0.0.1') : connect(target);
    this.socket.on('data', (chunk: Buffer) => {
      this.bytes = Buffer.concat([this.bytes, chunk]);
      this.#changed();
    });
    this.socket.on('error', () => {}); // a reset is one of the ways to be closed
    this.socket.on('close', () => {
      this.isClosed = true;
      this.#changed();
    });
  }

  /** Takes exactly `count` bytes. */
  async read(count: number): Promise<Buffer> {
    await this.#until(() => this.bytes.length >= count);
    const taken = this.bytes.subarray(0, count);
    this.bytes = this.bytes.subarray(count);
    return taken;
  }

  closed(): Promise<void> {
    return this.#until(() => this.isClosed);
  }

  async #until(condition: () => boolean): Promise<void> {
    while (!condition()) {
      const { promise, resolve } = deferred();
      this.#changed = resolve;
      await within(promise, condition.toString());
    }
  }
}

export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return ~crc >>> 0;
}

/** A frame as in WIRE.md; `change` may spoil the header before its checksum is computed. */
export function frameBytes(opcode: number, payload: Uint8Array, change: (header: Buffer) => void = () => {}): Buffer {
  const table = Buffer.alloc(Math.ceil(payload.length / 4096) * 4);
  for (let block = 0; block * 4 < table.length; block++) {
    table.writeUInt32LE(crc32c(payload.subarray(block * 4096, (block + 1) * 4096)), block * 4);
  }
  const header = Buffer.alloc(64);
  header.write('BRD1');
  header[4] = 1;
  header[5] = opcode;
  header.writeUInt32LE(payload.length, 44);
  header.writeUInt32LE(payload.length === 0 ? 0 : crc32c(table), 52);
  change(header);
  header.writeUInt32LE(crc32c(header.subarray(0, 60)), 60);
  return Buffer.concat([header, table, payload]);
}

function deferred(): { promise: Promise<void>; resolve: () => void } {
  let resolve: () => void = () => {};
  const promise = new Promise<void>((given) => {
    resolve = given;
  });
  return { promise, resolve };
}

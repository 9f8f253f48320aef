/** A server over the doubles, and the handshake of a client that knows what it wants. */
import { EXPORT_FLAG, OPT } from '../../../../daemon/frontend/nbd/protocol.js';
import { NbdServer } from '../../../../daemon/frontend/nbd/server.js';
import { EXTENT_BYTES, MIB } from '../../../../daemon/base/units.js';
import { POOL_FRONTEND, POOL_INTERNAL } from '../../../../daemon/ports/slab.js';
import { SimSlab } from '../../../sim/world/sim-slab.js';
import { TestClock, TestVolume, check, silentLog } from './doubles.js';
import { TestTransport, type TestClient } from './test-transport.js';

export const FRONTEND_BYTES = 12 * MIB;

export type ClientKind = 'simple' | 'structured' | 'contexts';

function option(number: number, data: Uint8Array): Buffer<ArrayBuffer> {
  const header = Buffer.alloc(16);
  header.write('IHAVEOPT', 'latin1');
  header.writeUInt32BE(number, 8);
  header.writeUInt32BE(data.length, 12);
  return Buffer.concat([header, data]);
}

function counted(text: string): Buffer<ArrayBuffer> {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(Buffer.byteLength(text));
  return Buffer.concat([length, Buffer.from(text)]);
}

export function handshakeBytes(kind: ClientKind, name: string): Buffer {
  const parts: Uint8Array[] = [Buffer.from([0, 0, 0, 3])];
  if (kind !== 'simple') parts.push(option(OPT.STRUCTURED_REPLY, Buffer.alloc(0)));
  if (kind === 'contexts') {
    const queries = Buffer.concat([counted(name), Buffer.from([0, 0, 0, 1]), counted('base:allocation')]);
    parts.push(option(OPT.SET_META_CONTEXT, queries));
  }
  parts.push(option(OPT.GO, Buffer.concat([counted(name), Buffer.alloc(2)])));
  return Buffer.concat(parts);
}

export class Harness {
  readonly slab: SimSlab;
  readonly clock = new TestClock();
  readonly transport: TestTransport;
  readonly server: NbdServer;
  readonly volume: TestVolume;

  constructor(options: { sizeBytes?: number; readOnly?: boolean; slabBytes?: number; frontendBytes?: number } = {}) {
    const quotaBytes = [options.slabBytes ?? FRONTEND_BYTES, 4096, EXTENT_BYTES] as const;
    this.slab = new SimSlab({ clock: this.clock, quotaBytes });
    this.transport = new TestTransport(this.slab);
    const { transport, slab, clock } = this;
    this.server = new NbdServer({
      transport,
      slab,
      frontendBytes: options.frontendBytes ?? Infinity,
      clock,
      log: silentLog,
    });
    this.transport.handler = this.server;
    this.slab.onAvailable = (pool) => this.server.onSlabAvailable(pool);
    this.volume = new TestVolume(this.slab, options.sizeBytes ?? 8 * MIB);
    this.volume.frontendBytes = options.slabBytes ?? Infinity;
    const readOnly = options.readOnly ?? false;
    this.server.addExport('disk', this.volume, { readOnly, description: '', uuid: 'u-1' });
  }

  connect(kind: ClientKind, name = 'disk'): TestClient {
    const client = this.transport.connect();
    this.transport.say(client, handshakeBytes(kind, name));
    check(client.isStarted, 'the handshake has led to transmission');
    const flags = client.take().readUInt16BE(18);
    check((flags & EXPORT_FLAG.HAS_FLAGS) !== 0, 'the server has greeted');
    return client;
  }

  check(): void {
    this.server.assertConsistent();
  }

  /** Everything has ended: nothing is held. */
  checkNoLeak(): void {
    this.transport.settle();
    this.check();
    check(this.slab.usedBytes(POOL_FRONTEND) === 0, `no buffer is held, ${this.slab.usedBytes(POOL_FRONTEND)} bytes`);
    check(this.slab.usedBytes(POOL_INTERNAL) === EXTENT_BYTES, 'the zeroes are the only internal buffer');
    check(
      this.server.stats().every(({ inFlight }) => inFlight === 0),
      'no request is counted as in flight',
    );
  }
}

/** A transport in memory: plays the client and the socket, and checks what the server does to them. */
import { limits } from '../../../../daemon/base/limits.js';
import { EXTENT_BYTES } from '../../../../daemon/base/units.js';
import { NbdRequest, type NbdTransport, type NbdTransportHandler } from '../../../../daemon/ports/nbd-transport.js';
import type { ConnectionId } from '../../../../daemon/ports/network.js';
import { NO_BUFFER, POOL_FRONTEND, type Slab } from '../../../../daemon/ports/slab.js';
import { CMD } from '../../../../daemon/frontend/nbd/protocol.js';
import { check } from './doubles.js';

export type Reply = {
  cookie: number;
  error: number;
  /** Parts of a READ's data, by offset within the request. */
  parts: { at: number; bytes: Uint8Array; isHole: boolean }[];
  /** Payload of a BLOCK_STATUS chunk. */
  status: Uint8Array | null;
};

type Asked = { type: number; offset: number; length: number; reply: Reply; isAnswered: boolean };

/** One client: asks, and takes apart what the server says, byte by byte as a real one would. */
export class TestClient {
  readonly id: ConnectionId;
  isStarted = false;
  isClosing = false;
  isClosed = false;
  /** Whether it takes what is sent to it; otherwise the payload of READs is counted until it does. */
  isTaking = true;
  unsentBytes = 0;
  leftover = new Uint8Array(0);
  unanswered = 0;
  readonly asked = new Map<number, Asked>();
  /** Cookies in the order of their final replies. */
  readonly order: number[] = [];
  #received: Uint8Array[] = [];
  #lastCookie = 0;
  readonly #transport: TestTransport;

  constructor(transport: TestTransport, id: ConnectionId) {
    this.#transport = transport;
    this.id = id;
  }

  push(bytes: Uint8Array): void {
    check(!this.isClosing, 'nothing is sent after close');
    this.#received.push(bytes.slice());
  }

  /** What came in the handshake since the last call. */
  take(): Buffer {
    const bytes = Buffer.concat(this.#received);
    this.#received = [];
    return bytes;
  }

  /** Sends a request and answers its cookie. A WRITE's payload goes with it, all but the last `piecesKept` pieces. */
  ask(type: number, offset = 0, length = 0, flags = 0, payload?: Uint8Array, piecesKept = 0): number {
    const cookie = ++this.#lastCookie;
    const reply: Reply = { cookie, error: -1, parts: [], status: null };
    this.asked.set(cookie, { type, offset, length, reply, isAnswered: false });
    if (type !== CMD.DISC) this.unanswered++;
    check(this.unanswered <= limits.nbdRequestsPerConnectionMax, 'the socket is left alone beyond the limit');
    this.#transport.deliver(this, cookie, type, offset, length, flags, payload, piecesKept);
    return cookie;
  }

  /** The final reply to a request, or null while there is none. */
  reply(cookie: number): Reply | null {
    this.#parse();
    const asked = this.asked.get(cookie);
    check(asked !== undefined, 'the request was sent');
    return asked.isAnswered ? asked.reply : null;
  }

  /** The data of a READ that has succeeded. */
  data(cookie: number): Buffer {
    const reply = this.reply(cookie);
    check(reply !== null && reply.error === 0, `read ${cookie} has succeeded`);
    const parts = [...reply.parts].sort((a, b) => a.at - b.at);
    let at = 0;
    for (const part of parts) {
      check(part.at === at, 'data without gap or overlap');
      at += part.bytes.length;
    }
    check(at === this.asked.get(cookie)?.length, 'all of the data');
    return Buffer.concat(parts.map(({ bytes }) => bytes));
  }

  /** Takes apart whole replies: nothing may stand between a simple reply's header and its payload. */
  #parse(): void {
    if (!this.isStarted) return;
    let bytes = Buffer.concat(this.#received);
    for (;;) {
      const used = this.#parseOne(bytes);
      if (used === 0) break;
      bytes = bytes.subarray(used);
    }
    this.#received = [bytes];
  }

  #parseOne(bytes: Buffer): number {
    if (bytes.length < 16) return 0;
    const magic = bytes.readUInt32BE(0);
    check(magic === 0x67446698 || magic === 0x668e33ef, `the magic of a reply, not ${magic.toString(16)}`);
    return magic === 0x67446698 ? this.#parseSimple(bytes) : this.#parseChunk(bytes);
  }

  #parseSimple(bytes: Buffer): number {
    const error = bytes.readUInt32BE(4);
    const asked = this.#find(bytes.readUInt32BE(12));
    const length = error === 0 && asked.type === CMD.READ ? asked.length : 0;
    if (bytes.length < 16 + length) return 0;
    if (length > 0) asked.reply.parts.push({ at: 0, bytes: bytes.subarray(16, 16 + length), isHole: false });
    this.#answer(asked, error);
    return 16 + length;
  }

  #parseChunk(bytes: Buffer): number {
    if (bytes.length < 20 || bytes.length < 20 + bytes.readUInt32BE(16)) return 0;
    const isDone = (bytes.readUInt16BE(4) & 1) === 1;
    const type = bytes.readUInt16BE(6);
    const asked = this.#find(bytes.readUInt32BE(12));
    const payload = bytes.subarray(20, 20 + bytes.readUInt32BE(16));
    let error = 0;
    if (type === 1) {
      const at = Number(payload.readBigUInt64BE(0)) - asked.offset;
      asked.reply.parts.push({ at, bytes: payload.subarray(8), isHole: false });
    } else if (type === 2) {
      const at = Number(payload.readBigUInt64BE(0)) - asked.offset;
      asked.reply.parts.push({ at, bytes: new Uint8Array(payload.readUInt32BE(8)), isHole: true });
    } else if (type === 5) asked.reply.status = payload;
    else if (type === 0x8001) error = payload.readUInt32BE(0);
    else check(type === 0, `a known chunk type, not ${type}`);
    if (isDone) this.#answer(asked, error);
    return 20 + payload.length;
  }

  #find(cookie: number): Asked {
    const asked = this.asked.get(cookie);
    check(asked !== undefined && !asked.isAnswered, `one reply to each request, not to ${cookie}`);
    return asked;
  }

  #answer(asked: Asked, error: number): void {
    asked.reply.error = error;
    asked.isAnswered = true;
    this.order.push(asked.reply.cookie);
  }
}

export class TestTransport implements NbdTransport {
  handler: NbdTransportHandler | null = null;
  readonly clients = new Map<ConnectionId, TestClient>();
  readonly #slab: Slab;
  readonly #request = new NbdRequest();
  #kept: (() => void)[] = [];
  #lastId = 0;

  constructor(slab: Slab) {
    this.#slab = slab;
  }

  connect(): TestClient {
    const client = new TestClient(this, ++this.#lastId);
    this.clients.set(client.id, client);
    this.handler?.onAccepted(client.id, 0);
    return client;
  }

  say(client: TestClient, bytes: Uint8Array): void {
    this.handler?.onBytes(client.id, bytes);
  }

  /** The client is gone. */
  vanish(client: TestClient): void {
    if (client.isClosed) return;
    client.isClosed = true;
    client.isClosing = true;
    this.handler?.onClosed(client.id, 'reset by peer');
  }

  /** Reports the connections that the server closed. */
  settle(): void {
    for (const client of this.clients.values()) if (client.isClosing) this.vanish(client);
  }

  /** Delivers the pieces of WRITEs that were kept back. */
  deliverKept(): void {
    const kept = this.#kept;
    this.#kept = [];
    for (const deliver of kept) deliver();
  }

  deliver(
    client: TestClient,
    cookie: number,
    type: number,
    offset: number,
    length: number,
    flags: number,
    payload: Uint8Array | undefined,
    piecesKept: number,
  ): void {
    const pieces = type === CMD.WRITE ? cut(offset, length) : [{ offset, length }];
    pieces.forEach((piece, index) => {
      const deliver = () => {
        if (client.isClosed) return;
        const isLast = index === pieces.length - 1;
        const request = Object.assign(this.#request, { type, flags, cookieHigh: 0, cookieLow: cookie });
        Object.assign(request, { ...piece, totalLength: length, first: index === 0, last: isLast });
        let buffer = NO_BUFFER;
        if (type === CMD.WRITE && piece.length > 0) {
          const at = piece.offset % 4096;
          buffer = this.#slab.alloc(Math.min(at + piece.length, EXTENT_BYTES), POOL_FRONTEND);
          check(buffer !== NO_BUFFER, 'the slab has room for a write');
          const from = piece.offset - offset;
          if (at + piece.length <= EXTENT_BYTES && payload !== undefined) {
            this.#slab.bytes(buffer, at, piece.length).set(payload.subarray(from, from + piece.length));
          }
        }
        this.handler?.onRequest(client.id, request, buffer);
      };
      if (index >= pieces.length - piecesKept) this.#kept.push(deliver);
      else deliver();
    });
  }

  sendBytes(id: ConnectionId, bytes: Uint8Array, final: boolean): void {
    this.#send(id, bytes, final);
  }

  startTransmission(id: ConnectionId, leftover: Uint8Array): void {
    const client = this.#client(id);
    check(!client.isStarted, 'transmission starts once');
    client.isStarted = true;
    client.leftover = leftover.slice();
  }

  sendSimpleReply(id: ConnectionId, cookieHigh: number, cookieLow: number, error: number, totalLength: number): void {
    const header = Buffer.alloc(16);
    header.writeUInt32BE(0x67446698, 0);
    header.writeUInt32BE(error, 4);
    header.writeUInt32BE(cookieHigh, 8);
    header.writeUInt32BE(cookieLow, 12);
    this.#send(id, header, error !== 0 || totalLength === 0);
  }

  sendData(id: ConnectionId, buffer: number, offset: number, length: number, final: boolean): void {
    this.#count(id, length);
    this.#send(id, this.#slab.bytes(buffer, offset, length), final);
  }

  sendDataChunk(
    id: ConnectionId,
    high: number,
    low: number,
    offset: number,
    buffer: number,
    bufferOffset: number,
    length: number,
    done: boolean,
  ): void {
    this.#count(id, length);
    this.#chunk(id, high, low, 1, [u64(offset), this.#slab.bytes(buffer, bufferOffset, length)], done);
  }

  sendHoleChunk(id: ConnectionId, high: number, low: number, offset: number, length: number, done: boolean): void {
    this.#chunk(id, high, low, 2, [u64(offset), u32(length)], done);
  }

  sendStatusChunk(id: ConnectionId, high: number, low: number, error: number): void {
    if (error === 0) this.#chunk(id, high, low, 0, [], true);
    else this.#chunk(id, high, low, 0x8001, [u32(error), Buffer.alloc(2)], true);
  }

  unsentBytes(id: ConnectionId): number {
    return this.#client(id).unsentBytes;
  }

  /** The client takes this much of what is queued for it. */
  drain(client: TestClient, bytes: number): void {
    const half = limits.nbdUnsentBytesPerConnectionMax / 2;
    const wasMuch = client.unsentBytes >= half;
    client.unsentBytes = Math.max(0, client.unsentBytes - bytes);
    if (wasMuch && client.unsentBytes < half) this.handler?.onDrained(client.id);
  }

  close(id: ConnectionId): void {
    const client = this.#client(id);
    check(!client.isClosing, 'a connection is closed once');
    client.isClosing = true;
  }

  #chunk(id: ConnectionId, high: number, low: number, type: number, payload: Uint8Array[], done: boolean): void {
    const header = Buffer.alloc(20);
    header.writeUInt32BE(0x668e33ef, 0);
    header.writeUInt16BE(done ? 1 : 0, 4);
    header.writeUInt16BE(type, 6);
    header.writeUInt32BE(high, 8);
    header.writeUInt32BE(low, 12);
    header.writeUInt32BE(
      payload.reduce((sum, part) => sum + part.length, 0),
      16,
    );
    this.#send(id, Buffer.concat([header, ...payload]), done);
  }

  #count(id: ConnectionId, bytes: number): void {
    const client = this.#client(id);
    if (!client.isTaking) client.unsentBytes += bytes;
  }

  #send(id: ConnectionId, bytes: Uint8Array, final: boolean): void {
    const client = this.#client(id);
    client.push(bytes);
    if (final) client.unanswered--;
    check(client.unanswered >= 0, 'each request has one final reply');
  }

  #client(id: ConnectionId): TestClient {
    const client = this.clients.get(id);
    check(client !== undefined && !client.isClosed, 'the server knows that the connection is closed');
    return client;
  }
}

/** How a transport cuts a WRITE; an empty one is one empty piece. */
export function cut(offset: number, length: number): { offset: number; length: number }[] {
  const pieces = [];
  let at = offset;
  do {
    const to = Math.min(offset + length, (Math.floor(at / EXTENT_BYTES) + 1) * EXTENT_BYTES);
    pieces.push({ offset: at, length: to - at });
    at = to;
  } while (at < offset + length);
  return pieces;
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}

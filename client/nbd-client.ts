/**
 * A small NBD client (fixed newstyle, simple replies, no TLS), for the demo without root and for tests. Requests may be in flight
 * in any number; each ends by its promise. After an error of the connection every request rejects, and nothing reconnects:
 * the caller must know what was acknowledged.
 *
 * Grammar: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
 */
import { connect as connectSocket, type Socket } from 'node:net';

const NBD_MAGIC = 0x4e42444d41474943n;
const OPTION_MAGIC = 0x49484156454f5054n;
const OPTION_REPLY_MAGIC = 0x0003e889045565a9n;
const REQUEST_MAGIC = 0x25609513;
const SIMPLE_REPLY_MAGIC = 0x67446698;
const OPTION_GO = 7;
const REPLY_ACK = 1;
const REPLY_INFO = 3;
const REPLY_ERROR_BIT = 0x8000_0000;
const INFO_EXPORT = 0;
const FLAG_FIXED_NEWSTYLE = 1;
const FLAG_NO_ZEROES = 2;
const REPLY_BYTES_MAX = 64 * 1024;
const CONNECT_TIMEOUT_MS = 10_000;

const COMMAND = { read: 0, write: 1, disconnect: 2, flush: 3, trim: 4, writeZeroes: 6 } as const;
const FLAG_FUA = 1;
const FLAG_NO_HOLE = 2;

const ERRNO_NAMES: Record<number, string> = {
  1: 'EPERM',
  5: 'EIO',
  12: 'ENOMEM',
  22: 'EINVAL',
  28: 'ENOSPC',
  108: 'ESHUTDOWN',
};

/** The server answered a request with an error. `errno` is NBD's (EIO 5, ENOSPC 28, ESHUTDOWN 108). */
export class NbdError extends Error {
  override readonly name = 'NbdError';
  readonly errno: number;

  constructor(operation: string, errno: number) {
    super(`NBD ${operation} failed: ${ERRNO_NAMES[errno] ?? `error ${errno}`}`);
    this.errno = errno;
  }
}

/** The connection is gone: what was in flight is neither acknowledged nor refused. */
export class NbdClosedError extends Error {
  override readonly name = 'NbdClosedError';
}

export type NbdTarget = { readonly socketPath: string } | { readonly host: string; readonly port: number };

interface Pending {
  readonly operation: string;
  readonly readLengthBytes: number;
  readonly resolve: (data: Buffer) => void;
  readonly reject: (error: Error) => void;
}

const NOTHING = Buffer.alloc(0);

/** Splits `nbd+unix:///NAME?socket=PATH` and `nbd://HOST:PORT/NAME`. */
export function parseNbdUri(uri: string): { readonly target: NbdTarget; readonly exportName: string } {
  const url = new URL(uri);
  const exportName = decodeURIComponent(url.pathname.replace(/^\/+/, ''));
  if (url.protocol === 'nbd+unix:') {
    const socketPath = url.searchParams.get('socket');
    if (socketPath === null) throw new Error(`${uri} names no socket`);
    return { target: { socketPath }, exportName };
  }
  if (url.protocol !== 'nbd:') throw new Error(`${uri} is no NBD URI that this client speaks (nbd:, nbd+unix:)`);
  return { target: { host: url.hostname.replace(/^\[|\]$/g, ''), port: Number(url.port || 10809) }, exportName };
}

/** Collects bytes until somebody wants a fixed number of them. */
class ByteQueue {
  #chunks: Buffer[] = [];
  #length = 0;

  get length(): number {
    return this.#length;
  }

  push(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#length += chunk.length;
  }

  /** The next `count` bytes, or null when they are not all there. */
  take(count: number): Buffer | null {
    if (this.#length < count) return null;
    if (count === 0) return NOTHING;
    const all = this.#chunks.length === 1 ? (this.#chunks[0] ?? NOTHING) : Buffer.concat(this.#chunks);
    const rest = all.subarray(count);
    this.#chunks = rest.length > 0 ? [rest] : [];
    this.#length = rest.length;
    return all.subarray(0, count);
  }
}

export class NbdClient {
  readonly #socket: Socket;
  readonly #queue = new ByteQueue();
  readonly #pending = new Map<bigint, Pending>();
  #cookie = 0n;
  #wanted: {
    readonly count: number;
    readonly resolve: (bytes: Buffer) => void;
    readonly reject: (error: Error) => void;
  } | null = null;
  #closed: Error | null = null;
  /** The reply whose payload is being received. */
  #receiving: { readonly pending: Pending } | null = null;
  #isTransmitting = false;
  sizeBytes = 0;
  transmissionFlags = 0;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (chunk) => this.#onData(chunk));
    socket.on('error', (error) => this.#onClosed(`connection failed: ${error.message}`));
    socket.on('close', () => this.#onClosed('connection closed by the server'));
  }

  /** Connects and opens the export. Rejects with the server's words when it refuses. */
  static async connect(target: NbdTarget, exportName: string): Promise<NbdClient> {
    const socket = 'socketPath' in target ? connectSocket(target.socketPath) : connectSocket(target.port, target.host);
    const client = new NbdClient(socket);
    const timer = setTimeout(() => socket.destroy(new Error('the handshake took too long')), CONNECT_TIMEOUT_MS);
    try {
      await client.#handshake(exportName);
    } catch (error) {
      socket.destroy();
      throw error;
    } finally {
      clearTimeout(timer);
    }
    return client;
  }

  static connectUri(uri: string): Promise<NbdClient> {
    const { target, exportName } = parseNbdUri(uri);
    return NbdClient.connect(target, exportName);
  }

  get isClosed(): boolean {
    return this.#closed !== null;
  }

  read(offsetBytes: number, lengthBytes: number): Promise<Buffer> {
    return this.#request('read', COMMAND.read, 0, offsetBytes, lengthBytes, NOTHING);
  }

  /** Resolves when the server has acknowledged the write (with `fua`: when it is durable). */
  async write(offsetBytes: number, data: Uint8Array, options: { readonly fua?: boolean } = {}): Promise<void> {
    await this.#request('write', COMMAND.write, options.fua === true ? FLAG_FUA : 0, offsetBytes, data.length, data);
  }

  async flush(): Promise<void> {
    await this.#request('flush', COMMAND.flush, 0, 0, 0, NOTHING);
  }

  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    await this.#request('trim', COMMAND.trim, 0, offsetBytes, lengthBytes, NOTHING);
  }

  async writeZeroes(
    offsetBytes: number,
    lengthBytes: number,
    options: { readonly noHole?: boolean } = {},
  ): Promise<void> {
    const flags = options.noHole === true ? FLAG_NO_HOLE : 0;
    await this.#request('write zeroes', COMMAND.writeZeroes, flags, offsetBytes, lengthBytes, NOTHING);
  }

  /** Ends the connection in order: requests in flight reject. */
  async close(): Promise<void> {
    if (this.#closed !== null) return;
    this.#sendHeader(COMMAND.disconnect, 0, 0n, 0, 0);
    this.#onClosed('closed');
    await new Promise<void>((resolve) => this.#socket.end(resolve));
    this.#socket.destroy();
  }

  async #handshake(exportName: string): Promise<void> {
    const greeting = await this.#take(18);
    if (greeting.readBigUInt64BE(0) !== NBD_MAGIC || greeting.readBigUInt64BE(8) !== OPTION_MAGIC) {
      throw new Error('this is no newstyle NBD server');
    }
    const noZeroes = greeting.readUInt16BE(16) & FLAG_NO_ZEROES;
    const clientFlags = Buffer.alloc(4);
    clientFlags.writeUInt32BE(FLAG_FIXED_NEWSTYLE | noZeroes);
    const name = Buffer.from(exportName);
    const option = Buffer.alloc(16 + 4 + name.length + 2);
    option.writeBigUInt64BE(OPTION_MAGIC, 0);
    option.writeUInt32BE(OPTION_GO, 8);
    option.writeUInt32BE(option.length - 16, 12);
    option.writeUInt32BE(name.length, 16);
    name.copy(option, 20);
    this.#socket.write(Buffer.concat([clientFlags, option]));
    while (!(await this.#readOptionReply(exportName)));
    this.#isTransmitting = true;
    this.#parseReplies();
  }

  /** True when the server has acknowledged GO. */
  async #readOptionReply(exportName: string): Promise<boolean> {
    const header = await this.#take(20);
    if (header.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC) throw new Error('malformed NBD option reply');
    const [type, length] = [header.readUInt32BE(12), header.readUInt32BE(16)];
    if (length > REPLY_BYTES_MAX) throw new Error(`NBD option reply of ${length} bytes`);
    const payload = await this.#take(length);
    if (type === REPLY_ACK) return true;
    if (type >= REPLY_ERROR_BIT) {
      throw new Error(
        `the NBD server refuses export "${exportName}": ${payload.toString() || `error ${type - REPLY_ERROR_BIT}`}`,
      );
    }
    if (type === REPLY_INFO && payload.length >= 12 && payload.readUInt16BE(0) === INFO_EXPORT) {
      this.sizeBytes = Number(payload.readBigUInt64BE(2));
      this.transmissionFlags = payload.readUInt16BE(10);
    }
    return false;
  }

  #take(count: number): Promise<Buffer> {
    if (this.#closed !== null) return Promise.reject(this.#closed);
    const bytes = this.#queue.take(count);
    if (bytes !== null) return Promise.resolve(bytes);
    return new Promise((resolve, reject) => {
      this.#wanted = { count, resolve, reject };
    });
  }

  #onData(chunk: Buffer): void {
    this.#queue.push(chunk);
    if (this.#isTransmitting) return this.#parseReplies();
    const wanted = this.#wanted;
    const bytes = wanted === null ? null : this.#queue.take(wanted.count);
    if (wanted === null || bytes === null) return;
    this.#wanted = null;
    wanted.resolve(bytes);
  }

  #parseReplies(): void {
    for (;;) {
      if (this.#receiving === null) {
        const header = this.#queue.take(16);
        if (header === null || !this.#startReply(header)) return;
        continue;
      }
      const { pending } = this.#receiving;
      const data = this.#queue.take(pending.readLengthBytes);
      if (data === null) return;
      this.#receiving = null;
      pending.resolve(data);
    }
  }

  /** False when the connection had to be given up. */
  #startReply(header: Buffer): boolean {
    const cookie = header.readBigUInt64BE(8);
    const pending = this.#pending.get(cookie);
    if (header.readUInt32BE(0) !== SIMPLE_REPLY_MAGIC || pending === undefined) {
      this.#socket.destroy(new Error('malformed NBD reply'));
      return false;
    }
    this.#pending.delete(cookie);
    const errno = header.readUInt32BE(4);
    if (errno !== 0) pending.reject(new NbdError(pending.operation, errno));
    else this.#receiving = { pending };
    return true;
  }

  #request(
    operation: string,
    type: number,
    flags: number,
    offsetBytes: number,
    lengthBytes: number,
    data: Uint8Array,
  ): Promise<Buffer> {
    if (this.#closed !== null) return Promise.reject(this.#closed);
    const cookie = ++this.#cookie;
    return new Promise((resolve, reject) => {
      const readLengthBytes = type === COMMAND.read ? lengthBytes : 0;
      this.#pending.set(cookie, { operation, readLengthBytes, resolve, reject });
      this.#socket.cork();
      this.#sendHeader(type, flags, cookie, offsetBytes, lengthBytes);
      if (data.length > 0) this.#socket.write(data);
      this.#socket.uncork();
    });
  }

  #sendHeader(type: number, flags: number, cookie: bigint, offsetBytes: number, lengthBytes: number): void {
    const header = Buffer.alloc(28);
    header.writeUInt32BE(REQUEST_MAGIC, 0);
    header.writeUInt16BE(flags, 4);
    header.writeUInt16BE(type, 6);
    header.writeBigUInt64BE(cookie, 8);
    header.writeBigUInt64BE(BigInt(offsetBytes), 16);
    header.writeUInt32BE(lengthBytes, 24);
    this.#socket.write(header);
  }

  #onClosed(reason: string): void {
    if (this.#closed !== null) return;
    const error = new NbdClosedError(`NBD: ${reason}`);
    this.#closed = error;
    this.#wanted?.reject(error);
    this.#receiving?.pending.reject(error);
    for (const pending of this.#pending.values()) pending.reject(error);
    this.#pending.clear();
  }
}

/** The smallest NBD client: NBD_OPT_EXPORT_NAME and simple replies, as the Linux kernel speaks it. Requests are pipelined. */
import { connect, type Socket } from 'node:net';
import { once } from 'node:events';

type Waiting = { length: number; resolve: (data: Buffer) => void; reject: (error: Error) => void };

export type Address = { path: string } | { host: string; port: number };

const COMMAND = { read: 0, write: 1, disconnect: 2, flush: 3 } as const;

export class PlainClient {
  sizeBytes = 0;
  readonly #socket: Socket;
  readonly #waiting = new Map<number, Waiting>();
  #received = Buffer.alloc(0);
  #lastCookie = 0;
  #onHandshake: (() => void) | null = null;
  #handshakeBytes = 0;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (bytes) => this.#onData(bytes));
    socket.on('error', () => undefined);
    socket.on('close', () => {
      for (const { reject } of this.#waiting.values()) reject(new Error('the server closed the connection'));
      this.#waiting.clear();
      this.#onHandshake?.();
    });
  }

  static async open(address: Address, exportName: string): Promise<PlainClient> {
    const socket = 'path' in address ? connect(address.path) : connect(address.port, address.host);
    await once(socket, 'connect');
    const client = new PlainClient(socket);
    await client.#need(18);
    const name = Buffer.from(exportName);
    const option = Buffer.alloc(20);
    option.writeUInt32BE(3, 0);
    option.write('IHAVEOPT', 4, 'latin1');
    option.writeUInt32BE(1, 12);
    option.writeUInt32BE(name.length, 16);
    socket.write(Buffer.concat([option, name]));
    const reply = await client.#need(10);
    if (reply.length < 10) throw new Error(`the server does not serve ${exportName}`);
    client.sizeBytes = Number(reply.readBigUInt64BE(0));
    return client;
  }

  read(offset: number, length: number): Promise<Buffer> {
    return this.#ask(COMMAND.read, offset, length);
  }

  async write(offset: number, data: Uint8Array): Promise<void> {
    await this.#ask(COMMAND.write, offset, data.length, data);
  }

  async flush(): Promise<void> {
    await this.#ask(COMMAND.flush, 0, 0);
  }

  /** Says goodbye and waits until the server has closed. */
  async close(): Promise<void> {
    this.#send(COMMAND.disconnect, 0, 0, 0);
    if (!this.#socket.closed) await once(this.#socket, 'close');
  }

  /** Vanishes. */
  destroy(): void {
    this.#socket.destroy();
  }

  /** Stops or resumes reading replies. */
  setReading(isReading: boolean): void {
    if (isReading) this.#socket.resume();
    else this.#socket.pause();
  }

  #ask(type: number, offset: number, length: number, data?: Uint8Array): Promise<Buffer> {
    const cookie = ++this.#lastCookie;
    const answered = new Promise<Buffer>((resolve, reject) => {
      this.#waiting.set(cookie, { length: type === COMMAND.read ? length : 0, resolve, reject });
    });
    this.#send(type, offset, length, cookie, data);
    return answered;
  }

  #send(type: number, offset: number, length: number, cookie: number, data?: Uint8Array): void {
    const header = Buffer.alloc(28);
    header.writeUInt32BE(0x25609513, 0);
    header.writeUInt16BE(type, 6);
    header.writeUInt32BE(cookie, 12);
    header.writeBigUInt64BE(BigInt(offset), 16);
    header.writeUInt32BE(length, 24);
    this.#socket.write(header);
    if (data !== undefined) this.#socket.write(data);
  }

  /** The next bytes of the handshake; fewer when the server closes. */
  async #need(length: number): Promise<Buffer> {
    this.#handshakeBytes = length;
    if (this.#received.length < length) await new Promise<void>((resolve) => (this.#onHandshake = resolve));
    const bytes = this.#received.subarray(0, length);
    this.#received = this.#received.subarray(length);
    this.#handshakeBytes = 0;
    return bytes;
  }

  #onData(bytes: Buffer): void {
    this.#received = Buffer.concat([this.#received, bytes]);
    if (this.#onHandshake !== null && this.#received.length >= this.#handshakeBytes) {
      const resolve = this.#onHandshake;
      this.#onHandshake = null;
      resolve();
    } else if (this.sizeBytes > 0) this.#takeReplies();
  }

  #takeReplies(): void {
    while (this.#received.length >= 16) {
      const waiting = this.#waiting.get(this.#received.readUInt32BE(12));
      if (this.#received.readUInt32BE(0) !== 0x67446698 || waiting === undefined) {
        this.#socket.destroy(new Error('a reply to nothing'));
        return;
      }
      const error = this.#received.readUInt32BE(4);
      const length = error === 0 ? waiting.length : 0;
      if (this.#received.length < 16 + length) return;
      this.#waiting.delete(this.#received.readUInt32BE(12));
      if (error === 0) waiting.resolve(Buffer.from(this.#received.subarray(16, 16 + length)));
      else waiting.reject(new Error(`NBD error ${error}`));
      this.#received = this.#received.subarray(16 + length);
    }
  }
}

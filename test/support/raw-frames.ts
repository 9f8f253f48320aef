/** Braid frames made by hand, right and wrong ones, for talking to an agent's data port as a stranger would. See WIRE.md. */
import { connect, type Socket } from 'node:net';

const MAGIC = 0x31445242;
const HEADER_BYTES = 64;
const BLOCK_BYTES = 4_096;

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1;
  return value >>> 0;
});

export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (CRC_TABLE[(crc ^ byte) & 0xff] ?? 0) ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

export interface FrameParts {
  readonly opcode: number;
  readonly payload?: Uint8Array;
  readonly magic?: number;
  readonly version?: number;
  /** What the header claims; the payload's length when left out. */
  readonly payloadLength?: number;
  readonly headerChecksum?: number;
  readonly tableChecksum?: number;
}

/** The bytes of one frame. */
export function encodeFrame(parts: FrameParts): Buffer {
  const payload = parts.payload ?? new Uint8Array(0);
  const blocks = Math.ceil(payload.length / BLOCK_BYTES);
  const table = Buffer.alloc(4 * blocks);
  for (let block = 0; block < blocks; block++) {
    table.writeUInt32LE(crc32c(payload.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES)), 4 * block);
  }
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt32LE(parts.magic ?? MAGIC, 0);
  header.writeUInt8(parts.version ?? 1, 4);
  header.writeUInt8(parts.opcode, 5);
  header.writeUInt32LE(1, 8);
  header.writeUInt32LE(parts.payloadLength ?? payload.length, 44);
  header.writeUInt32LE(parts.tableChecksum ?? (blocks > 0 ? crc32c(table) : 0), 52);
  header.writeUInt32LE(parts.headerChecksum ?? crc32c(header.subarray(0, 60)), 60);
  return Buffer.concat([header, table, payload]);
}

export interface Reply {
  readonly opcode: number;
  readonly status: number;
}

/** Opcode and status of the first frame in what an agent has sent; null when there is none. */
export function parseReply(bytes: Buffer): Reply | null {
  if (bytes.length < HEADER_BYTES || bytes.readUInt32LE(0) !== MAGIC) return null;
  return { opcode: bytes.readUInt8(5), status: bytes.readUInt32LE(48) };
}

/** Sends bytes to a port and resolves with what came back when the agent closes; rejects when it does not close in time. */
export function converse(port: number, bytes: Uint8Array, timeoutMs: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const socket: Socket = connect(port, '127.0.0.1');
    const received: Buffer[] = [];
    const timer = setTimeout(() => {
      socket.destroy();
      reject(new Error(`the agent keeps the connection open for ${timeoutMs} ms`));
    }, timeoutMs);
    socket.on('connect', () => socket.write(bytes));
    socket.on('data', (chunk) => received.push(chunk));
    // A reset is a way of closing.
    socket.on('error', () => undefined);
    socket.on('close', () => {
      clearTimeout(timer);
      resolve(Buffer.concat(received));
    });
  });
}

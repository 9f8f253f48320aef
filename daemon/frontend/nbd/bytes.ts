/** Big-endian bytes, for the handshake and other slow paths. Reading out of bounds answers `null`; nothing here throws on foreign input. */

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** "Conventions": strings are UTF-8 without NUL, at most this long. */
export const STRING_BYTES_MAX = 4096;

export class ByteWriter {
  #bytes = new Uint8Array(64);
  #view = new DataView(this.#bytes.buffer);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  u16(value: number): this {
    const start = this.#grow(2);
    this.#view.setUint16(start, value);
    return this;
  }

  u32(value: number): this {
    const start = this.#grow(4);
    this.#view.setUint32(start, value);
    return this;
  }

  u64(value: bigint): this {
    const start = this.#grow(8);
    this.#view.setBigUint64(start, value);
    return this;
  }

  bytes(value: Uint8Array): this {
    const start = this.#grow(value.length);
    this.#bytes.set(value, start);
    return this;
  }

  zeros(count: number): this {
    this.#grow(count);
    return this;
  }

  /** A copy of everything written so far; the writer is empty afterwards. */
  take(): Uint8Array {
    const taken = this.#bytes.slice(0, this.#length);
    this.#bytes.fill(0, 0, this.#length);
    this.#length = 0;
    return taken;
  }

  /** Makes room for `count` bytes, which are zero, and answers where they start. It may replace the storage. */
  #grow(count: number): number {
    const start = this.#length;
    this.#length += count;
    if (this.#length > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(this.#length, 2 * this.#bytes.length));
      larger.set(this.#bytes);
      this.#bytes = larger;
      this.#view = new DataView(larger.buffer);
    }
    return start;
  }
}

/** Reads a message of known length from its start to its end. */
export class ByteReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #position = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get left(): number {
    return this.#bytes.length - this.#position;
  }

  u16(): number | null {
    return this.left < 2 ? null : this.#view.getUint16(this.#skip(2));
  }

  u32(): number | null {
    return this.left < 4 ? null : this.#view.getUint32(this.#skip(4));
  }

  /** A string of a known length, if the bytes are there and are a string by the protocol's rules. */
  string(lengthBytes: number): string | null {
    if (lengthBytes > this.left || lengthBytes > STRING_BYTES_MAX) return null;
    const start = this.#skip(lengthBytes);
    return decodeString(this.#bytes.subarray(start, start + lengthBytes));
  }

  /** A string behind its length of 32 bits. */
  countedString(): string | null {
    const lengthBytes = this.u32();
    return lengthBytes === null ? null : this.string(lengthBytes);
  }

  #skip(count: number): number {
    const start = this.#position;
    this.#position += count;
    return start;
  }
}

export function encodeString(text: string): Uint8Array {
  return encoder.encode(text);
}

export function decodeString(bytes: Uint8Array): string | null {
  if (bytes.length > STRING_BYTES_MAX || bytes.includes(0)) return null;
  try {
    return decoder.decode(bytes);
  } catch {
    return null;
  }
}

/**
 * Encoders for an environment whose ranges are scanned by the million: what a range yields are views of lmdb's own buffers, valid
 * until the next step or call, and the same objects as long as the lengths are. By default lmdb makes two copies for each entry.
 */

/** Views of one buffer, which is nearly always the same, at a place and of a length that are, too. */
class View {
  #view: Uint8Array = new Uint8Array(0);

  of(bytes: Uint8Array, start: number, end: number): Uint8Array {
    const { buffer, byteOffset, length } = this.#view;
    const offset = bytes.byteOffset + start;
    if (buffer !== bytes.buffer || byteOffset !== offset || length !== end - start) {
      this.#view = new Uint8Array(bytes.buffer, offset, end - start);
    }
    return this.#view;
  }
}

/** For `open` of lmdb, instead of its binary encodings; what is on disk is the same. One environment's alone. */
export function viewEncoders() {
  const [key, value] = [new View(), new View()];
  return {
    keyEncoder: {
      /** Returns where the key ends in `target`. */
      writeKey(bytes: Uint8Array, target: Uint8Array, start: number): number {
        target.set(bytes, start);
        return start + bytes.length;
      },
      readKey: (source: Uint8Array, start: number, end: number) => key.of(source, start, end),
    },
    encoder: {
      encode: (bytes: Uint8Array) => bytes,
      decode: (bytes: Uint8Array, length: number) => value.of(bytes, 0, length),
    },
  };
}

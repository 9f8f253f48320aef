/**
 * A bounded FIFO of frames on their way, each with its target and the buffer that it carries. Allocates a frame on the first use of a slot only.
 */
import { assert } from '../base/assert.js';
import type { ConnectionId } from '../ports/network.js';
import { NO_BUFFER, type BufferId } from '../ports/slab.js';
import { Frame } from '../protocol/frame.js';

export class FrameRing {
  readonly capacity: number;
  readonly #frames: Frame[] = [];
  readonly #targets: Int32Array;
  readonly #buffers: Uint32Array;
  #head = 0;
  #count = 0;

  constructor(capacity: number) {
    this.capacity = capacity;
    this.#targets = new Int32Array(capacity);
    this.#buffers = new Uint32Array(capacity);
  }

  get count(): number {
    return this.#count;
  }

  /** Copies `frame`; one reference of `buffer` is the ring's until `shift`. */
  push(target: ConnectionId, frame: Frame, buffer: BufferId): void {
    assert(this.#count < this.capacity, 'a frame ring is bounded by the operations in flight');
    const slot = (this.#head + this.#count++) % this.capacity;
    (this.#frames[slot] ??= new Frame()).copyFrom(frame);
    this.#targets[slot] = target;
    this.#buffers[slot] = buffer;
  }

  get target(): ConnectionId {
    return this.#targets[this.#head] ?? 0;
  }

  get buffer(): BufferId {
    return this.#buffers[this.#head] ?? NO_BUFFER;
  }

  get opcode(): number {
    return this.#frames[this.#head]?.opcode ?? 0;
  }

  /** Takes the first frame off. It stays as it is until as many more were pushed as the ring has room for. */
  shift(): Frame {
    const frame = this.#frames[this.#head];
    assert(this.#count > 0 && frame !== undefined, 'a frame is in the ring');
    this.#head = (this.#head + 1) % this.capacity;
    this.#count--;
    return frame;
  }
}

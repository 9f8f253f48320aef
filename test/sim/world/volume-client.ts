/** Single operations on a volume as promises, for tests that tell one story. */
import type { BlockVolume } from '../../../daemon/ports/block-volume.js';
import { NO_BUFFER, POOL_FRONTEND, type BufferId } from '../../../daemon/ports/slab.js';
import type { Status } from '../../../daemon/protocol/frame.js';
import type { SimNode } from './sim-node.js';

export interface Outcome {
  readonly status: Status;
  readonly bytes: Uint8Array;
}

export class VolumeClient {
  readonly volume: BlockVolume;
  readonly #node: SimNode;
  readonly #waiting = new Map<number, (status: Status, buffer: BufferId, offsetBytes: number) => void>();
  #nextTicket = 1;
  onCapacity: () => void = () => undefined;

  constructor(volume: BlockVolume, node: SimNode) {
    this.volume = volume;
    this.#node = node;
    volume.setHandler({
      onDone: (ticket, status, buffer, offsetBytes) => {
        this.#waiting.get(ticket)?.(status, buffer, offsetBytes);
        this.#waiting.delete(ticket);
        if (buffer !== NO_BUFFER) node.slab.release(buffer);
      },
      onCapacity: () => {
        this.onCapacity();
      },
    });
  }

  #run(lengthBytes: number, start: (ticket: number) => void): Promise<Outcome> {
    const ticket = this.#nextTicket++;
    return new Promise((resolve) => {
      this.#waiting.set(ticket, (status, buffer, offsetBytes) => {
        const bytes = new Uint8Array(lengthBytes);
        if (buffer !== NO_BUFFER) bytes.set(this.#node.slab.bytes(buffer, offsetBytes, lengthBytes));
        resolve({ status, bytes });
      });
      start(ticket);
    });
  }

  canAccept(): boolean {
    return this.volume.canAccept();
  }

  /** Writes `lengthBytes` bytes of `fill`. */
  write(offsetBytes: number, lengthBytes: number, fill: number): Promise<Outcome> {
    const within = offsetBytes % 4096;
    const buffer = this.#node.slab.alloc(within + lengthBytes, POOL_FRONTEND);
    this.#node.slab.bytes(buffer, within, lengthBytes).fill(fill);
    if (within === 0 && lengthBytes % 4096 === 0) this.#node.slab.computeChecksums(buffer, 0, lengthBytes);
    return this.#run(0, (ticket) => {
      this.volume.write(ticket, offsetBytes, lengthBytes, buffer, false);
    });
  }

  read(offsetBytes: number, lengthBytes: number): Promise<Outcome> {
    return this.#run(lengthBytes, (ticket) => {
      this.volume.read(ticket, offsetBytes, lengthBytes);
    });
  }

  zero(offsetBytes: number, lengthBytes: number): Promise<Outcome> {
    return this.#run(0, (ticket) => {
      this.volume.zero(ticket, offsetBytes, lengthBytes, false, false);
    });
  }

  trim(offsetBytes: number, lengthBytes: number): Promise<Outcome> {
    return this.#run(0, (ticket) => {
      this.volume.trim(ticket, offsetBytes, lengthBytes, false);
    });
  }

  flush(): Promise<Outcome> {
    return this.#run(0, (ticket) => {
      this.volume.flush(ticket);
    });
  }
}

/**
 * Records what a drive asks of its disk and its metadata, when it was told that it is done, and what clients asked and were told: one list,
 * in the order in which it happened. A crash at any point of the run is a prefix of that list (crash-states.ts).
 */
import { BLOCK_BYTES } from '../../../daemon/base/units.js';
import type { Disk, DiskHandler, DiskOpener } from '../../../daemon/ports/disk.js';
import type { MetaOperation, MetaStoreOpener } from '../../../daemon/ports/meta-store.js';
import type { SimSlab } from '../world/sim-slab.js';
import type { PortRecorder } from '../../unit/replica/harness.js';
import type { Request } from './requests.js';

/** A write, punch or zero of the data area. */
export interface DiskWrite {
  readonly kind: 'write' | 'zeros';
  readonly firstBlock: number;
  /** One per block; null: zeros. */
  readonly contents: readonly (Uint8Array | null)[];
  /** Whether its completion says that it is on stable media. */
  readonly isDurable: boolean;
}

export interface DiskFlush {
  readonly kind: 'flush';
}

export interface MetaCommit {
  readonly operations: readonly MetaOperation[];
}

export type Entry =
  | { readonly type: 'submit' | 'complete'; readonly io: DiskWrite | DiskFlush; readonly result: number }
  | { readonly type: 'commit' | 'committed'; readonly commit: MetaCommit }
  | { readonly type: 'request' | 'answer'; readonly request: Request; readonly status: number };

export class Recorder implements PortRecorder {
  readonly entries: Entry[] = [];

  request(request: Request): void {
    this.entries.push({ type: 'request', request, status: 0 });
  }

  answer(request: Request, status: number): void {
    this.entries.push({ type: 'answer', request, status });
  }

  disks(disks: DiskOpener, slab: SimSlab): DiskOpener {
    return { open: (path, handler) => this.#openDisk(disks, slab, path, handler) };
  }

  async #openDisk(disks: DiskOpener, slab: SimSlab, path: string, handler: DiskHandler): Promise<Disk> {
    const inFlight = new Map<number, DiskWrite | DiskFlush>();
    const disk = await disks.open(path, (tag, result) => {
      const io = inFlight.get(tag);
      inFlight.delete(tag);
      if (io !== undefined) this.entries.push({ type: 'complete', io, result });
      handler(tag, result);
    });
    const submit = (tag: number, io: DiskWrite | DiskFlush) => {
      inFlight.set(tag, io);
      this.entries.push({ type: 'submit', io, result: 0 });
    };
    const zeros = (offsetBytes: number, lengthBytes: number): DiskWrite => ({
      kind: 'zeros',
      firstBlock: offsetBytes / BLOCK_BYTES,
      contents: new Array<null>(lengthBytes / BLOCK_BYTES).fill(null),
      isDurable: false,
    });
    return {
      sizeBytes: disk.sizeBytes,
      read: (tag, offset, length, buffer, at) => disk.read(tag, offset, length, buffer, at),
      write: (tag, offset, length, buffer, at, isDurable) => {
        const contents = blocksOf(slab.bytes(buffer, at, length));
        submit(tag, { kind: 'write', firstBlock: offset / BLOCK_BYTES, contents, isDurable });
        disk.write(tag, offset, length, buffer, at, isDurable);
      },
      flush: (tag) => {
        submit(tag, { kind: 'flush' });
        disk.flush(tag);
      },
      punch: (tag, offset, length) => {
        submit(tag, zeros(offset, length));
        disk.punch(tag, offset, length);
      },
      zero: (tag, offset, length) => {
        submit(tag, zeros(offset, length));
        disk.zero(tag, offset, length);
      },
      check: () => disk.check(),
      close: () => disk.close(),
    };
  }

  metas(metas: MetaStoreOpener): MetaStoreOpener {
    return {
      open: async (directory, options) => {
        const store = await metas.open(directory, options);
        return {
          get: (key) => store.get(key),
          scan: (prefix, visit) => store.scan(prefix, visit),
          commit: (operations, done) => {
            const commit = {
              operations: operations.map(({ key, value }) => ({ key: key.slice(), value: value && value.slice() })),
            };
            this.entries.push({ type: 'commit', commit });
            store.commit(operations, (error) => {
              if (error === null) this.entries.push({ type: 'committed', commit });
              done(error);
            });
          },
          check: () => store.check(),
          usedBytes: () => store.usedBytes(),
          close: () => store.close(),
        };
      },
    };
  }
}

function blocksOf(bytes: Uint8Array): Uint8Array[] {
  const blocks: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at += BLOCK_BYTES) blocks.push(bytes.slice(at, at + BLOCK_BYTES));
  return blocks;
}

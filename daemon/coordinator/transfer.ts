/**
 * Moves a range of a segment from one replica to others, for copies and repairs. The caller holds the extent lock.
 *
 * Invariant 13: what does not match its checksum at the source is not copied.
 */
import { asError, BraidError } from '../base/errors.js';
import { EXTENT_BYTES } from '../base/units.js';
import { NO_BUFFER } from '../ports/slab.js';
import { FLAG, OPCODE, STATUS, statusName, type Frame } from '../protocol/frame.js';
import type { CoordinatorContext } from './context.js';
import type { Membership } from './membership.js';
import type { DataReply } from './peers.js';
import type { Replica, Segment } from './segment.js';

/** A block that no source can give: it fails its checksum on all of them (`isCorrupt`), or on some it cannot be read at all. */
export interface LostBlock {
  readonly offsetBytes: number;
  readonly isCorrupt: boolean;
}

export interface Range {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** What came of a copy: `unverified` had no checksum at the source, `lost` could not be read from any. */
export type Outcome = 'copied' | 'unverified' | LostBlock;

export interface TransferOptions {
  readonly context: CoordinatorContext;
  readonly epoch: number;
  readonly isLocal: (replica: Replica) => boolean;
  /** A source's extent is damaged; another one is tried. */
  readonly onDamaged: (segment: Segment, offsetBytes: number, source: Replica) => void;
}

export class Transfer {
  readonly #options: TransferOptions;
  readonly #membership: Membership;

  constructor(options: TransferOptions, membership: Membership) {
    this.#options = options;
    this.#membership = membership;
  }

  /** In-sync, connected replicas outside `excludedMask`: those that surely have everything first, then the local one. */
  sources(segment: Segment, excludedMask: number): Replica[] {
    const { isLocal } = this.#options;
    const readable = segment.replicas.filter((replica) => (segment.readableMask & ~excludedMask & replica.bit) !== 0);
    return readable.sort(
      (a, b) => Number(a.uncertain) - Number(b.uncertain) || Number(isLocal(b)) - Number(isLocal(a)),
    );
  }

  /**
   * Copies from the first source that can be read. Unless `isVerified` is asked for and the source cannot say that its data is what was
   * written: then nothing is copied. Rejects when a target or the last source is lost.
   */
  async copyFromAny(
    segment: Segment,
    { offsetBytes, lengthBytes }: Range,
    sources: readonly Replica[],
    targetsOf: (source: Replica) => readonly Replica[],
    isVerified: boolean,
  ): Promise<Outcome> {
    if (sources.length === 0) throw new BraidError('UNAVAILABLE', 'no in-sync copy can be read');
    let isCorrupt = true;
    for (const source of sources) {
      const targets = targetsOf(source);
      if (targets.length === 0) return 'copied';
      try {
        const isDone = await this.copyRange(segment, source, targets, { offsetBytes, lengthBytes }, isVerified);
        return isDone ? 'copied' : 'unverified';
      } catch (error) {
        if (!(error instanceof BraidError) || (error.code !== 'CORRUPT' && error.code !== 'DRIVE')) throw error;
        isCorrupt &&= error.code === 'CORRUPT';
        if (!targets.includes(source)) this.#options.onDamaged(segment, offsetBytes, source);
      }
    }
    return { offsetBytes, isCorrupt };
  }

  /** False, and nothing copied, when `isVerified` is asked for and the source does not know all checksums. */
  async copyRange(
    segment: Segment,
    source: Replica,
    targets: readonly Replica[],
    { offsetBytes, lengthBytes }: Range,
    isVerified: boolean,
  ): Promise<boolean> {
    const { slab } = this.#options.context;
    const { status, flags, buffer } = await this.#read(segment, source, offsetBytes, lengthBytes);
    try {
      if (status === STATUS.CHECKSUM_MISMATCH)
        throw new BraidError('CORRUPT', 'the source does not match its checksum');
      if (status === STATUS.IO_ERROR) throw new BraidError('DRIVE', 'the source cannot be read');
      if (status !== STATUS.OK)
        throw new BraidError('UNAVAILABLE', `reading the source failed with ${statusName(status)}`);
      if (isVerified && (flags & FLAG.UNVERIFIED) !== 0) return false;
      const zeroes = (flags & FLAG.ZEROES) !== 0;
      // All have to end, or the lock would be given up under a copy that is still on its way (invariant 3).
      const results = await Promise.allSettled(
        targets.map((target) => this.#write(segment, target, offsetBytes, lengthBytes, zeroes ? NO_BUFFER : buffer)),
      );
      const failed = results.find((result) => result.status === 'rejected');
      if (failed !== undefined) throw asError(failed.reason);
      return true;
    } finally {
      if (buffer !== NO_BUFFER) slab.release(buffer);
    }
  }

  /** Everything that was acknowledged on the replica's session is durable when this resolves. */
  async flush({ session }: Replica): Promise<void> {
    const shape = this.#shape(0, 0, 0);
    const reply = await session.peer.request(OPCODE.FLUSH, session.handle, 0, shape, NO_BUFFER, NO_BUFFER);
    if (reply.status !== STATUS.OK)
      throw new BraidError('UNAVAILABLE', `flushing the new copy failed with ${statusName(reply.status)}`);
  }

  async #read(segment: Segment, source: Replica, offsetBytes: number, lengthBytes: number): Promise<DataReply> {
    const { buffers, slab } = this.#options.context;
    const replyBuffer = await buffers.alloc(lengthBytes);
    const { session } = source;
    const shape = this.#shape(segment.generation, offsetBytes, lengthBytes, FLAG.INTERNAL);
    const reply = session.peer.request(OPCODE.READ, session.handle, source.number, shape, NO_BUFFER, replyBuffer);
    slab.release(replyBuffer); // the network holds it until the reply hands it back
    return reply;
  }

  async #write(
    segment: Segment,
    target: Replica,
    offsetBytes: number,
    lengthBytes: number,
    buffer: number,
  ): Promise<void> {
    const { session } = target;
    const zeroes = buffer === NO_BUFFER;
    const opcode = zeroes ? (lengthBytes === EXTENT_BYTES ? OPCODE.TRIM : OPCODE.ZERO) : OPCODE.WRITE;
    const shape = this.#shape(segment.generation, offsetBytes, lengthBytes, FLAG.TOMBSTONE, zeroes ? 0 : lengthBytes);
    const reply = await session.peer.request(opcode, session.handle, target.number, shape, buffer, NO_BUFFER);
    session.writesAcked++; // a FLUSH covers copies too
    if (reply.status === STATUS.OK) return;
    if (reply.status !== STATUS.NO_SPACE || target.state === 'in-sync')
      this.#membership.replicaFailed(target, statusName(reply.status));
    const code = reply.status === STATUS.NO_SPACE ? 'NO_SPACE' : 'UNAVAILABLE';
    throw new BraidError(code, `writing the copy failed with ${statusName(reply.status)}`);
  }

  #shape(
    generation: number,
    offsetBytes: number,
    lengthBytes: number,
    flags = 0,
    payloadLength = 0,
  ): (frame: Frame) => void {
    const { epoch } = this.#options;
    return (frame) => {
      frame.flags = flags;
      frame.generation = generation;
      frame.epoch = epoch;
      frame.offset = offsetBytes;
      frame.length = lengthBytes;
      frame.payloadLength = payloadLength;
    };
  }
}

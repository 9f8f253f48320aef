/**
 * The copies of one extent beside each other, by their checksums: which are damaged, which differ, and which of those can be told to be right.
 * `compareCopies` asks, under the caller's extent lock; `judge` is pure.
 */
import { ZERO_BLOCK_CRC32C } from '../base/crc32c.js';
import { BraidError } from '../base/errors.js';
import { BLOCKS_PER_EXTENT, EXTENT_BYTES } from '../base/units.js';
import { FLAG, STATUS, statusName } from '../protocol/frame.js';
import { ALL_KNOWN, decodeExtentSums, type ExtentSums } from '../protocol/extent-sums.js';
import type { Replica } from './segment.js';

/** One copy's answer. */
export interface CopySums<R = Replica> extends ExtentSums {
  readonly replica: R;
  /** OK, CHECKSUM_MISMATCH or IO_ERROR; only OK has sums. */
  readonly status: number;
}

export interface Verdict<R = Replica> {
  /** What they have does not match its checksum, or cannot be read. */
  readonly damaged: readonly CopySums<R>[];
  /** Blocks in which some copies, which know no checksum for it, differ from what all that know one have. */
  readonly mendable: readonly { readonly block: number; readonly holder: R; readonly strays: readonly R[] }[];
  /** Blocks in which copies differ and none can be told to be wrong. */
  readonly disputed: readonly number[];
  /** They do not know the checksums of all blocks. */
  readonly unsure: readonly R[];
  /** The highest generation that one of them was written under. */
  readonly stampMax: number;
  /** All answered, and all have the same. */
  readonly isEqual: boolean;
}

const NO_SUMS = new Uint32Array(BLOCKS_PER_EXTENT);
const ZERO_SUMS = new Uint32Array(BLOCKS_PER_EXTENT).fill(ZERO_BLOCK_CRC32C);

/**
 * Asks every replica. With `stored` those that know all checksums answer without reading. Rejects with UNAVAILABLE when one cannot be asked.
 */
export function compareCopies(replicas: readonly Replica[], extent: number, stored: boolean): Promise<CopySums[]> {
  return Promise.all(replicas.map((replica) => sumsOf(replica, extent, stored)));
}

async function sumsOf(replica: Replica, extent: number, stored: boolean): Promise<CopySums> {
  const { session } = replica;
  const offsetBytes = extent * EXTENT_BYTES;
  const { status, flags, payload } = await session.peer.checksums(session.handle, replica.number, offsetBytes, stored);
  if (status === STATUS.CHECKSUM_MISMATCH || status === STATUS.IO_ERROR)
    return { replica, status, stamp: 0, known: 0, sums: NO_SUMS };
  if (status !== STATUS.OK)
    throw new BraidError('UNAVAILABLE', `drive ${replica.driveId} answered ${statusName(status)}; try again`);
  if ((flags & FLAG.ZEROES) !== 0) return { replica, status, stamp: 0, known: ALL_KNOWN, sums: ZERO_SUMS };
  return { replica, status, ...decodeExtentSums(payload) };
}

export function judge<R>(copies: readonly CopySums<R>[]): Verdict<R> {
  const sound = copies.filter(({ status }) => status === STATUS.OK);
  const mendable: { block: number; holder: R; strays: R[] }[] = [];
  const disputed: number[] = [];
  for (let block = 0; block < BLOCKS_PER_EXTENT; block++) {
    if (sound.every(({ sums }) => sums[block] === sound[0]?.sums[block])) continue;
    const knowing = sound.filter(({ known }) => ((known >>> block) & 1) === 1);
    const [holder] = knowing;
    const isRight = ({ sums }: CopySums<R>): boolean => sums[block] === holder?.sums[block];
    if (holder === undefined || !knowing.every(isRight)) disputed.push(block);
    else {
      const strays = sound.filter((copy) => !isRight(copy)).map(({ replica }) => replica);
      mendable.push({ block, holder: holder.replica, strays });
    }
  }
  return {
    damaged: copies.filter(({ status }) => status !== STATUS.OK),
    mendable,
    disputed,
    unsure: sound.filter(({ known }) => known !== ALL_KNOWN).map(({ replica }) => replica),
    stampMax: Math.max(0, ...sound.map(({ stamp }) => stamp)),
    isEqual: sound.length === copies.length && mendable.length === 0 && disputed.length === 0,
  };
}

/**
 * Payload of the reply to CHECKSUM (WIRE.md): what a copy of an extent is, without its data.
 *
 * ```
 *  0    4  generation stamp
 *  4    4  mask: bit i says that the copy knows the checksum of block i, and that what it has matches it
 *  8 32*4  CRC-32C of each block
 * ```
 */
import { BraidError } from '../base/errors.js';
import { BLOCKS_PER_EXTENT } from '../base/units.js';

export interface ExtentSums {
  readonly stamp: number;
  readonly known: number;
  readonly sums: Uint32Array;
}

/** The mask when every block's checksum is known. */
export const ALL_KNOWN = 0xffff_ffff;

const SUMS_AT = 8;
const BYTES = SUMS_AT + 4 * BLOCKS_PER_EXTENT;

export function encodeExtentSums({ stamp, known, sums }: ExtentSums): Uint8Array {
  const view = new DataView(new ArrayBuffer(BYTES));
  view.setUint32(0, stamp, true);
  view.setUint32(4, known, true);
  for (let block = 0; block < BLOCKS_PER_EXTENT; block++) view.setUint32(SUMS_AT + 4 * block, sums[block] ?? 0, true);
  return new Uint8Array(view.buffer);
}

export function decodeExtentSums(bytes: Uint8Array): ExtentSums {
  if (bytes.length !== BYTES) throw new BraidError('INTERNAL', `checksums of an extent take ${BYTES} bytes`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const sums = Uint32Array.from({ length: BLOCKS_PER_EXTENT }, (_, block) => view.getUint32(SUMS_AT + 4 * block, true));
  return { stamp: view.getUint32(0, true), known: view.getUint32(4, true), sums };
}

/**
 * CRC-32C (Castagnoli), as everywhere in Braid's formats. For superblocks, tests and the simulator: the data path uses
 * the checksums that the addon computes with the processor's instruction.
 */
import { BLOCK_BYTES } from './units.js';

const POLYNOMIAL_REVERSED = 0x82f6_3b78;
const TABLE = makeTable();

function makeTable(): Uint32Array {
  const table = new Uint32Array(256);
  for (let byte = 0; byte < 256; byte++) {
    let remainder = byte;
    for (let bit = 0; bit < 8; bit++) remainder = (remainder >>> 1) ^ (remainder & 1 ? POLYNOMIAL_REVERSED : 0);
    table[byte] = remainder;
  }
  return table;
}

export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffff_ffff;
  for (let index = 0; index < bytes.length; index++) {
    crc = (crc >>> 8) ^ (TABLE[(crc ^ (bytes[index] as number)) & 0xff] as number);
  }
  return ~crc >>> 0;
}

/** The checksum of a block of zeros. */
export const ZERO_BLOCK_CRC32C = crc32c(new Uint8Array(BLOCK_BYTES));

/**
 * CRC-32C (Castagnoli), as everywhere in Braid's formats. For superblocks, tests and the simulator: the data path uses
 * the checksums that the addon computes with the processor's instruction.
 */
import { BLOCK_BYTES } from './units.js';

const POLYNOMIAL_REVERSED = 0x82f6_3b78;
/** Bytes that one step takes, each with a table of its own: the byte's share in the remainder after the step. */
const STEP_BYTES = 8;
const TABLES = makeTables();

function makeTables(): Uint32Array {
  const tables = new Uint32Array(STEP_BYTES * 256);
  for (let byte = 0; byte < 256; byte++) {
    let remainder = byte;
    for (let bit = 0; bit < 8; bit++) remainder = (remainder >>> 1) ^ (remainder & 1 ? POLYNOMIAL_REVERSED : 0);
    tables[byte] = remainder;
  }
  for (let index = 256; index < tables.length; index++) {
    const previous = tables[index - 256] as number;
    tables[index] = (previous >>> 8) ^ (tables[previous & 0xff] as number);
  }
  return tables;
}

/** What the four bytes of `word` add to the remainder when the last of them comes `table` bytes before the end of a step. */
function share(word: number, table: number): number {
  return (
    (TABLES[(table + 3) * 256 + (word & 0xff)] as number) ^
    (TABLES[(table + 2) * 256 + ((word >>> 8) & 0xff)] as number) ^
    (TABLES[(table + 1) * 256 + ((word >>> 16) & 0xff)] as number) ^
    (TABLES[table * 256 + (word >>> 24)] as number)
  );
}

export function crc32c(bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const stepsEnd = bytes.length - (bytes.length % STEP_BYTES);
  let crc = 0xffff_ffff;
  for (let index = 0; index < stepsEnd; index += STEP_BYTES) {
    crc = share(crc ^ view.getUint32(index, true), 4) ^ share(view.getUint32(index + 4, true), 0);
  }
  for (let index = stepsEnd; index < bytes.length; index++) {
    crc = (crc >>> 8) ^ (TABLES[(crc ^ (bytes[index] as number)) & 0xff] as number);
  }
  return ~crc >>> 0;
}

/** The checksum of a block of zeros. */
export const ZERO_BLOCK_CRC32C = crc32c(new Uint8Array(BLOCK_BYTES));

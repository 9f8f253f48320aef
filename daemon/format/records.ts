/**
 * Values of a drive's metadata (DISK.md), reader and writer of each side by side. Integers are little-endian.
 */
import { crc32c } from '../base/crc32c.js';
import { BLOCKS_PER_EXTENT } from '../base/units.js';
import { UUID_BYTES, uuidFromBytes, uuidToBytes } from './keys.js';

export const FORMAT_VERSION = 1;
/** "BRAIDRV1". */
const MAGIC = Uint8Array.of(0x42, 0x52, 0x41, 0x49, 0x44, 0x52, 0x56, 0x31);
const SUPERBLOCK_BYTES = 64;
const SUPERBLOCK_CRC_AT = 60;

export interface Superblock {
  readonly formatVersion: number;
  readonly slotCount: number;
  readonly driveId: string;
  readonly clusterId: string;
  readonly createdMs: number;
}

export function encodeSuperblock(superblock: Superblock): Uint8Array {
  const bytes = new Uint8Array(SUPERBLOCK_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set(MAGIC, 0);
  view.setUint32(8, superblock.formatVersion, true);
  view.setUint32(12, superblock.slotCount, true);
  bytes.set(uuidToBytes(superblock.driveId), 16);
  bytes.set(uuidToBytes(superblock.clusterId), 16 + UUID_BYTES);
  view.setBigUint64(48, BigInt(superblock.createdMs), true);
  view.setUint32(SUPERBLOCK_CRC_AT, crc32c(bytes.subarray(0, SUPERBLOCK_CRC_AT)), true);
  return bytes;
}

/** The superblock, or what is wrong with it. Its version is the caller's to judge. */
export function decodeSuperblock(bytes: Uint8Array): Superblock | 'foreign' | 'damaged' {
  if (!MAGIC.every((byte, index) => bytes[index] === byte)) return 'foreign';
  if (bytes.length !== SUPERBLOCK_BYTES) return 'damaged';
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (view.getUint32(SUPERBLOCK_CRC_AT, true) !== crc32c(bytes.subarray(0, SUPERBLOCK_CRC_AT))) return 'damaged';
  return {
    formatVersion: view.getUint32(8, true),
    slotCount: view.getUint32(12, true),
    driveId: uuidFromBytes(bytes, 16),
    clusterId: uuidFromBytes(bytes, 16 + UUID_BYTES),
    createdMs: Number(view.getBigUint64(48, true)),
  };
}

function writeU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
  bytes[at + 2] = value >>> 16;
  bytes[at + 3] = value >>> 24;
}

function readU32(bytes: Uint8Array, at: number): number {
  const low = (bytes[at] as number) | ((bytes[at + 1] as number) << 8);
  return (low | ((bytes[at + 2] as number) << 16) | ((bytes[at + 3] as number) << 24)) >>> 0;
}

export function encodeEpoch(epoch: number): Uint8Array {
  const bytes = new Uint8Array(4);
  writeU32(bytes, 0, epoch);
  return bytes;
}

/** Null when it is damaged. */
export function decodeEpoch(bytes: Uint8Array): number | null {
  return bytes.length === 4 ? readU32(bytes, 0) : null;
}

/** `segment` is the encoded `Segment` record as the owner sent it. */
export function encodeLayout(generation: number, segment: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(4 + segment.length);
  writeU32(bytes, 0, generation);
  bytes.set(segment, 4);
  return bytes;
}

export interface Layout {
  readonly generation: number;
  /** Encoded `Segment` record. */
  readonly segment: Uint8Array;
}

/** Null when it is damaged. */
export function decodeLayout(bytes: Uint8Array): Layout | null {
  return bytes.length >= 4 ? { generation: readU32(bytes, 0), segment: bytes.slice(4) } : null;
}

const SLOT_AT = 0;
const STAMP_AT = 4;
const KNOWN_AT = 8;
const CHECKSUMS_AT = 12;
export const EXTENT_RECORD_BYTES = CHECKSUMS_AT + 4 * BLOCKS_PER_EXTENT;
/** Slots are below this: the head map needs a bit beside them. */
export const SLOTS_MAX = 2 ** 31;

/** `checksums` holds those of the extent's blocks from `checksumIndex`; only those in the `known` mask count. */
export function encodeExtent(
  slot: number,
  stamp: number,
  known: number,
  checksums: Uint32Array,
  checksumIndex: number,
): Uint8Array {
  const bytes = new Uint8Array(EXTENT_RECORD_BYTES);
  writeU32(bytes, SLOT_AT, slot);
  writeU32(bytes, STAMP_AT, stamp);
  writeU32(bytes, KNOWN_AT, known);
  for (let block = 0; block < BLOCKS_PER_EXTENT; block++) {
    if ((known >>> block) & 1) writeU32(bytes, CHECKSUMS_AT + 4 * block, checksums[checksumIndex + block] as number);
  }
  return bytes;
}

export function encodeTombstone(stamp: number): Uint8Array {
  const bytes = new Uint8Array(EXTENT_RECORD_BYTES);
  writeU32(bytes, STAMP_AT, stamp);
  return bytes;
}

/** Fields one by one, so that scanning millions of records allocates nothing. */
export function extentSlot(record: Uint8Array): number {
  return readU32(record, SLOT_AT);
}

export function extentStamp(record: Uint8Array): number {
  return readU32(record, STAMP_AT);
}

export function extentKnown(record: Uint8Array): number {
  return readU32(record, KNOWN_AT);
}

export function extentChecksum(record: Uint8Array, block: number): number {
  return readU32(record, CHECKSUMS_AT + 4 * block);
}

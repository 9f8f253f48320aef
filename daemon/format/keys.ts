/**
 * Keys of a drive's metadata (DISK.md). Integers are big-endian, so that key order is numeric order; the first byte names the table.
 */
import type { VolumeId } from '../base/ids.js';
import { assert } from '../base/assert.js';

export const TABLE = { SUPERBLOCK: 0, EPOCH: 1, LAYOUT: 2, EXTENT: 3, ACTIVITY: 4, FREED: 5, VOLUME: 6 } as const;

/** Keys are exactly this long, by table. */
const KEY_BYTES: readonly (number | undefined)[] = [1, 17, 21, 25, 25, 5, 17];

/** Whether a key is one that this version writes. */
export function isKnownKey(key: Uint8Array): boolean {
  return key.length > 0 && key.length === KEY_BYTES[key[0] as number];
}

export const UUID_BYTES = 16;
const SEGMENT_AT = 1 + UUID_BYTES;
const ITEM_AT = SEGMENT_AT + 4;
/** Length of keys that name an extent or a region. */
export const ITEM_KEY_BYTES = ITEM_AT + 4;
const UUID_TEXT = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

export function isUuid(text: string): boolean {
  return UUID_TEXT.test(text);
}

export function uuidToBytes(uuid: string): Uint8Array {
  assert(isUuid(uuid), 'a UUID is 32 lower-case hexadecimal digits in five groups');
  const digits = uuid.replaceAll('-', '');
  const bytes = new Uint8Array(UUID_BYTES);
  for (let index = 0; index < UUID_BYTES; index++) {
    bytes[index] = Number.parseInt(digits.slice(2 * index, 2 * index + 2), 16);
  }
  return bytes;
}

export function uuidFromBytes(bytes: Uint8Array, offsetBytes: number): string {
  let digits = '';
  for (let index = 0; index < UUID_BYTES; index++) {
    digits += (bytes[offsetBytes + index] as number).toString(16).padStart(2, '0');
  }
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

function writeU32(key: Uint8Array, at: number, value: number): void {
  key[at] = value >>> 24;
  key[at + 1] = value >>> 16;
  key[at + 2] = value >>> 8;
  key[at + 3] = value;
}

function readU32(key: Uint8Array, at: number): number {
  const high = ((key[at] as number) << 24) | ((key[at + 1] as number) << 16);
  return (high | ((key[at + 2] as number) << 8) | (key[at + 3] as number)) >>> 0;
}

function volumeKey(table: number, volume: Uint8Array, length: number): Uint8Array {
  assert(volume.length === UUID_BYTES, 'a volume is named by the 16 bytes of its UUID');
  const key = new Uint8Array(length);
  key[0] = table;
  key.set(volume, 1);
  return key;
}

function itemKey(table: number, volume: Uint8Array, segment: number, item: number): Uint8Array {
  const key = volumeKey(table, volume, ITEM_KEY_BYTES);
  writeU32(key, SEGMENT_AT, segment);
  writeU32(key, ITEM_AT, item);
  return key;
}

export const SUPERBLOCK_KEY: Uint8Array = Uint8Array.of(TABLE.SUPERBLOCK);

/** Prefix of all keys of a table. */
export function tablePrefix(table: number): Uint8Array {
  return Uint8Array.of(table);
}

export function epochKey(volume: Uint8Array): Uint8Array {
  return volumeKey(TABLE.EPOCH, volume, SEGMENT_AT);
}

export function layoutKey(volume: Uint8Array, segment: number): Uint8Array {
  const key = volumeKey(TABLE.LAYOUT, volume, ITEM_AT);
  writeU32(key, SEGMENT_AT, segment);
  return key;
}

export function volumeRecordKey(volume: Uint8Array): Uint8Array {
  return volumeKey(TABLE.VOLUME, volume, SEGMENT_AT);
}

export function extentKey(volume: Uint8Array, segment: number, extent: number): Uint8Array {
  return itemKey(TABLE.EXTENT, volume, segment, extent);
}

export function activityKey(volume: Uint8Array, segment: number, region: number): Uint8Array {
  return itemKey(TABLE.ACTIVITY, volume, segment, region);
}

export function freedKey(slot: number): Uint8Array {
  const key = new Uint8Array(5);
  key[0] = TABLE.FREED;
  writeU32(key, 1, slot);
  return key;
}

/** Of any key that names a volume. */
export function volumeOfKey(key: Uint8Array): VolumeId {
  return uuidFromBytes(key, 1) as VolumeId;
}

/** Of a layout, extent or activity key. */
export function segmentOfKey(key: Uint8Array): number {
  return readU32(key, SEGMENT_AT);
}

/** The extent or the region that a key names. */
export function itemOfKey(key: Uint8Array): number {
  return readU32(key, ITEM_AT);
}

export function slotOfFreedKey(key: Uint8Array): number {
  return readU32(key, 1);
}

/** Whether two keys name the same volume and segment. */
export function isSameSegment(key: Uint8Array, other: Uint8Array): boolean {
  for (let index = 1; index < ITEM_AT; index++) if (key[index] !== other[index]) return false;
  return true;
}

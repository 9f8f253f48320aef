/** Keys and records of a drive (DISK.md): exact bytes, order, and round trips. */
import fc from 'fast-check';
import t from 'tap';
import { crc32c, ZERO_BLOCK_CRC32C } from '../../../daemon/base/crc32c.js';
import {
  activityKey,
  epochKey,
  extentKey,
  freedKey,
  isSameSegment,
  isUuid,
  itemOfKey,
  layoutKey,
  segmentOfKey,
  slotOfFreedKey,
  SUPERBLOCK_KEY,
  uuidFromBytes,
  uuidToBytes,
  volumeOfKey,
  volumeRecordKey,
} from '../../../daemon/format/keys.js';
import {
  decodeEpoch,
  decodeLayout,
  decodeSuperblock,
  encodeEpoch,
  encodeExtent,
  encodeLayout,
  encodeSuperblock,
  encodeTombstone,
  EXTENT_RECORD_BYTES,
  extentChecksum,
  extentKnown,
  extentSlot,
  extentStamp,
} from '../../../daemon/format/records.js';

const VOLUME = '00112233-4455-6677-8899-aabbccddeeff';
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
const u32 = () => fc.integer({ min: 0, max: 0xffff_ffff });

t.test('CRC-32C is Castagnoli', async (t) => {
  t.equal(crc32c(Buffer.from('123456789')), 0xe306_9283);
  t.equal(crc32c(new Uint8Array(32)), 0x8a91_36aa, 'RFC 3720, B.4');
  t.equal(ZERO_BLOCK_CRC32C, 0x98f9_4189);
});

t.test('keys are as specified', async (t) => {
  const volume = uuidToBytes(VOLUME);
  t.equal(hex(SUPERBLOCK_KEY), '00');
  t.equal(hex(epochKey(volume)), '0100112233445566778899aabbccddeeff');
  t.equal(hex(layoutKey(volume, 0x10203)), '0200112233445566778899aabbccddeeff00010203');
  t.equal(hex(extentKey(volume, 1, 0x7fff)), '0300112233445566778899aabbccddeeff0000000100007fff');
  t.equal(hex(activityKey(volume, 1, 2)), '0400112233445566778899aabbccddeeff0000000100000002');
  t.equal(hex(freedKey(0xfedcba98)), '05fedcba98');
  t.equal(hex(volumeRecordKey(volume)), '0600112233445566778899aabbccddeeff');
});

t.test('key order is numeric order, and keys give back what they name', async (t) => {
  const volume = uuidToBytes(VOLUME);
  const property = fc.property(u32(), u32(), u32(), u32(), (segment, extent, otherSegment, otherExtent) => {
    const [key, other] = [extentKey(volume, segment, extent), extentKey(volume, otherSegment, otherExtent)];
    const order = Math.sign(segment - otherSegment || extent - otherExtent);
    const isRoundTrip = volumeOfKey(key) === VOLUME && segmentOfKey(key) === segment && itemOfKey(key) === extent;
    const isSame = isSameSegment(key, other) === (segment === otherSegment);
    return isRoundTrip && isSame && Buffer.compare(key, other) === order && slotOfFreedKey(freedKey(extent)) === extent;
  });
  fc.assert(property, { numRuns: 300, seed: 1 });
  t.equal(isSameSegment(extentKey(volume, 3, 1), extentKey(volume, 3, 9)), true);
  t.equal(isSameSegment(extentKey(volume, 3, 1), extentKey(uuidToBytes(VOLUME.replace(/^0/, '1')), 3, 1)), false);
});

t.test('UUIDs', async (t) => {
  t.equal(uuidFromBytes(uuidToBytes(VOLUME), 0), VOLUME);
  for (const text of ['', VOLUME.toUpperCase(), VOLUME.slice(1), `${VOLUME}0`, VOLUME.replaceAll('-', '')])
    t.notOk(isUuid(text), text);
  t.throws(() => uuidToBytes('x'), /UUID/);
});

t.test('the superblock is as specified, and damage is noticed', async (t) => {
  const superblock = {
    formatVersion: 1,
    slotCount: 8_192,
    driveId: VOLUME,
    clusterId: VOLUME.replace(/^00/, 'ff'),
    createdMs: 1_700_000_000_123,
  };
  const bytes = encodeSuperblock(superblock);
  t.equal(
    hex(bytes.subarray(0, 60)),
    '425241494452563101000000002000000' +
      '0112233445566778899aabbccddeeffff112233445566778899aabbccddeeff' +
      '7b68e5cf8b010000' +
      '00000000',
  );
  t.same(decodeSuperblock(bytes), superblock);
  for (let index = 0; index < bytes.length; index++) {
    const damaged = bytes.slice();
    damaged[index] = (damaged[index] ?? 0) ^ 0x10;
    t.equal(decodeSuperblock(damaged), index < 8 ? 'foreign' : 'damaged', `byte ${index}`);
  }
  t.equal(decodeSuperblock(bytes.subarray(0, 40)), 'damaged');
  t.equal(decodeSuperblock(new Uint8Array(0)), 'foreign');
});

t.test('records go round', async (t) => {
  t.equal(hex(encodeEpoch(0x1020304)), '04030201');
  t.equal(decodeEpoch(encodeEpoch(0xffff_fff0)), 0xffff_fff0);
  t.same(decodeLayout(encodeLayout(7, Uint8Array.of(1, 2))), { generation: 7, segment: Uint8Array.of(1, 2) });
  const property = fc.property(
    u32(),
    u32(),
    u32(),
    fc.array(u32(), { minLength: 40, maxLength: 40 }),
    (slot, stamp, known, values) => {
      const record = encodeExtent(slot, stamp, known, Uint32Array.from(values), 8);
      const areChecksums = values
        .slice(8)
        .every((value, block) => extentChecksum(record, block) === ((known >>> block) & 1 ? value : 0));
      return (
        record.length === EXTENT_RECORD_BYTES &&
        extentSlot(record) === slot &&
        extentStamp(record) === stamp &&
        extentKnown(record) === known &&
        areChecksums
      );
    },
  );
  fc.assert(property, { numRuns: 200, seed: 1 });
  t.equal(EXTENT_RECORD_BYTES, 140);
  const tombstone = encodeTombstone(9);
  t.same([extentSlot(tombstone), extentStamp(tombstone), extentKnown(tombstone)], [0, 9, 0]);
});

/** The checksum table against a plain model of what every extent's record and memory say. */
import t from 'tap';
import { ZERO_BLOCK_CRC32C } from '../../../daemon/base/crc32c.js';
import type { VolumeId } from '../../../daemon/base/ids.js';
import { EXTENTS_PER_REGION, GIB } from '../../../daemon/base/units.js';
import { encodeExtent, extentChecksum, extentKnown } from '../../../daemon/format/records.js';
import { ChecksumTable } from '../../../daemon/replica/checksums.js';
import { Replica } from '../../../daemon/replica/replica.js';
import { SimRandom } from '../../sim/world/sim-random.js';
import { VOLUME } from './harness.js';

function make(coldRegionsMax: number) {
  const replica = new Replica(VOLUME as VolumeId, 0);
  replica.setSize(GIB);
  const records = new Map<number, Uint8Array>();
  const loads = { count: 0 };
  const recordOf = (_replica: Replica, extent: number) => {
    loads.count++;
    return records.get(extent) ?? null;
  };
  return { replica, records, loads, table: new ChecksumTable({ hotRegionsMax: 4, coldRegionsMax, recordOf }) };
}

t.test('loads at first touch, compares what is known, and nothing else', async (t) => {
  const { replica, records, loads, table } = make(2);
  records.set(5, encodeExtent(9, 1, 0b101, Uint32Array.of(11, 12, 13, ...new Array<number>(29).fill(0)), 0));
  const read = Uint32Array.of(0, 11, 99, 13);
  t.equal(table.firstMismatch(replica, 5, 0, 3, read, 1), -1, 'block 1 is not known');
  t.equal(table.firstMismatch(replica, 5, 2, 1, read, 2), 2);
  t.equal(table.firstMismatch(replica, 6, 0, 32, new Uint32Array(32), 0), -1, 'no record');
  t.equal(loads.count, 2);
  table.pin(replica, 0);
  table.record(replica, 5, 1, 1, read, 2);
  table.recordZeros(replica, 5, 31, 1);
  table.forget(replica, 5, 0, 1);
  t.equal(loads.count, 2, 'memory counts from then on');
  t.ok(table.isDirty(replica, 5));
  t.notOk(table.isDirty(replica, 6));
  replica.setHead(5, 9, 3, false);
  const record = table.encodeRecord(replica, 5);
  t.equal(extentKnown(record), (2 ** 31 + 0b110) >>> 0);
  t.same(
    [1, 2, 31].map((block) => extentChecksum(record, block)),
    [99, 13, ZERO_BLOCK_CRC32C],
  );
  table.assertConsistent();
  table.unpin(replica, 0);
  t.throws(() => table.record(replica, 5, 0, 1, read, 0), /hot/);
});

t.test('cold entries are bounded, the one used longest ago goes first; hot ones stay', async (t) => {
  const { replica, records, loads, table } = make(2);
  const touch = (region: number) =>
    table.firstMismatch(replica, region * EXTENTS_PER_REGION, 0, 1, new Uint32Array(1), 0);
  table.pin(replica, 9);
  touch(9);
  for (const region of [1, 2, 1, 3]) touch(region);
  loads.count = 0;
  touch(9);
  touch(1);
  touch(3);
  t.equal(loads.count, 0);
  touch(2);
  t.equal(loads.count, 1, 'had to make room');
  table.assertConsistent();
  for (const region of [20, 21, 22]) table.pin(replica, region);
  table.unpin(replica, 9);
  table.assertConsistent();
  touch(9);
  t.equal(loads.count, 1, 'it is a cold one now');
  records.clear();
  table.drop(replica);
  table.assertConsistent();
  t.ok(replica.checksumEntries.every((entry) => entry === 0));
});

t.test('after a crash nothing is known, and the records are written anew when the region cools', async (t) => {
  const { replica, records, table } = make(2);
  records.set(40, encodeExtent(3, 1, 0xffff_ffff, new Uint32Array(32).fill(7), 0));
  replica.setHead(40, 3, 1, false);
  table.pinUnknown(replica, 1);
  t.equal(table.firstMismatch(replica, 40, 0, 32, new Uint32Array(32), 0), -1);
  t.ok(table.isDirty(replica, 40));
  t.equal(extentKnown(table.encodeRecord(replica, 40)), 0);
});

t.test('agrees with a model in a long random run', async (t) => {
  const { replica, records, table } = make(3);
  const random = new SimRandom(3);
  const model = new Map<number, Map<number, number>>();
  const hot = new Set<number>();
  for (let extent = 0; extent < 20 * EXTENTS_PER_REGION; extent++) replica.setHead(extent, extent + 1, 1, false);
  for (let count = 0; count < 20_000; count++) {
    const region = random.below(20);
    const extent = region * EXTENTS_PER_REGION + random.below(4);
    const known = model.get(extent) ?? new Map<number, number>();
    model.set(extent, known);
    if (hot.has(region) && random.chance(0.2)) {
      for (let each = region * EXTENTS_PER_REGION; each < (region + 1) * EXTENTS_PER_REGION; each++) {
        if (table.isDirty(replica, each)) records.set(each, table.encodeRecord(replica, each));
      }
      table.unpin(replica, region);
      hot.delete(region);
    } else if (hot.has(region)) {
      const block = random.below(32);
      const checksum = random.uint32();
      table.record(replica, extent, block, 1, Uint32Array.of(checksum), 0);
      known.set(block, checksum);
    } else if (hot.size < 4 && random.chance(0.3)) {
      table.pin(replica, region);
      hot.add(region);
    }
    const read = Uint32Array.from({ length: 32 }, (_, block) => known.get(block) ?? random.uint32());
    if (table.firstMismatch(replica, extent, 0, 32, read, 0) !== -1) t.fail(`a mismatch after ${count} steps`);
    const [block] = known.keys();
    if (block === undefined) continue;
    read[block] = (read[block] ?? 0) ^ 1;
    if (table.firstMismatch(replica, extent, 0, 32, read, 0) !== block) t.fail(`no mismatch after ${count} steps`);
  }
  table.assertConsistent();
});

/** The head map: what it costs while nothing is in it, and that what untouched replicas share stays untouched. */
import t from 'tap';
import type { VolumeId } from '../../../daemon/base/ids.js';
import { EXTENT_BYTES, EXTENTS_PER_REGION, GIB, MIB } from '../../../daemon/base/units.js';
import { REGION, Replica } from '../../../daemon/replica/replica.js';
import { VOLUME } from './harness.js';

function make(segment: number, sizeBytes: number = GIB): Replica {
  const replica = new Replica(VOLUME as VolumeId, segment);
  t.ok(replica.setSize(sizeBytes));
  return replica;
}

t.test('segments that nothing was written to cost no arrays: 4 TiB of them in a few hundred KiB', async (t) => {
  const before = process.memoryUsage().arrayBuffers;
  const replicas: Replica[] = [];
  for (let segment = 0; segment < 4_096; segment++) {
    const replica = new Replica(VOLUME as VolumeId, segment);
    replica.setSize(GIB);
    replica.hotRegions();
    replicas.push(replica);
  }
  const used = process.memoryUsage().arrayBuffers - before;
  t.ok(used < 2 * MIB, `${used} bytes`);
  t.equal(replicas.length, 4_096);
  replicas[7]?.setHead(0, 1, 1, false);
  t.ok(process.memoryUsage().arrayBuffers - before < 2 * MIB, 'and one that was written to costs its own');
});

t.test('what changes first in one replica is in no other', async (t) => {
  const changes: Record<string, (replica: Replica) => unknown> = {
    head: (replica) => replica.setHead(3, 9, 2, true),
    state: (replica) => replica.setRegionState(5, REGION.HOT),
    checksums: (replica) => replica.setChecksumEntry(6, 4),
    write: (replica) => replica.writeStarted(7),
    ahead: (replica) => {
      replica.setHead(3, 9, 2, false);
      replica.markAhead(3);
    },
  };
  for (const [name, change] of Object.entries(changes)) {
    const other = make(1);
    change(make(0));
    other.assertConsistent(); // what is shared is zeros
    t.same([other.slotOf(3), other.stampOf(3), other.isAhead(3), other.isUntouched], [0, 0, false, true], name);
    t.same([other.hotRegions(), other.checksumEntries[6], other.regionWrites[7]], [[], 0, 0], name);
  }
});

t.test('what a replica holds is there, beside what it does not', async (t) => {
  const replica = make(0);
  replica.writeStarted(7);
  replica.setHead(3, 9, 2, true);
  replica.settle(3);
  replica.setRegionState(0, REGION.HOT);
  replica.setChecksumEntry(6, 4);
  replica.markAhead(3);
  t.same([replica.slotOf(3), replica.stampOf(3), replica.isAhead(3), replica.isUntouched], [9, 2, true, false]);
  t.same([replica.hotRegions(), replica.checksumEntries[6], replica.regionWrites[7]], [[0], 4, 1]);
  replica.assertConsistent();
  replica.writeEnded(7);
  t.equal(replica.regionWrites[7], 0);
  replica.forgetRegions();
  t.same(replica.hotRegions(), []);
});

t.test('a size keeps what is inside, and is refused when something is beyond', async (t) => {
  const replica = make(0, 16 * MIB);
  const extents = (16 * MIB) / EXTENT_BYTES;
  replica.setHead(extents - 1, 5, 1, false);
  t.ok(replica.setSize(GIB));
  t.equal(replica.slotOf(extents - 1), 5);
  t.equal(replica.stampOf(8_191), 0);
  replica.setHead(8_191, 6, 1, false);
  t.notOk(replica.setSize(16 * MIB), 'an extent is beyond');
  replica.setHead(8_191, 0, 0, false);
  replica.setRegionState(extents / EXTENTS_PER_REGION, REGION.HOT);
  t.notOk(replica.setSize(16 * MIB), 'a hot region is beyond');
  replica.setRegionState(extents / EXTENTS_PER_REGION, REGION.COLD);
  t.ok(replica.setSize(16 * MIB));
  t.equal(replica.slotOf(extents - 1), 5);
  t.equal(replica.regionCount, 4);
  replica.assertConsistent();
});

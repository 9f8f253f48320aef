/** The data path of the replica server: what reads, writes, trims and zeroes do, and what they need of the metadata. */
import t from 'tap';
import { crc32c, ZERO_BLOCK_CRC32C } from '../../../daemon/base/crc32c.js';
import { BLOCK_BYTES, EXTENT_BYTES, GIB, KIB, REGION_BYTES } from '../../../daemon/base/units.js';
import { extentKey, uuidToBytes } from '../../../daemon/format/keys.js';
import { extentStamp } from '../../../daemon/format/records.js';
import { POOL_FRONTEND, POOL_PEER } from '../../../daemon/ports/slab.js';
import { ALL_KNOWN, decodeExtentSums } from '../../../daemon/protocol/extent-sums.js';
import { FLAG, OPCODE, STATUS } from '../../../daemon/protocol/frame.js';
import { braid } from '../../../daemon/protocol/generated/messages.js';
import { blocks, isSame, VOLUME, World } from './harness.js';

t.test('what was written is read, and what was not is zeros without I/O', async (t) => {
  const world = await World.create();
  const coordinator = await world.opened();
  const data = blocks(4, 10);
  t.equal(await coordinator.write(8 * BLOCK_BYTES, data), STATUS.OK);
  t.same(await coordinator.read(8 * BLOCK_BYTES, data.length), data);
  t.ok(
    isSame(await coordinator.read(0, 4 * BLOCK_BYTES), new Uint8Array(4 * BLOCK_BYTES)),
    'the rest of the extent is zeros',
  );
  const before = world.drive().stats().read.operations;
  const { frame } = await coordinator.call(OPCODE.READ, { offset: EXTENT_BYTES, length: EXTENT_BYTES });
  t.match(frame, { status: STATUS.OK, flags: FLAG.ZEROES, payloadLength: 0 });
  t.equal(world.drive().stats().read.operations, before, 'an extent without a slot costs no I/O');
  await world.close();
});

t.test('a write to a hot region commits nothing, a first one commits once', async (t) => {
  const world = await World.create();
  const coordinator = await world.opened();
  const before = world.drive().stats().commits;
  t.equal(await coordinator.write(0, blocks(1, 1)), STATUS.OK);
  t.equal(world.drive().stats().commits, before + 1);
  for (let block = 1; block < 20; block++) await coordinator.write(block * BLOCK_BYTES, blocks(1, block));
  t.equal(world.drive().stats().commits, before + 1, 'steady state needs no metadata');
  const write = { operations: 20, bytes: 20 * BLOCK_BYTES };
  t.match(world.drive().stats(), { hotRegions: 1, activations: 1, write });
  await world.close();
});

t.test('requests that arrive during a commit share the next one', async (t) => {
  const world = await World.create();
  const coordinator = await world.opened();
  const before = world.drive().stats().commits;
  const tags = [];
  for (let extent = 0; extent < 40; extent++) {
    tags.push(coordinator.send(OPCODE.WRITE, { offset: extent * EXTENT_BYTES, payload: blocks(1, extent) }));
  }
  for (const tag of tags) t.equal((await coordinator.reply(tag)).frame.status, STATUS.OK);
  t.equal(world.drive().stats().commits, before + 2, 'the first alone, all others together');
  for (let extent = 0; extent < 40; extent++) {
    t.ok(isSame(await coordinator.read(extent * EXTENT_BYTES, BLOCK_BYTES), blocks(1, extent)));
  }
  await world.close();
});

t.test('a stream is mapped ahead; what it leaves unwritten is blank, and unmapped when its region cools', async (t) => {
  const world = await World.create();
  const coordinator = await world.opened();
  const before = world.drive().stats().commits;
  for (let extent = 0; extent < 20; extent++) await coordinator.write(extent * EXTENT_BYTES, blocks(1, extent));
  t.equal(world.drive().stats().commits, before + 5, 'extents 0, 1, 3, 7 and 15');
  t.equal(world.drive().stats().freeSlots, 256 - 20, 'what was not written counts as free');
  const meta = world.media().meta;
  const recordOf = (extent: number) => meta.get(extentKey(uuidToBytes(VOLUME), 0, extent));
  t.ok(recordOf(25), 'it has a slot');
  const { frame } = await coordinator.call(OPCODE.READ, { offset: 25 * EXTENT_BYTES, length: EXTENT_BYTES });
  t.match(frame, { status: STATUS.OK, flags: FLAG.ZEROES });
  const list = async () => {
    const payload = braid.ListExtentsRequest.encode({ afterGeneration: 0, from: 0, allocatedOnly: false }).finish();
    const reply = await coordinator.call(OPCODE.LIST_EXTENTS, { payload });
    return braid.ListExtentsReply.decode(reply.payload).extents.length;
  };
  t.equal(await list(), 20);
  const sets = [{ segment: 0, regions: [0] }];
  const cooled = await coordinator.call(OPCODE.COOL, { payload: braid.RegionList.encode({ sets }).finish() });
  t.equal(cooled.frame.status, STATUS.OK);
  t.ok(recordOf(19) !== null && recordOf(20) === null && recordOf(25) === null);
  t.equal(world.drive().stats().freeSlots, 256 - 20);
  t.ok(isSame(await coordinator.read(19 * EXTENT_BYTES, BLOCK_BYTES), blocks(1, 19)));
  await world.close();
});

t.test('a slot that was mapped ahead is taken when none is free', async (t) => {
  const world = await World.create({ slotCount: 33 });
  const coordinator = await world.opened();
  for (let extent = 0; extent < 8; extent++) await coordinator.write(extent * EXTENT_BYTES, blocks(1, extent));
  for (let count = 0; count < 24; count++) {
    t.equal(await coordinator.write((64 + 2 * count) * EXTENT_BYTES, blocks(1, 100 + count)), STATUS.OK);
  }
  t.equal(world.drive().stats().freeSlots, 0, 'every slot holds data');
  t.equal(await coordinator.write(200 * EXTENT_BYTES, blocks(1, 1)), STATUS.NO_SPACE);
  t.ok(isSame(await coordinator.read(7 * EXTENT_BYTES, BLOCK_BYTES), blocks(1, 7)));
  t.ok(isSame(await coordinator.read(64 * EXTENT_BYTES, BLOCK_BYTES), blocks(1, 100)));
  await world.close();
});

t.test('two first writes to one extent get one slot', async (t) => {
  const world = await World.create();
  const coordinator = await world.opened();
  const tags = [0, 1, 2, 3].map((block) =>
    coordinator.send(OPCODE.WRITE, { offset: block * BLOCK_BYTES, payload: blocks(1, 50 + block) }),
  );
  for (const tag of tags) await coordinator.reply(tag);
  t.ok(isSame(await coordinator.read(0, 4 * BLOCK_BYTES), blocks(4, 50)));
  t.equal(world.drive().stats().freeSlots, 255);
  await world.close();
});

t.test('an extent whose commit is under way is not written, nor acknowledged, before it is durable', async (t) => {
  const world = await World.create();
  const coordinator = await world.opened();
  await coordinator.write(EXTENT_BYTES, blocks(1, 1));
  const first = [0, 1].map((block) =>
    coordinator.send(OPCODE.WRITE, { offset: block * BLOCK_BYTES, payload: blocks(1, 60 + block) }),
  );
  t.equal(world.watched.writes, 1, 'its region is hot, but it has no slot yet');
  for (const tag of first) await coordinator.reply(tag);
  t.ok(isSame(await coordinator.read(0, 2 * BLOCK_BYTES), blocks(2, 60)));

  const stampOf = () => {
    const record = world.media().meta.get(extentKey(uuidToBytes(VOLUME), 0, 0));
    return record === null ? 0 : extentStamp(record);
  };
  const raising = [0, 1].map((block) =>
    coordinator.send(OPCODE.WRITE, { offset: block * BLOCK_BYTES, payload: blocks(1, 70), generation: 2 }),
  );
  for (const tag of raising.reverse()) {
    await world.until(() => coordinator.replyTo(tag) !== undefined);
    t.equal(stampOf(), 2, 'the stamp is durable when the write is acknowledged (invariant 8)');
  }
  await world.close();
});

t.test('a write under a newer generation is stamped durably before it is acknowledged', async (t) => {
  const world = await World.create();
  const coordinator = await world.opened();
  await coordinator.write(0, blocks(1, 1));
  await coordinator.write(EXTENT_BYTES, blocks(1, 1));
  t.same(await coordinator.list(1), []);
  t.equal(await coordinator.write(BLOCK_BYTES, blocks(1, 2), { generation: 5 }), STATUS.OK);
  t.same(await coordinator.list(1), [0]);
  t.same(await coordinator.list(0), [0, 1]);
  await world.crash();
  const later = await world.coordinator();
  await later.open(2);
  t.same(await later.list(4), [0], 'the stamp survived (invariant 8)');
  t.equal(world.drive().stats().hotRegions, 1);
  await world.close();
});

t.test('an older generation than the segment has seen is refused', async (t) => {
  const world = await World.create();
  const coordinator = await world.opened();
  t.equal(await coordinator.write(0, blocks(1, 1), { generation: 3 }), STATUS.OK);
  t.equal(await coordinator.write(EXTENT_BYTES, blocks(1, 1), { generation: 2 }), STATUS.BAD_REQUEST);
  t.equal(await coordinator.trim(0, { generation: 2 }), STATUS.BAD_REQUEST);
  t.same(await coordinator.list(), [0]);
  await world.close();
});

t.test('TRIM of a whole extent frees its slot, which is zero before it is used again', async (t) => {
  const world = await World.create({ slotCount: 5 });
  const coordinator = await world.opened();
  for (let extent = 0; extent < 4; extent++) await coordinator.write(extent * EXTENT_BYTES, blocks(32, 7));
  t.equal(await coordinator.write(4 * EXTENT_BYTES, blocks(1, 1)), STATUS.NO_SPACE);
  t.equal(await coordinator.trim(2), STATUS.OK);
  t.ok(isSame(await coordinator.read(2 * EXTENT_BYTES, EXTENT_BYTES), new Uint8Array(EXTENT_BYTES)));
  t.equal(await coordinator.write(9 * EXTENT_BYTES, blocks(1, 9)), STATUS.OK, 'it waits for the slot being freed');
  t.ok(
    isSame(await coordinator.read(9 * EXTENT_BYTES + BLOCK_BYTES, 31 * BLOCK_BYTES), new Uint8Array(31 * BLOCK_BYTES)),
  );
  t.same(await coordinator.list(), [0, 1, 3, 9]);
  await world.close();
});

t.test('NO_SPACE changes nothing', async (t) => {
  const world = await World.create({ slotCount: 2 });
  const coordinator = await world.opened();
  await coordinator.write(0, blocks(1, 1));
  const before = world.drive().stats();
  t.equal(await coordinator.write(REGION_BYTES, blocks(1, 1), { generation: 9 }), STATUS.NO_SPACE);
  t.match(world.drive().stats(), { hotRegions: before.hotRegions, commits: before.commits, freeSlots: 0 });
  t.same(await coordinator.list(1), []);
  await world.close();
});

t.test('TRIM leaves a tombstone when asked, until it is purged', async (t) => {
  const world = await World.create();
  const coordinator = await world.opened();
  await coordinator.write(0, blocks(1, 1));
  t.equal(await coordinator.trim(0, { flags: FLAG.TOMBSTONE, generation: 2 }), STATUS.OK);
  t.equal(await coordinator.trim(5, { flags: FLAG.TOMBSTONE, generation: 2 }), STATUS.OK, 'also where nothing was');
  t.same(await coordinator.list(1), [0, 5]);
  t.same(await coordinator.list(1, true), [], 'tombstones are no data');
  const commits = world.drive().stats().commits;
  t.equal(await coordinator.trim(5, { flags: FLAG.TOMBSTONE, generation: 2 }), STATUS.OK);
  t.equal(await coordinator.trim(6, { generation: 2 }), STATUS.OK);
  t.equal(world.drive().stats().commits, commits, 'what changes nothing commits nothing');
  await world.crash();
  const later = await world.coordinator();
  await later.open(2, [{ generation: 2 }]);
  t.same(await later.list(1), [0, 5], 'tombstones are durable');
  t.equal(await later.status(OPCODE.PURGE_TOMBSTONES, { generation: 1 }), STATUS.OK);
  t.same(await later.list(1), [0, 5], 'younger ones stay: a copy that was lost since may need them');
  t.equal(await later.status(OPCODE.PURGE_TOMBSTONES, { generation: 2 }), STATUS.OK);
  t.same(await later.list(), []);
  t.equal(await later.write(0, blocks(1, 3), { generation: 2 }), STATUS.OK);
  t.same(await later.list(), [0]);
  await world.close();
});

t.test('ZERO and TRIM of a part zero it, keep the slot, and allocate none', async (t) => {
  const world = await World.create();
  const coordinator = await world.opened();
  for (const opcode of [OPCODE.ZERO, OPCODE.TRIM]) {
    for (const flags of [0, FLAG.FUA]) {
      await coordinator.write(0, blocks(32, 3));
      t.equal(await coordinator.status(opcode, { offset: 4 * BLOCK_BYTES, length: 8 * BLOCK_BYTES, flags }), STATUS.OK);
      t.ok(isSame(await coordinator.read(4 * BLOCK_BYTES, 8 * BLOCK_BYTES), new Uint8Array(8 * BLOCK_BYTES)));
      t.ok(
        isSame(
          await coordinator.read(12 * BLOCK_BYTES, BLOCK_BYTES),
          blocks(32, 3).subarray(12 * BLOCK_BYTES, 13 * BLOCK_BYTES),
        ),
      );
    }
  }
  t.equal(await coordinator.status(OPCODE.ZERO, { length: EXTENT_BYTES }), STATUS.OK);
  t.same(await coordinator.list(), [0], 'ZERO of a whole extent keeps the slot');
  t.equal(await coordinator.status(OPCODE.ZERO, { offset: EXTENT_BYTES, length: EXTENT_BYTES }), STATUS.OK);
  t.equal(
    await coordinator.status(OPCODE.ZERO, {
      offset: EXTENT_BYTES,
      length: BLOCK_BYTES,
      flags: FLAG.TOMBSTONE,
      generation: 4,
    }),
    STATUS.OK,
  );
  t.same(await coordinator.list(3), [1], 'a zeroed extent without a slot is stamped when some replica is stale');
  t.equal(await coordinator.status(OPCODE.ZERO, { length: BLOCK_BYTES, generation: 5 }), STATUS.OK);
  t.same(await coordinator.list(4), [0], 'zeroing stamps (invariant 8)');
  await world.close();
});

t.test('CHECKSUM answers what is on the drive', async (t) => {
  const world = await World.create();
  const coordinator = await world.opened();
  await coordinator.write(BLOCK_BYTES, blocks(1, 77));
  const { frame, payload } = await coordinator.call(OPCODE.CHECKSUM, { length: EXTENT_BYTES });
  t.match(frame, { status: STATUS.OK, payloadLength: 136 });
  const { stamp, known, sums } = decodeExtentSums(payload);
  t.same([stamp, known], [1, ALL_KNOWN]);
  t.same([...sums.subarray(0, 2)], [ZERO_BLOCK_CRC32C, crc32c(blocks(1, 77))]);
  const none = await coordinator.call(OPCODE.CHECKSUM, { offset: EXTENT_BYTES, length: EXTENT_BYTES });
  t.match(none.frame, { status: STATUS.OK, flags: FLAG.ZEROES, payloadLength: 0 });
  t.equal(await coordinator.status(OPCODE.CHECKSUM, { length: BLOCK_BYTES }), STATUS.BAD_REQUEST);
  await world.close();
});

t.test('reads wait for buffers in order, and land in the buffer that a local coordinator gives', async (t) => {
  const world = await World.create({ peerPoolBytes: 256 * KIB });
  const coordinator = await world.opened();
  for (let extent = 0; extent < 8; extent++) await coordinator.write(extent * EXTENT_BYTES, blocks(32, extent));
  const tags = Array.from({ length: 8 }, (_, extent) =>
    coordinator.send(OPCODE.READ, { offset: extent * EXTENT_BYTES, length: EXTENT_BYTES }),
  );
  const checks = Array.from({ length: 8 }, (_, extent) =>
    coordinator.send(OPCODE.CHECKSUM, { offset: extent * EXTENT_BYTES, length: EXTENT_BYTES }),
  );
  for (const [extent, tag] of tags.entries()) t.ok(isSame((await coordinator.reply(tag)).payload, blocks(32, extent)));
  for (const tag of checks) t.equal((await coordinator.reply(tag)).frame.status, STATUS.OK);
  t.equal(world.slab.usedBytes(POOL_PEER), 0);

  const buffer = world.slab.alloc(EXTENT_BYTES, POOL_FRONTEND);
  world.slab.retain(buffer);
  const reply = await coordinator.call(OPCODE.READ, { offset: EXTENT_BYTES, length: 2 * BLOCK_BYTES, buffer });
  t.ok(isSame(reply.payload, blocks(2, 1)));
  t.ok(isSame(world.slab.bytes(buffer, 0, 2 * BLOCK_BYTES), blocks(2, 1)));
  await coordinator.call(OPCODE.READ, { offset: 100 * EXTENT_BYTES, length: BLOCK_BYTES, buffer });
  await world.close();
});

t.test('FUA is durable when acknowledged, and so is everything before a FLUSH', async (t) => {
  const world = await World.create();
  const coordinator = await world.opened();
  t.equal(await coordinator.write(0, blocks(32, 1), { flags: FLAG.FUA }), STATUS.OK);
  for (let extent = 1; extent < 8; extent++) await coordinator.write(extent * EXTENT_BYTES, blocks(32, extent + 1));
  t.equal(await coordinator.status(OPCODE.ZERO, { offset: 7 * EXTENT_BYTES, length: EXTENT_BYTES }), STATUS.OK);
  t.equal(await coordinator.status(OPCODE.FLUSH), STATUS.OK);
  t.equal(
    await coordinator.status(OPCODE.ZERO, { offset: 6 * EXTENT_BYTES, length: BLOCK_BYTES, flags: FLAG.FUA }),
    STATUS.OK,
  );
  await world.crash();
  const later = await world.coordinator();
  await later.open(2);
  for (let extent = 0; extent < 6; extent++)
    t.ok(isSame(await later.read(extent * EXTENT_BYTES, EXTENT_BYTES), blocks(32, extent + 1)));
  t.ok(isSame(await later.read(6 * EXTENT_BYTES, BLOCK_BYTES), new Uint8Array(BLOCK_BYTES)));
  t.ok(isSame(await later.read(7 * EXTENT_BYTES, EXTENT_BYTES), new Uint8Array(EXTENT_BYTES)));
  await world.close();
});

t.test('a FLUSH covers what was acknowledged while another was under way', async (t) => {
  for (let seed = 0; seed < 25; seed++) {
    const world = await World.create({ seed });
    const coordinator = await world.opened();
    await coordinator.write(0, blocks(8, 1), { flags: FLAG.FUA });
    const write = coordinator.send(OPCODE.WRITE, { payload: blocks(8, 50) });
    coordinator.send(OPCODE.FLUSH);
    t.equal((await coordinator.reply(write)).frame.status, STATUS.OK);
    t.equal(await coordinator.status(OPCODE.FLUSH), STATUS.OK);
    await world.crash();
    t.ok(isSame(world.media().disk.peek(EXTENT_BYTES, 8 * BLOCK_BYTES), blocks(8, 50)), `seed ${seed}`);
    await world.close();
  }
});

t.test('LIST_EXTENTS is paged so that a reply fits a frame', async (t) => {
  const world = await World.create({ slotCount: 40 });
  const coordinator = await world.opened({ sizeBytes: 4 * GIB });
  for (const extent of [0, 1, 26_000, 32_767]) await coordinator.write(extent * EXTENT_BYTES, blocks(1, 1));
  const ask = async (from: number) => {
    const reply = await coordinator.call(OPCODE.LIST_EXTENTS, {
      payload: braid.ListExtentsRequest.encode({ from }).finish(),
    });
    return braid.ListExtentsReply.decode(reply.payload);
  };
  t.match(await ask(0), { extents: [0, 1, 26_000, 32_767], next: 0 });
  t.match(await ask(2), { extents: [26_000, 32_767], next: 0 });
  t.match(await ask(40_000), { extents: [], next: 0 });
  await world.close();
});

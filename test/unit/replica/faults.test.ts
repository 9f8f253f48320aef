/** Drives that fail, lie, stall or are full. */
import t from 'tap';
import { BraidError } from '../../../daemon/base/errors.js';
import { limits } from '../../../daemon/base/limits.js';
import { BLOCK_BYTES, EXTENT_BYTES, REGION_BYTES } from '../../../daemon/base/units.js';
import { FLAG, OPCODE, STATUS } from '../../../daemon/protocol/frame.js';
import { epochKey, extentKey, layoutKey, uuidToBytes } from '../../../daemon/format/keys.js';
import type { VolumeId } from '../../../daemon/base/ids.js';
import { must } from '../../../daemon/base/assert.js';
import { blocks, type Coordinator, isSame, VOLUME, World } from './harness.js';

const volume = uuidToBytes(VOLUME);

function layoutOf(world: World): unknown {
  const replica = must(world.drive().replicaOf(VOLUME as VolumeId, 0), 'the replica');
  return world.drive().layoutOf(replica);
}

t.test('data that does not match its checksum is never returned, and a rewrite repairs it', async (t) => {
  const world = await World.create();
  const owner = await world.opened();
  await owner.write(0, blocks(32, 1));
  const { disk } = world.media();
  disk.flipBit(EXTENT_BYTES + 3 * BLOCK_BYTES + 17, 2);
  t.equal(await owner.status(OPCODE.READ, { length: EXTENT_BYTES }), STATUS.CHECKSUM_MISMATCH);
  const { frame, payload } = await owner.call(OPCODE.READ, { offset: 3 * BLOCK_BYTES, length: BLOCK_BYTES });
  t.match(frame, { status: STATUS.CHECKSUM_MISMATCH, payloadLength: 0 });
  t.equal(payload.length, 0);
  t.equal(await owner.status(OPCODE.CHECKSUM, { length: EXTENT_BYTES }), STATUS.CHECKSUM_MISMATCH);
  t.ok(isSame(await owner.read(0, 3 * BLOCK_BYTES), blocks(3, 1)), 'other blocks are fine');
  t.equal(world.log.lines.filter((line) => line.includes('checksum')).length, 1, 'logged once per block');
  t.equal(world.drive().stats().checksumMismatches, 3);
  t.equal(await owner.write(3 * BLOCK_BYTES, blocks(1, 4)), STATUS.OK);
  t.ok(isSame(await owner.read(0, EXTENT_BYTES), blocks(32, 1)));
  await world.close();
});

t.test('checksums of cold regions survive a restart, those of hot ones are forgotten', async (t) => {
  const world = await World.create();
  const owner = await world.opened();
  await owner.write(0, blocks(32, 1));
  await owner.write(REGION_BYTES, blocks(32, 2));
  t.equal(await owner.cool([0]), STATUS.OK);
  await owner.status(OPCODE.FLUSH);
  await world.kill();
  const { disk } = world.media();
  disk.flipBit(EXTENT_BYTES, 0);
  disk.flipBit(2 * EXTENT_BYTES, 0);
  const later = await world.coordinator();
  await later.open(2);
  t.equal(await later.status(OPCODE.READ, { length: BLOCK_BYTES }), STATUS.CHECKSUM_MISMATCH);
  t.equal(
    await later.status(OPCODE.READ, { offset: REGION_BYTES, length: BLOCK_BYTES }),
    STATUS.OK,
    'nobody knows what it should be',
  );
  // The region cools without having been written: its records must not bring back what was true before the crash.
  t.equal(await later.cool([1]), STATUS.OK);
  t.equal(await later.status(OPCODE.READ, { offset: REGION_BYTES, length: BLOCK_BYTES }), STATUS.OK);
  await world.kill();
  const last = await world.coordinator();
  await last.open(3);
  t.equal(await last.status(OPCODE.READ, { offset: REGION_BYTES, length: BLOCK_BYTES }), STATUS.OK);
  await world.close();
});

t.test('a block that cannot be read is IO_ERROR; the drive serves on', async (t) => {
  const world = await World.create();
  const owner = await world.opened();
  await owner.write(0, blocks(2, 1));
  const { disk } = world.media();
  disk.fail('read', EXTENT_BYTES, BLOCK_BYTES);
  t.equal(await owner.status(OPCODE.READ, { length: BLOCK_BYTES }), STATUS.IO_ERROR);
  t.ok(isSame(await owner.read(BLOCK_BYTES, BLOCK_BYTES), blocks(1, 2)));
  disk.repair();
  t.ok(isSame(await owner.read(0, BLOCK_BYTES), blocks(1, 1)));
  t.match(world.drive().stats(), { read: { operations: 3, errors: 1, bytes: 2 * BLOCK_BYTES } });
  t.ok(world.drive().isServing);
  await world.close();
});

const NAMES = { [OPCODE.WRITE]: 'WRITE', [OPCODE.ZERO]: 'ZERO', [OPCODE.TRIM]: 'TRIM' };

for (const opcode of [OPCODE.WRITE, OPCODE.ZERO, OPCODE.TRIM]) {
  t.test(`a ${NAMES[opcode]} that fails with EIO fails the drive, and is not judged by a checksum later`, async (t) => {
    const world = await World.create();
    const owner = await world.opened();
    await owner.write(0, blocks(2, 1));
    const { disk } = world.media();
    disk.fail('write', EXTENT_BYTES, BLOCK_BYTES);
    const payload = opcode === OPCODE.WRITE ? { payload: blocks(1, 9) } : {};
    t.equal(await owner.status(opcode, { length: BLOCK_BYTES, ...payload }), STATUS.IO_ERROR);
    t.match(world.failures, [/a write failed with an I\/O error/]);
    t.notOk(world.drive().isServing);
    t.equal(await owner.status(OPCODE.READ, { length: BLOCK_BYTES }), STATUS.IO_ERROR, 'nothing is trusted any more');
    disk.repair();
    await world.run(world.server.removeDrive(world.driveId));
    world.server.addDrive(await world.run(world.openDrive(world.driveId)));
    const later = await world.coordinator();
    t.match((await later.open(2)).segments, [{ status: STATUS.OK, hotRegions: [0] }]);
    t.ok(isSame(await later.read(0, 2 * BLOCK_BYTES), blocks(2, 1)));
    await world.close();
  });
}

t.test('a drive whose file vanished fails, though it can be written to', async (t) => {
  const world = await World.create();
  const owner = await world.opened();
  await owner.write(0, blocks(1, 1));
  await world.forMs(2 * limits.driveCheckMs);
  t.ok(world.drive().isServing);
  world.media().disk.problem = '/drive/data has vanished';
  const later = await world.coordinator();
  await later.open(2);
  t.equal(await later.write(0, blocks(1, 1)), STATUS.OK);
  await world.until(() => world.failures.length > 0, 'it has failed');
  t.match(world.failures, [/\/drive\/data has vanished/]);
  t.equal(await later.write(0, blocks(1, 1)), STATUS.IO_ERROR);
  await world.close();
});

t.test('metadata that cannot be read any more fails the drive, not the agent', async (t) => {
  const damage = new BraidError('CORRUPT', 'a page is garbage');
  const asks: Record<string, (owner: Coordinator) => number> = {
    'the checksums of a cold region': (owner) => owner.send(OPCODE.READ, { length: BLOCK_BYTES }),
    'the record of an extent that is stamped anew': (owner) =>
      owner.send(OPCODE.WRITE, { payload: blocks(1, 1), generation: 2 }),
    'the epoch': (owner) => owner.send(OPCODE.OPEN, { payload: owner.openPayload(2, [{}]) }),
  };
  for (const [what, ask] of Object.entries(asks)) {
    const world = await World.create();
    const owner = await world.opened();
    await owner.write(0, blocks(1, 1));
    await owner.cool([0]);
    await world.kill();
    const later = await world.coordinator();
    await later.open(1);
    world.media().meta.damage = damage;
    const tag = ask(later);
    await world.until(() => later.replyTo(tag) !== undefined, `${what}: it is answered`);
    await world.until(() => world.failures.length > 0, `${what}: the drive has failed`);
    t.match(world.failures, [/a page is garbage/], what);
    world.media().meta.damage = null;
    await world.close();
  }
});

t.test('stored garbage that comes up later fails the drive, not the agent', async (t) => {
  const damages: Record<string, { key: Uint8Array; ask: (world: World, owner: Coordinator) => unknown }> = {
    'an epoch': {
      key: epochKey(volume),
      ask: (_world, owner) => owner.send(OPCODE.OPEN, { payload: owner.openPayload(2, [{}]) }),
    },
    'an extent': {
      key: extentKey(volume, 0, 0),
      ask: (_world, owner) => owner.send(OPCODE.READ, { length: BLOCK_BYTES }),
    },
    'a layout': { key: layoutKey(volume, 0), ask: layoutOf },
  };
  for (const [what, { key, ask }] of Object.entries(damages)) {
    const world = await World.create();
    const owner = await world.opened();
    await owner.write(0, blocks(1, 1));
    await owner.cool([0]);
    await world.kill();
    const later = await world.coordinator();
    await later.open(1);
    world.media().meta.apply([{ key, value: new Uint8Array(3) }]);
    ask(world, later);
    await world.until(() => world.failures.length > 0, `${what}: the drive has failed`);
    t.match(world.failures, [/damaged/], what);
    await world.close();
  }
});

t.test('a full file system under a sparse data area is NO_SPACE', async (t) => {
  const world = await World.create();
  const owner = await world.opened();
  world.media().disk.isFull = true;
  t.equal(await owner.write(0, blocks(1, 1)), STATUS.NO_SPACE);
  world.media().disk.isFull = false;
  t.equal(await owner.write(0, blocks(1, 1)), STATUS.OK);
  await world.close();
});

t.test('a freed slot that cannot be zeroed is not used again', async (t) => {
  const world = await World.create({ slotCount: 3 });
  const owner = await world.opened();
  await owner.write(0, blocks(32, 1));
  await owner.write(EXTENT_BYTES, blocks(32, 1));
  world.media().disk.fail('write', EXTENT_BYTES, EXTENT_BYTES);
  t.equal(await owner.trim(0), STATUS.OK, 'the extent is unmapped all the same');
  t.equal(await owner.write(5 * EXTENT_BYTES, blocks(1, 1)), STATUS.NO_SPACE);
  world.media().disk.repair();
  await world.crash();
  const later = await world.coordinator();
  await later.open(2);
  await world.until(() => world.drive().stats().freeSlots === 1);
  t.equal(await later.write(5 * EXTENT_BYTES, blocks(1, 1)), STATUS.OK);
  t.ok(isSame(await later.read(5 * EXTENT_BYTES + BLOCK_BYTES, BLOCK_BYTES), new Uint8Array(BLOCK_BYTES)));
  await world.close();
});

t.test('a metadata error fails the drive, not the agent', async (t) => {
  const world = await World.create({ drives: 2 });
  const owner = await world.coordinator();
  const on = (index: number) => ({ index, driveId: world.driveIds[index] as string });
  await owner.open(1, [on(0), on(1)]);
  await owner.write(0, blocks(1, 1));
  await owner.write(0, blocks(1, 1), { segment: 1 });
  world.media(0).meta.failure = new BraidError('DRIVE', 'no space left in the environment');
  const tags = [1, 2, 3].map((extent) =>
    owner.send(OPCODE.WRITE, { offset: extent * EXTENT_BYTES, payload: blocks(1, 1) }),
  );
  for (const tag of tags) t.equal((await owner.reply(tag)).frame.status, STATUS.IO_ERROR);
  t.match(world.failures, [/metadata cannot be written: no space left/]);
  t.equal(await owner.write(0, blocks(1, 1)), STATUS.IO_ERROR, 'hot as it is');
  t.equal(await owner.status(OPCODE.READ, { length: BLOCK_BYTES }), STATUS.IO_ERROR);
  t.equal(await owner.cool([0]), STATUS.IO_ERROR);
  t.equal(await owner.write(0, blocks(1, 2), { segment: 1 }), STATUS.OK, 'the other drive serves on');
  const flush = await owner.call(OPCODE.FLUSH);
  t.match(flush.frame, { status: STATUS.IO_ERROR, segment: 0 }, 'names a segment on the failed drive');
  t.match((await owner.open(1, [on(0)])).segments, [{ index: 0, status: STATUS.IO_ERROR }]);
  t.equal(await owner.status(OPCODE.FLUSH), STATUS.OK, 'its segment has left the session');
  await world.close();
});

t.test('a drive that does not answer in time has failed, and its late answers hurt nobody', async (t) => {
  const world = await World.create();
  const owner = await world.opened();
  for (let extent = 0; extent < 3; extent++) await owner.write(extent * EXTENT_BYTES, blocks(32, extent));
  const disk = world.media().disk.user;
  disk?.stall();
  const tags = [
    owner.send(OPCODE.WRITE, { payload: blocks(1, 9) }),
    owner.send(OPCODE.READ, { offset: EXTENT_BYTES, length: EXTENT_BYTES }),
    owner.send(OPCODE.ZERO, { offset: 2 * EXTENT_BYTES, length: BLOCK_BYTES, flags: FLAG.FUA }),
    owner.send(OPCODE.FLUSH),
  ];
  const startMs = world.clock.nowMs();
  while (world.clock.nowMs() < startMs + limits.driveTimeoutMs + 2_500) {
    await owner.status(OPCODE.PING);
    await world.forMs(500);
    if (world.clock.nowMs() < startMs + limits.driveTimeoutMs)
      t.ok(tags.every((tag) => owner.replyTo(tag) === undefined));
  }
  for (const tag of tags) t.equal((await owner.reply(tag)).frame.status, STATUS.IO_ERROR);
  t.match(world.failures, [/did not end within 10000 ms/]);
  t.equal(world.server.load().operations, 3, 'slots stay taken while the drive may touch their buffers');
  const next = await world.coordinator();
  t.match((await next.open(2)).segments, [{ status: STATUS.IO_ERROR }], 'a failed drive holds nobody up');
  disk?.resume();
  t.equal(world.server.load().operations, 0);
  await world.close();
});

t.test('a failed flush fails the drive: its cache may be lost', async (t) => {
  const world = await World.create();
  const owner = await world.opened();
  await owner.write(0, blocks(1, 1));
  world.media().disk.fail('flush', 0, EXTENT_BYTES);
  t.equal(await owner.status(OPCODE.FLUSH), STATUS.IO_ERROR);
  t.notOk(world.drive().isServing);
  await world.close();
});

t.test('so does one that only the drive itself asked for: to cool a region, or to free a slot', async (t) => {
  for (const ask of [(owner: Coordinator) => owner.cool([0]), (owner: Coordinator) => owner.trim(0)]) {
    const world = await World.create();
    const owner = await world.opened();
    await owner.write(0, blocks(32, 1));
    world.media().disk.fail('flush', 0, EXTENT_BYTES);
    await ask(owner);
    await world.until(() => !world.drive().isServing, 'the drive has failed');
    t.match(world.failures, [/a flush failed/]);
    await world.close();
  }
});

t.test('a slot that cannot be zeroed is out of use until it can be', async (t) => {
  const world = await World.create();
  const owner = await world.opened();
  await owner.write(0, blocks(32, 1));
  const { freeSlots } = world.drive().stats();
  const { disk } = world.media();
  disk.fail('write', 0, disk.sizeBytes);
  await owner.trim(0);
  await world.forMs(1_000);
  t.equal(world.drive().stats().freeSlots, freeSlots, 'it is not free');
  t.ok(world.drive().isServing);
  disk.repair();
  await world.until(() => world.drive().stats().freeSlots === freeSlots + 1, 'it is tried again');
  await world.close();
});

t.test('a drive is removed in the middle of work, and added again', async (t) => {
  const world = await World.create();
  const owner = await world.opened();
  await owner.write(0, blocks(32, 1));
  const tags = [];
  for (let count = 0; count < 10; count++) {
    tags.push(owner.send(OPCODE.WRITE, { offset: count * REGION_BYTES, payload: blocks(1, count) }));
    tags.push(owner.send(OPCODE.ZERO, { length: BLOCK_BYTES, flags: FLAG.FUA }));
    tags.push(owner.send(OPCODE.READ, { length: EXTENT_BYTES }));
  }
  await world.step();
  await world.run(world.server.removeDrive(world.driveId));
  for (const tag of tags) await owner.reply(tag);
  t.equal(await owner.write(0, blocks(1, 1)), STATUS.BAD_REQUEST);
  t.match((await owner.open(1)).segments, [{ status: STATUS.NOT_FOUND }]);
  world.server.addDrive(await world.run(world.openDrive(world.driveId)));
  t.match((await owner.open(1)).segments, [{ status: STATUS.OK }]);
  t.equal(await owner.write(0, blocks(1, 1)), STATUS.OK);
  await world.close();
});

/** Opening a drive: what is refused, with what to do, and what is mended. */
import t from 'tap';
import { BraidError } from '../../../daemon/base/errors.js';
import { EXTENT_BYTES } from '../../../daemon/base/units.js';
import {
  activityKey,
  epochKey,
  extentKey,
  freedKey,
  layoutKey,
  SUPERBLOCK_KEY,
  uuidToBytes,
} from '../../../daemon/format/keys.js';
import {
  decodeSuperblock,
  encodeLayout,
  encodeSuperblock,
  encodeTombstone,
  FORMAT_VERSION,
} from '../../../daemon/format/records.js';
import { STATUS } from '../../../daemon/protocol/frame.js';
import { ReplicaDrive } from '../../../daemon/replica/drive.js';
import { SimDiskMedia } from '../../sim/world/sim-disk.js';
import { blocks, CLUSTER, directoryOf, isSame, OTHER_VOLUME, VOLUME, World } from './harness.js';

/** A drive that holds two extents, and is not open. */
async function closedDrive(): Promise<World> {
  const world = await World.create({ slotCount: 9 });
  const owner = await world.opened();
  // Backwards: nothing is mapped ahead.
  await owner.write(EXTENT_BYTES, blocks(32, 2));
  await owner.write(0, blocks(32, 1));
  await world.run(world.server.removeDrive(world.driveId));
  return world;
}

const volume = uuidToBytes(VOLUME);

/** An extent record that names `slot`. */
function record(slot: number, stamp = 1): Uint8Array {
  const value = encodeTombstone(stamp);
  new DataView(value.buffer).setUint32(0, slot, true);
  return value;
}

const superblock = { formatVersion: FORMAT_VERSION, slotCount: 9, driveId: CLUSTER, clusterId: CLUSTER, createdMs: 5 };

t.test('refuses what does not belong here or cannot be right, and says what to do', async (t) => {
  type Operations = { key: Uint8Array; value: Uint8Array | null }[];
  const damages: [what: string, operations: (driveId: string) => Operations, message: RegExp][] = [
    ['no superblock', () => [{ key: SUPERBLOCK_KEY, value: null }], /no superblock.*add it as a new drive/],
    ['a foreign one', () => [{ key: SUPERBLOCK_KEY, value: new Uint8Array(64) }], /something else than Braid/],
    [
      'a damaged one',
      (driveId) => [{ key: SUPERBLOCK_KEY, value: encodeSuperblock({ ...superblock, driveId }).fill(1, 20, 21) }],
      /damaged.*replace/,
    ],
    [
      'a newer format',
      (driveId) => [{ key: SUPERBLOCK_KEY, value: encodeSuperblock({ ...superblock, driveId, formatVersion: 2 }) }],
      /newer than this software: upgrade the agent/,
    ],
    [
      'a format that never was',
      (driveId) => [{ key: SUPERBLOCK_KEY, value: encodeSuperblock({ ...superblock, driveId, formatVersion: 0 }) }],
      /format version 0.*replace the drive/,
    ],
    [
      'another cluster',
      (driveId) => [
        { key: SUPERBLOCK_KEY, value: encodeSuperblock({ ...superblock, driveId, clusterId: OTHER_VOLUME }) },
      ],
      /belongs to cluster/,
    ],
    ['another drive', () => [{ key: SUPERBLOCK_KEY, value: encodeSuperblock(superblock) }], /correct the path/],
    [
      'a data area too small',
      (driveId) => [{ key: SUPERBLOCK_KEY, value: encodeSuperblock({ ...superblock, driveId, slotCount: 10 }) }],
      /what was cut off is lost/,
    ],
    [
      'a slot out of range',
      () => [{ key: extentKey(volume, 0, 7), value: record(9) }],
      /slot 9 is out of range or used twice/,
    ],
    [
      'a slot used twice',
      () => [{ key: extentKey(volume, 0, 7), value: record(1) }],
      /slot 1 is out of range or used twice/,
    ],
    ['a freed slot in use', () => [{ key: freedKey(2), value: new Uint8Array(0) }], /freed slot 2/],
    ['an extent beyond any segment', () => [{ key: extentKey(volume, 0, 32_768), value: record(5) }], /extent 32768/],
    ['an extent without a stamp', () => [{ key: extentKey(volume, 0, 7), value: record(5, 0) }], /no stamp/],
    ['a short record', () => [{ key: extentKey(volume, 0, 7), value: new Uint8Array(8) }], /record of extent 7/],
    [
      'a region beyond any segment',
      () => [{ key: activityKey(volume, 0, 1_024), value: new Uint8Array(16) }],
      /region 1024/,
    ],
    ['a short epoch', () => [{ key: epochKey(volume), value: new Uint8Array(3) }], /the epoch of volume aaaaaaaa/],
    ['a short layout', () => [{ key: layoutKey(volume, 0), value: new Uint8Array(3) }], /the layout of segment 0/],
    [
      'a short boot id',
      () => [{ key: activityKey(volume, 0, 0), value: new Uint8Array(3) }],
      /the boot id of region 0/,
    ],
    [
      'a key cut short',
      () => [{ key: extentKey(volume, 0, 7).slice(0, 20), value: record(5) }],
      /a key of 20 bytes in table 3/,
    ],
    [
      'a segment beyond any volume',
      () => [{ key: layoutKey(volume, 65_536), value: encodeLayout(1, new Uint8Array(0)) }],
      /segment 65536/,
    ],
  ];
  for (const [what, operations, message] of damages) {
    const world = await closedDrive();
    const { meta, disk } = world.media();
    meta.apply(operations(world.driveId));
    await t.rejects(world.run(world.openDrive(world.driveId)), { message }, what);
    t.ok(meta.user === null && disk.user === null, `${what}: nothing stays open`);
  }
});

t.test('refuses a missing store and a missing data area', async (t) => {
  const world = await closedDrive();
  await t.rejects(world.run(world.openDrive(world.random.uuid() as never)), BraidError);
  const directory = directoryOf(world.driveId);
  world.disks.attach(`${directory}/data`, new SimDiskMedia(EXTENT_BYTES));
  await t.rejects(world.run(world.openDrive(world.driveId)), /what was cut off is lost/);
  t.equal(world.media().meta.user, null);
});

t.test('format writes the superblock once', async (t) => {
  const world = await closedDrive();
  const { meta } = world.media();
  t.match(decodeSuperblock(meta.get(SUPERBLOCK_KEY) ?? new Uint8Array(0)), {
    driveId: world.driveId,
    clusterId: CLUSTER,
    slotCount: 9,
  });
  const format = {
    directory: directoryOf(world.driveId),
    metas: world.metas,
    clusterId: CLUSTER,
    driveId: world.driveId,
    slotCount: 9,
    nowMs: 1,
  };
  await t.rejects(world.run(ReplicaDrive.format(format)), /holds a drive already/);
  await t.rejects(world.run(ReplicaDrive.format({ ...format, directory: '/new', slotCount: 1 })), /at least 2 extents/);
  await t.rejects(world.run(ReplicaDrive.format({ ...format, directory: '/new', driveId: 'd1' })), /UUID/);
});

t.test('punches freed slots again before they are used', async (t) => {
  const world = await closedDrive();
  const { meta, disk } = world.media();
  disk.put(3 * EXTENT_BYTES, EXTENT_BYTES, blocks(32, 9), true);
  meta.apply([{ key: freedKey(3), value: new Uint8Array(0) }]);
  world.server.addDrive(await world.run(world.openDrive(world.driveId)));
  t.equal(world.drive().stats().freeSlots, 5);
  await world.until(() => world.drive().stats().freeSlots === 6);
  t.ok(isSame(disk.peek(3 * EXTENT_BYTES, EXTENT_BYTES), new Uint8Array(EXTENT_BYTES)));
  await world.until(() => meta.get(freedKey(3)) === null);
  const owner = await world.coordinator();
  t.match((await owner.open(2)).segments, [{ status: STATUS.OK, extents: 2 }]);
  await world.close();
});

t.test('a replica whose stored extents do not fit its segment is not opened', async (t) => {
  const world = await closedDrive();
  world.server.addDrive(await world.run(world.openDrive(world.driveId)));
  const owner = await world.coordinator();
  t.match((await owner.open(2, [{ sizeBytes: EXTENT_BYTES }])).segments, [{ status: STATUS.BAD_REQUEST }]);
  t.match((await owner.open(2)).segments, [{ status: STATUS.OK, extents: 2 }]);
  await world.close();
});

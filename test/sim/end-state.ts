/**
 * What must be true of the drives when a volume is clean and idle, from what lies on them: all copies equal over their whole contents and as the
 * client saw them, no region left hot, every slot mapped once or free and zero, checksums right. And all of it survives lost power.
 */
import { assert, must } from '../../daemon/base/assert.js';
import { crc32c } from '../../daemon/base/crc32c.js';
import { BLOCK_BYTES, BLOCKS_PER_EXTENT, EXTENT_BYTES, SECTOR_BYTES } from '../../daemon/base/units.js';
import { VolumeLayout } from '../../daemon/coordinator/layout.js';
import { itemOfKey, segmentOfKey, TABLE, tablePrefix, volumeOfKey } from '../../daemon/format/keys.js';
import { extentChecksum, extentKnown, extentSlot } from '../../daemon/format/records.js';
import { records } from '../../daemon/protocol/records.js';
import { storeKeys } from '../../daemon/protocol/store.js';
import { sectorValues } from './client.js';
import type { Oracle } from './oracle.js';
import type { SimDiskMedia } from './world/sim-disk.js';
import type { SimMetaMedia } from './world/sim-meta-store.js';
import type { SimRandom } from './world/sim-random.js';
import type { SimWorld } from './world/sim-world.js';

const SECTORS_PER_EXTENT = EXTENT_BYTES / SECTOR_BYTES;
const NO_BYTES = new Uint8Array(EXTENT_BYTES);

/** A drive's extents that have a slot, by volume, segment and extent. */
type Mapped = Map<string, number>;

interface Drive {
  readonly name: string;
  readonly data: SimDiskMedia;
  readonly mapped: Mapped;
}

export class EndStateViolation extends Error {
  override readonly name = 'EndStateViolation';
}

function check(condition: boolean, message: () => string): void {
  if (!condition) throw new EndStateViolation(message());
}

/**
 * Whether no drive has a region in its activity log. The entry of a slot that was freed may be left: it goes with the drive's next commit, whenever
 * that is.
 */
export function isIdle(world: SimWorld): boolean {
  return hotRegions(world).length === 0;
}

function hotRegions(world: SimWorld): string[] {
  const found: string[] = [];
  for (const { name, meta } of world.drives()) {
    meta.scan(tablePrefix(TABLE.ACTIVITY), (key) => {
      found.push(`region ${segmentOfKey(key)}/${itemOfKey(key)} of ${volumeOfKey(key)} is hot on ${name}`);
    });
  }
  return found;
}

/** Throws `EndStateViolation` or `OracleViolation`. The clients' volume is the only one. */
export async function assertEndState(world: SimWorld, oracle: Oracle, random: SimRandom): Promise<void> {
  check(isIdle(world), () => hotRegions(world).join('; '));
  const leaks = await leakedSlots(world);
  check(leaks.length === 0, () => leaks.join('; '));
  const drives = new Map<string, Drive>();
  for (const { name, id, data, meta } of world.drives()) {
    data.losePower(random);
    drives.set(id, { name, data, mapped: mappedExtents(meta, data, name) });
  }
  assertCopies(world, oracle, drives);
}

/** Drives whose allocator does not count as free what no extent names: something is still being freed, or leaked. */
export async function leakedSlots(world: SimWorld): Promise<string[]> {
  const leaks: string[] = [];
  const served = await Promise.all(world.nodes.map(({ shard }) => shard.stats()));
  for (const { driveId, slotCount, slotsFree, hotRegions } of served.flatMap(({ drives }) => drives)) {
    const drive = world.drives().find(({ id }) => id === driveId);
    assert(drive !== undefined, 'a drive that is served is formatted');
    let mapped = 0;
    drive.meta.scan(tablePrefix(TABLE.EXTENT), (_, record) => {
      if (extentSlot(record) !== 0) mapped++;
    });
    check(hotRegions === 0, () => `${drive.name} has ${hotRegions} hot regions in memory`);
    // Slot 0 is never used.
    if (slotsFree !== slotCount - 1 - mapped)
      leaks.push(`${drive.name}: ${slotsFree} free and ${mapped} mapped of ${slotCount} slots`);
  }
  return leaks;
}

function mappedExtents(meta: SimMetaMedia, media: SimDiskMedia, name: string): Mapped {
  const mapped: Mapped = new Map();
  const used = new Set<number>();
  meta.scan(tablePrefix(TABLE.EXTENT), (key, record) => {
    const slot = extentSlot(record);
    if (slot === 0) return;
    check(!used.has(slot), () => `${name}: slot ${slot} is used twice`);
    used.add(slot);
    mapped.set(`${volumeOfKey(key)}/${segmentOfKey(key)}/${itemOfKey(key)}`, slot);
    assertChecksums(record, media.peek(slot * EXTENT_BYTES, EXTENT_BYTES), `${name}, slot ${slot}`);
  });
  for (const block of media.blocks()) {
    const slot = Math.floor(block / BLOCKS_PER_EXTENT);
    const isZero =
      used.has(slot) || isSame(media.peek(block * BLOCK_BYTES, BLOCK_BYTES), NO_BYTES.subarray(0, BLOCK_BYTES));
    check(isZero, () => `${name}: slot ${slot} is free and not zero`);
  }
  return mapped;
}

function assertChecksums(record: Uint8Array, bytes: Uint8Array, name: string): void {
  for (let block = 0; block < BLOCKS_PER_EXTENT; block++) {
    if (((extentKnown(record) >>> block) & 1) === 0) continue;
    const actual = crc32c(bytes.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES));
    check(actual === extentChecksum(record, block), () => `${name}, block ${block} does not match its stored checksum`);
  }
}

function assertCopies(world: SimWorld, oracle: Oracle, drives: ReadonlyMap<string, Drive>): void {
  const { storeState, volumeId } = world;
  const { volumeBytes, segmentBytes, stripeWidth } = world.options;
  const layout = new VolumeLayout(volumeBytes, segmentBytes, stripeWidth);
  const compared = new Map<Drive, number>();
  for (let offset = 0; offset < volumeBytes; offset += EXTENT_BYTES) {
    const index = layout.segmentOf(offset);
    const { key, value } = must(storeState.get(storeKeys.segment(volumeId, index)), 'the segment');
    const name = `${index}/${layout.offsetInSegment(offset) / EXTENT_BYTES}`;
    const copies = records.segment.decode(key, value).replicas.map(({ driveId }) => {
      const drive = must(drives.get(driveId), 'the drive of a copy');
      const slot = drive.mapped.get(`${volumeId}/${name}`) ?? 0;
      if (slot !== 0) compared.set(drive, (compared.get(drive) ?? 0) + 1);
      const bytes = slot === 0 ? NO_BYTES : drive.data.peek(slot * EXTENT_BYTES, EXTENT_BYTES);
      return { drive, bytes };
    });
    const first = must(copies[0], 'a copy');
    for (const { drive, bytes } of copies) {
      const message = () => `segment/extent ${name} differs between ${first.drive.name} and ${drive.name}`;
      check(isSame(bytes, first.bytes), message);
    }
    if (first.bytes === NO_BYTES && !oracle.knows(offset / SECTOR_BYTES, SECTORS_PER_EXTENT)) continue;
    for (const [sector, value] of sectorValues(first.bytes).entries())
      oracle.assertPossible(offset / SECTOR_BYTES + sector, value);
  }
  for (const drive of drives.values())
    check(
      drive.mapped.size === (compared.get(drive) ?? 0),
      () => `${drive.name} has extents of which it should have no copy`,
    );
}

function isSame(left: Uint8Array, right: Uint8Array): boolean {
  return left === right || Buffer.compare(left, right) === 0;
}

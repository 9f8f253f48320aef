/**
 * What must be true of the drives when a volume is clean and idle, from what lies on them: all copies equal over their whole contents and as the
 * client saw them, no region left hot, every slot mapped once or free and zero, checksums right. And all of it survives lost power.
 */
import { assert } from '../../daemon/base/assert.js';
import { crc32c } from '../../daemon/base/crc32c.js';
import { BLOCK_BYTES, BLOCKS_PER_EXTENT, EXTENT_BYTES, SECTOR_BYTES } from '../../daemon/base/units.js';
import { VolumeLayout } from '../../daemon/coordinator/layout.js';
import { itemOfKey, segmentOfKey, TABLE, tablePrefix } from '../../daemon/format/keys.js';
import { extentChecksum, extentKnown, extentSlot } from '../../daemon/format/records.js';
import { sectorValues } from './client.js';
import type { Oracle } from './oracle.js';
import type { SimDiskMedia } from './world/sim-disk.js';
import type { SimMetaMedia } from './world/sim-meta-store.js';
import type { SimRandom } from './world/sim-random.js';
import type { SimWorld } from './world/sim-world.js';

const SECTORS_PER_EXTENT = EXTENT_BYTES / SECTOR_BYTES;
const NO_BYTES = new Uint8Array(EXTENT_BYTES);

/** A drive's extents that have a slot, by segment and extent. */
type Mapped = Map<string, { readonly slot: number; readonly record: Uint8Array }>;

export class EndStateViolation extends Error {
  override readonly name = 'EndStateViolation';
}

function check(condition: boolean, message: () => string): void {
  if (!condition) throw new EndStateViolation(message());
}

/** Whether no drive has a region in its activity log, nor a freed slot that is not free yet. */
export function isIdle(world: SimWorld): boolean {
  return world.nodes.every((_, index) => {
    const meta = world.metaMedia(index);
    return count(meta, TABLE.ACTIVITY) === 0 && count(meta, TABLE.FREED) === 0;
  });
}

function count(meta: SimMetaMedia, table: number): number {
  let entries = 0;
  meta.scan(tablePrefix(table), () => entries++);
  return entries;
}

/** Throws `EndStateViolation` or `OracleViolation`. The volume has one whole set of copies, on the first nodes. */
export async function assertEndState(world: SimWorld, oracle: Oracle, random: SimRandom): Promise<void> {
  check(isIdle(world), () => 'a region is left hot, or a freed slot never became free');
  await assertFreeSlots(world);
  for (const index of world.nodes.keys()) world.media(index).losePower(random);
  const drives = world.nodes.map((_, index) =>
    mappedExtents(world.metaMedia(index), world.media(index), `node-${index}`),
  );
  assertCopies(world, oracle, drives);
}

/** The allocators count as free what no extent names. */
async function assertFreeSlots(world: SimWorld): Promise<void> {
  for (const [index, node] of world.nodes.entries()) {
    const { drives } = await node.shard.stats();
    let mapped = 0;
    world.metaMedia(index).scan(tablePrefix(TABLE.EXTENT), (_, record) => {
      if (extentSlot(record) !== 0) mapped++;
    });
    for (const { slotCount, slotsFree, hotRegions } of drives) {
      check(hotRegions === 0, () => `node-${index} has ${hotRegions} hot regions in memory`);
      // Slot 0 is never used.
      check(
        slotsFree === slotCount - 1 - mapped,
        () => `node-${index}: ${slotsFree} free and ${mapped} mapped of ${slotCount} slots`,
      );
    }
  }
}

function mappedExtents(meta: SimMetaMedia, media: SimDiskMedia, name: string): Mapped {
  const mapped: Mapped = new Map();
  const used = new Set<number>();
  meta.scan(tablePrefix(TABLE.EXTENT), (key, record) => {
    const slot = extentSlot(record);
    if (slot === 0) return;
    check(!used.has(slot), () => `${name}: slot ${slot} is used twice`);
    used.add(slot);
    mapped.set(`${segmentOfKey(key)}/${itemOfKey(key)}`, { slot, record });
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

function assertCopies(world: SimWorld, oracle: Oracle, drives: readonly Mapped[]): void {
  const { volumeBytes, segmentBytes, stripeWidth, replicas } = world.options;
  const layout = new VolumeLayout(volumeBytes, segmentBytes, stripeWidth);
  for (const [index, mapped] of drives.entries())
    check(index < replicas || mapped.size === 0, () => `node-${index} has no copy, and ${mapped.size} extents`);
  for (let offset = 0; offset < volumeBytes; offset += EXTENT_BYTES) {
    const name = `${layout.segmentOf(offset)}/${layout.offsetInSegment(offset) / EXTENT_BYTES}`;
    const copies = drives.slice(0, replicas).map((mapped, index) => {
      const slot = mapped.get(name)?.slot ?? 0;
      return slot === 0 ? NO_BYTES : world.media(index).peek(slot * EXTENT_BYTES, EXTENT_BYTES);
    });
    const [first] = copies;
    assert(first !== undefined, 'a volume has a copy');
    for (const [index, copy] of copies.entries())
      check(isSame(copy, first), () => `segment/extent ${name} differs between node-0 and node-${index}`);
    if (first === NO_BYTES && !oracle.knows(offset / SECTOR_BYTES, SECTORS_PER_EXTENT)) continue;
    for (const [sector, value] of sectorValues(first).entries())
      oracle.assertPossible(offset / SECTOR_BYTES + sector, value);
  }
}

function isSame(left: Uint8Array, right: Uint8Array): boolean {
  return left === right || Buffer.compare(left, right) === 0;
}

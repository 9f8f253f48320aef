/** The checks of the end state, and the watchdog, are checked, too: each fails where it must. */
import t from 'tap';
import { must } from '../../daemon/base/assert.js';
import { BLOCK_BYTES, BLOCKS_PER_EXTENT, EXTENT_BYTES } from '../../daemon/base/units.js';
import { extentKey, itemOfKey, TABLE, tablePrefix, uuidToBytes } from '../../daemon/format/keys.js';
import { encodeExtent, extentSlot } from '../../daemon/format/records.js';
import { assertEndState, EndStateViolation } from './end-state.js';
import { Faults } from './faults.js';
import { Oracle, OracleViolation } from './oracle.js';
import { ALL_COLD_MS, begin, ok, pass } from './story.js';
import { LivenessViolation, PROGRESS_MS_MAX, Watchdog } from './watchdog.js';
import { SimRandom } from './world/sim-random.js';
import type { SimMetaMedia } from './world/sim-meta-store.js';
import type { SimWorld } from './world/sim-world.js';

const EXTENT = 3;
const FILL = 7;
const OFFSET = EXTENT * EXTENT_BYTES;
const COPIES = [0, 1, 2];
/** A sector that is filled with a byte is, to the oracle, one with that number. */
const VALUE = FILL * 0x0101_0101;

/** A clean and idle volume with one extent, and an oracle that knows of it. */
async function idle() {
  const { world, client } = await begin();
  const oracle = new Oracle();
  oracle.writeStarted(1, VALUE, OFFSET, EXTENT_BYTES);
  await ok(t, world, client.write(OFFSET, EXTENT_BYTES, FILL));
  oracle.writeAcknowledged(1, false);
  await pass(world, ALL_COLD_MS);
  return { world, client, check: () => assertEndState(world, oracle, new SimRandom(1)) };
}

function metaOf(world: SimWorld, index: number): SimMetaMedia {
  return must(world.metaMedia(index), 'its metadata');
}

function slotOn(world: SimWorld, index: number): number {
  let slot = 0;
  metaOf(world, index).scan(tablePrefix(TABLE.EXTENT), (key, record) => {
    if (itemOfKey(key) === EXTENT) slot = extentSlot(record);
  });
  return slot;
}

/** Other contents on one copy, and no checksum that tells. */
function alter(world: SimWorld, index: number): void {
  const slot = slotOn(world, index);
  world.media(index).put(slot * EXTENT_BYTES, EXTENT_BYTES, new Uint8Array(EXTENT_BYTES).fill(FILL + 1), true);
  const value = encodeExtent(slot, 1, 0, new Uint32Array(BLOCKS_PER_EXTENT), 0);
  metaOf(world, index).apply([{ key: extentKey(uuidToBytes(world.volumeId), 0, EXTENT), value }]);
}

await t.test('a volume that is clean and idle passes', async (t) => {
  const { check } = await idle();
  await t.resolves(check());
});

await t.test('copies that differ', async (t) => {
  const { world, check } = await idle();
  alter(world, 1);
  await t.rejects(check(), new EndStateViolation('segment/extent 0/3 differs between node-0:/drive and node-1:/drive'));
});

await t.test('copies that are equal, and not what the client wrote', async (t) => {
  const { world, check } = await idle();
  for (const index of COPIES) alter(world, index);
  await t.rejects(check(), OracleViolation);
});

await t.test('an extent that the client wrote is on no copy', async (t) => {
  const { world, check } = await idle();
  for (const index of COPIES) {
    world.media(index).put(slotOn(world, index) * EXTENT_BYTES, EXTENT_BYTES, null, true);
    const value = encodeExtent(slotOn(world, index), 1, 0, new Uint32Array(BLOCKS_PER_EXTENT), 0);
    metaOf(world, index).apply([{ key: extentKey(uuidToBytes(world.volumeId), 0, EXTENT), value }]);
  }
  await t.rejects(check(), OracleViolation);
});

await t.test('a block that does not match its checksum', async (t) => {
  const { world, check } = await idle();
  world.media(2).flipBit(slotOn(world, 2) * EXTENT_BYTES + 5 * BLOCK_BYTES, 0);
  await t.rejects(check(), { name: 'EndStateViolation', message: /^node-2:\/drive, slot \d+, block 5 does not match/ });
});

await t.test('a free slot that is not zero', async (t) => {
  const { world, check } = await idle();
  world.media(0).put(100 * EXTENT_BYTES, BLOCK_BYTES, new Uint8Array(BLOCK_BYTES).fill(1), true);
  await t.rejects(check(), new EndStateViolation('node-0:/drive: slot 100 is free and not zero'));
});

await t.test('a slot that no extent names and that is not free', async (t) => {
  const { world, check } = await idle();
  metaOf(world, 0).apply([{ key: extentKey(uuidToBytes(world.volumeId), 0, EXTENT), value: null }]);
  await t.rejects(check(), {
    name: 'EndStateViolation',
    message: /^node-0:\/drive: \d+ free and 0 mapped of 512 slots/,
  });
});

await t.test('a region that is hot', async (t) => {
  const { world, client, check } = await idle();
  await ok(t, world, client.write(OFFSET, BLOCK_BYTES, FILL));
  await t.rejects(check(), { name: 'EndStateViolation', message: /is hot on/ });
});

await t.test('cold data that is in the cache of its drive only', async (t) => {
  const { world, check } = await idle();
  const media = world.media(1);
  const offset = slotOn(world, 1) * EXTENT_BYTES;
  const bytes = media.peek(offset, EXTENT_BYTES);
  media.put(offset, EXTENT_BYTES, null, true);
  media.put(offset, EXTENT_BYTES, bytes, false);
  await t.rejects(check(), EndStateViolation);
});

await t.test('a client that does not get on, and only when it should', async (t) => {
  const { world } = await begin();
  const host = { move: () => undefined, powerLost: () => undefined, guard: () => undefined, fail: () => undefined };
  const options = { weights: {}, ambush: 0, pauseMs: 1, victims: [], only: null };
  const faults = new Faults(world, new SimRandom(1), options as never, host);
  const watchdog = new Watchdog(world, faults);
  const progressMs = world.clock.nowMs();
  watchdog.look(world.nodes[0], progressMs);
  await pass(world, PROGRESS_MS_MAX - 1_000);
  t.doesNotThrow(() => watchdog.look(world.nodes[0], progressMs));
  await pass(world, 2_000);
  t.doesNotThrow(() => watchdog.look(world.nodes[0], world.clock.nowMs()), 'it got on');
  t.throws(() => watchdog.look(world.nodes[0], progressMs), LivenessViolation);
  faults.isUncertain = true;
  t.doesNotThrow(() => watchdog.look(world.nodes[0], progressMs), 'copies may be missing what only another has');
  faults.isUncertain = false;
  t.doesNotThrow(() => watchdog.look(world.nodes[0], progressMs), 'and the time starts anew');
  t.equal(must(world.nodes[0], 'a node').alive, true);
});

await t.test('a sector that is torn, and one that nobody wrote', async (t) => {
  const oracle = new Oracle();
  t.throws(() => oracle.assertPossible(5, 1), OracleViolation);
  t.doesNotThrow(() => oracle.assertPossible(5, 0));
  oracle.writeStarted(1, 1, 0, BLOCK_BYTES);
  t.throws(() => oracle.assertPossible(0, -1), { message: /is torn/ });
});

await t.test('a violation tells what the client saw, and what the model allows', async (t) => {
  let nowMs = 0;
  const oracle = new Oracle({ nowMs: () => nowMs++ });
  oracle.writeStarted(1, 1, 0, BLOCK_BYTES);
  oracle.writeAcknowledged(1, true);
  const message =
    /what the client saw of sector 0:\n.* write 1 is sent\n.*acknowledged, durable\n(.*\n)*.*what the model allows.*\ntook effect last, one of: 1 /;
  t.throws(() => oracle.readEnded(oracle.readStarted(0, BLOCK_BYTES), new Array(8).fill(0)), { message });
});

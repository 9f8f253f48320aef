/** Whatever a peer sends to a replica server: it is answered, or the connection is closed, and what others asked for is not touched. */
import fc from 'fast-check';
import t from 'tap';
import { BLOCK_BYTES, GIB } from '../../../daemon/base/units.js';
import { OPCODE, STATUS } from '../../../daemon/protocol/frame.js';
import { braid } from '../../../daemon/protocol/generated/messages.js';
import { blocks, OTHER_VOLUME, World, type Coordinator, type Fields } from './harness.js';

const FRAMES_MAX = 24;
const u32 = () => fc.oneof(fc.integer({ min: 0, max: 40 }), fc.integer({ min: 0, max: 0xffff_ffff }));
const offset = () =>
  fc.oneof(
    fc.integer({ min: 0, max: 64 }).map((block) => block * BLOCK_BYTES),
    fc.constantFrom(GIB - BLOCK_BYTES, GIB, 2 ** 53, 2 ** 64 - BLOCK_BYTES),
    fc.maxSafeNat(),
  );
const length = () => fc.oneof(fc.constantFrom(0, 512, BLOCK_BYTES, 131072, 0xffff_ffff), u32());

const openSegment = fc.record({
  index: u32(),
  driveId: fc.constantFrom('', 'no-drive', OTHER_VOLUME),
  generation: u32(),
  sizeBytes: fc.oneof(offset(), fc.constant(GIB)),
  layout: fc.uint8Array({ maxLength: 20 }),
  certain: fc.boolean(),
});
const volumeId = fc.constantFrom(OTHER_VOLUME, '', '../../etc/passwd');
const segments = fc.array(openSegment, { maxLength: 3 });
const sets = fc.array(fc.record({ segment: u32(), regions: fc.array(u32(), { maxLength: 5 }) }), { maxLength: 3 });
const listing = fc.record({ afterGeneration: u32(), from: u32(), allocatedOnly: fc.boolean() });
const encoded = fc.oneof(
  fc.record({ volumeId, epoch: u32(), segments }).map((message) => braid.OpenRequest.encode(message).finish()),
  fc.record({ volumeId, segments }).map((message) => braid.DeleteRequest.encode(message).finish()),
  fc.record({ sets }).map((message) => braid.RegionList.encode(message).finish()),
  listing.map((message) => braid.ListExtentsRequest.encode(message).finish()),
);
const payload = fc.oneof(
  encoded,
  fc.tuple(encoded, fc.nat(200)).map(([bytes, cut]) => bytes.subarray(0, cut)),
  fc.uint8Array({ maxLength: 300 }),
  fc.constantFrom(new Uint8Array(0), blocks(1, 7), blocks(32, 3)),
);

interface HostileFrame {
  readonly opcode: number;
  readonly fields: Fields;
  /** Under the session that is open, or another one. */
  readonly isOwn: boolean;
}

const hostileFrame = fc.record({
  opcode: fc.oneof(fc.constantFrom(...Object.values(OPCODE)), fc.nat(255)),
  isOwn: fc.boolean(),
  fields: fc.record(
    { flags: fc.nat(0xffff), segment: u32(), generation: u32(), offset: offset(), length: length(), payload },
    { requiredKeys: [] },
  ),
});

/** A new session of the volume; its epoch is above all that went before. */
async function reopen(world: World, epoch: number): Promise<Coordinator> {
  const coordinator = await world.coordinator();
  await coordinator.open(epoch);
  return coordinator;
}

async function survive(frames: readonly HostileFrame[]): Promise<void> {
  const world = await World.create({ seed: 7 });
  let epoch = 1;
  let coordinator = await reopen(world, epoch);
  await coordinator.write(0, blocks(1, 1));
  const victim = await world.coordinator();
  await victim.open(1, [{ index: 5 }], OTHER_VOLUME.replaceAll('b', 'c'));
  await victim.write(0, blocks(2, 9), { segment: 5 });

  for (const { opcode, isOwn, fields } of frames) {
    const other = isOwn ? {} : { session: 77, epoch: 3 };
    const tag = coordinator.send(opcode, { ...fields, ...other });
    const { connection } = coordinator;
    const isOver = () => coordinator.replyTo(tag) !== undefined || world.network.closed.has(connection);
    if ((opcode & OPCODE.REPLY) === 0)
      await world.until(isOver, `opcode ${opcode} is answered, or the connection closed`);
    world.server.assertConsistent();
    if (!world.network.closed.has(connection)) continue;
    coordinator.disconnect();
    coordinator = await reopen(world, ++epoch);
  }
  const heir = await reopen(world, epoch + 1);
  const status = await heir.status(OPCODE.WRITE, {
    offset: BLOCK_BYTES,
    payload: blocks(1, 2),
    generation: 0xffff_ffff,
  });
  const written = await victim.read(0, 2 * BLOCK_BYTES, { segment: 5 });
  if (status !== STATUS.OK) throw new Error(`the volume can still be written, not ${status}`);
  if (Buffer.compare(written, blocks(2, 9)) !== 0) throw new Error('the other volume has what was written');
  await world.close();
}

t.test('property: hostile frames are answered or end their connection, and touch nobody else', async () => {
  const property = fc.asyncProperty(fc.array(hostileFrame, { minLength: 1, maxLength: FRAMES_MAX }), survive);
  await fc.assert(property, { numRuns: 120, seed: 11 });
});

/** Regions: activation before data, cooling, the activity log's limit, and what of it survives. */
import t from 'tap';
import { EXTENT_BYTES, GIB, REGION_BYTES } from '../../../daemon/base/units.js';
import { OPCODE, STATUS } from '../../../daemon/protocol/frame.js';
import { blocks, isSame, World } from './harness.js';

t.test('no data is written before its activation is durable, and the activity log says so after a crash', async (t) => {
  const world = await World.create();
  const owner = await world.opened();
  const tag = owner.send(OPCODE.WRITE, { offset: 3 * REGION_BYTES, payload: blocks(1, 1) });
  t.equal(world.watched.writes, 0, 'the commit is not durable yet');
  t.equal((await owner.reply(tag)).frame.status, STATUS.OK);
  t.equal(world.watched.writes, 1);
  await world.crash();
  const later = await world.coordinator();
  t.match((await later.open(2)).segments, [{ hotRegions: [3], extents: 1 }]);
  await world.close();
});

t.test('a crash during the activation leaves no data behind', async (t) => {
  for (let seed = 0; seed < 8; seed++) {
    const world = await World.create({ seed });
    const owner = await world.opened();
    owner.send(OPCODE.WRITE, { payload: blocks(32, 1) });
    for (let steps = 0; steps < seed; steps++) await world.step();
    await world.crash();
    const later = await world.coordinator();
    const [opened] = (await later.open(2)).segments;
    const isActive = opened?.hotRegions?.length === 1;
    t.equal(opened?.extents, isActive ? 1 : 0, 'slot and log entry come together');
    if (!isActive) t.ok(isSame(await later.read(0, EXTENT_BYTES), new Uint8Array(EXTENT_BYTES)));
    await world.close();
  }
});

t.test('cooling flushes, persists checksums, clears the log; the next write activates again', async (t) => {
  const world = await World.create();
  const owner = await world.opened();
  for (let extent = 0; extent < 4; extent++) await owner.write(extent * EXTENT_BYTES, blocks(32, extent));
  await owner.write(REGION_BYTES, blocks(1, 9));
  t.equal(world.drive().stats().hotRegions, 2);
  t.equal(await owner.cool([0]), STATUS.OK);
  t.equal(await owner.cool([0, 0, 77]), STATUS.OK, 'what is cold stays cold');
  t.equal(world.drive().stats().hotRegions, 1);
  await world.crash();
  const later = await world.coordinator();
  t.match((await later.open(2)).segments, [{ hotRegions: [1], extents: 5, uncertain: true }]);
  for (let extent = 0; extent < 4; extent++)
    t.ok(isSame(await later.read(extent * EXTENT_BYTES, EXTENT_BYTES), blocks(32, extent)));
  const { activations } = world.drive().stats();
  t.equal(await later.write(0, blocks(1, 5)), STATUS.OK);
  t.equal(world.drive().stats().activations, activations + 1);
  await world.close();
});

t.test('a region with a write in flight does not cool', async (t) => {
  const world = await World.create();
  const owner = await world.opened();
  await owner.write(0, blocks(1, 1));
  await owner.write(REGION_BYTES, blocks(1, 1));
  const write = owner.send(OPCODE.WRITE, { payload: blocks(1, 2) });
  t.equal(await owner.cool([0, 1]), STATUS.BAD_REQUEST);
  t.equal((await owner.reply(write)).frame.status, STATUS.OK);
  t.equal(world.drive().stats().hotRegions, 2, 'nor does any other of the same order');
  await world.close();
});

t.test('writes to a cooling region wait and activate it again', async (t) => {
  const world = await World.create();
  const owner = await world.opened();
  await owner.write(0, blocks(2, 1));
  const { activations } = world.drive().stats();
  const cool = owner.cool([0]);
  const write = owner.send(OPCODE.WRITE, { payload: blocks(1, 7) });
  t.equal(await cool, STATUS.OK);
  t.equal((await owner.reply(write)).frame.status, STATUS.OK);
  t.match(world.drive().stats(), { hotRegions: 1, activations: activations + 1 });
  t.ok(isSame(await owner.read(0, 8192), Buffer.concat([blocks(1, 7), blocks(1, 2)])));
  await world.close();
});

t.test('a full activity log holds back activations until something cools, and says so in time', async (t) => {
  const world = await World.create({ hotRegionsMax: 8 });
  const owner = await world.opened();
  const pressures = () =>
    world.network.sent.filter(({ frame }) => frame.opcode === OPCODE.PRESSURE && frame.session === owner.session)
      .length;
  for (let region = 0; region < 5; region++) await owner.write(region * REGION_BYTES, blocks(1, region));
  t.equal(pressures(), 0);
  await owner.write(5 * REGION_BYTES, blocks(1, 5));
  t.equal(pressures(), 1, 'at three quarters');
  const tags = [];
  for (let region = 6; region < 12; region++)
    tags.push(owner.send(OPCODE.WRITE, { offset: region * REGION_BYTES, payload: blocks(1, region) }));
  await world.forMs(1_600);
  t.ok(pressures() > 2, 'again and again while it lasts');
  t.same(
    tags.map((tag) => owner.replyTo(tag) !== undefined),
    [true, true, false, false, false, false],
  );
  t.equal(await owner.write(0, blocks(1, 50)), STATUS.OK, 'hot regions are not held back');
  t.equal(await owner.cool([0, 1, 2, 3]), STATUS.OK);
  for (const tag of tags) t.equal((await owner.reply(tag)).frame.status, STATUS.OK);
  t.equal(world.drive().stats().hotRegions, 8);
  await world.close();
});

t.test('what waits for room in the activity log ends with its session', async (t) => {
  const world = await World.create({ hotRegionsMax: 1 });
  const owner = await world.opened();
  await owner.write(0, blocks(1, 1));
  const waiting = owner.send(OPCODE.WRITE, { offset: REGION_BYTES, payload: blocks(1, 2) });
  const next = await world.coordinator();
  await next.open(2);
  t.equal(owner.replyTo(waiting)?.frame.status, STATUS.FENCED);
  t.same(await next.list(), [0]);
  await world.close();
});

t.test('more hot regions than the limit, from before, are kept', async (t) => {
  const world = await World.create({ hotRegionsMax: 8 });
  const owner = await world.opened({ sizeBytes: 4 * GIB });
  for (let region = 0; region < 8; region++) await owner.write(region * 16 * REGION_BYTES, blocks(1, region));
  world.options.hotRegionsMax = 4;
  await world.kill();
  const later = await world.coordinator();
  const [opened] = (await later.open(2, [{ sizeBytes: 4 * GIB }])).segments;
  t.match(opened, { uncertain: false, hotRegions: { length: 8 } }, 'a killed process lost nothing');
  t.equal(await later.cool(opened?.hotRegions ?? []), STATUS.OK);
  t.equal(world.drive().stats().hotRegions, 0);
  for (let region = 0; region < 8; region++)
    t.ok(isSame(await later.read(region * 16 * REGION_BYTES, 4096), blocks(1, region)));
  await world.close();
});

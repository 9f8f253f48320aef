/** What an operator sees of a resync while it is under way, and that clients and copiers do not starve each other. */
import t, { type Test } from 'tap';
import { limits } from '../../daemon/base/limits.js';
import { EXTENT_BYTES, MIB } from '../../daemon/base/units.js';
import { ALL_COLD_MS, begin, BLOCK, identical, LONG_MS, nodeOf, ok, pass, served, untilInSync } from './story.js';
import type { Story } from './story.js';

const EXTENTS_PER_SEGMENT = (16 * MIB) / EXTENT_BYTES;

/** Node 2 has missed a write to each of `extents` extents of both segments, and is started again. */
async function afterOutage(t: Test, extents: number): Promise<Story> {
  const story = await begin();
  const { world, client } = story;
  world.crashNode(2, false);
  for (let extent = 0; extent < extents; extent++) {
    await ok(t, world, client.write(extent * EXTENT_BYTES, BLOCK, 1));
    await ok(t, world, client.write((EXTENTS_PER_SEGMENT + extent) * EXTENT_BYTES, BLOCK, 1));
  }
  await pass(world, ALL_COLD_MS);
  await world.wait(world.startNode(2), LONG_MS);
  return story;
}

await t.test('the total is known before the first byte is copied, over all segments', async (t) => {
  const { world } = await afterOutage(t, 20);
  const { shard } = nodeOf(world, 0);
  shard.setCopyBandwidth(MIB); // 5 MiB take 5 seconds
  const bytesTotal = 2 * 20 * EXTENT_BYTES;
  const seen: number[] = [];
  let rate = 0;
  for (let waitedMs = 0; waitedMs < LONG_MS; waitedMs += 100) {
    const { copies } = await served(world, 0);
    if (copies.length === 0 && seen.length > 0) break;
    for (const copy of copies) {
      t.match(copy, { kind: 'resync', driveId: world.driveOf(2) });
      if (copy.bytesTotal === bytesTotal) seen.push(copy.bytesDone);
      else t.equal(seen.length, 0, 'once it is known it stays');
      rate = Math.max(rate, copy.bytesPerSecond);
    }
    await pass(world, 100);
  }
  t.ok((seen[0] ?? bytesTotal) < bytesTotal / 5, 'seen from the beginning');
  t.same(
    seen,
    [...seen].sort((a, b) => a - b),
    'it never goes back',
  );
  t.ok(seen.length >= 40 && seen.length <= 60, `5 seconds at that bandwidth: ${seen.length / 10}`);
  t.ok(rate > 0.8 * MIB && rate < 1.2 * MIB, `the rate is the bandwidth: ${rate}`);
  t.ok(await untilInSync(world, 0, 3));
  const { copies, resyncBytesDone, resyncBytesTotal } = await served(world, 0);
  t.same(copies, [], 'nothing is under way any more');
  t.equal(resyncBytesDone, bytesTotal);
  t.equal(resyncBytesTotal, bytesTotal);
  await identical(t, world, 0);
});

await t.test('clients that never pause do not stop a resync', async (t) => {
  const { world, client } = await afterOutage(t, 32);
  let isOver = false;
  let writes = 0;
  const write = async (): Promise<void> => {
    while (!isOver) {
      await client.write(100 * EXTENT_BYTES, BLOCK, 2);
      writes++;
    }
  };
  void write();
  const startedMs = world.clock.nowMs();
  t.ok(await untilInSync(world, 0, 3));
  isOver = true;
  const elapsedMs = world.clock.nowMs() - startedMs;
  const guaranteedMs = (64 * EXTENT_BYTES * 1_000) / limits.copyBytesPerSecondMin;
  t.ok(
    elapsedMs < guaranteedMs + 5_000,
    `${Math.round(elapsedMs)} ms, guaranteed ${guaranteedMs} ms and the time to begin`,
  );
  t.ok(writes > 50, `${writes} writes meanwhile`);
  await pass(world, 1_000);
  await identical(t, world, 0);
});

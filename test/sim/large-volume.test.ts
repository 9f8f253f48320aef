/** What the largest volume costs that nothing was written to: memory and metadata commits for what it says, not for what it could hold. */
import t from 'tap';
import { must } from '../../daemon/base/assert.js';
import { limits } from '../../daemon/base/limits.js';
import { GIB, KIB, MIB } from '../../daemon/base/units.js';
import { STATUS } from '../../daemon/protocol/frame.js';
import { SimWorld } from './world/sim-world.js';
import { VolumeClient } from './world/volume-client.js';

const LONG_MS = 600_000;

t.test('64 TiB of three copies are opened, written, and given back', async (t) => {
  const volumeBytes = limits.volumeBytesMax;
  const world = new SimWorld(1, { loseStoreReply: 0, volumeBytes, segmentBytes: GIB });
  for (let index = 0; index < world.options.nodes; index++) await world.wait(world.startNode(index), LONG_MS);
  world.createVolume();
  await world.runUntil(() => false, 1_000);
  const node = must(world.nodes[0], 'the node');
  const before = process.memoryUsage().arrayBuffers;
  await world.wait(node.takeVolume(world.volumeId), LONG_MS);
  const client = new VolumeClient(must(world.served, 'the served volume').volume, node);
  t.equal((await world.wait(client.write(volumeBytes - 4 * KIB, 4 * KIB, 7), LONG_MS)).status, STATUS.OK);
  const read = await world.wait(client.read(volumeBytes - 8 * KIB, 8 * KIB), LONG_MS);
  t.same([...new Set(read.bytes.subarray(0, 4 * KIB))], [0]);
  t.same([...new Set(read.bytes.subarray(4 * KIB))], [7]);
  const used = process.memoryUsage().arrayBuffers - before;
  t.ok(used < 512 * MIB, `${Math.round(used / MIB)} MiB for three nodes`);
  t.same(await node.shard.servedSegments(world.volumeId).then((segments) => segments.length), 65_536);
  const [served] = await node.shard.servedVolumes();
  t.equal(served?.segmentsDegraded, 0);
  node.shard.assertConsistent();
  await world.wait(node.shard.releaseVolume(world.volumeId), LONG_MS);
});

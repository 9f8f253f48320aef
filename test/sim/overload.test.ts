/** More work at once than a replica server has room for: it waits, and nobody is taken for failed. */
import t from 'tap';
import { must } from '../../daemon/base/assert.js';
import type { VolumeId } from '../../daemon/base/ids.js';
import { limits } from '../../daemon/base/limits.js';
import { EXTENT_BYTES, KIB, MIB } from '../../daemon/base/units.js';
import { STATUS } from '../../daemon/protocol/frame.js';
import { SimWorld } from './world/sim-world.js';
import { VolumeClient } from './world/volume-client.js';

const LONG_MS = 60_000;
const BLOCK = 4 * KIB;
const VOLUMES_PER_NODE = 5;
const OPERATIONS_PER_VOLUME = limits.operationsPerVolumeMax;

/** Keeps the volume as busy as it lets its client; resolves to the worst status. */
function saturate(client: VolumeClient, started: { count: number }): Promise<number> {
  return new Promise((resolve) => {
    let next = 0;
    let ended = 0;
    let worst: number = STATUS.OK;
    const onEnd = (status: number): void => {
      ended++;
      worst = Math.max(worst, status);
      if (ended === OPERATIONS_PER_VOLUME) resolve(worst);
      else pump();
    };
    const pump = (): void => {
      while (next < OPERATIONS_PER_VOLUME && client.canAccept()) {
        started.count++;
        void client.zero(BLOCK * next++, BLOCK).then(({ status }) => onEnd(status));
      }
    };
    client.onCapacity = pump;
    pump();
  });
}

await t.test('14: busy volumes of three nodes fill a replica server, and no copy is lost', async (t) => {
  const world = new SimWorld(1, {
    replicas: 2,
    minInSync: 1,
    loseStoreReply: 0,
    volumeBytes: 16 * MIB,
    slotCount: 1_024,
  });
  for (const index of [0, 1, 2]) await world.wait(world.startNode(index), LONG_MS);
  await world.runUntil(() => false, 1_000);
  const clients: VolumeClient[] = [];
  for (const node of [...world.nodes].reverse()) {
    for (let index = 0; index < VOLUMES_PER_NODE; index++) {
      const id = world.random.uuid() as VolumeId;
      world.createVolume(id, `v${clients.length}`);
      await world.wait(node.takeVolume(id), LONG_MS);
      const client = new VolumeClient(must(world.exported(`v${clients.length}`), 'the served volume').volume, node);
      for (let offset = 0; offset < OPERATIONS_PER_VOLUME * BLOCK; offset += EXTENT_BYTES)
        await world.wait(client.write(offset, BLOCK, 1), LONG_MS); // zeroes of extents without a slot need no drive
      clients.push(client);
    }
  }
  for (const index of [0, 1]) must(world.media(index).user, 'the drive').stall();
  const started = { count: 0 };
  const outcomes: Promise<number>[] = [];
  for (const client of clients) {
    outcomes.push(saturate(client, started));
    await world.runUntil(() => false, 20); // those of the first node come last, when the others have filled its server
  }
  t.ok(started.count > limits.replicaOperationsMax, 'more was started than a replica server has room for');
  const ofOneNode = limits.operationsSharedMax + VOLUMES_PER_NODE * limits.operationsAssuredPerVolume;
  t.ok(started.count <= world.nodes.length * ofOneNode, 'and no more than a shard may have in flight');
  for (const index of [0, 1]) must(world.media(index).user, 'the drive').resume();
  t.same(
    await world.wait(Promise.all(outcomes), LONG_MS),
    clients.map(() => STATUS.OK),
  );
  t.notMatch(world.trace.join('\n'), /replica failed|lost the copy|peer is down/);
});

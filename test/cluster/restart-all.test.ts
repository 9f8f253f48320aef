/** All agents go down, in order or by kill -9 in the middle of writes, and come back: the data is there and the copies are equal. */
import t, { type Test } from 'tap';
import { MIB } from '../../daemon/base/units.js';
import { MirrorWriter } from '../support/mirror-writer.js';
import { startCluster, type TestCluster } from './harness.js';

const BLOCKS = (64 * MIB) / 4_096;
const VOLUME = { name: 'vol', size: 64 * MIB, replicas: 3 };

async function writeAndCheck(t: Test, cluster: TestCluster, mirror: MirrorWriter, uri: string): Promise<void> {
  const client = await cluster.connect(uri);
  t.same(await mirror.check(client), [], 'what was acknowledged before is there');
  mirror.start(client);
  const before = mirror.writesAcknowledged;
  await cluster.waitFor(() => mirror.writesAcknowledged > before + 500, 30_000, 'writes are acknowledged');
}

/** Every copy's drive has counted at least the acknowledged writes, and its histograms hold what it has counted. */
async function checkDriveCounters(t: Test, cluster: TestCluster, writesAcknowledged: number): Promise<void> {
  for (const index of cluster.agents.keys()) {
    const { drives } = await cluster.client(index).stats();
    t.equal(drives.length, 1);
    for (const { id, write, flush } of drives) {
      t.ok(write.operations >= writesAcknowledged, `${write.operations} of ${writesAcknowledged} writes`);
      t.ok(flush.operations > 0, 'the flush reached the drive');
      for (const [operation, counters] of Object.entries({ write, flush })) {
        const inBuckets = counters.latencyBuckets.reduce((sum, count) => sum + count, 0);
        t.equal(inBuckets, counters.operations, `each ${operation} is in one bucket`);
        t.ok(counters.latencySumUs > 0, `${operation}: time passed`);
      }
      const metrics = await (await fetch(`${cluster.client(index).baseUrl}/metrics`)).text();
      const count = new RegExp(
        `braid_drive_latency_seconds_count\\{drive="${id}",path="[^"]+",operation="write"\\} (\\d+)`,
      );
      t.ok(Number(count.exec(metrics)?.[1]) >= writesAcknowledged, 'so do the metrics');
    }
  }
}

async function restartAll(cluster: TestCluster): Promise<void> {
  for (const index of cluster.agents.keys()) await cluster.restart(index);
}

t.test('a graceful stop of all agents', async (t) => {
  const cluster = await startCluster(t);
  const mirror = new MirrorWriter({ blocks: BLOCKS, seed: 1 });
  const uri = await cluster.serve(0, VOLUME);
  await writeAndCheck(t, cluster, mirror, uri);
  await mirror.stop();
  await (await cluster.connect(uri)).flush();
  await checkDriveCounters(t, cluster, mirror.writesAcknowledged);
  for (const index of cluster.agents.keys()) await cluster.stop(index);
  await restartAll(cluster);
  await writeAndCheck(t, cluster, mirror, await cluster.attach(0, 'vol'));
  await mirror.stop();
  await cluster.waitUntilInSync(0, 'vol');
  await cluster.expectIdentical(t, 0, 'vol', 3);
});

t.test('a graceful stop of the owner during writes loses no acknowledged write', async (t) => {
  const cluster = await startCluster(t);
  const mirror = new MirrorWriter({ blocks: BLOCKS, seed: 2 });
  await writeAndCheck(t, cluster, mirror, await cluster.serve(0, VOLUME));
  await cluster.stop(0);
  await mirror.stop();
  await cluster.restart(0);
  await writeAndCheck(t, cluster, mirror, await cluster.attach(0, 'vol'));
  await mirror.stop();
  await cluster.waitUntilInSync(0, 'vol');
  await cluster.expectIdentical(t, 0, 'vol', 3);
});

t.test('kill -9 of all agents during writes, three times', async (t) => {
  const cluster = await startCluster(t);
  const mirror = new MirrorWriter({ blocks: BLOCKS, seed: 3 });
  let uri = await cluster.serve(0, VOLUME);
  for (let round = 0; round < 3; round++) {
    await writeAndCheck(t, cluster, mirror, uri);
    await Promise.all(cluster.agents.map((agent) => agent.kill('SIGKILL')));
    await mirror.stop();
    await restartAll(cluster);
    uri = await cluster.attach(0, 'vol');
  }
  const client = await cluster.connect(uri);
  t.same(await mirror.check(client), []);
  await cluster.waitUntilInSync(0, 'vol');
  await cluster.expectIdentical(t, 0, 'vol', 3);
});

/** The cluster store takes no writes for a while: nothing is acknowledged that it would have had to know of, and all goes on when it does. */
import t, { type Test } from 'tap';
import type { NbdClient } from '../../client/nbd-client.js';
import { limits } from '../../daemon/base/limits.js';
import { MIB } from '../../daemon/base/units.js';
import { MirrorWriter } from '../support/mirror-writer.js';
import { lockStore } from '../support/store-lock.js';
import { startCluster, type TestCluster } from './harness.js';

const VOLUME = { name: 'vol', size: 64 * MIB, replicas: 3 };
const BLOCKS = VOLUME.size / 4_096;

async function startWriting(t: Test, seed: number) {
  const cluster = await startCluster(t);
  const client = await cluster.connect(await cluster.serve(0, VOLUME));
  const mirror = new MirrorWriter({ blocks: BLOCKS, seed });
  mirror.start(client);
  await cluster.waitFor(() => mirror.writesAcknowledged > 500, 30_000, 'writes are acknowledged');
  return { cluster, client, mirror };
}

/** Resolves when a lease that was not renewed from now on has run out. */
function leaseEnds(cluster: TestCluster): Promise<void> {
  const endMs = performance.now() + limits.leaseTtlMs;
  return cluster.waitFor(() => performance.now() > endMs, 2 * limits.leaseTtlMs, 'the lease runs out');
}

/** The volume is served again by itself, with everything that was acknowledged, and takes writes. */
async function expectServed(t: Test, cluster: TestCluster, mirror: MirrorWriter, old: NbdClient): Promise<void> {
  await old.close();
  await mirror.stop();
  const client = await cluster.connect(await cluster.attach(0, VOLUME.name));
  t.same(await mirror.check(client), [], 'every acknowledged write is there');
  mirror.start(client);
  const before = mirror.writesAcknowledged;
  await cluster.waitFor(() => mirror.writesAcknowledged > before + 200, 30_000, 'writes go on');
  await mirror.stop();
  await cluster.expectHealed(t, 0, VOLUME.name);
}

t.test('an owner whose lease cannot be renewed serves nothing, and takes the volume again', async (t) => {
  const { cluster, client, mirror } = await startWriting(t, 1);
  const unlock = await lockStore(t, cluster.storeDirectory);
  await leaseEnds(cluster);
  const writesWhenEnded = mirror.writesAcknowledged;
  const read = client.read(0, 4_096).then(
    () => 'answered',
    () => 'refused',
  );
  const silence = new Promise<string>((resolve) => setTimeout(() => resolve('silent'), limits.leaseRenewMs));
  t.not(await Promise.race([read, silence]), 'answered', 'it answers no read');
  t.equal(mirror.writesAcknowledged, writesWhenEnded, 'it acknowledges no write');
  await unlock();
  await cluster.waitForVolume(0, VOLUME.name, 'served under a new epoch', ({ epoch, owner }) => {
    return epoch > 1 && owner === 'node-1';
  });
  await expectServed(t, cluster, mirror, client);
});

t.test('no write is acknowledged that a lost copy misses, until the store knows of the loss', async (t) => {
  const { cluster, client, mirror } = await startWriting(t, 2);
  const unlock = await lockStore(t, cluster.storeDirectory);
  await cluster.kill(1, 'SIGKILL');
  const writesWhenKilled = mirror.writesAcknowledged;
  await leaseEnds(cluster);
  // What was under way when it died may have been answered by all.
  t.ok(mirror.writesAcknowledged <= writesWhenKilled + mirror.depth, 'nothing is acknowledged');
  await unlock();
  await cluster.restart(1);
  await expectServed(t, cluster, mirror, client);
});

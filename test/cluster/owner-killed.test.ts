/** The owner's agent dies: another node takes the volume when the lease is over, with everything that was acknowledged. */
import t from 'tap';
import type { NbdClient } from '../../client/nbd-client.js';
import { limits } from '../../daemon/base/limits.js';
import { MIB } from '../../daemon/base/units.js';
import { MirrorWriter } from '../support/mirror-writer.js';
import { startCluster } from './harness.js';

const BLOCK_BYTES = 4_096;
const BLOCKS = (64 * MIB) / BLOCK_BYTES;
const VOLUME = { name: 'vol', size: 64 * MIB, replicas: 3 };
const WRITES_BEFORE = 1_500;
/** Its node does not answer: it is not worth waiting for. */
const DETACH_TIMEOUT_MS = 2_000;

t.test('kill -9 of the owner during writes: takeover with all acknowledged data', async (t) => {
  const cluster = await startCluster(t);
  const client = await cluster.connect(await cluster.serve(0, VOLUME));
  const mirror = new MirrorWriter({ blocks: BLOCKS, seed: 1 });
  mirror.start(client);
  await cluster.waitFor(() => mirror.writesAcknowledged > WRITES_BEFORE, 30_000, 'writes are acknowledged');
  await cluster.kill(0, 'SIGKILL');
  const diedAt = performance.now();
  await mirror.stop();
  t.same(mirror.errors, [], 'the client saw its connection end, and no error before');

  const second = await cluster.connect(await cluster.takeOver(1, 'vol'));
  const takenAfterMs = performance.now() - diedAt;
  t.ok(takenAfterMs < 4 * limits.leaseTtlMs, `taken over in ${Math.round(takenAfterMs)} ms`);
  t.same(await mirror.check(second), [], 'every acknowledged write is there');

  mirror.start(second);
  const before = mirror.writesAcknowledged;
  await cluster.waitFor(() => mirror.writesAcknowledged > before + 200, 30_000, 'the new owner takes writes');
  await mirror.stop();
  await cluster.restart(0);
  await cluster.waitUntilInSync(1, 'vol');
  t.same(await mirror.check(second), [], 'and they are there, too');
  await cluster.expectIdentical(t, 1, 'vol', 3);
  const { owner, epoch } = await cluster.client(1).volume('vol');
  t.equal(owner, 'node-2', 'the old owner does not take it back');
  t.ok(epoch >= 2, 'under a new epoch');
});

t.test('an owner that hangs beyond its lease serves nothing when it goes on', async (t) => {
  const cluster = await startCluster(t);
  const client = await cluster.connect(await cluster.serve(0, VOLUME));
  const mirror = new MirrorWriter({ blocks: BLOCKS, seed: 2 });
  mirror.start(client);
  await cluster.waitFor(() => mirror.writesAcknowledged > WRITES_BEFORE, 30_000, 'writes are acknowledged');
  await cluster.freeze(0);
  await cluster.client(1).detachVolume('vol', { force: true, timeoutMs: DETACH_TIMEOUT_MS });
  const second = await cluster.connect(await cluster.attach(1, 'vol'));
  const writesWhenTaken = mirror.writesAcknowledged;
  await cluster.kill(0, 'SIGCONT');
  // What was in flight at the old owner ends with an error or with its connection, never with an acknowledgement.
  const stopped = mirror.stop();
  const old = client.read(0, 4_096).then(
    () => 'answered',
    () => 'refused',
  );
  const silence = new Promise<string>((resolve) => setTimeout(() => resolve('silent'), 2 * limits.leaseTtlMs));
  t.not(await Promise.race([old, silence]), 'answered', 'the old owner answers no read');
  await client.close();
  await stopped;
  t.equal(mirror.writesAcknowledged, writesWhenTaken, 'the old owner acknowledges no write');
  t.same(await mirror.check(second), [], 'every acknowledged write is at the new owner');
  await cluster.waitUntilInSync(1, 'vol');
  await cluster.expectIdentical(t, 1, 'vol', 3);
});

t.test('an owner that goes on after a takeover writes nowhere what its clients have sent meanwhile', async (t) => {
  const cluster = await startCluster(t);
  const old = await cluster.connect(await cluster.serve(0, VOLUME));
  const offsets = Array.from({ length: 64 }, (_, index) => index * MIB);
  await Promise.all(offsets.map((offset) => old.write(offset, Buffer.alloc(BLOCK_BYTES, 'before'))));
  await cluster.freeze(0);
  const late = Promise.allSettled(offsets.map((offset) => old.write(offset, Buffer.alloc(BLOCK_BYTES, 'late'))));
  await cluster.client(1).detachVolume('vol', { force: true, timeoutMs: DETACH_TIMEOUT_MS });
  const second = await cluster.connect(await cluster.attach(1, 'vol'));
  await Promise.all(offsets.map((offset) => second.write(offset, Buffer.alloc(BLOCK_BYTES, 'after'))));
  await cluster.kill(0, 'SIGCONT');
  await cluster.waitUntilInSync(1, 'vol');
  await old.close();
  const acknowledged = (await late).filter(({ status }) => status === 'fulfilled');
  t.same(acknowledged, [], 'no late write is acknowledged');
  const holdsLate = async (client: NbdClient, offset: number) =>
    !(await client.read(offset, BLOCK_BYTES)).equals(Buffer.alloc(BLOCK_BYTES, 'after'));
  for (const offset of offsets) if (await holdsLate(second, offset)) t.fail(`a late write is there, at ${offset}`);
  await cluster.expectIdentical(t, 1, 'vol', 3);
  await cluster.client(1).detachVolume('vol');
  // It may not have its lease back yet.
  const third = await cluster.connect(await cluster.takeOver(0, 'vol'));
  for (const offset of offsets) if (await holdsLate(third, offset)) t.fail(`or in its own copy, at ${offset}`);
});

t.test(
  'the owner and a replica killed at once: one copy is read from, and written to when another is back',
  async (t) => {
    const cluster = await startCluster(t);
    const client = await cluster.connect(await cluster.serve(0, VOLUME));
    const mirror = new MirrorWriter({ blocks: BLOCKS, seed: 4 });
    mirror.start(client);
    await cluster.waitFor(() => mirror.writesAcknowledged > WRITES_BEFORE, 30_000, 'writes are acknowledged');
    await Promise.all([cluster.kill(0, 'SIGKILL'), cluster.kill(2, 'SIGKILL')]);
    await mirror.stop();
    const second = await cluster.connect(await cluster.takeOver(1, 'vol'));
    t.same(await mirror.check(second), [], 'every acknowledged write is in the one copy that is left');
    const writesAlone = mirror.writesAcknowledged;
    mirror.start(second);
    await cluster.waitForVolume(1, 'vol', 'held', ({ segments }) =>
      segments.every(({ replicas }) => replicas.filter(({ state }) => state === 'in-sync').length === 1),
    );
    t.equal(mirror.writesAcknowledged, writesAlone, 'no write is acknowledged by one copy');
    await cluster.restart(2);
    await cluster.waitFor(() => mirror.writesAcknowledged > writesAlone + 200, 60_000, 'with two copies they are');
    await cluster.restart(0);
    await mirror.stop();
    t.same(mirror.errors, []);
    t.same(await mirror.check(second), [], 'nothing is lost');
    await cluster.expectHealed(t, 1, 'vol');
  },
);

t.test('a clean detach and attach elsewhere moves the volume at once', async (t) => {
  const cluster = await startCluster(t);
  const client = await cluster.connect(await cluster.serve(0, VOLUME));
  const mirror = new MirrorWriter({ blocks: BLOCKS, seed: 3 });
  mirror.start(client);
  await cluster.waitFor(() => mirror.writesAcknowledged > 500, 30_000, 'writes are acknowledged');
  await mirror.stop();
  await client.close();
  const startedAt = performance.now();
  t.ok((await cluster.client(0).detachVolume('vol')).released);
  const second = await cluster.connect(await cluster.attach(2, 'vol'));
  const movedAfterMs = performance.now() - startedAt;
  t.ok(movedAfterMs < limits.leaseTtlMs, `moved in ${Math.round(movedAfterMs)} ms, without waiting for a lease`);
  t.same(await mirror.check(second), []);
  await cluster.expectIdentical(t, 2, 'vol', 3);
});

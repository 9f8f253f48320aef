/** Drives that vanished, were damaged, or are full: a clear reason, nothing lost, agents up. */
import { rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { NbdError } from '../../client/nbd-client.js';
import { LmdbMetaStoreOpener } from '../../daemon/adapters/lmdb/meta-store.js';
import { MIB } from '../../daemon/base/units.js';
import { MirrorWriter } from '../support/mirror-writer.js';
import { startCluster, type TestCluster } from './harness.js';

const VOLUME = { name: 'vol', size: 64 * MIB, replicas: 3 };
const BLOCKS = (64 * MIB) / 4_096;
/** The node whose drive is damaged while its agent is stopped. */
const DAMAGED = 1;

async function damageSuperblock(driveDirectory: string): Promise<void> {
  const store = await new LmdbMetaStoreOpener().open(join(driveDirectory, 'meta'), { create: false });
  const superblock = Uint8Array.from([0]);
  await new Promise<void>((resolve, reject) => {
    const operation = { type: 'put', key: superblock, value: new Uint8Array(64).fill(0xee) } as const;
    store.commit([operation], (error) => (error === null ? resolve() : reject(error)));
  });
  await store.close();
}

const damages: Record<string, (driveDirectory: string) => unknown> = {
  'a data file that vanished': (directory) => rmSync(join(directory, 'data')),
  'a data file that was truncated': (directory) => truncateSync(join(directory, 'data'), MIB),
  'a corrupt superblock': damageSuperblock,
  'metadata that is garbage': (directory) =>
    writeFileSync(join(directory, 'meta', 'data.mdb'), Buffer.alloc(MIB, 0xaa)),
  'a drive directory that vanished': (directory) => rmSync(directory, { recursive: true }),
};

for (const [what, damage] of Object.entries(damages)) {
  t.test(what, async (t) => {
    const cluster = await startCluster(t, { driveBytes: 256 * MIB });
    const mirror = new MirrorWriter({ blocks: BLOCKS, seed: 1 });
    const client = await cluster.connect(await cluster.serve(0, VOLUME));
    mirror.start(client);
    await cluster.waitFor(() => mirror.writesAcknowledged > 300, 30_000, 'writes are acknowledged');
    await cluster.stop(DAMAGED);
    await damage(cluster.agent(DAMAGED).driveDirectory);
    await cluster.restart(DAMAGED);

    t.ok(await cluster.client(DAMAGED).isAlive(), 'the agent is up');
    const drive = await cluster.failedDrive(DAMAGED);
    t.ok(drive.reason.length > 20, `it says why: ${drive.reason}`);
    await expectEvent(t, cluster, drive.id);
    const before = mirror.writesAcknowledged;
    await cluster.waitFor(() => mirror.writesAcknowledged > before + 100, 30_000, 'writes go on with two copies');
    await mirror.stop();
    t.same(mirror.errors, []);
    t.same(await mirror.check(client), [], 'nothing is lost');
    await cluster.expectIdentical(t, 0, 'vol', 2);
  });
}

t.test('a data file that is truncated under its agent', async (t) => {
  const cluster = await startCluster(t, { driveBytes: 256 * MIB });
  const client = await cluster.connect(await cluster.serve(DAMAGED, VOLUME));
  const mirror = new MirrorWriter({ blocks: BLOCKS, seed: 2 });
  await mirror.fill(client);
  mirror.start(client);
  const before = mirror.writesAcknowledged;
  await cluster.waitFor(() => mirror.writesAcknowledged > before + 100, 30_000, 'writes are acknowledged');
  // The owner's own copy: the one that it would read from.
  truncateSync(join(cluster.agent(DAMAGED).driveDirectory, 'data'), 8 * MIB);
  const whenCut = mirror.writesAcknowledged;
  await cluster.waitFor(() => mirror.writesAcknowledged > whenCut + 100, 30_000, 'writes go on');
  await mirror.stop();
  t.same(mirror.errors, []);
  t.same(await mirror.check(client), [], 'reads are answered by copies that have the data');
  t.ok(await cluster.client(DAMAGED).isAlive(), 'the agent is up');
  const { differences, copiesMin } = await cluster.client(DAMAGED).verifyVolume('vol');
  t.same(differences, [], 'the copies that count are byte-identical');
  t.ok(copiesMin >= 2, `${copiesMin} copies were compared`);
});

async function expectEvent(t: Test, cluster: TestCluster, driveId: string): Promise<void> {
  const isReported = async () =>
    (await cluster.events(0)).some(({ subject, severity }) => subject === `drive/${driveId}` && severity === 'error');
  await cluster.waitFor(isReported, 10_000, 'an event tells the operator');
  t.pass('an event tells the operator');
}

t.test('full drives: the client gets ENOSPC, and everything acknowledged stays', async (t) => {
  const cluster = await startCluster(t, { driveBytes: 64 * MIB });
  const client = await cluster.connect(await cluster.serve(0, { name: 'vol', size: 256 * MIB, replicas: 3 }));
  const mirror = new MirrorWriter({ blocks: (256 * MIB) / 4_096, seed: 1 });
  const failure: unknown = await mirror.fill(client).then(
    () => null,
    (error: unknown) => error,
  );
  t.ok(failure instanceof NbdError, `the client is told: ${String(failure)}`);
  t.equal((failure as NbdError).errno, 28, 'ENOSPC');
  t.ok(mirror.writesAcknowledged > 100, 'the drives took what they could');
  t.same(await mirror.check(client), [], 'everything acknowledged is there');
  for (const index of cluster.agents.keys()) t.ok(await cluster.client(index).isAlive(), `agent ${index + 1} is up`);
  await cluster.expectIdentical(t, 0, 'vol', 3);
  await client.trim(0, 16 * MIB);
  await cluster.waitFor(
    () => client.write(0, Buffer.alloc(131_072, 1)).then(() => true),
    30_000,
    'after a trim there is room again',
  );
});

/** The cluster store is gone: `braid recover` rebuilds it from the drives, or says what it cannot know. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { runCli } from '../../client/cli/program.js';
import type { Volume } from '../../client/sdk/types.js';
import { MIB } from '../../daemon/base/units.js';
import { MirrorWriter } from '../support/mirror-writer.js';
import { startCluster, type TestCluster } from './harness.js';

const BLOCKS = (64 * MIB) / 4_096;
const VOLUME = {
  ...{ name: 'vol', size: 64 * MIB, replicas: 3, minInSync: 1, stripeWidth: 2, segmentSize: 16 * MIB },
  ...({ whenDegraded: 'fail', labels: { app: 'db' } } as const),
};

async function braid(cluster: TestCluster, ...args: string[]) {
  const written = { stdout: '', stderr: '' };
  const code = await runCli(args, {
    stdout: { write: (text) => (written.stdout += text) },
    stderr: { write: (text) => (written.stderr += text) },
    env: { BRAID_API: cluster.agent(0).apiUrl },
    signal: new AbortController().signal,
  });
  return { code, ...written };
}

async function writeSome(cluster: TestCluster, mirror: MirrorWriter, uri: string): Promise<void> {
  mirror.start(await cluster.connect(uri));
  await writesGoOn(cluster, mirror);
}

async function writesGoOn(cluster: TestCluster, mirror: MirrorWriter): Promise<void> {
  const before = mirror.writesAcknowledged;
  await cluster.waitFor(() => mirror.writesAcknowledged > before + 300, 60_000, 'writes are acknowledged');
}

/** Everything but the drives, with the agents of `alive` started again. */
async function loseStore(cluster: TestCluster, alive: readonly number[]): Promise<void> {
  await Promise.all(cluster.agents.map((agent) => agent.kill('SIGKILL')));
  rmSync(join(cluster.directory, 'store'), { recursive: true });
  for (const index of alive) await cluster.restart(index);
}

const settings = ({ id, name, sizeBytes, replicas, minInSync, stripeWidth, segmentBytes, ...rest }: Volume) => ({
  ...{ id, name, sizeBytes, replicas, minInSync, stripeWidth, segmentBytes },
  ...{ whenDegraded: rest.whenDegraded, labels: rest.labels, createdMs: rest.createdMs },
});

async function checkBytes(t: Test, cluster: TestCluster, mirror: MirrorWriter, uri: string): Promise<void> {
  t.same(await mirror.check(await cluster.connect(uri)), [], 'every acknowledged byte is there');
}

t.test('agents that were killed in the middle of writes, one earlier than the others', async (t) => {
  const cluster = await startCluster(t);
  const mirror = new MirrorWriter({ blocks: BLOCKS, seed: 1 });
  await writeSome(cluster, mirror, await cluster.serve(0, VOLUME));
  await cluster.kill(2, 'SIGKILL');
  await writesGoOn(cluster, mirror);
  const before = await cluster.client(0).volume('vol');
  const { id } = await cluster.client(0).cluster();
  await loseStore(cluster, [0, 1, 2]);
  await mirror.stop();
  t.equal((await cluster.client(0).cluster()).id, id, 'the agents know the cluster that they have drives of');
  t.same(await cluster.client(0).volumes(), []);

  const plan = await braid(cluster, 'recover', '--plan');
  t.equal(plan.code, 0, plan.stderr);
  t.match(plan.stdout, /vol +64 MiB +restore/);
  t.same(await cluster.client(0).volumes(), [], 'a plan changes nothing');
  t.equal((await braid(cluster, 'recover')).code, 2, 'nothing is done that nobody confirmed');
  const done = await braid(cluster, 'recover', '--yes');
  t.equal(done.code, 0, done.stderr);

  const after = await cluster.client(0).volume('vol');
  t.same(settings(after), settings(before), 'the volume is what it was');
  t.ok(after.epoch > before.epoch, 'under a higher epoch');
  const stale = after.segments.flatMap(({ replicas }) => replicas.filter(({ state }) => state !== 'in-sync'));
  t.ok(stale.length > 0 && stale.every(({ node }) => node === 'node-3'), 'what had missed writes is not in sync');
  await checkBytes(t, cluster, mirror, await cluster.attach(0, 'vol'));
  await cluster.waitUntilInSync(0, 'vol');
  await cluster.expectIdentical(t, 0, 'vol', 3);
  const again = await braid(cluster, 'recover', '--yes');
  t.equal(again.code, 4);
  t.match(again.stderr, /the cluster store is in use \(it has drives, volumes/);
});

t.test(
  'a drive that is not there: refused with the reason, restored when it is accepted, in sync when it is back',
  async (t) => {
    const cluster = await startCluster(t);
    const mirror = new MirrorWriter({ blocks: BLOCKS, seed: 2 });
    await writeSome(cluster, mirror, await cluster.serve(0, VOLUME));
    await mirror.stop();
    const [drive] = (await cluster.client(2).drives()).filter(({ node }) => node === 'node-3');
    const id = drive?.id ?? '';
    await loseStore(cluster, [0, 1]);

    const refused = await braid(cluster, '--json', 'recover', '--yes');
    t.equal(refused.code, 4);
    const { error } = JSON.parse(refused.stdout) as { error: { code: string; message: string } };
    t.equal(error.code, 'CONFLICT');
    t.match(error.message, `segment 0-3: drive ${id} is not there (in sync at generation 1 when it was last heard of)`);
    const forPeople = await braid(cluster, 'recover', '--yes');
    t.match(forPeople.stdout, /To decide: --accept vol or --skip vol/);
    t.same(await cluster.client(0).volumes(), []);
    t.equal((await braid(cluster, 'recover', '--yes', '--accept', 'other')).code, 4, 'another volume was meant');
    t.equal((await braid(cluster, 'recover', '--yes', '--accept', 'vol')).code, 0);

    const uri = await cluster.attach(0, 'vol');
    await checkBytes(t, cluster, mirror, uri);
    await writeSome(cluster, mirror, uri);
    await mirror.stop();
    await cluster.restart(2);
    await cluster.client(0).detachVolume('vol');
    const again = await cluster.attach(0, 'vol');
    await cluster.waitUntilInSync(0, 'vol');
    await cluster.expectIdentical(t, 0, 'vol', 3);
    await checkBytes(t, cluster, mirror, again);
    t.match(
      (await cluster.client(0).drives()).find((each) => each.id === id),
      { node: 'node-3', state: 'open' },
    );
  },
);

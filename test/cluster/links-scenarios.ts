/** Links between the owner and its replicas are cut, one way and both ways: no acknowledged write is lost, and all heals by itself. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import t, { type Test } from 'tap';
import { MIB } from '../../daemon/base/units.js';
import { startFio } from '../support/fio.js';
import { MirrorWriter } from '../support/mirror-writer.js';
import { OwnNetwork } from '../support/own-network.js';
import { startCluster, type TestCluster } from './harness.js';

const NODES = 3;
const WRITE_SECONDS = 75;
const BLOCKS = (64 * MIB) / 4_096;

type Link = readonly [from: number, to: number];

async function startLinkedCluster(t: Test): Promise<{ cluster: TestCluster; network: OwnNetwork }> {
  const network = await OwnNetwork.create(NODES);
  t.teardown(() => network.close());
  return { network, cluster: await startCluster(t, { nodes: NODES, place: (node) => network.place(node) }) };
}

async function cutAll(network: OwnNetwork, links: readonly Link[]): Promise<void> {
  await Promise.all(links.map(([from, to]) => network.cut(from, to)));
}

async function restoreAll(network: OwnNetwork, links: readonly Link[]): Promise<void> {
  await Promise.all(links.map(([from, to]) => network.restore(from, to)));
}

const PORT = 9;
const SENDER = `const socket = require('node:dgram').createSocket('udp4');
  setInterval(() => socket.send('x', ${PORT}, process.argv[1]), 20);`;
const RECEIVER = `const socket = require('node:dgram').createSocket('udp4');
  socket.bind(${PORT}, process.argv[1]).on('message', () => process.exit(0));
  setTimeout(() => process.exit(1), 1_500);`;

/** Whether a datagram of one node reaches another. */
async function isHeard(network: OwnNetwork, [from, to]: Link): Promise<boolean> {
  const { host } = network.place(to);
  const start = (node: number, script: string) => {
    const [program = '', ...programArguments] = [...network.place(node).command, process.execPath, '-e', script, host];
    return spawn(program, programArguments, { stdio: 'inherit' });
  };
  const sender = start(from, SENDER);
  const [code] = (await once(start(to, RECEIVER), 'exit')) as [number];
  sender.kill('SIGKILL');
  return code === 0;
}

t.test('a link is cut in the direction that is asked for, until it is restored', async (t) => {
  const network = await OwnNetwork.create(2);
  t.teardown(() => network.close());
  const heard = async () => [await isHeard(network, [0, 1]), await isHeard(network, [1, 0])];
  t.same(await heard(), [true, true]);
  await network.cut(0, 1);
  t.same(await heard(), [false, true]);
  await network.restore(0, 1);
  t.same(await heard(), [true, true]);
});

const CUTS: Record<string, readonly Link[]> = {
  'both ways between the owner and a replica': [
    [0, 1],
    [1, 0],
  ],
  'from the owner to a replica only': [[0, 1]],
  'from a replica to the owner only': [[1, 0]],
};

t.test('a link that is cut under fio --verify costs one copy, for as long as it is cut', async (t) => {
  const { cluster, network } = await startLinkedCluster(t);
  const uri = await cluster.serve(0, { name: 'vol', size: 256 * MIB, replicas: 3 });
  const fio = startFio(t, uri, WRITE_SECONDS, cluster.directory);
  for (const [what, links] of Object.entries(CUTS)) {
    await cluster.waitForWrites(0, 8 * MIB, 'fio writes');
    await cutAll(network, links);
    const { segments } = await cluster.waitUntilDegraded(0, 'vol');
    const lost = segments.flatMap(({ replicas }) => replicas.filter(({ state }) => state !== 'in-sync'));
    t.ok(
      lost.every(({ node }) => node === 'node-2'),
      `${what}: the copy behind it is lost, no other`,
    );
    await cluster.waitForWrites(0, 8 * MIB, `${what}: fio goes on`);
    t.notOk(fio.hasEnded, 'while fio still writes');
    await restoreAll(network, links);
    await cluster.waitUntilInSync(0, 'vol');
  }
  await fio.expectVerified();
  await cluster.expectIdentical(t, 0, 'vol', 3);
});

t.test('an owner that reaches no other copy acknowledges nothing until it does', async (t) => {
  const { cluster, network } = await startLinkedCluster(t);
  const client = await cluster.connect(await cluster.serve(0, { name: 'vol', size: 64 * MIB, replicas: 3 }));
  const mirror = new MirrorWriter({ blocks: BLOCKS, seed: 1 });
  mirror.start(client);
  await cluster.waitFor(() => mirror.writesAcknowledged > 500, 30_000, 'writes are acknowledged');
  const links: Link[] = [
    [0, 1],
    [1, 0],
    [0, 2],
    [2, 0],
  ];
  await cutAll(network, links);
  const whenCut = mirror.writesAcknowledged + mirror.depth;
  await cluster.waitForVolume(0, 'vol', 'held by one copy', ({ segments }) =>
    segments.some(({ replicas }) => replicas.filter(({ state }) => state === 'in-sync').length === 1),
  );
  t.ok(mirror.writesAcknowledged <= whenCut, 'what was under way may be acknowledged, and nothing after it');
  await restoreAll(network, links);
  const before = mirror.writesAcknowledged;
  await cluster.waitFor(() => mirror.writesAcknowledged > before + 200, 30_000, 'writes go on by themselves');
  await mirror.stop();
  t.same(mirror.errors, [], 'the client has only waited');
  t.same(await mirror.check(client), [], 'nothing is lost');
  await cluster.expectHealed(t, 0, 'vol');
});

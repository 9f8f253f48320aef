/** What strangers and broken peers may send to the data port and the NBD socket: refused, and the agent goes on serving. */
import { randomBytes } from 'node:crypto';
import t, { type Test } from 'tap';
import { NbdClient, NbdError, parseNbdUri } from '../../client/nbd-client.js';
import { MIB } from '../../daemon/base/units.js';
import { OPCODE, STATUS } from '../../daemon/protocol/frame.js';
import { braid } from '../../daemon/protocol/generated/messages.js';
import { MirrorWriter, seededRandom } from '../support/mirror-writer.js';
import { converse, encodeFrame, parseReply } from '../support/raw-frames.js';
import { listeningPorts, startCluster, type TestCluster } from './harness.js';

const CLOSE_TIMEOUT_MS = 10_000;
const STRANGER = { clusterId: '00000000-0000-4000-8000-000000000000', nodeId: '00000000-0000-4000-8000-000000000001' };
const HELLO = { ...STRANGER, incarnation: 'x', versionMin: 1, versionMax: 1 };

/** The port that other agents connect to: what the agent listens on besides its API. */
function dataPort(cluster: TestCluster, index: number): number {
  const agent = cluster.agent(index);
  const apiPort = Number(new URL(agent.apiUrl).port);
  const [port] = listeningPorts(agent.process?.pid ?? 0).filter((each) => each !== apiPort);
  if (port === undefined) throw new Error(`${agent.name} listens on no data port`);
  return port;
}

async function expectServing(t: Test, cluster: TestCluster, mirror: MirrorWriter, client: NbdClient): Promise<void> {
  for (const index of cluster.agents.keys()) t.ok(await cluster.client(index).isAlive(), `agent ${index + 1} is up`);
  const before = mirror.writesAcknowledged;
  await cluster.waitFor(() => mirror.writesAcknowledged > before + 50, 30_000, 'writes go on');
  t.notOk(client.isClosed, 'the client keeps its connection');
}

t.test('strangers at the data port are turned away while a volume is served', async (t) => {
  const cluster = await startCluster(t);
  const client = await cluster.connect(await cluster.serve(0, { name: 'vol', size: 64 * MIB, replicas: 3 }));
  const mirror = new MirrorWriter({ blocks: (64 * MIB) / 4_096, seed: 1, depth: 4 });
  mirror.start(client);
  const port = dataPort(cluster, 1);
  const random = seededRandom(7);

  await t.test('an agent of another cluster', async (t) => {
    const hello = encodeFrame({ opcode: OPCODE.HELLO, payload: braid.Hello.encode(HELLO).finish() });
    const reply = parseReply(await converse(port, hello, CLOSE_TIMEOUT_MS));
    t.match(reply, { opcode: OPCODE.HELLO | OPCODE.REPLY, status: STATUS.WRONG_CLUSTER }, 'is told why');
  });

  const payload = braid.Hello.encode(HELLO).finish();
  const wrong: Record<string, Buffer> = {
    'random bytes': Buffer.from(Array.from({ length: 4_096 }, () => Math.floor(random() * 256))),
    HTTP: Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n'.padEnd(128)),
    'a wrong magic': encodeFrame({ opcode: OPCODE.HELLO, payload, magic: 0x12345678 }),
    'a wrong header checksum': encodeFrame({ opcode: OPCODE.HELLO, payload, headerChecksum: 1 }),
    'a wrong table checksum': encodeFrame({ opcode: OPCODE.HELLO, payload, tableChecksum: 1 }),
    'a version from the future': encodeFrame({ opcode: OPCODE.HELLO, payload, version: 200 }),
    'a payload length beyond all limits': encodeFrame({ opcode: OPCODE.HELLO, payloadLength: 0xffff_fff0 }),
    'a first frame that is no HELLO': encodeFrame({ opcode: OPCODE.WRITE }),
    'a HELLO that is no protobuf': encodeFrame({ opcode: OPCODE.HELLO, payload: randomBytes(100).fill(0xff) }),
    'an unknown opcode': encodeFrame({ opcode: 99 }),
  };
  for (const [what, bytes] of Object.entries(wrong)) {
    await t.resolves(converse(port, bytes, CLOSE_TIMEOUT_MS), `${what}: the agent closes the connection`);
  }
  await expectServing(t, cluster, mirror, client);
  await mirror.stop();
  t.same(mirror.errors, []);
  t.same(await mirror.check(client), []);
  await cluster.waitUntilInSync(0, 'vol');
  await cluster.expectIdentical(t, 0, 'vol', 3);
});

t.test('a frame that is cut off keeps nothing busy', async (t) => {
  const cluster = await startCluster(t, { nodes: 1 });
  const port = dataPort(cluster, 0);
  const whole = encodeFrame({ opcode: OPCODE.HELLO, payload: braid.Hello.encode(HELLO).finish() });
  const cut = whole.subarray(0, whole.length - 1);
  const waiting = Array.from({ length: 50 }, () => converse(port, cut, CLOSE_TIMEOUT_MS).catch(() => Buffer.alloc(0)));
  const reply = parseReply(await converse(port, whole, CLOSE_TIMEOUT_MS));
  t.equal(reply?.status, STATUS.WRONG_CLUSTER, 'others are answered meanwhile');
  t.ok(await cluster.client(0).isAlive());
  await Promise.all(waiting);
});

t.test('wrong requests over NBD', async (t) => {
  const cluster = await startCluster(t, { nodes: 1 });
  const uri = await cluster.serve(0, { name: 'vol', size: 16 * MIB, replicas: 1 });
  const { target } = parseNbdUri(uri);
  await t.rejects(NbdClient.connect(target, 'no-such-volume'), 'an unknown export is refused');
  const client = await cluster.connect(uri);
  await t.rejects(client.read(16 * MIB, 4_096), NbdError, 'a read beyond the end');
  await t.rejects(client.write(16 * MIB - 512, Buffer.alloc(1_024)), NbdError, 'a write across the end');
  await client.write(0, Buffer.alloc(512, 7));
  t.same(await client.read(0, 512), Buffer.alloc(512, 7), 'the connection goes on');
});

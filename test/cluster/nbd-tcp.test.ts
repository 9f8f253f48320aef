/** An agent that serves NBD over TCP says so, and both of its addresses lead to the same volume. */
import t from 'tap';
import { MIB } from '../../daemon/base/units.js';
import { startCluster } from './harness.js';

const BLOCK_BYTES = 4_096;

t.test('a volume is attached over the unix socket and over TCP', async (t) => {
  const cluster = await startCluster(t, { nodes: 1, agentArguments: ['--nbd-tcp', '127.0.0.1:0'] });
  await cluster.client(0).createVolume({ name: 'vol', size: 64 * MIB, replicas: 1 });
  const { nbdUri, nbdTcpUri = '' } = await cluster.client(0).attachVolume('vol');
  t.match(nbdUri, /^nbd\+unix:\/\/\/vol\?socket=/);
  t.match(nbdTcpUri, /^nbd:\/\/127\.0\.0\.1:\d+\/vol$/);
  t.match(await cluster.client(0).volume('vol'), { nbdUri, nbdTcpUri });
  const [local, remote] = [await cluster.connect(nbdUri), await cluster.connect(nbdTcpUri)];
  await remote.write(BLOCK_BYTES, Buffer.alloc(BLOCK_BYTES, 'over TCP'));
  t.same(await local.read(BLOCK_BYTES, BLOCK_BYTES), Buffer.alloc(BLOCK_BYTES, 'over TCP'));
});

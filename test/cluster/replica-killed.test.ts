/** A replica's agent is killed in the middle of verified writes: no client notices, and the replica catches up by itself. */
import t from 'tap';
import { MIB } from '../../daemon/base/units.js';
import { startFio } from '../support/fio.js';
import { startCluster } from './harness.js';

const WRITE_SECONDS = 12;
const VOLUME = { name: 'vol', size: 256 * MIB, replicas: 3 };

t.test('kill -9 of a replica under fio --verify, and its return', async (t) => {
  const cluster = await startCluster(t);
  const fio = startFio(t, await cluster.serve(0, VOLUME), WRITE_SECONDS, cluster.directory);
  await cluster.waitForWrites(0, 16 * MIB, 'fio writes');
  await cluster.kill(1, 'SIGKILL');
  await cluster.waitUntilDegraded(0, 'vol');
  await cluster.waitForWrites(0, 16 * MIB, 'fio goes on with two copies');
  t.notOk(fio.hasEnded, 'the replica returns while fio still writes');
  await cluster.restart(1);
  await cluster.waitUntilInSync(0, 'vol');
  await fio.expectVerified();
  await cluster.expectIdentical(t, 0, 'vol', 3);
  const messages = (await cluster.events(0)).filter(({ subject }) => subject === 'volume/vol');
  t.ok(messages.length > 0, 'the operator can read what happened');
});

t.test('both other replicas killed at once, and both return', async (t) => {
  const cluster = await startCluster(t);
  const uri = await cluster.serve(0, { ...VOLUME, minInSync: 1 });
  const fio = startFio(t, uri, WRITE_SECONDS, cluster.directory);
  await cluster.waitForWrites(0, 16 * MIB, 'fio writes');
  await Promise.all([cluster.kill(1, 'SIGKILL'), cluster.kill(2, 'SIGKILL')]);
  await cluster.waitForWrites(0, 8 * MIB, 'fio goes on with one copy');
  t.notOk(fio.hasEnded, 'the replicas return while fio still writes');
  await Promise.all([cluster.restart(2), cluster.restart(1)]);
  await cluster.waitUntilInSync(0, 'vol');
  await fio.expectVerified();
  await cluster.expectIdentical(t, 0, 'vol', 3);
});

t.test('a replica that hangs (SIGSTOP) is dropped, and taken back when it goes on', async (t) => {
  const cluster = await startCluster(t);
  const fio = startFio(t, await cluster.serve(0, VOLUME), WRITE_SECONDS, cluster.directory);
  await cluster.waitForWrites(0, 8 * MIB, 'fio writes');
  await cluster.freeze(2);
  await cluster.waitUntilDegraded(0, 'vol');
  await cluster.waitForWrites(0, 8 * MIB, 'fio goes on');
  await cluster.kill(2, 'SIGCONT');
  await cluster.waitUntilInSync(0, 'vol');
  await fio.expectVerified();
  await cluster.expectIdentical(t, 0, 'vol', 3);
});

/** A replica's agent is killed in the middle of verified writes: no client notices, and the replica catches up by itself. */
import t from 'tap';
import { MIB } from '../../daemon/base/units.js';
import { startFio } from '../support/fio.js';
import { startCluster } from './harness.js';

const WRITE_SECONDS = 12;
const VOLUME = { name: 'vol', size: 256 * MIB, replicas: 3 };

t.test('kill -9 of a replica under fio --verify, and its return', async (t) => {
  const cluster = await startCluster(t);
  const uri = await cluster.serve(0, VOLUME);
  const fio = startFio(uri, WRITE_SECONDS, cluster.directory);
  t.teardown(() => fio.process.kill('SIGKILL'));
  let hasEnded = false;
  void fio.ended.then(() => (hasEnded = true));
  const written = async () => (await cluster.client(0).stats()).volumes[0]?.write.bytes ?? 0;
  await cluster.waitFor(async () => (await written()) > 16 * MIB, 30_000, 'fio writes');

  await cluster.kill(1, 'SIGKILL');
  await cluster.waitForVolume(0, 'vol', 'degraded', ({ health }) => health !== 'ok');
  const whenLost = await written();
  await cluster.waitFor(async () => (await written()) > whenLost + 16 * MIB, 30_000, 'fio goes on with two copies');
  t.notOk(hasEnded, 'the replica returns while fio still writes');
  await cluster.restart(1);
  await cluster.waitUntilInSync(0, 'vol');

  const { code, output } = await fio.ended;
  t.equal(code, 0, `fio has seen no error and every byte is right${code === 0 ? '' : `: ${output}`}`);
  await cluster.expectIdentical(t, 0, 'vol', 3);
  const messages = (await cluster.events(0)).filter(({ subject }) => subject === 'volume/vol');
  t.ok(messages.length > 0, 'the operator can read what happened');
});

t.test('two of three replicas killed one after the other, and both return', async (t) => {
  const cluster = await startCluster(t);
  const uri = await cluster.serve(0, { ...VOLUME, minInSync: 1 });
  const fio = startFio(uri, WRITE_SECONDS, cluster.directory);
  t.teardown(() => fio.process.kill('SIGKILL'));
  const written = async () => (await cluster.client(0).stats()).volumes[0]?.write.bytes ?? 0;
  for (const victim of [1, 2]) {
    const before = await written();
    await cluster.waitFor(async () => (await written()) > before + 8 * MIB, 30_000, 'fio writes');
    await cluster.kill(victim, 'SIGKILL');
  }
  const before = await written();
  await cluster.waitFor(async () => (await written()) > before + 8 * MIB, 30_000, 'fio goes on with one copy');
  await cluster.restart(2);
  await cluster.restart(1);
  await cluster.waitUntilInSync(0, 'vol');
  const { code, output } = await fio.ended;
  t.equal(code, 0, `fio has seen no error${code === 0 ? '' : `: ${output}`}`);
  await cluster.expectIdentical(t, 0, 'vol', 3);
});

t.test('a replica that hangs (SIGSTOP) is dropped, and taken back when it goes on', async (t) => {
  const cluster = await startCluster(t);
  const uri = await cluster.serve(0, VOLUME);
  const fio = startFio(uri, WRITE_SECONDS, cluster.directory);
  t.teardown(() => fio.process.kill('SIGKILL'));
  const written = async () => (await cluster.client(0).stats()).volumes[0]?.write.bytes ?? 0;
  await cluster.waitFor(async () => (await written()) > 8 * MIB, 30_000, 'fio writes');
  await cluster.kill(2, 'SIGSTOP');
  await cluster.waitForVolume(0, 'vol', 'degraded', ({ segments }) =>
    segments.some(({ replicas }) => replicas.some(({ state }) => state !== 'in-sync')),
  );
  const before = await written();
  await cluster.waitFor(async () => (await written()) > before + 8 * MIB, 30_000, 'fio goes on');
  await cluster.kill(2, 'SIGCONT');
  await cluster.waitUntilInSync(0, 'vol');
  const { code, output } = await fio.ended;
  t.equal(code, 0, `fio has seen no error${code === 0 ? '' : `: ${output}`}`);
  await cluster.expectIdentical(t, 0, 'vol', 3);
});

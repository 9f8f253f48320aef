/** The copy with the last writes is lost: an operator goes on with the older one, and the lost one ends equal when it is found again. */
import t from 'tap';
import { runCli } from '../../client/cli/program.js';
import { MIB } from '../../daemon/base/units.js';
import { startCluster } from './harness.js';

const BLOCK = 4_096;
const filled = (byte: number): Buffer => Buffer.alloc(BLOCK, byte);

t.test('an older copy is forced to be primary', async (t) => {
  const cluster = await startCluster(t, { nodes: 2 });
  const braid = async (...args: string[]) => {
    const written = { stdout: '', stderr: '' };
    const code = await runCli(args, {
      stdout: { write: (text) => (written.stdout += text) },
      stderr: { write: (text) => (written.stderr += text) },
      env: { BRAID_API: cluster.agent(1).apiUrl },
      signal: new AbortController().signal,
    });
    return { code, ...written };
  };
  const older = (await cluster.client(0).drives()).find(({ node }) => node === 'node-2')?.id ?? '';
  const volume = { name: 'vol', size: 32 * MIB, replicas: 2, minInSync: 1 };
  const before = await cluster.connect(await cluster.serve(0, volume));
  await before.write(0, filled(1));
  await before.flush();
  await cluster.kill(1, 'SIGKILL');
  await before.write(0, filled(2));
  await before.write(8 * MIB, filled(2));
  await before.flush();
  await cluster.kill(0, 'SIGKILL');
  await cluster.restart(1);
  const isDead = async () => (await cluster.client(1).nodes()).some(({ name, alive }) => name === 'node-1' && !alive);
  await cluster.waitFor(isDead, 30_000, 'the lease of the lost node ends');

  const force = ['volume', 'force-primary', 'vol', '--drive', older];
  t.match(await braid(...force), { code: 4, stderr: /it is attached; detach it first/ });
  t.equal((await braid('volume', 'detach', 'vol')).code, 0);
  const asked = await braid(...force);
  t.match(asked, { code: 2, stdout: /BEHIND SINCE[^]* 0 +2 +1 +20\d\d-/ });
  t.match(await braid(...force, '--yes-i-know-that-writes-are-lost'), { code: 0, stdout: /go on with drive/ });
  t.match(await braid(...force), { code: 4, stderr: /nothing is to be forced/ });

  const after = await cluster.connect(await cluster.attach(1, 'vol'));
  t.same(await after.read(0, BLOCK), filled(1), 'what the older copy has');
  t.same(await after.read(8 * MIB, BLOCK), filled(0), 'what only the lost one had is given up');
  await after.write(BLOCK, filled(3));
  await cluster.restart(0);
  await cluster.waitUntilInSync(1, 'vol');
  await cluster.expectIdentical(t, 1, 'vol', 2);
  t.same(await after.read(8 * MIB, BLOCK), filled(0));
  t.same(await after.read(BLOCK, BLOCK), filled(3), 'what was written since is there');
  t.ok(
    (await cluster.events(1)).some(({ message }) => message.includes('an operator made the copy')),
    'it was logged',
  );
});

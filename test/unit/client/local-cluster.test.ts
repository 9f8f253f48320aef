import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { LocalCluster } from '../../../client/local-cluster.js';
import { identityOf, isRunning, signalProcess, waitFor } from '../../../client/processes.js';

const agentProgram = fileURLToPath(new URL('../../support/fake-agent-worker.js', import.meta.url));

function makeCluster(t: Test, nodes: number, ...agentArguments: string[]): LocalCluster {
  const directory = mkdtempSync(join(tmpdir(), 'braid-local-'));
  const cluster = new LocalCluster({ directory, nodes, agentProgram, agentArguments });
  t.teardown(async () => {
    for (const agent of cluster.agents) await agent.kill('SIGKILL');
    rmSync(directory, { recursive: true });
  });
  return cluster;
}

t.test('agents start, are found by another process, and stop', async (t) => {
  const cluster = makeCluster(t, 3);
  await cluster.start();
  t.ok(cluster.agents.every((agent) => agent.isRunning));
  t.equal((await cluster.client(2).readiness()).node, 'node-3');
  await t.rejects(cluster.restart(0), { message: /runs already/ });

  const found = LocalCluster.open(cluster.directory);
  t.same(
    found?.agents.map(({ process }) => process),
    cluster.agents.map(({ process }) => process),
  );
  t.same(await found?.stopAll(), []);
  t.notOk(cluster.agents.some((agent) => agent.isRunning));
  t.equal(LocalCluster.open(join(cluster.directory, 'nowhere')), null);
});

t.test('a killed agent is gone when kill resolves, and can be started again', async (t) => {
  const cluster = makeCluster(t, 1);
  await cluster.start();
  const { process: first } = cluster.agent(0);
  await cluster.kill(0, 'SIGKILL');
  t.notOk(cluster.agent(0).isRunning);
  await cluster.restart(0);
  t.not(cluster.agent(0).process?.pid, first?.pid);
  await cluster.kill(0, 'SIGSTOP');
  t.same(await cluster.stopAll(), [], 'a hanging one is woken to be stopped');
});

t.test('an agent that ends at start is reported with its log', async (t) => {
  const cluster = makeCluster(t, 1, '--fake', 'dies');
  await t.rejects(cluster.start(), { message: /node-1 ended at start \(exit code 3\)[^]*no such device/ });
});

t.test('starting can be interrupted', async (t) => {
  const cluster = makeCluster(t, 1, '--fake', 'never-ready');
  const interruption = new AbortController();
  const started = cluster.start(interruption.signal);
  await waitFor(() => cluster.agent(0).isRunning, 5_000, 'the process runs');
  interruption.abort();
  await t.rejects(started);
});

t.test('a pid that belongs to another process now is left alone', async (t) => {
  const own = identityOf(process.pid);
  t.ok(own !== null && isRunning(own));
  signalProcess({ pid: process.pid, startTicks: '1' }, 'SIGKILL');
  t.pass('we live');
  t.equal(identityOf(2 ** 22 + 1), null);
});

t.test('waiting says what it waited for', async (t) => {
  await t.rejects(
    waitFor(() => false, 50, 'pigs fly'),
    { message: 'pigs fly: not within 50 ms' },
  );
});

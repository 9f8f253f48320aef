/** Stops an agent's process (SIGSTOP) where that is the failure of one node, and not of the whole host. */
import type { LocalAgent } from '../../client/local-cluster.js';
import type { ClusterStore } from '../../daemon/ports/cluster-store.js';

const STORE_ANSWERS_MS = 1_000;

/**
 * Sends SIGSTOP. An agent that happens to be in the middle of a transaction of the embedded store keeps all of this host from writing to it,
 * which nodes of their own could not: such a one is let go on, and stopped again.
 */
export async function freeze(agent: LocalAgent, store: ClusterStore): Promise<void> {
  for (;;) {
    await agent.kill('SIGSTOP');
    // Changes nothing, and needs the lock of the writers for that.
    const written = store.txn([], [{ type: 'delete', key: 'nobody/has/this' }]);
    if (await endsWithin(written, STORE_ANSWERS_MS)) return;
    await agent.kill('SIGCONT');
    await written;
  }
}

/** False when the time was up first. */
async function endsWithin(promise: Promise<unknown>, ms: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const timeIsUp = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), ms);
  });
  const ended = promise.then(() => true);
  return Promise.race([ended, timeIsUp]).finally(() => clearTimeout(timer));
}

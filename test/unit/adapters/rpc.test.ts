import { MessageChannel } from 'node:worker_threads';
import t from 'tap';
import { RpcEndpoint } from '../../../daemon/adapters/rpc.js';
import {
  serveStore,
  StoreProxy,
  type StoreEventMethods,
  type StoreMethods,
} from '../../../daemon/adapters/store-proxy.js';
import { BraidError } from '../../../daemon/base/errors.js';
import type { StoreEvent } from '../../../daemon/ports/cluster-store.js';
import { SimClock } from '../../sim/world/sim-clock.js';
import { SimClusterStore, SimStoreState } from '../../sim/world/sim-cluster-store.js';
import { SimRandom } from '../../sim/world/sim-random.js';

interface Left {
  add(a: number, b: number): number;
  fail(): void;
}
interface Right {
  greet(name: string): Promise<string>;
  hear(what: string): void;
}

t.test('calls go both ways, and errors keep their code', async (t) => {
  const { port1, port2 } = new MessageChannel();
  t.teardown(() => port1.close());
  const left = new RpcEndpoint<Right>(port1);
  const right = new RpcEndpoint<Left>(port2);
  const heard: string[] = [];
  left.serve({
    add: (a: number, b: number) => a + b,
    fail: () => {
      throw new BraidError('NO_SPACE', 'full');
    },
  });
  right.serve({ greet: async (name: string) => `hello ${name}`, hear: (what: string) => heard.push(what) });
  t.equal(await right.call('add', 2, 3), 5);
  left.notify('hear', 'first');
  t.equal(await left.call('greet', 'you'), 'hello you');
  t.same(heard, ['first'], 'a notification arrives before a later call');
  const error = await right.call('fail').catch((thrown: unknown) => thrown);
  t.ok(error instanceof BraidError);
  t.match(error, { code: 'NO_SPACE', message: 'full' });
});

t.test('other errors arrive as INTERNAL with their message', async (t) => {
  const { port1, port2 } = new MessageChannel();
  t.teardown(() => port1.close());
  const left = new RpcEndpoint<{ fail(): void }>(port1);
  const right = new RpcEndpoint<object>(port2);
  right.serve({
    fail: () => {
      throw new TypeError('oops');
    },
  });
  await t.rejects(left.call('fail'), { code: 'INTERNAL', message: 'oops' });
});

t.test('close ends calls in flight and later ones', async (t) => {
  const { port1, port2 } = new MessageChannel();
  t.teardown(() => port1.close());
  const left = new RpcEndpoint<{ wait(): void }>(port1);
  const right = new RpcEndpoint<object>(port2);
  right.serve({ wait: () => new Promise<void>(() => undefined) });
  const waiting = left.call('wait');
  left.close('the thread died');
  await t.rejects(waiting, { code: 'UNAVAILABLE', message: 'the thread died' });
  await t.rejects(left.call('wait'), { code: 'UNAVAILABLE' });
});

t.test('the store over rpc: values, races, watches, and no pooled buffers on the way', async (t) => {
  const clock = new SimClock();
  const random = new SimRandom('proxy');
  const state = new SimStoreState(clock, random);
  const ticking = setInterval(() => clock.runUntil(clock.nowMs() + 10), 1);
  const { port1, port2 } = new MessageChannel();
  t.teardown(() => {
    clearInterval(ticking);
    port1.close();
  });
  const main = new RpcEndpoint<StoreEventMethods>(port1);
  const served = serveStore(new SimClusterStore(state, clock, random), main);
  main.serve(served.methods);
  const shard = new RpcEndpoint<StoreMethods>(port2);
  const store = new StoreProxy(shard);
  shard.serve(store.methods);

  const pool = new Uint8Array(64 * 1024).fill(1);
  const seen: StoreEvent[] = [];
  const watch = store.watch('a/', 0, (events) => seen.push(...events));
  const put = { type: 'put', key: 'a/1', value: pool.subarray(8, 12) } as const;
  t.match(await store.txn([{ key: 'a/1', revision: 0 }], [put]), { committed: true });
  t.match(await store.txn([{ key: 'a/1', revision: 0 }], [put]), { committed: false });
  const entry = await store.get('a/1');
  t.same([...(entry?.value ?? [])], [1, 1, 1, 1]);
  t.equal(entry?.value.buffer.byteLength, 4, 'only the value was copied');
  t.equal((await store.list('a/')).entries.length, 1);
  t.equal(await store.get('a/2'), null);
  const lease = await store.grantLease(60_000);
  t.equal(await store.keepAlive(lease), true);
  await store.revokeLease(lease);
  t.equal(await store.keepAlive(lease), false);
  while (seen.length === 0) await new Promise((resolve) => setTimeout(resolve, 1));
  t.match(seen[0], { type: 'put', entry: { key: 'a/1' } });
  watch.close();
  const count = seen.length;
  const later = new Promise<void>(
    (resolve) => void store.watch('a/', 0, ([event]) => event?.type === 'delete' && resolve()),
  );
  await store.txn([], [{ type: 'delete', key: 'a/1' }]);
  await later;
  t.equal(seen.length, count, 'a closed watch is silent');
  served.close();
  await store.close();
  await t.rejects(store.get('a/1'), { code: 'UNAVAILABLE' });
});

/** The embedded cluster store: the conformance suite, and what only several processes can show. */
import { mkdtemp, readFile, rm, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { openLmdbClusterStore } from '../../../daemon/adapters/lmdb/cluster-store.js';
import { SystemClock } from '../../../daemon/adapters/clock.js';
import type { ClusterStore, StoreEvent } from '../../../daemon/ports/cluster-store.js';
import { put, testClusterStore, text, until } from '../ports/cluster-store-conformance.js';
import { increment, saying, startStoreProcess, type StoreProcess, type Task } from './store-process.js';

const clock = new SystemClock();

async function createWorld() {
  const directory = await mkdtemp(join(tmpdir(), 'braid-store-'));
  const stores: ClusterStore[] = [];
  const processes: StoreProcess[] = [];
  return {
    clock,
    directory,
    connect: async (changesKept?: number) => {
      const options = { directory, create: true, ...(changesKept === undefined ? {} : { changesKept }) };
      const store = await openLmdbClusterStore(options);
      stores.push(store);
      return store;
    },
    start: async (task: Task) => {
      const started = startStoreProcess(task);
      processes.push(started);
      await started.waitFor(saying('ready'));
      return started;
    },
    dispose: async () => {
      await Promise.all(processes.map((each) => each.kill()));
      await Promise.all(stores.map((store) => store.close()));
      await rm(directory, { recursive: true });
    },
  };
}

type World = Awaited<ReturnType<typeof createWorld>>;

function inWorld(name: string, body: (t: Test, world: World) => Promise<void>): void {
  void t.test(name, async (t) => {
    const world = await createWorld();
    try {
      await body(t, world);
    } finally {
      await world.dispose();
    }
  });
}

t.test('conformance', async (t) => testClusterStore(t, createWorld));

inWorld('processes that count together lose nothing', async (t, world) => {
  const increments = 100;
  const { directory } = world;
  const store = await world.connect();
  const others = [
    await world.start({ type: 'count', directory, increments }),
    await world.start({ type: 'count', directory, increments }),
  ];
  const finished = Promise.all(others.map((other) => other.waitFor(saying('finished'))));
  await increment(store, 'counter', increments);
  await finished;
  t.equal(text((await store.get('counter'))?.value), String(3 * increments));
});

inWorld('a watch sees the commits of another process, soon', async (t, world) => {
  const { directory } = world;
  const store = await world.connect();
  const latenciesMs: number[] = [];
  store.watch('time/', 0, (events) => {
    const nowNs = process.hrtime.bigint();
    for (const event of events) {
      if (event.type === 'put') latenciesMs.push(Number(nowNs - BigInt(text(event.entry.value))) / 1e6);
    }
  });
  await world.start({ type: 'put-times', directory, key: 'time/a', count: 50 });
  await until(clock, 'most of the events', () => latenciesMs.length >= 40);
  const median = latenciesMs.toSorted((left, right) => left - right)[latenciesMs.length >> 1] ?? 0;
  t.comment(`commit in one process to event in another: median ${median.toFixed(2)} ms`);
  t.ok(median < 100, 'by notification, not by the poll');
});

inWorld('the keys of a killed process go when its lease has run out', async (t, world) => {
  const ttlMs = 600;
  const store = await world.connect();
  const deleted: string[] = [];
  store.watch('alive/', 0, (events) => {
    for (const event of events) if (event.type === 'delete') deleted.push(event.key);
  });
  const holder = await world.start({ type: 'hold-lease', directory: world.directory, ttlMs, key: 'alive/x' });
  await until(clock, 'the key is there', async () => (await store.get('alive/x')) !== null);
  const start = clock.nowMs();
  while (clock.nowMs() < start + 2 * ttlMs) {
    t.ok(await store.get('alive/x'), 'it renews its lease');
    await new Promise((resolve) => setTimeout(resolve, ttlMs / 4));
  }
  await holder.kill();
  const killedMs = clock.nowMs();
  await until(clock, 'the delete event', () => deleted.includes('alive/x'));
  t.ok(clock.nowMs() - killedMs < ttlMs + 1_000, `${clock.nowMs() - killedMs} ms`);
  t.equal(await store.get('alive/x'), null);
});

inWorld('a writer that is killed at any moment blocks nobody', async (t, world) => {
  const { directory } = world;
  const store = await world.connect();
  for (let round = 0; round < 5; round += 1) {
    const writer = await world.start({ type: 'count', directory, increments: 1_000_000 });
    const before = Number(text((await store.get('counter'))?.value) || '0');
    await until(clock, 'it counts', async () => Number(text((await store.get('counter'))?.value)) > before + 20);
    await writer.kill();
    t.equal((await store.txn([], [put(`round/${round}`, '')])).committed, true);
  }
});

inWorld('a watch that fell behind the change log learns of puts and deletes', async (t, world) => {
  const changesKept = 5;
  const store = await world.connect(changesKept);
  await store.txn([], [put('k/stays', '1'), put('k/goes', '1'), put('k/changes', '1')]);
  const seen: StoreEvent[] = [];
  const { revision } = await store.list('k/');
  store.watch('k/', revision, (events) => {
    seen.push(...events);
  });
  // One burst, committed before the watch is looked after.
  const burst = Array.from({ length: 50 }, (_, index) => store.txn([], [put('k/changes', String(index))]));
  burst.push(
    store.txn([], [{ type: 'delete', key: 'k/goes' }]),
    ...Array.from({ length: 50 }, (_, index) => store.txn([], [put('other', String(index))])),
  );
  await Promise.all(burst);
  await until(
    clock,
    'both',
    () => seen.some(({ type }) => type === 'delete') && seen.some(({ type }) => type === 'put'),
  );
  const last = seen.findLast((event) => event.type === 'put');
  t.equal(last?.type === 'put' && text(last.entry.value), '49');
  t.same(
    seen.flatMap((event) => (event.type === 'delete' ? [event.key] : [])),
    ['k/goes'],
  );
  const late: string[] = [];
  store.watch('k/', 1, (events) => {
    for (const event of events) if (event.type === 'put') late.push(event.entry.key);
  });
  await until(clock, 'the late watch', () => late.includes('k/changes'));
  t.notOk(late.includes('k/stays'), 'what it knew is not repeated');
});

inWorld('leases and revisions outlive the processes', async (t, world) => {
  const first = await world.connect();
  const lease = await first.grantLease(60_000);
  const { revision } = await first.txn([], [put('a', '1', lease), put('b', '1')]);
  await first.close();
  const second = await world.connect();
  t.equal((await second.get('a'))?.revision, revision);
  t.equal(await second.keepAlive(lease), true);
  t.equal((await second.txn([], [put('b', '2')])).revision, revision + 1);
});

inWorld('a store that is absent or damaged is refused', async (t, world) => {
  const { directory } = world;
  await t.rejects(openLmdbClusterStore({ directory, create: false }), { code: 'DRIVE' });
  await t.rejects(openLmdbClusterStore({ directory: join(directory, 'nowhere'), create: false }), { code: 'DRIVE' });
  const store = await world.connect();
  await store.txn([], [put('a', '1')]);
  await store.close();
  await truncate(join(directory, 'data.mdb'), 5_000);
  await t.rejects(openLmdbClusterStore({ directory, create: false }), { code: 'DRIVE', message: /damaged/ });
  t.equal((await readFile(join(directory, 'data.mdb'))).length, 5_000, 'it is left as it was');
});

inWorld('a durable commit takes milliseconds at most', async (t, world) => {
  const store = await world.connect();
  const durationsMs: number[] = [];
  for (let round = 0; round < 200; round += 1) {
    const start = clock.nowMs();
    await store.txn([{ key: 'absent', revision: 0 }], [put('a', String(round))]);
    durationsMs.push(clock.nowMs() - start);
  }
  const [median, p99] = [0.5, 0.99].map((q) => durationsMs.toSorted((a, b) => a - b)[Math.floor(q * 200)] ?? 0);
  t.comment(`transaction: median ${median?.toFixed(2)} ms, p99 ${p99?.toFixed(2)} ms`);
  t.ok((median ?? 0) < 250, 'not by the poll');
});

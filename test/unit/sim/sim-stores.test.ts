/** The simulator's stores, clock and chance: they pass the same suites as the real ones, and fail only as told. */
import t from 'tap';
import { BraidError } from '../../../daemon/base/errors.js';
import type { ClusterStore } from '../../../daemon/ports/cluster-store.js';
import { SimClock } from '../../sim/world/sim-clock.js';
import { SimClusterStore, SimStoreState } from '../../sim/world/sim-cluster-store.js';
import { SimMetaStoreOpener } from '../../sim/world/sim-meta-store.js';
import { SimRandom } from '../../sim/world/sim-random.js';
import { put, testClusterStore } from '../ports/cluster-store-conformance.js';
import { commit, key, set, testMetaStore } from '../ports/meta-store-conformance.js';

/** Steps `clock` in the background, one event per turn of the event loop, until stopped. */
function drive(clock: SimClock): () => void {
  let isRunning = true;
  const turn = () => {
    clock.step();
    if (isRunning) setImmediate(turn);
  };
  setImmediate(turn);
  return () => {
    isRunning = false;
  };
}

t.test('SimClusterStore', async (t) => {
  testClusterStore(t, async () => {
    const [clock, random] = [new SimClock(), new SimRandom(1)];
    const stop = drive(clock);
    const state = new SimStoreState(clock, random.fork('state'));
    const stores: ClusterStore[] = [];
    const connect = async () => {
      const store = new SimClusterStore(state, clock, random.fork(`client ${stores.length}`));
      stores.push(store);
      return store;
    };
    const dispose = async () => {
      await Promise.all(stores.map((store) => store.close()));
      stop();
    };
    return { clock, connect, dispose };
  });
});

t.test('SimMetaStore', async (t) => {
  testMetaStore(t, async () => {
    const clock = new SimClock();
    const stop = drive(clock);
    return {
      opener: new SimMetaStoreOpener(clock, new SimRandom(1)),
      directory: 'drive',
      dispose: async () => stop(),
    };
  });
});

t.test('lost calls change nothing, lost replies hide what happened: both are UNAVAILABLE', async (t) => {
  for (const [options, expected] of [
    [{ loseCall: 1 }, 0],
    [{ loseReply: 1 }, 1],
  ] as const) {
    const clock = new SimClock();
    const state = new SimStoreState(clock, new SimRandom(1));
    const store = new SimClusterStore(state, clock, new SimRandom(2), options);
    const failure = store.txn([], [put('a', '1')]).catch((error: unknown) => error);
    while (clock.step());
    const error = await failure;
    t.ok(error instanceof BraidError && error.code === 'UNAVAILABLE');
    t.equal(state.list('').entries.length, expected);
  }
});

t.test('a node that is cut off fails its calls, and its watch catches up', async (t) => {
  const clock = new SimClock();
  const stop = drive(clock);
  const state = new SimStoreState(clock, new SimRandom(1));
  const [store, other] = [2, 3].map((seed) => new SimClusterStore(state, clock, new SimRandom(seed)));
  if (store === undefined || other === undefined) throw new Error('two stores');
  const seen: string[] = [];
  store.watch('', 0, (events) => {
    for (const event of events) if (event.type === 'put') seen.push(event.entry.key);
  });
  store.setReachable(false);
  await other.txn([], [put('a', '1')]);
  const error = await store.get('a').catch((error: unknown) => error);
  t.ok(error instanceof BraidError && error.code === 'UNAVAILABLE');
  t.same(seen, []);
  store.setReachable(true);
  t.ok(await store.get('a'));
  await other.get('a');
  await store.list('');
  t.same(seen, ['a']);
  stop();
});

t.test('nothing settles on a node that has crashed', async (t) => {
  const clock = new SimClock();
  const state = new SimStoreState(clock, new SimRandom(1));
  const store = new SimClusterStore(state, clock, new SimRandom(2));
  let isSettled = false;
  const settle = () => {
    isSettled = true;
  };
  store.txn([], [put('a', '1')]).then(settle, settle);
  store.watch('', 0, settle);
  store.crash();
  while (clock.step());
  await new Promise((resolve) => setImmediate(resolve));
  t.equal(isSettled, false);
  t.equal(state.list('').entries.length, 1, 'the call was on its way');
});

t.test('a crash of the metadata store keeps what was done, and a prefix of the rest', async (t) => {
  const survivals = new Set<number>();
  for (let seed = 0; seed < 50; seed += 1) {
    const clock = new SimClock();
    const opener = new SimMetaStoreOpener(clock, new SimRandom(seed));
    const store = await opener.open('drive', { create: true });
    const durable = commit(store, [set(key(0), key(0))]);
    while (clock.step());
    await durable;
    let doneAfterCrash = 0;
    for (const index of [1, 2, 3, 4]) {
      store.commit([set(key(index), key(index)), set(key(100, index), key(index))], () => {
        doneAfterCrash += 1;
      });
      if (index === 1) clock.step();
    }
    const doneBefore = doneAfterCrash;
    store.crash();
    while (clock.step());
    t.equal(doneAfterCrash, doneBefore);
    const again = await opener.open('drive', { create: false });
    const present = [0, 1, 2, 3, 4].map((index) => again.get(key(index)) !== null);
    const count = present.filter(Boolean).length;
    survivals.add(count);
    t.ok(count >= 1 + doneBefore && present.slice(0, count).every(Boolean), 'a prefix');
    for (const index of [1, 2, 3, 4]) t.equal(again.get(key(100, index)) !== null, present[index], 'whole batches');
  }
  t.ok(survivals.size > 1, 'crashes differ');
});

t.test('a failed medium fails its commits and applies nothing', async (t) => {
  const clock = new SimClock();
  const stop = drive(clock);
  const opener = new SimMetaStoreOpener(clock, new SimRandom(1));
  const store = await opener.open('drive', { create: true });
  const media = opener.media('drive');
  if (media === null) throw new Error('it was just created');
  media.failure = new BraidError('DRIVE', 'simulated failure');
  await t.rejects(commit(store, [set(key(1), key(1))]), { code: 'DRIVE' });
  t.equal(store.get(key(1)), null);
  stop();
});

t.test('the clock runs events by time, then by creation; cancelled and stopped ones never', async (t) => {
  const clock = new SimClock();
  const order: string[] = [];
  const note = (name: string) => () => order.push(`${name}@${clock.nowMs()}`);
  clock.after(20, note('late'));
  clock.after(10, note('first'));
  clock.after(10, note('second'));
  clock.after(5, note('cancelled')).cancel();
  const node = clock.nodeClock(2, 1_000);
  node.after(20, note('fast'));
  const dead = clock.nodeClock(1, 0);
  dead.after(1, note('dead'));
  dead.stop();
  t.equal(clock.nextMs(), 1);
  clock.runUntil(15);
  t.same(order, ['first@10', 'second@10', 'fast@10']);
  t.equal(clock.nowMs(), 15);
  t.equal(node.nowMs(), 1_030);
  t.equal(clock.step(), true);
  t.equal(clock.step(), false);
  t.equal(order.at(-1), 'late@20');
  const random = new SimRandom(4);
  const times: number[] = [];
  for (let index = 0; index < 500; index += 1) clock.after(random.below(100), () => times.push(clock.nowMs()));
  while (clock.step());
  t.same(
    times,
    times.toSorted((left, right) => left - right),
  );
});

t.test('chance repeats from its seed and is fair', async (t) => {
  const draw = (random: SimRandom) => Array.from({ length: 100 }, () => random.uint32());
  t.same(draw(new SimRandom(7)), draw(new SimRandom(7)));
  t.notSame(draw(new SimRandom(7)), draw(new SimRandom(8)));
  const used = new SimRandom(7);
  draw(used);
  t.same(draw(used.fork('a')), draw(new SimRandom(7).fork('a')), 'a fork does not depend on what was drawn');
  t.notSame(draw(used.fork('a')), draw(used.fork('b')));
  const random = new SimRandom(1);
  const counts = [0, 0, 0, 0];
  for (let draw = 0; draw < 4_000; draw += 1) {
    const index = random.below(4);
    counts[index] = (counts[index] ?? 0) + 1;
  }
  t.ok(
    counts.every((count) => count > 800 && count < 1_200),
    counts.join(),
  );
  const heads = Array.from({ length: 1_000 }, () => random.chance(0.3)).filter(Boolean).length;
  t.ok(heads > 240 && heads < 360, String(heads));
  t.equal(random.chance(0), false);
  t.equal(random.chance(1), true);
  t.match(random.uuid(), /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
});

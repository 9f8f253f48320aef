/** What every `ClusterStore` does, as tests that run on each implementation. */
import type { Test } from 'tap';
import { BraidError, type ErrorCode } from '../../../daemon/base/errors.js';
import { sleep, type Clock } from '../../../daemon/ports/clock.js';
import type { ClusterStore, StoreEvent } from '../../../daemon/ports/cluster-store.js';
import { storeLimits } from '../../../daemon/adapters/store-limits.js';

export interface ClusterStoreWorld {
  /** The clock that leases run by; it goes on while the tests wait for promises. */
  readonly clock: Clock;
  /** One more client of the same store. */
  connect(): Promise<ClusterStore>;
  dispose(): Promise<void>;
}

const DEADLINE_MS = 10_000;
const POLL_MS = 10;
const LEASE_MS = 400;

/** Waits until `condition` holds, on `clock`; fails the test when it does not in time. */
export async function until(clock: Clock, what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadlineMs = clock.nowMs() + DEADLINE_MS;
  while (!(await condition())) {
    if (clock.nowMs() > deadlineMs) throw new Error(`not in time: ${what}`);
    await sleep(clock, POLL_MS);
  }
}

export const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
export const text = (value: Uint8Array | undefined): string => new TextDecoder().decode(value);

export const put = (key: string, value: string, lease?: string) =>
  ({ type: 'put', key, value: bytes(value), ...(lease === undefined ? {} : { lease }) }) as const;
const remove = (key: string) => ({ type: 'delete', key }) as const;

async function rejectsWith(t: Test, code: ErrorCode, promise: Promise<unknown>): Promise<void> {
  const outcome = await promise.then(
    () => 'resolved',
    (error: unknown) => (error instanceof BraidError ? error.code : error),
  );
  t.equal(outcome, code);
}

/** The state that a watcher knows of, from its events alone. */
class Mirror {
  readonly entries = new Map<string, string>();
  readonly revisions: number[] = [];

  readonly onEvents = (events: readonly StoreEvent[]): void => {
    for (const event of events) {
      this.revisions.push(event.type === 'put' ? event.entry.revision : event.revision);
      if (event.type === 'put') this.entries.set(event.entry.key, text(event.entry.value));
      else this.entries.delete(event.key);
    }
  };

  isOrdered(): boolean {
    return this.revisions.every((revision, index) => index === 0 || revision >= (this.revisions[index - 1] ?? 0));
  }
}

type Body = (t: Test, world: ClusterStoreWorld, store: ClusterStore) => Promise<void>;

const transactions: Record<string, Body> = {
  'an absent key is null, a put is read back with its revision': async (t, world, store) => {
    t.equal(await store.get('nodes/a'), null);
    const { committed, revision } = await store.txn([], [put('nodes/a', 'one')]);
    t.equal(committed, true);
    const other = await world.connect();
    for (const client of [store, other]) {
      t.match(await client.get('nodes/a'), { key: 'nodes/a', value: bytes('one'), revision });
    }
  },

  'list gives the entries below a prefix in key order as of one revision': async (t, _world, store) => {
    t.same(await store.list('volumes/'), { entries: [], revision: 0 });
    const keys = ['volumes/b', 'volumes/a', 'volumes0', 'volumes/a/c', 'volume'];
    await store.txn([], [...keys.map((key) => put(key, key)), put('names/x', '')]);
    const { revision } = await store.txn([], [put('volumes/b', 'new')]);
    const list = await store.list('volumes/');
    t.same(
      list.entries.map(({ key, value }) => [key, text(value)]),
      [
        ['volumes/a', 'volumes/a'],
        ['volumes/a/c', 'volumes/a/c'],
        ['volumes/b', 'new'],
      ],
    );
    t.equal(list.revision, revision);
    t.equal((await store.list('')).entries.length, 6);
  },

  'a transaction applies all of its operations, or none': async (t, _world, store) => {
    const { revision } = await store.txn([], [put('a', '1'), put('b', '1')]);
    const wrong = await store.txn([{ key: 'a', revision: revision + 1 }], [put('a', '2'), remove('b')]);
    t.same(wrong, { committed: false, revision });
    t.equal(text((await store.get('a'))?.value), '1');
    const compares = [
      { key: 'a', revision },
      { key: 'c', revision: 0 },
    ];
    const right = await store.txn(compares, [put('a', '2'), remove('b'), put('c', '2')]);
    t.equal(right.committed, true);
    t.ok(right.revision > revision);
    t.equal(await store.get('b'), null);
    t.equal((await store.get('a'))?.revision, right.revision);
    t.equal((await store.get('c'))?.revision, right.revision);
    t.equal((await store.txn([{ key: 'c', revision: 0 }], [])).committed, false, 'it exists now');
  },

  'a transaction that changes nothing leaves the revision': async (t, _world, store) => {
    const { revision } = await store.txn([], [put('a', '1')]);
    t.same(await store.txn([], []), { committed: true, revision });
    t.same(await store.txn([], [remove('absent')]), { committed: true, revision });
  },

  'empty and large values, and 128 operations at once': async (t, _world, store) => {
    const large = new Uint8Array(storeLimits.valueBytesMax).fill(7);
    await store.txn([], [put('empty', ''), { type: 'put', key: 'large', value: large }]);
    t.equal((await store.get('empty'))?.value.length, 0);
    t.same((await store.get('large'))?.value, large);
    const keys = Array.from({ length: storeLimits.operationsMax }, (_, index) => `many/${index}`);
    t.equal(
      (
        await store.txn(
          [],
          keys.map((key) => put(key, key)),
        )
      ).committed,
      true,
    );
    t.equal((await store.list('many/')).entries.length, storeLimits.operationsMax);
  },

  'limits are refused': async (t, _world, store) => {
    const compares = Array.from({ length: storeLimits.comparesMax + 1 }, () => ({ key: 'a', revision: 0 }));
    await rejectsWith(t, 'LIMIT_EXCEEDED', store.txn(compares, []));
    const operations = Array.from({ length: storeLimits.operationsMax + 1 }, (_, index) => put(`a${index}`, ''));
    await rejectsWith(t, 'LIMIT_EXCEEDED', store.txn([], operations));
    const value = new Uint8Array(storeLimits.valueBytesMax + 1);
    await rejectsWith(t, 'LIMIT_EXCEEDED', store.txn([], [{ type: 'put', key: 'a', value }]));
    await rejectsWith(t, 'LIMIT_EXCEEDED', store.txn([], [put('k'.repeat(storeLimits.keyCharsMax + 1), '')]));
    for (const key of ['', 'a b', 'ü']) await rejectsWith(t, 'INVALID_ARGUMENT', store.txn([], [put(key, '')]));
    await rejectsWith(t, 'INVALID_ARGUMENT', store.txn([], [put('a', '1'), remove('a')]));
    for (const ttlMs of [0, -1, 1.5]) await rejectsWith(t, 'INVALID_ARGUMENT', store.grantLease(ttlMs));
    t.same(await store.list(''), { entries: [], revision: 0 });
  },

  'concurrent compare-and-swap loses no increment': async (t, world, store) => {
    const clients = [store, await world.connect(), await world.connect()];
    const incrementsEach = 20;
    await Promise.all(
      clients.map(async (client) => {
        for (let done = 0; done < incrementsEach;) {
          const entry = await client.get('counter');
          const value = Number(text(entry?.value) || '0') + 1;
          const compare = { key: 'counter', revision: entry?.revision ?? 0 };
          if ((await client.txn([compare], [put('counter', String(value))])).committed) done += 1;
        }
      }),
    );
    t.equal(text((await store.get('counter'))?.value), String(clients.length * incrementsEach));
  },

  'after close every call is UNAVAILABLE': async (t, world) => {
    const store = await world.connect();
    await store.close();
    await store.close();
    await rejectsWith(t, 'UNAVAILABLE', store.get('a'));
    await rejectsWith(t, 'UNAVAILABLE', store.txn([], [put('a', '')]));
  },
};

const watches: Record<string, Body> = {
  'a watch reports what follows its revision, below its prefix, in order': async (t, world, store) => {
    const other = await world.connect();
    await store.txn([], [put('v/old', '1'), put('v/gone', '1')]);
    const { revision } = await store.list('v/');
    await store.txn([], [put('v/early', '1'), remove('v/gone')]);
    const mirror = new Mirror();
    const watch = other.watch('v/', revision, mirror.onEvents);
    await store.txn([], [put('v/late', '1'), put('w/other', '1')]);
    await store.txn([], [put('v/late', '2')]);
    await until(world.clock, 'the last change', () => mirror.entries.get('v/late') === '2');
    t.same(
      [...mirror.entries],
      [
        ['v/early', '1'],
        ['v/late', '2'],
      ],
    );
    t.ok(mirror.revisions.every((each) => each > revision) && mirror.isOrdered());
    watch.close();
  },

  'a watch follows many changes of many writers to the same state': async (t, world, store) => {
    const clients = [store, await world.connect()];
    const mirror = new Mirror();
    store.watch('k/', 0, mirror.onEvents);
    await Promise.all(
      clients.map(async (client, writer) => {
        for (let round = 0; round < 30; round += 1) {
          const key = `k/${(round * 7 + writer) % 10}`;
          await client.txn([], [round % 3 === 2 ? remove(key) : put(key, `${writer}-${round}`)]);
        }
        await client.txn([], [put(`k/end${writer}`, '')]);
      }),
    );
    await until(world.clock, 'the ends', () => mirror.entries.has('k/end0') && mirror.entries.has('k/end1'));
    const { entries } = await store.list('k/');
    t.same(new Map([...mirror.entries].sort()), new Map(entries.map(({ key, value }) => [key, text(value)])));
    t.ok(mirror.isOrdered());
  },

  'a closed watch is silent, even when it closes itself': async (t, world, store) => {
    const [closed, open] = [new Mirror(), new Mirror()];
    const watch = store.watch('', 0, (events) => {
      closed.onEvents(events);
      watch.close();
    });
    store.watch('', 0, open.onEvents);
    await store.txn([], [put('a', '1')]);
    await until(world.clock, 'the first', () => open.entries.size === 1 && closed.entries.size === 1);
    await store.txn([], [put('b', '1')]);
    await until(world.clock, 'the second', () => open.entries.size === 2);
    t.equal(closed.entries.size, 1);
  },
};

const leases: Record<string, Body> = {
  'keys under a lease go when it runs out, and watchers learn of it': async (t, world, store) => {
    const mirror = new Mirror();
    (await world.connect()).watch('alive/', 0, mirror.onEvents);
    const grantedMs = world.clock.nowMs();
    const lease = await store.grantLease(LEASE_MS);
    await store.txn([], [put('alive/a', '1', lease), put('alive/b', '1')]);
    await until(world.clock, 'the put is seen', () => mirror.entries.has('alive/a'));
    await until(world.clock, 'the end', async () => (await store.get('alive/a')) === null);
    t.ok(world.clock.nowMs() - grantedMs >= LEASE_MS, 'not before its time');
    await until(world.clock, 'the event', () => !mirror.entries.has('alive/a'));
    t.same([...mirror.entries.keys()], ['alive/b'], 'keys without the lease stay');
    t.equal(await store.keepAlive(lease), false);
    t.equal((await store.txn([{ key: 'alive/a', revision: 0 }], [])).committed, true);
  },

  'a renewed lease lasts, and stays ended once it has ended': async (t, world, store) => {
    const lease = await store.grantLease(LEASE_MS);
    await store.txn([], [put('alive/a', '1', lease)]);
    const startMs = world.clock.nowMs();
    while (world.clock.nowMs() < startMs + 3 * LEASE_MS) {
      await sleep(world.clock, LEASE_MS / 4);
      t.equal(await store.keepAlive(lease), true);
      t.ok(await store.get('alive/a'));
    }
    await until(world.clock, 'the end', async () => (await store.list('alive/')).entries.length === 0);
    t.equal(await store.keepAlive(lease), false);
    t.equal(await store.keepAlive(lease), false);
  },

  'revoking ends a lease at once; again, or unknown, is no error': async (t, _world, store) => {
    const lease = await store.grantLease(60_000);
    await store.txn([], [put('alive/a', '1', lease), put('alive/b', '1', lease)]);
    const before = (await store.list('')).revision;
    await store.revokeLease(lease);
    const after = await store.list('alive/');
    t.same(after.entries, []);
    t.ok(after.revision > before);
    t.equal(await store.keepAlive(lease), false);
    await store.revokeLease(lease);
    await store.revokeLease('unknown');
  },

  'a put under a lease that has ended is ABORTED and changes nothing': async (t, _world, store) => {
    const lease = await store.grantLease(60_000);
    await store.revokeLease(lease);
    for (const ended of [lease, 'unknown']) {
      await rejectsWith(t, 'ABORTED', store.txn([], [put('b', '1'), put('a', '1', ended)]));
    }
    t.same((await store.list('')).entries, []);
    const compares = [{ key: 'b', revision: 5 }];
    t.equal((await store.txn(compares, [put('a', '1', lease)])).committed, false, 'the compare comes first');
  },

  'a put moves a key to another lease, or to none': async (t, _world, store) => {
    const [first, second] = [await store.grantLease(60_000), await store.grantLease(60_000)];
    t.not(first, second);
    await store.txn([], [put('a', '1', first), put('b', '1', first), put('c', '1', first)]);
    await store.txn([], [put('a', '2', second), put('b', '2')]);
    await store.revokeLease(first);
    t.same(
      (await store.list('')).entries.map(({ key }) => key),
      ['a', 'b'],
    );
    await store.revokeLease(second);
    t.same(
      (await store.list('')).entries.map(({ key }) => key),
      ['b'],
    );
  },
};

/** Declares the tests; `create` makes a new, empty store for each. */
export function testClusterStore(t: Test, create: () => Promise<ClusterStoreWorld>): void {
  for (const [name, body] of Object.entries({ ...transactions, ...watches, ...leases })) {
    void t.test(name, async (t) => {
      const world = await create();
      try {
        await body(t, world, await world.connect());
      } finally {
        await world.dispose();
      }
    });
  }
}

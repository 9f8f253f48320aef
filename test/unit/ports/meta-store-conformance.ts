/** What every `MetaStore` does, as tests that run on each implementation. */
import type { Test } from 'tap';
import { BraidError } from '../../../daemon/base/errors.js';
import type { MetaOperation, MetaStore, MetaStoreOpener } from '../../../daemon/ports/meta-store.js';

export interface MetaStoreWorld {
  readonly opener: MetaStoreOpener;
  /** Where no store is yet. */
  readonly directory: string;
  dispose(): Promise<void>;
}

export const key = (...bytes: number[]): Uint8Array => Uint8Array.from(bytes);
export const set = (name: Uint8Array, value: Uint8Array): MetaOperation => ({ key: name, value });
const unset = (name: Uint8Array): MetaOperation => ({ key: name, value: null });

/** Resolves when the commit is durable. */
export function commit(store: MetaStore, operations: readonly MetaOperation[]): Promise<void> {
  return new Promise((resolve, reject) => {
    store.commit(operations, (error) => (error === null ? resolve() : reject(error)));
  });
}

/** The keys below a prefix, each with the first byte of its value. */
function scanned(store: MetaStore, prefix: Uint8Array): number[][] {
  const found: number[][] = [];
  store.scan(prefix, (name, value) => found.push([...name, value[0] ?? -1]));
  return found;
}

type Body = (t: Test, store: MetaStore, world: MetaStoreWorld) => Promise<void>;

const bodies: Record<string, Body> = {
  'a committed value is read back; an absent or deleted one is null': async (t, store) => {
    t.equal(store.get(key(1)), null);
    await commit(store, [set(key(1), key(10, 11)), set(key(2), key(20))]);
    t.same([...(store.get(key(1)) ?? [])], [10, 11]);
    await commit(store, [unset(key(1)), set(key(2), key(21)), unset(key(99))]);
    t.equal(store.get(key(1)), null);
    t.same([...(store.get(key(2)) ?? [])], [21]);
  },

  'a value is a whole array of its own length, whatever length came before': async (t, store) => {
    const lengths = [0, 1, 150, 511, 513, 5_000, 100_000, 3];
    await commit(
      store,
      lengths.map((length, index) => set(key(1, index), new Uint8Array(length).fill(index + 1))),
    );
    for (const round of [1, 2]) {
      lengths.forEach((length, index) => {
        const value = store.get(key(1, index));
        t.equal(value?.length, length, `round ${round}`);
        t.equal(value?.byteLength, length);
        t.ok(value?.every((byte) => byte === index + 1));
      });
    }
  },

  'scan visits the keys of a prefix in order, edges included': async (t, store) => {
    const names = [key(2), key(1, 255), key(1, 0), key(1), key(255, 255), key(255), key(1, 255, 0), key(0)];
    await commit(
      store,
      names.map((name, index) => set(name, key(index))),
    );
    t.same(scanned(store, key(1)), [
      [1, 3],
      [1, 0, 2],
      [1, 255, 1],
      [1, 255, 0, 6],
    ]);
    t.same(scanned(store, key(255)), [
      [255, 5],
      [255, 255, 4],
    ]);
    t.equal(scanned(store, key()).length, names.length);
    t.same(scanned(store, key(3)), []);
  },

  'commits are done in the order of the calls, the later one wins': async (t, store) => {
    const order: number[] = [];
    const count = 200;
    await new Promise<void>((resolve, reject) => {
      for (let index = 0; index < count; index += 1) {
        store.commit([set(key(1), key(index)), set(key(2, index), key(index))], (error) => {
          if (error !== null) reject(error);
          if (store.get(key(2, index)) === null) reject(new Error('done before it can be read'));
          order.push(index);
          if (index === count - 1) resolve();
        });
      }
    });
    t.same(order, Array.from(order.keys()));
    t.equal(store.get(key(1))?.[0], count - 1);
  },

  'what is committed from inside done follows': async (t, store) => {
    await new Promise<void>((resolve, reject) => {
      store.commit([set(key(1), key(1))], () => {
        store.commit([set(key(1), key(2))], (error) => (error === null ? resolve() : reject(error)));
      });
    });
    t.same([...(store.get(key(1)) ?? [])], [2]);
  },

  'the arrays of an operation may be reused once commit has returned': async (t, store) => {
    const [name, value] = [key(1), key(1)];
    const committed = commit(store, [set(name, value)]);
    name[0] = 9;
    value[0] = 9;
    await committed;
    t.same(scanned(store, key()), [[1, 1]]);
  },

  'an empty commit is done, too': async (t, store) => {
    await commit(store, []);
    t.same(scanned(store, key()), []);
  },

  'usedBytes grows with what is stored': async (t, store) => {
    const before = store.usedBytes();
    await commit(store, [set(key(1), new Uint8Array(100_000))]);
    t.ok(store.usedBytes() >= before + 100_000);
  },

  'close waits for commits; what was done is there when it is opened again': async (t, store, world) => {
    const pending = commit(store, [set(key(1), key(1))]);
    await store.close();
    await pending;
    await store.close();
    const again = await world.opener.open(world.directory, { create: false });
    t.same(scanned(again, key()), [[1, 1]]);
    await again.close();
  },

  'a second opener is refused with DRIVE while it is open': async (t, _store, world) => {
    for (const create of [true, false]) {
      const error = await world.opener.open(world.directory, { create }).catch((error: unknown) => error);
      t.ok(error instanceof BraidError && error.code === 'DRIVE');
    }
  },

  'an absent store is DRIVE unless it is to be created': async (t, _store, world) => {
    const directory = `${world.directory}-absent`;
    const error = await world.opener.open(directory, { create: false }).catch((error: unknown) => error);
    t.ok(error instanceof BraidError && error.code === 'DRIVE');
  },
};

/** Declares the tests; `create` makes a new world for each. */
export function testMetaStore(t: Test, create: () => Promise<MetaStoreWorld>): void {
  for (const [name, body] of Object.entries(bodies)) {
    void t.test(name, async (t) => {
      const world = await create();
      try {
        const store = await world.opener.open(world.directory, { create: true });
        await body(t, store, world);
        await store.close();
      } finally {
        await world.dispose();
      }
    });
  }
}

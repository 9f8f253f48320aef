import t from 'tap';
import { limits } from '../../../daemon/base/limits.js';
import { inWindow } from '../../../daemon/coordinator/window.js';

/** Work that ends when the test says so. */
function controlled() {
  const under = new Map<number, { resolve: () => void; reject: (error: Error) => void }>();
  const work = (item: number): Promise<void> =>
    new Promise((resolve, reject) => {
      under.set(item, { resolve, reject });
    });
  const end = async (item: number, error?: Error): Promise<void> => {
    if (error === undefined) under.get(item)?.resolve();
    else under.get(item)?.reject(error);
    under.delete(item);
    await new Promise(setImmediate);
  };
  return { under, work, end };
}

const ITEMS = Array.from({ length: 3 * limits.copyWindowExtents }, (_, index) => index);

t.test('a window of the items is under way at any time, and all get done', async (t) => {
  const { under, work, end } = controlled();
  const done = inWindow(ITEMS, work);
  for (const item of ITEMS) {
    t.equal(under.size, Math.min(limits.copyWindowExtents, ITEMS.length - item));
    await end(item);
  }
  await done;
});

t.test('after a failure nothing starts, and it rejects when all that was under way has ended', async (t) => {
  const { under, work, end } = controlled();
  let rejected = false;
  const done = inWindow(ITEMS, work).finally(() => (rejected = true));
  done.catch(() => undefined);
  await end(3, new Error('broken'));
  t.equal(under.size, limits.copyWindowExtents - 1);
  for (const item of [...under.keys()]) {
    t.notOk(rejected);
    await end(item);
  }
  t.equal(under.size, 0);
  await t.rejects(done, /broken/);
});

/** Drive metadata on LMDB: the conformance suite, crashes, exclusive use, and damage that must not take the agent down. */
import { randomFillSync } from 'node:crypto';
import { copyFile, mkdtemp, open, readFile, rename, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { LmdbMetaStoreOpener } from '../../../daemon/adapters/lmdb/meta-store.js';
import { acquireProcessLock } from '../../../daemon/adapters/process-lock.js';
import { runTool } from '../../../daemon/adapters/run-tool.js';
import { commit, key, set, testMetaStore } from '../ports/meta-store-conformance.js';
import { saying, startStoreProcess } from './store-process.js';

const opener = new LmdbMetaStoreOpener();
const PAGE_BYTES = 4_096;

async function createWorld() {
  const root = await mkdtemp(join(tmpdir(), 'braid-meta-'));
  // A dot in the name must not make lmdb take it for a file.
  return { opener, directory: join(root, 'drive.1'), root, dispose: () => rm(root, { recursive: true }) };
}

function inWorld(name: string, body: (t: Test, directory: string, root: string) => Promise<void>): void {
  void t.test(name, async (t) => {
    const world = await createWorld();
    try {
      await body(t, world.directory, world.root);
    } finally {
      await world.dispose();
    }
  });
}

/** A store with `count` keys of 150 bytes and one of many pages, closed. */
async function fill(directory: string, count: number): Promise<string> {
  const store = await opener.open(directory, { create: true });
  await commit(
    store,
    Array.from({ length: count }, (_, index) => set(key(1, index >> 8, index & 255), new Uint8Array(150).fill(index))),
  );
  await commit(store, [set(key(2), new Uint8Array(50_000).fill(9))]);
  await store.close();
  return join(directory, 'data.mdb');
}

/** The pages at the top of both trees, as the newer header has them. */
async function rootsOf(file: string): Promise<number[]> {
  const content = await readFile(file);
  const [first, second] = [content, content.subarray(PAGE_BYTES)];
  const newer = first.readBigUInt64LE(152) > second.readBigUInt64LE(152) ? first : second;
  return [newer.readBigUInt64LE(88), newer.readBigUInt64LE(136)].map(Number);
}

const refusal = { code: 'DRIVE', message: /damaged/ };

t.test('conformance', async (t) => testMetaStore(t, createWorld));

inWorld('a scan makes no arrays for each entry, and shows each as it is', async (t, directory) => {
  await fill(directory, 5_000);
  const store = await opener.open(directory, { create: false });
  const arrays = new Set<Uint8Array>();
  let entries = 0;
  store.scan(key(1), (name, value) => {
    const expected = entries++;
    arrays.add(name).add(value);
    if (name.join() !== [1, expected >> 8, expected & 255].join() || !value.every((byte) => byte === (expected & 255)))
      t.fail(`entry ${expected} is ${name.join()}: ${value.join()}`);
  });
  t.equal(entries, 5_000);
  t.equal(arrays.size, 2, "one view of lmdb's buffer for the keys, one for the values");
  store.scan(key(2), (name, value) => t.same([name.length, value.length, value[49_999]], [1, 50_000, 9]));
  t.equal(store.get(key(1, 3, 2))?.[0], 2, 'what is read singly is a copy as before');
  await store.close();
});

inWorld('after kill -9 all that was done is there, and every batch is whole', async (t, directory) => {
  const keysPerBatch = 20;
  const rounds = [1, 2, 3];
  for (const round of rounds) {
    const writer = startStoreProcess({ type: 'commit-meta', directory, keysPerBatch });
    await writer.waitFor((report) => typeof report === 'number' && report >= 100 * round);
    await writer.kill();
    const lastDone = writer.latest();
    const store = await opener.open(directory, { create: false });
    const keysOf = new Map<number, number>();
    store.scan(key(), (name) => {
      const batch = Buffer.from(name).readUInt32BE();
      keysOf.set(batch, (keysOf.get(batch) ?? 0) + 1);
    });
    await store.close();
    t.ok(keysOf.size > lastDone, `${keysOf.size} batches are there, ${lastDone + 1} were done`);
    t.ok(
      [...keysOf.values()].every((count) => count === keysPerBatch),
      'whole batches',
    );
    t.equal(Math.max(...keysOf.keys()), keysOf.size - 1, 'no batch is missing before a later one');
  }
});

inWorld(
  'another process is refused while one uses the store, by whatever path, and served after it died',
  async (t, directory, root) => {
    const writer = startStoreProcess({ type: 'commit-meta', directory, keysPerBatch: 1 });
    await writer.waitFor(saying('ready'));
    const alias = join(root, 'alias');
    await symlink(directory, alias);
    for (const path of [directory, alias]) {
      await t.rejects(opener.open(path, { create: true }), { code: 'DRIVE', message: new RegExp(`${path}.*in use`) });
    }
    await writer.kill();
    const store = await opener.open(alias, { create: false });
    await store.close();
  },
);

inWorld(
  'a process lock conflicts within a process and across, and dies with its holder',
  async (t, _directory, root) => {
    const holder = startStoreProcess({ type: 'lock', directory: root });
    await holder.waitFor(saying('ready'));
    await t.rejects(acquireProcessLock(root), { code: 'CONFLICT', message: new RegExp(root) });
    await holder.kill();
    const lock = await acquireProcessLock(root);
    await t.rejects(acquireProcessLock(root), { code: 'CONFLICT' });
    await lock.release();
    await lock.release();
    await (await acquireProcessLock(root)).release();
    await t.rejects(acquireProcessLock(join(root, 'absent')), { code: 'NOT_FOUND' });
  },
);

inWorld('a program that is started while a store is open does not get its files', async (t, directory) => {
  const store = await opener.open(directory, { create: true });
  const links = await runTool('ls', ['-l', '/proc/self/fd']);
  t.equal(links.code, 0, links.stderr);
  t.match(links.stdout, /2 -> /, 'its descriptors are listed');
  t.notMatch(links.stdout, /\.mdb/);
  await store.close();
});

inWorld('a truncated store is refused, wherever it is cut', async (t, directory) => {
  const file = await fill(directory, 1_000);
  const { size } = await stat(file);
  for (const length of [size - PAGE_BYTES, size >> 1, 3 * PAGE_BYTES, 2 * PAGE_BYTES, PAGE_BYTES, 100]) {
    await truncate(file, length);
    await t.rejects(opener.open(directory, { create: false }), refusal, `${length} of ${size} bytes`);
    await t.rejects(opener.open(directory, { create: true }), refusal, 'creating does not overwrite it');
  }
});

inWorld('garbage is refused: the whole file, either header, a root', async (t, directory) => {
  const file = await fill(directory, 1_000);
  const { size } = await stat(file);
  const damage = async (offset: number, length: number) => {
    const handle = await open(file, 'r+');
    const before = Buffer.alloc(length);
    await handle.read(before, 0, length, offset);
    await handle.write(randomFillSync(Buffer.alloc(length)), 0, length, offset);
    await handle.sync();
    await t.rejects(opener.open(directory, { create: false }), refusal, `${length} bytes at ${offset}`);
    await handle.write(before, 0, length, offset);
    await handle.close();
  };
  await damage(0, size);
  await damage(0, PAGE_BYTES);
  await damage(PAGE_BYTES, PAGE_BYTES);
  for (const root of await rootsOf(file)) await damage(root * PAGE_BYTES, PAGE_BYTES);
  const store = await opener.open(directory, { create: false });
  t.equal(store.get(key(2))?.length, 50_000, 'the damage is undone');
  await store.close();
  await writeFile(file, 'not a store');
  await t.rejects(opener.open(directory, { create: true }), refusal);
});

// LMDB trusts its file: what is let through here ends the process with a signal, and the test with it.
inWorld('garbage in any page is refused, or is in a page that is not used', async (t, directory) => {
  const file = await fill(directory, 1_000);
  const sound = await readFile(file);
  const pages = sound.length / PAGE_BYTES;
  const damages: Record<string, (page: Buffer) => unknown> = {
    random: (page) => randomFillSync(page),
    zeros: (page) => page.fill(0),
    'a header': (page) => randomFillSync(page.subarray(16, 24)),
    'node offsets': (page) => randomFillSync(page.subarray(24, 64)),
    nodes: (page) => randomFillSync(page.subarray(1_024)),
  };
  let refused = 0;
  for (const [what, damage] of Object.entries(damages)) {
    for (let number = 2; number < pages; number += 1) {
      const content = Buffer.from(sound);
      damage(content.subarray(number * PAGE_BYTES, (number + 1) * PAGE_BYTES));
      await writeFile(file, content);
      const store = await opener.open(directory, { create: false }).catch((error: unknown) => error as Error);
      if (store instanceof Error) {
        refused += 1;
        if (!refusal.message.test(store.message)) t.fail(`${what}, page ${number}: ${store.message}`);
        continue;
      }
      store.scan(Uint8Array.of(), () => undefined);
      await store.close();
    }
  }
  t.ok(refused > pages, `${refused} of ${Object.keys(damages).length * (pages - 2)} were refused`);
});

inWorld('what happens to the file while it is open is noticed', async (t, directory) => {
  const file = await fill(directory, 10);
  const store = await opener.open(directory, { create: false });
  t.equal(await store.check(), '');
  await commit(store, [set(key(3), new Uint8Array(100_000))]);
  t.equal(await store.check(), '', 'it grows');
  await rename(file, `${file}.away`);
  t.match(await store.check(), /has vanished; put it back/);
  await copyFile(`${file}.away`, file);
  t.match(await store.check(), /is not the file any more that was opened/);
  await rename(`${file}.away`, file);
  t.equal(await store.check(), '');
  const { size } = await stat(file);
  // Free pages: nothing that is in use is lost under the map.
  await commit(store, [{ key: key(3), value: null }]);
  await truncate(file, size - PAGE_BYTES);
  t.match(await store.check(), /was cut from .* what was cut off is lost/);
  await truncate(file, size);
  await store.close();
});

inWorld('a file that ends before its last page is served when that page is free', async (t, directory) => {
  const file = await fill(directory, 1_000);
  const store = await opener.open(directory, { create: false });
  await commit(store, [{ key: key(2), value: null }]);
  await store.close();
  const { size } = await stat(file);
  // The free value's pages lie at the end; the pages that the deletion itself wrote may follow them.
  let served = 0;
  for (let length = size; length > size - 3 * PAGE_BYTES; length -= PAGE_BYTES) {
    await truncate(file, length);
    const again = await opener.open(directory, { create: false }).catch(() => null);
    if (again === null) break;
    served += 1;
    let count = 0;
    again.scan(key(1), () => (count += 1));
    t.equal(count, 1_000);
    await again.close();
  }
  t.ok(served > 0);
});

inWorld('a durable commit takes milliseconds at most, and many share one', async (t, directory) => {
  const store = await opener.open(directory, { create: true });
  const durationsMs: number[] = [];
  for (let round = 0; round < 200; round += 1) {
    const start = performance.now();
    await commit(store, [set(key(1, round), new Uint8Array(150))]);
    durationsMs.push(performance.now() - start);
  }
  const median = durationsMs.toSorted((left, right) => left - right)[100] ?? 0;
  const start = performance.now();
  const count = 5_000;
  await Promise.all(
    Array.from({ length: count }, (_, index) =>
      commit(store, [set(key(2, index >> 8, index & 255), new Uint8Array(150))]),
    ),
  );
  const together = performance.now() - start;
  t.comment(`commit: median ${median.toFixed(2)} ms; ${count} at once: ${together.toFixed(1)} ms`);
  t.ok(together < (median * count) / 4, 'they share commits');
  await store.close();
});

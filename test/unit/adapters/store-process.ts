/**
 * A process of its own that uses a store, forked by the tests. The first message says what to do; it answers with
 * messages, and goes on until it is killed or has finished.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { LmdbMetaStoreOpener } from '../../../daemon/adapters/lmdb/meta-store.js';
import { openLmdbClusterStore } from '../../../daemon/adapters/lmdb/cluster-store.js';
import { acquireProcessLock } from '../../../daemon/adapters/process-lock.js';
import type { ClusterStore } from '../../../daemon/ports/cluster-store.js';
import { put, text } from '../ports/cluster-store-conformance.js';
import { commit, set } from '../ports/meta-store-conformance.js';

export type Task =
  | { readonly type: 'lock'; readonly directory: string }
  | { readonly type: 'count'; readonly directory: string; readonly increments: number }
  | { readonly type: 'hold-lease'; readonly directory: string; readonly ttlMs: number; readonly key: string }
  | { readonly type: 'put-times'; readonly directory: string; readonly key: string; readonly count: number }
  | { readonly type: 'commit-meta'; readonly directory: string; readonly keysPerBatch: number };

/** What the process says: it is ready, it has finished, or a number that grows. */
export type Report = 'ready' | 'finished' | number;

export interface StoreProcess {
  /** Resolves when the process has said, or says, something that matches; rejects when it ends before. */
  waitFor(matches: (report: Report) => boolean): Promise<void>;
  /** The greatest number that it has reported, -1 before the first. */
  latest(): number;
  /** kill -9; resolves when it is gone. */
  kill(): Promise<void>;
}

export function startStoreProcess(task: Task): StoreProcess {
  const child = fork(fileURLToPath(import.meta.url), { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  const exited = once(child, 'exit');
  const reports: Report[] = [];
  child.on('message', (message) => reports.push(message as Report));
  child.send(task);
  return {
    waitFor: async (matches) => {
      while (!reports.some(matches)) {
        if (child.exitCode !== null)
          throw new Error(`the process ended before it said so: ${reports.slice(-3).join()}`);
        await Promise.race([once(child, 'message'), exited]);
      }
    },
    latest: () =>
      reports.reduce<number>((latest, each) => (typeof each === 'number' ? Math.max(latest, each) : latest), -1),
    kill: async () => {
      child.kill('SIGKILL');
      await exited;
    },
  };
}

/** For `waitFor`. */
export const saying = (expected: Report) => (report: Report) => report === expected;

function report(message: Report): void {
  process.send?.(message);
}

export async function increment(store: ClusterStore, key: string, increments: number): Promise<void> {
  for (let done = 0; done < increments;) {
    const entry = await store.get(key);
    const value = String(Number(text(entry?.value) || '0') + 1);
    const { committed } = await store.txn([{ key, revision: entry?.revision ?? 0 }], [put(key, value)]);
    if (committed) done += 1;
  }
}

/** Puts the time of CLOCK_MONOTONIC (ns) again and again, a little apart. */
async function putTimes(store: ClusterStore, key: string, count: number): Promise<void> {
  for (let index = 0; index < count; index += 1) {
    await new Promise((resolve) => setTimeout(resolve, 5));
    await store.txn([], [put(key, String(process.hrtime.bigint()))]);
  }
}

/** Batch n is `keysPerBatch` keys [n, i]; reports n when it is done. Several are on the way at a time. */
async function commitMeta(directory: string, keysPerBatch: number): Promise<void> {
  const store = await new LmdbMetaStoreOpener().open(directory, { create: true });
  report('ready');
  for (let batch = 0; ; batch += 1) {
    const operations = Array.from({ length: keysPerBatch }, (_, index) => {
      const name = Buffer.alloc(5);
      name.writeUInt32BE(batch);
      name[4] = index;
      return set(name, Buffer.alloc(150, batch));
    });
    const committed = commit(store, operations).then(() => report(batch));
    if (batch % 8 === 0) await committed;
  }
}

async function perform(task: Task): Promise<void> {
  if (task.type === 'lock') {
    await acquireProcessLock(task.directory);
    // Nothing else keeps the process, and with it the lock.
    setInterval(() => {}, 1_000);
    return report('ready');
  }
  if (task.type === 'commit-meta') return commitMeta(task.directory, task.keysPerBatch);
  const store = await openLmdbClusterStore({ directory: task.directory, create: true });
  report('ready');
  if (task.type === 'count') await increment(store, 'counter', task.increments);
  if (task.type === 'put-times') await putTimes(store, task.key, task.count);
  if (task.type === 'hold-lease') {
    const lease = await store.grantLease(task.ttlMs);
    await store.txn([], [put(task.key, 'held', lease)]);
    setInterval(() => void store.keepAlive(lease), task.ttlMs / 4);
    return report(1);
  }
  report('finished');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.once('message', (task) => void perform(task as Task));

/** Makes an embedded cluster store unavailable for a while: reads go on, writes wait (store-lock-worker.ts). */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { Test } from 'tap';

const WORKER = fileURLToPath(new URL('./store-lock-worker.js', import.meta.url));

/** Resolves when nobody can write any more, with what ends that; the end of the test does, too. */
export async function lockStore(t: Test, directory: string): Promise<() => Promise<void>> {
  const child = spawn(process.execPath, [WORKER, directory], { stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = once(child, 'exit');
  const unlock = async () => {
    child.kill('SIGKILL');
    await exited;
  };
  t.teardown(unlock);
  const ended = exited.then(() => Promise.reject(new Error(`${WORKER} ended before it had the lock`)));
  await Promise.race([once(child.stdout, 'data'), ended]);
  ended.catch(() => undefined);
  return unlock;
}

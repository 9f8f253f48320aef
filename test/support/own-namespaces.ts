/**
 * Runs a test file in network and mount namespaces of its own: what it mounts and which links it makes is seen by nobody else, and is gone with
 * its last process, however that ends. A file `x.test.ts` says `if (await isInOwnNamespaces()) await import('./x-scenarios.js')`.
 */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';

const IS_INSIDE = 'BRAID_TEST_IN_OWN_NAMESPACES';

/**
 * True inside. Otherwise starts the same program again in namespaces of its own, waits for its end, and says false; its output and its exit
 * code are this process's.
 */
export async function isInOwnNamespaces(): Promise<boolean> {
  if (process.env[IS_INSIDE] !== undefined) {
    execFileSync('ip', ['link', 'set', 'lo', 'up']);
    return true;
  }
  if (process.getuid?.() !== 0) {
    console.log('TAP version 14\n1..0 # SKIP needs root, for namespaces of its own');
    return false;
  }
  const [program = '', ...programArguments] = process.argv;
  const command = ['--net', '--mount', program, ...process.execArgv, ...programArguments];
  const child = spawn('unshare', command, { stdio: 'inherit', env: { ...process.env, [IS_INSIDE]: '1' } });
  const [code] = (await once(child, 'close')) as [number | null];
  process.exitCode = code ?? 1;
  return false;
}

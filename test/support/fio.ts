/** fio over NBD, writing what it can verify. */
import { spawn } from 'node:child_process';
import type { Test } from 'tap';

export interface FioRun {
  readonly hasEnded: boolean;
  /** Waits for its end: it has seen no error, and every byte is right. */
  expectVerified(): Promise<void>;
}

const OPTIONS = {
  ioengine: 'nbd',
  verify: 'crc32c',
  do_verify: '1',
  verify_fatal: '1',
  randrepeat: '0',
  iodepth: '16',
  rw: 'randwrite',
  // In one process, so that nothing is left when that is killed.
  thread: '1',
};

/**
 * Writes small and large blocks at random for about `writeSeconds`, then reads them back and verifies. Ends with the test.
 * Needs 192 MiB of the volume.
 */
export function startFio(t: Test, uri: string, writeSeconds: number, cwd: string): FioRun {
  const smallMib = 32;
  const largeMib = 160;
  const common = Object.entries(OPTIONS).map(([key, value]) => `--${key}=${value}`);
  const job = (name: string, bs: string, offsetMib: number, sizeMib: number) => {
    const rateMib = Math.max(1, Math.round(sizeMib / writeSeconds));
    return [`--name=${name}`, `--bs=${bs}`, `--offset=${offsetMib}m`, `--size=${sizeMib}m`, `--rate=,${rateMib}m`];
  };
  const args = [
    ...common,
    `--uri=${uri}`,
    ...job('small', '4k', 0, smallMib),
    ...job('large', '64k', smallMib, largeMib),
  ];
  const child = spawn('fio', ['--minimal', ...args], { cwd, stdio: ['ignore', 'pipe', 'pipe'] });
  t.teardown(() => child.kill('SIGKILL'));
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (output += text));
  let hasEnded = false;
  const ended = new Promise<number | null>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => {
      hasEnded = true;
      resolve(code);
    });
  });
  return {
    get hasEnded() {
      return hasEnded;
    },
    expectVerified: async () => {
      const code = await ended;
      t.equal(code, 0, `fio has seen no error and every byte is right${code === 0 ? '' : `: ${output}`}`);
    },
  };
}

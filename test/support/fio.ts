/** fio over NBD, writing what it can verify. */
import { spawn, type ChildProcess } from 'node:child_process';

export interface FioRun {
  readonly process: ChildProcess;
  /** fio's exit code and output. */
  readonly ended: Promise<{ readonly code: number | null; readonly output: string }>;
}

const OPTIONS = {
  ioengine: 'nbd',
  verify: 'crc32c',
  do_verify: '1',
  verify_fatal: '1',
  randrepeat: '0',
  iodepth: '16',
  rw: 'randwrite',
};

/**
 * Writes small and large blocks at random for about `writeSeconds`, then reads them back and verifies.
 * Needs 192 MiB of the volume.
 */
export function startFio(uri: string, writeSeconds: number, cwd: string): FioRun {
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
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (output += text));
  const ended = new Promise<{ code: number | null; output: string }>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, output }));
  });
  return { process: child, ended };
}

/** `braid demo` as a stranger runs it: its report holds, and it leaves nothing behind. */
import { execFile, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { BraidClient } from '../../client/index.js';
import { whyNoDevice } from '../../client/demo/host.js';
import type { DemoReport } from '../../client/demo/report.js';
import { waitFor } from '../../client/processes.js';

const BRAID = fileURLToPath(new URL('../../client/cli/main.js', import.meta.url));
const TIMEOUT_MS = 180_000;

interface Ran {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function braid(...args: string[]): Promise<Ran> {
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      [BRAID, ...args],
      { timeout: TIMEOUT_MS, maxBuffer: 1 << 26 },
      (error, stdout, stderr) => {
        const code = error === null ? 0 : typeof error.code === 'number' ? error.code : null;
        resolve({ code, stdout, stderr });
      },
    );
  });
}

/** A directory for a demo; whatever a failing test leaves running is stopped. */
function demoDirectory(t: Test): string {
  const directory = join(mkdtempSync(join(tmpdir(), 'braid-e2e-')), 'demo');
  t.teardown(async () => {
    if (existsSync(join(directory, 'demo.json'))) await braid('demo', '--stop', directory);
    rmSync(join(directory, '..'), { recursive: true, force: true });
  });
  return directory;
}

function expectProven(t: Test, { code, stdout, stderr }: Ran): DemoReport {
  t.equal(code, 0, `exit code 0${code === 0 ? '' : `: ${stderr}`}`);
  const report = JSON.parse(stdout) as DemoReport;
  t.equal(report.ok, true);
  t.equal(report.error, null);
  t.equal(report.verifications.length, 3, 'read back degraded, after the resync, and after opening again');
  for (const { when, bytes, mismatches } of report.verifications) {
    t.ok(bytes > 1_048_576, `${when}: ${bytes} bytes`);
    t.same(mismatches, [], when);
  }
  t.match(report.replicas, { identical: true, copies: 3 });
  t.ok(report.resync !== null && report.longestStallMs.afterKill < 10_000, 'the stall is short');
  return report;
}

/** Nothing that mentions the directory runs or is mounted. */
function expectNothingLeft(t: Test, directory: string): void {
  t.notOk(existsSync(directory), 'no files');
  t.notOk(readFileSync('/proc/self/mountinfo', 'utf8').includes(directory), 'no mount');
  const commands = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => (existsSync(`/proc/${pid}/cmdline`) ? readFileSync(`/proc/${pid}/cmdline`, 'utf8') : ''));
  t.same(
    commands.filter((command) => command.includes(directory)),
    [],
    'no process',
  );
}

const noDevice = whyNoDevice();

t.test('with a block device and ext4', { skip: noDevice === '' ? false : noDevice }, async (t) => {
  const directory = demoDirectory(t);
  const report = expectProven(t, await braid('demo', '--json', '--dir', directory));
  t.equal(report.mode, 'device');
  t.match(report.device, /^\/dev\/loop\d+$/);
  expectNothingLeft(t, directory);
});

t.test('over NBD, without a device', async (t) => {
  const directory = demoDirectory(t);
  const report = expectProven(t, await braid('demo', '--json', '--nbd', '--dir', directory));
  t.equal(report.mode, 'nbd');
  expectNothingLeft(t, directory);
});

t.test('kept running, used, and stopped', async (t) => {
  const directory = demoDirectory(t);
  const { stdout, code } = await braid('demo', '--keep', '--nbd', '--dir', directory);
  t.equal(code, 0);
  t.match(stdout, /demo --stop/, 'it says how to stop it');
  const api = /BRAID_API=(\S+)/.exec(stdout)?.[1] ?? '';
  const client = new BraidClient({ baseUrl: api, validate: true });
  t.match(await client.cluster(), { health: 'ok', nodes: { total: 3, healthy: 3 } });
  t.match(await braid('--api', api, 'volume', 'show', 'demo'), { code: 0, stdout: /copies +3/ });
  t.equal((await braid('demo', '--dir', directory)).code, 1, 'a second demo in its directory is refused');
  t.equal((await braid('demo', '--stop', directory)).code, 0);
  expectNothingLeft(t, directory);
});

t.test('interrupted, it takes everything down', async (t) => {
  const directory = demoDirectory(t);
  const child = spawn(process.execPath, [BRAID, 'demo', '--dir', directory], { stdio: ['ignore', 'pipe', 'pipe'] });
  t.teardown(() => child.kill('SIGKILL'));
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  const exited = new Promise<number | null>((resolve) => child.on('exit', resolve));
  await waitFor(() => output.includes('writing'), 60_000, 'the demo writes');
  child.kill('SIGINT');
  t.equal(await exited, 130);
  expectNothingLeft(t, directory);
});

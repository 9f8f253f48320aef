/**
 * The test driver. Runs the stages in order and ends with one line, `N passed, N failed, N skipped`.
 *
 *     node dist/test/run.js [--only format,lint,native,fuzz,unit,sim,cluster,e2e] [--grep pattern]
 *
 * Every test file is a program that prints TAP, run in a process group of its own that is killed when the file ends or
 * its time is up, so that no daemon outlives its test. `--grep` selects test files by a pattern on their path.
 * A test is a top-level test of a file; format, lint and each test file that dies without a verdict count as one.
 */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Parser, type FinalResults, type Result } from 'tap-parser';

type Tally = { passed: number; failed: number; skipped: string[] };
type Ended = { output: string; code: number | null; timedOut: boolean };
type Stage = { name: string } & ({ npmScript: string } | { folder: string; jobs: number; fileTimeoutMs: number });

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const MINUTE_MS = 60_000;
const COMMAND_TIMEOUT_MS = 10 * MINUTE_MS;
/** Tap ends a test that hangs, with a report; the driver kills the file if that does not end it. */
const KILL_GRACE_MS = 10_000;
const OUTPUT_CHARS_MAX = 64 * 1024;

const STAGES: readonly Stage[] = [
  { name: 'format', npmScript: 'format:check' },
  { name: 'lint', npmScript: 'lint' },
  { name: 'native', npmScript: 'test:native' },
  { name: 'fuzz', npmScript: 'test:fuzz' },
  { name: 'unit', folder: 'test/unit', jobs: 2, fileTimeoutMs: MINUTE_MS },
  { name: 'sim', folder: 'test/sim', jobs: 2, fileTimeoutMs: 5 * MINUTE_MS },
  { name: 'cluster', folder: 'test/cluster', jobs: 1, fileTimeoutMs: 5 * MINUTE_MS },
  { name: 'e2e', folder: 'test/e2e', jobs: 1, fileTimeoutMs: 10 * MINUTE_MS },
];

const runningGroups = new Set<number>();

function killGroup(groupId: number): void {
  try {
    process.kill(-groupId, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** Resolves when the program has ended and what it left behind is killed; a child that keeps the pipe open is one. */
async function run(command: string, args: string[], timeoutMs: number, onStdout?: (text: string) => void) {
  const env = { ...process.env, TAP_TIMEOUT: String(timeoutMs / 1000) };
  const child = spawn(command, args, { cwd: ROOT, env, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
  const ended: Ended = { output: '', code: null, timedOut: false };
  const keep = (text: string) => (ended.output = (ended.output + text).slice(-OUTPUT_CHARS_MAX));
  child.stdout.setEncoding('utf8').on('data', keep);
  child.stderr.setEncoding('utf8').on('data', keep);
  if (onStdout) child.stdout.on('data', onStdout);
  const groupId = child.pid;
  const closed = new Promise<void>((resolve, reject) => child.on('error', reject).on('close', () => resolve()));
  if (groupId === undefined) return closed.then(() => ended);

  runningGroups.add(groupId);
  const timer = setTimeout(() => {
    ended.timedOut = true;
    killGroup(groupId);
  }, timeoutMs + KILL_GRACE_MS);
  child.on('exit', (code) => {
    ended.code = code;
    killGroup(groupId);
  });
  await closed;
  clearTimeout(timer);
  runningGroups.delete(groupId);
  return ended;
}

function report(verdict: string, name: string, startedAt: number): void {
  console.log(`${verdict.padEnd(4)} ${name} (${((performance.now() - startedAt) / 1000).toFixed(1)} s)`);
}

async function runNpmScript(script: string): Promise<Tally> {
  const startedAt = performance.now();
  const { output, code, timedOut } = await run('npm', ['run', '--silent', script], COMMAND_TIMEOUT_MS);
  report(code === 0 ? 'ok' : 'FAIL', `npm run ${script}`, startedAt);
  if (code === 0) return { passed: 1, failed: 0, skipped: [] };
  console.log(output + (timedOut ? '\nkilled: its time was up' : ''));
  return { passed: 0, failed: 1, skipped: [] };
}

/** Skips count at every depth, so that none hides inside a test that passed. */
function collectSkips(parser: Parser, skipped: string[]): void {
  const reasonOf = ({ skip, todo }: Result) => [skip, todo].find((reason) => typeof reason === 'string') ?? 'no reason';
  parser.on('assert', (result: Result) => {
    if (result.skip || result.todo) skipped.push(`${result.fullname || result.name}: ${reasonOf(result)}`);
  });
  parser.on('child', (child: Parser) => collectSkips(child, skipped));
}

async function runFile(file: string, timeoutMs: number): Promise<Tally> {
  const startedAt = performance.now();
  const skipped: string[] = [];
  const parser = new Parser();
  collectSkips(parser, skipped);
  const completed = new Promise<FinalResults>((resolve) => parser.on('complete', resolve));
  const compiled = `dist/${file.replace(/\.ts$/, '.js')}`;
  const args = ['--enable-source-maps', compiled];
  const ended = await run(process.execPath, args, timeoutMs, (text) => parser.write(text));
  parser.end();
  const results = await completed;

  const isEmpty = results.plan.skipAll && results.plan.skipReason === 'no tests found';
  if (results.plan.skipAll && !isEmpty) skipped.push(`${file}: ${results.plan.skipReason || 'no reason'}`);
  const isDeadWithoutVerdict = results.fail === 0 && (!results.ok || ended.code !== 0);
  const failed = results.fail + (isDeadWithoutVerdict || isEmpty ? 1 : 0);
  report(failed === 0 ? 'ok' : 'FAIL', file, startedAt);
  for (const reason of skipped) console.log(`     skipped ${reason}`);
  if (failed > 0) {
    console.log(ended.output);
    console.log(ended.timedOut ? 'killed: its time was up' : `exit code ${ended.code}, ${results.count} tests`);
  }
  return { passed: results.count - results.fail - results.skip - results.todo, failed, skipped };
}

function testFiles(folder: string, pattern: RegExp): string[] {
  if (!existsSync(ROOT + folder)) return [];
  return readdirSync(ROOT + folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => `${folder}/${name}`)
    .filter((path) => pattern.test(path))
    .sort();
}

async function runFiles(files: string[], jobs: number, timeoutMs: number): Promise<Tally[]> {
  const waiting = files.values();
  const tallies: Tally[] = [];
  const worker = async () => {
    for (const file of waiting) tallies.push(await runFile(file, timeoutMs));
  };
  await Promise.all(Array.from({ length: jobs }, worker));
  return tallies;
}

function readArguments(): { stages: readonly Stage[]; pattern: RegExp | undefined } {
  const { values } = parseArgs({ options: { only: { type: 'string' }, grep: { type: 'string' } } });
  const names = values.only?.split(',') ?? STAGES.map(({ name }) => name);
  const unknown = names.filter((name) => !STAGES.some((stage) => stage.name === name));
  if (unknown.length > 0) throw new Error(`no such stage: ${unknown.join(', ')}`);
  const stages = STAGES.filter(({ name }) => names.includes(name));
  return { stages, pattern: values.grep === undefined ? undefined : new RegExp(values.grep) };
}

function runStage(stage: Stage, pattern: RegExp | undefined, npmScripts: object): Promise<Tally[]> {
  if ('folder' in stage) return runFiles(testFiles(stage.folder, pattern ?? /^/), stage.jobs, stage.fileTimeoutMs);
  const isWanted = pattern === undefined && stage.npmScript in npmScripts;
  return isWanted ? runNpmScript(stage.npmScript).then((tally) => [tally]) : Promise.resolve([]);
}

async function main(): Promise<void> {
  const { stages, pattern } = readArguments();
  const { scripts } = JSON.parse(readFileSync(`${ROOT}package.json`, 'utf8')) as { scripts: object };
  const tallies: Tally[] = [];
  for (const stage of stages) {
    console.log(`# ${stage.name}`);
    tallies.push(...(await runStage(stage, pattern, scripts)));
  }
  const total = (count: (tally: Tally) => number) => tallies.reduce((sum, tally) => sum + count(tally), 0);
  const failed = total((tally) => tally.failed);
  process.exitCode = failed > 0 || tallies.length === 0 ? 1 : 0;
  const [passed, skipped] = [total((tally) => tally.passed), total((tally) => tally.skipped.length)];
  console.log(`${passed} passed, ${failed} failed, ${skipped} skipped`);
}

for (const [signal, number] of Object.entries({ SIGINT: 2, SIGTERM: 15, SIGHUP: 1 })) {
  process.on(signal, () => {
    for (const groupId of runningGroups) killGroup(groupId);
    process.exit(128 + number);
  });
}
await main();

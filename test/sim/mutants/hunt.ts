/** Hunts one mutant in a process of its own, and says how that ended. */
import { fork, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { Parser, type Result } from 'tap-parser';
import { oracleOf, type ByStory, type Mutant, type OracleName } from './mutant.js';
import { mutate } from './mutate.js';
import type { Replacements } from './plant.js';

const WORKER = fileURLToPath(new URL('./hunt-worker.js', import.meta.url));
const STDERR_CHARS_MAX = 4_000;
/** What a mutant throws that is not noticed but wrong in itself. */
const BROKEN = ['TypeError', 'ReferenceError', 'SyntaxError', 'RangeError'];

/** What the worker is sent. */
export interface Prey extends Pick<Mutant, 'found'> {
  readonly replacements: Replacements;
  readonly seeds: number;
}

/** What the worker says of a seed. */
export interface Sighting {
  readonly seed: number;
  readonly violation: string | null;
}

export type Hunt =
  /** `seed` null: by its story. */
  | { readonly end: 'found'; readonly seed: number | null; readonly violation: string }
  /** Nobody noticed. `others`: violations of a kind that was not expected. */
  | { readonly end: 'survived'; readonly others: readonly string[] }
  /** It does not run as it should: it proves nothing. */
  | { readonly end: 'broken'; readonly reason: string };

export interface HuntLimits {
  readonly seeds: number;
  readonly timeoutMs: number;
}

/** Rejects when an edit does not fit. */
export function hunt(mutant: Mutant, limits: HuntLimits): Promise<Hunt> {
  const { found } = mutant;
  return 'file' in found ? huntByStory(mutant, found, limits) : huntBySeeds(mutant, found.oracles, limits);
}

async function huntBySeeds(mutant: Mutant, oracles: readonly OracleName[], limits: HuntLimits): Promise<Hunt> {
  const child = start(mutant, limits, {});
  const others: string[] = [];
  const verdicts: Hunt[] = [];
  child.on('message', ({ seed, violation }: Sighting) => {
    if (violation === null || verdicts.length > 0) return;
    const oracle = oracleOf(violation);
    if (oracle === null) verdicts.push({ end: 'broken', reason: `seed ${seed}: ${violation}` });
    else if (oracles.includes(oracle)) verdicts.push({ end: 'found', seed, violation });
    else others.push(`seed ${seed}: ${firstLine(violation)}`);
    if (verdicts.length > 0) child.kill('SIGKILL');
  });
  const { code, stderr } = await endOf(child);
  const [verdict] = verdicts;
  if (verdict !== undefined) return verdict;
  return code === 0 ? { end: 'survived', others } : { end: 'broken', reason: stderr };
}

async function huntByStory(mutant: Mutant, { test }: ByStory, limits: HuntLimits): Promise<Hunt> {
  const child = start(mutant, limits, { TAP_GREP: `/^${escaped(test)}$/` });
  const parser = new Parser();
  const tests: Result[] = [];
  const failures: Result[] = [];
  parser.on('assert', (result: Result) => {
    if (result.name === test) tests.push(result);
    else if (!result.ok) failures.push(result); // an error that nobody waits for
  });
  parser.on('child', (story: Parser) => {
    story.on('assert', (result: Result) => {
      if (!result.ok) failures.push(result);
    });
  });
  child.stdout?.setEncoding('utf8').on('data', (text: string) => parser.write(text));
  const { stderr } = await endOf(child);
  parser.end();
  const [story] = tests;
  if (story === undefined) return { end: 'broken', reason: `there is no story "${test}"; ${stderr}` };
  const [failure] = failures;
  if (failure === undefined) return { end: 'survived', others: [] };
  const type = (failure.diag as { type?: string } | null)?.type;
  if (type !== undefined && BROKEN.includes(type)) return { end: 'broken', reason: `${type}: ${failure.name}` };
  return { end: 'found', seed: null, violation: failure.name };
}

function start({ edits, found }: Mutant, { seeds, timeoutMs }: HuntLimits, env: Record<string, string>): ChildProcess {
  const prey: Prey = { replacements: mutate(edits), found, seeds };
  const child = fork(WORKER, {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    timeout: timeoutMs,
    killSignal: 'SIGKILL',
  });
  child.send(prey);
  return child;
}

async function endOf(child: ChildProcess): Promise<{ code: number | null; stderr: string }> {
  let stderr = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr = (stderr + text).slice(0, STDERR_CHARS_MAX);
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on('error', reject).on('close', (exitCode) => resolve(exitCode));
  });
  return { code, stderr: stderr === '' && code === null ? 'its time was up' : stderr };
}

function firstLine(text: string): string {
  return text.split('\n', 1)[0] ?? '';
}

function escaped(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&');
}

/** Runs many seeds, in one or more processes of their own, and says of each that failed what it takes to understand and replay it. */
import { fork, type ChildProcess } from 'node:child_process';
import { runScenario, type ScenarioResult } from './scenario.js';
import { shrink } from './shrink.js';

/** One collector thread for each process would wait for the other processes, and a larger nursery sees most objects die. */
const NODE_OPTIONS = ['--enable-source-maps', '--single-threaded-gc', '--max-semi-space-size=16'];
const TRACE_LINES = 20;
const FAULT_LINES = 40;

export interface SeedRange {
  readonly first: number;
  readonly count: number;
  readonly operations: number;
  /** No new seed is started once this says so. */
  readonly isOver: () => boolean;
  readonly jobs: number;
}

/** What a worker tells of a seed. */
export type SeedSummary = Pick<
  ScenarioResult,
  'seed' | 'operations' | 'acknowledged' | 'readsChecked' | 'simulatedMs' | 'violation'
> & { readonly faults: number };

export interface Totals {
  seeds: number;
  operations: number;
  acknowledged: number;
  readsChecked: number;
  faults: number;
  violations: number;
}

export function summaryOf({ trace: _, faults, ...rest }: ScenarioResult): SeedSummary {
  return { ...rest, faults: faults.length };
}

/** Calls `onViolation` for each seed that failed. Rejects when a process cannot be started. */
export async function runSeeds(range: SeedRange, onViolation: (seed: SeedSummary) => void): Promise<Totals> {
  const totals: Totals = { seeds: 0, operations: 0, acknowledged: 0, readsChecked: 0, faults: 0, violations: 0 };
  let next = range.first;
  const nextSeed = (): number | null => (next < range.first + range.count && !range.isOver() ? next++ : null);
  const add = (seed: SeedSummary): void => {
    totals.seeds++;
    totals.operations += seed.operations;
    totals.acknowledged += seed.acknowledged;
    totals.readsChecked += seed.readsChecked;
    totals.faults += seed.faults;
    if (seed.violation === null) return;
    totals.violations++;
    onViolation(seed);
  };
  await Promise.all(Array.from({ length: range.jobs }, () => work(range.operations, nextSeed, add)));
  return totals;
}

/** One worker process after the other, until there are no seeds left: one that dies takes its seed with it. */
async function work(
  operations: number,
  nextSeed: () => number | null,
  add: (seed: SeedSummary) => void,
): Promise<void> {
  for (let seed = nextSeed(); seed !== null; seed = nextSeed()) {
    const worker = fork(new URL('seed-worker.js', import.meta.url), { execArgv: NODE_OPTIONS });
    for (let current: number | null = seed; current !== null; current = nextSeed()) {
      const summary = await ask(worker, current, operations);
      add(summary);
      if (!worker.connected) break;
    }
    worker.kill();
  }
}

function ask(worker: ChildProcess, seed: number, operations: number): Promise<SeedSummary> {
  return new Promise((resolve) => {
    const onDeath = (code: number | null): void => {
      const violation = `the process ended (exit code ${code})`;
      resolve({ seed, operations: 0, acknowledged: 0, readsChecked: 0, simulatedMs: 0, faults: 0, violation });
    };
    worker.once('exit', onDeath);
    worker.once('message', (summary: SeedSummary) => {
      worker.off('exit', onDeath);
      resolve(summary);
    });
    worker.send({ seed, operations });
  });
}

export function replayCommand(seed: number, operations: number, only: ReadonlySet<string> | null): string {
  const faults = only === null ? '' : ` --faults ${[...only].join(',')}`;
  return `npm run sim -- --seed ${seed} --operations ${operations}${faults} --trace`;
}

/**
 * Runs a seed that failed again, with a trace, and describes it: what was violated, with both histories, the faults, the last lines of the trace, the command that
 * replays it. With `shrinkMs` the faults are first reduced to those that are needed, for at most that time.
 */
export async function explain(seed: number, operations: number, shrinkMs: number): Promise<string> {
  const run = (only: ReadonlySet<string> | null, isTraced: boolean): Promise<ScenarioResult> =>
    runScenario({ seed, operations, only, isTraced });
  const only = shrinkMs > 0 ? await shrink((some) => run(some, false), Date.now() + shrinkMs) : null;
  const { violation, faults, trace, simulatedMs } = await run(only, true);
  return [
    `seed ${seed}, ${simulatedMs} simulated ms: ${violation ?? 'did not fail again'}`,
    `faults${only === null ? '' : ' that are needed'} (${faults.length}, the last of them):`,
    ...faults.slice(-FAULT_LINES).map(({ number, text }) => `  ${number.padStart(4)} ${text}`),
    'the end of the trace:',
    ...trace.slice(-TRACE_LINES).map((line) => `  ${line}`),
    `replay: ${replayCommand(seed, operations, only)}`,
  ].join('\n');
}

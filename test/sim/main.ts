/**
 * The simulator's command.
 *
 *     npm run sim -- --seeds COUNT [--from N] [--seconds S] [--jobs N] [--operations N] [--shrink S]     runs many seeds
 *     npm run sim -- --seed N [--operations N] [--faults 3,17,a2] [--trace] [--shrink S]                 replays one
 *     npm run sim -- --mutant ID [--kinds kill,reset] [--seed N | --seeds COUNT]                         hunts a mutant (mutants/list.ts)
 *
 * `--faults`: only those numbers happen. `--kinds`: only such faults, all as often. `--shrink S`: takes up to S seconds to leave out faults that a
 * failure does not need. Exit code 1 on a violation; the last line says how many seeds, client I/Os, faults and violations there were, also after
 * SIGINT or SIGTERM.
 */
import { parseArgs } from 'node:util';
import type { FaultKind } from './dimensions.js';
import type { Totals } from './runner.js';

const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    seeds: { type: 'string', default: '100' },
    from: { type: 'string', default: '1' },
    seconds: { type: 'string', default: '3600' },
    operations: { type: 'string', default: '300' },
    jobs: { type: 'string', default: '1' },
    faults: { type: 'string' },
    kinds: { type: 'string' },
    mutant: { type: 'string' },
    shrink: { type: 'string', default: '0' },
    trace: { type: 'boolean', default: false },
  },
});
const assertLoaded = values.mutant === undefined ? null : await planted(values.mutant);
// Only now: what is imported from here on is mutated.
const { explain, runSeeds, summaryOf } = await import('./runner.js');
const { runScenario } = await import('./scenario.js');
const { FAULT_KINDS } = await import('./dimensions.js');
assertLoaded?.();

const operations = Number(values.operations);
const shrinkMs = Number(values.shrink) * 1_000;
const kinds = kindsOf(values.kinds);
const startedMs = Date.now();
let isStopped = false;
const isOver = (): boolean => isStopped || Date.now() - startedMs >= Number(values.seconds) * 1_000;

async function planted(id: string): Promise<() => void> {
  const { mutantOf } = await import('./mutants/list.js');
  const { mutate } = await import('./mutants/mutate.js');
  const { plant } = await import('./mutants/plant.js');
  return plant(mutate(mutantOf(id).edits));
}

function kindsOf(list: string | undefined): readonly FaultKind[] | undefined {
  const wanted = list?.split(',');
  const known = FAULT_KINDS.filter((kind) => wanted?.includes(kind));
  if (known.length < (wanted?.length ?? 0)) throw new Error(`--kinds takes some of: ${FAULT_KINDS.join(',')}`);
  return wanted === undefined ? undefined : known;
}

async function many(): Promise<Totals> {
  const failed: number[] = [];
  const range = {
    first: Number(values.from),
    count: Number(values.seeds),
    operations,
    isOver,
    jobs: Number(values.jobs),
  };
  const totals = await runSeeds(range, ({ seed, violation }) => {
    failed.push(seed);
    console.log(`seed ${seed} failed: ${violation?.split('\n')[0] ?? ''}`);
  });
  for (const seed of failed) console.log(await explain(seed, operations, shrinkMs));
  return totals;
}

async function one(seed: number): Promise<Totals> {
  const only = values.faults === undefined ? null : new Set(values.faults.split(','));
  const options = { seed, operations, only, isTraced: values.trace };
  const result = await runScenario(kinds === undefined ? options : { ...options, kinds });
  const { violation, trace } = result;
  if (values.trace) console.log(trace.join('\n'));
  if (violation !== null) {
    const isExplained = !values.trace && kinds === undefined;
    console.log(isExplained ? await explain(seed, operations, shrinkMs) : `seed ${seed}: ${violation}`);
  }
  return { ...summaryOf(result), seeds: 1, violations: violation === null ? 0 : 1 };
}

/** In this process, where the mutant is: seed after seed, until one finds it. */
async function huntMutant(): Promise<Totals> {
  let [seed, totals] = [Number(values.from), await one(Number(values.from))];
  while (totals.violations === 0 && totals.seeds < Number(values.seeds) && !isOver()) {
    const { operations: done, faults, violations } = await one(++seed);
    totals = {
      ...totals,
      seeds: totals.seeds + 1,
      operations: totals.operations + done,
      faults: totals.faults + faults,
      violations,
    };
  }
  return totals;
}

const stop = (): void => {
  isStopped = true;
};
process.once('SIGINT', stop).once('SIGTERM', stop);
const isHunt = values.mutant !== undefined || kinds !== undefined;
const totals = values.seed !== undefined ? await one(Number(values.seed)) : await (isHunt ? huntMutant() : many());
const seconds = (Date.now() - startedMs) / 1_000;
console.log(`${(totals.operations / seconds).toFixed(0)} client I/Os per second in ${seconds.toFixed(1)} s`);
console.log(
  `${totals.seeds} seeds, ${totals.operations} I/Os, ${totals.faults} faults, ${totals.violations} violations`,
);
// Not `process.exit`: it would cut off what a pipe has not taken yet.
process.exitCode = totals.violations === 0 ? 0 : 1;

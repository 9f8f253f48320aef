/**
 * The simulator's command.
 *
 *     npm run sim -- --seeds COUNT [--from N] [--seconds S] [--jobs N] [--operations N] [--shrink S]     runs many seeds
 *     npm run sim -- --seed N [--operations N] [--faults 3,17,a2] [--trace] [--shrink S]                 replays one
 *
 * `--faults`: only those numbers happen. `--shrink S`: takes up to S seconds to leave out faults that a failure does not need. Exit code 1 on a
 * violation; the last line says how many seeds, client I/Os, faults and violations there were, also after SIGINT or SIGTERM.
 */
import { parseArgs } from 'node:util';
import { explain, runSeeds, summaryOf, type Totals } from './runner.js';
import { runScenario } from './scenario.js';

const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    seeds: { type: 'string', default: '100' },
    from: { type: 'string', default: '1' },
    seconds: { type: 'string', default: '3600' },
    operations: { type: 'string', default: '300' },
    jobs: { type: 'string', default: '1' },
    faults: { type: 'string' },
    shrink: { type: 'string', default: '0' },
    trace: { type: 'boolean', default: false },
  },
});
const operations = Number(values.operations);
const shrinkMs = Number(values.shrink) * 1_000;
const startedMs = Date.now();

async function many(): Promise<Totals> {
  const failed: number[] = [];
  let isStopped = false;
  const stop = (): void => {
    isStopped = true;
  };
  process.once('SIGINT', stop).once('SIGTERM', stop);
  const range = {
    first: Number(values.from),
    count: Number(values.seeds),
    operations,
    isOver: () => isStopped || Date.now() - startedMs >= Number(values.seconds) * 1_000,
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
  const result = await runScenario({ seed, operations, only, isTraced: values.trace });
  if (values.trace) console.log(result.trace.join('\n'));
  if (result.violation !== null && values.trace) console.log(result.violation);
  else if (result.violation !== null) console.log(await explain(seed, operations, shrinkMs));
  return { ...summaryOf(result), seeds: 1, violations: result.violation === null ? 0 : 1 };
}

const totals = values.seed === undefined ? await many() : await one(Number(values.seed));
const seconds = (Date.now() - startedMs) / 1_000;
console.log(`${(totals.operations / seconds).toFixed(0)} client I/Os per second in ${seconds.toFixed(1)} s`);
console.log(
  `${totals.seeds} seeds, ${totals.operations} I/Os, ${totals.faults} faults, ${totals.violations} violations`,
);
// Not `process.exit`: it would cut off what a pipe has not taken yet.
process.exitCode = totals.violations === 0 ? 0 : 1;

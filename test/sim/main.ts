/**
 * The simulator's command: `npm run sim -- --seed N [--trace]` replays one seed, `npm run sim -- --seeds COUNT [--from N] [--seconds S]` runs many.
 * `--plain`: without the dimensions that only some seeds have (dimensions.ts). `--faults kill,reset`: only these. `--mutant ID`: with a mechanism of
 * the daemon switched off (mutants/list.ts). Exit code 1 on a violation; the last line says how many seeds, operations, faults and violations there were.
 */
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    seeds: { type: 'string', default: '100' },
    from: { type: 'string', default: '1' },
    seconds: { type: 'string', default: '3600' },
    operations: { type: 'string', default: '300' },
    trace: { type: 'boolean', default: false },
    plain: { type: 'boolean', default: false },
    faults: { type: 'string' },
    mutant: { type: 'string' },
  },
});
const assertLoaded = values.mutant === undefined ? null : await planted(values.mutant);
// Only now: what is imported from here on is mutated.
const { runScenario, FAULT_KINDS } = await import('./scenario.js');
assertLoaded?.();
const operations = Number(values.operations);
const wanted = values.faults?.split(',') ?? [];
const faults = FAULT_KINDS.filter((kind) => wanted.includes(kind));
if (faults.length < wanted.length) throw new Error(`--faults takes some of: ${FAULT_KINDS.join(',')}`);
const options = { operations, plain: values.plain, ...(faults.length > 0 ? { faults } : {}) };
const first = Number(values.seed ?? values.from);
const count = values.seed === undefined ? Number(values.seeds) : 1;
const flags =
  (values.plain ? ' --plain' : '') +
  (values.faults === undefined ? '' : ` --faults ${values.faults}`) +
  (values.mutant === undefined ? '' : ` --mutant ${values.mutant}`);
const endMs = Date.now() + Number(values.seconds) * 1000;
const total = { seeds: 0, operations: 0, faults: 0, violations: 0 };
for (let seed = first; seed < first + count && Date.now() < endMs; seed++) {
  const result = await runScenario({ seed, ...options });
  total.seeds++;
  total.operations += result.operations;
  total.faults += result.faults;
  if (values.trace) console.log(result.trace.join('\n'));
  if (result.violation === null) continue;
  total.violations++;
  console.log(`seed ${seed} after ${result.simulatedMs} simulated ms: ${result.violation}`);
  console.log(result.trace.slice(-20).join('\n'));
  console.log(`replay: npm run sim -- --seed ${seed} --operations ${operations}${flags} --trace`);
}
console.log(
  `${total.seeds} seeds, ${total.operations} operations, ${total.faults} faults, ${total.violations} violations`,
);
// Not `process.exit`: it would cut off what a pipe has not taken yet.
process.exitCode = total.violations === 0 ? 0 : 1;

async function planted(id: string): Promise<() => void> {
  const { mutantOf } = await import('./mutants/list.js');
  const { mutate } = await import('./mutants/mutate.js');
  const { plant } = await import('./mutants/plant.js');
  return plant(mutate(mutantOf(id).edits));
}

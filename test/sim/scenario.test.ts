/** The simulator as a test: past failures, fresh seeds for a while, and the promise that a seed replays exactly. */
import { execFile } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import t from 'tap';
import { explain, runSeeds } from './runner.js';
import { runScenario } from './scenario.js';

const OPERATIONS = 300;
const FRESH_MS = 45_000;
const SHRINK_MS = 20_000;

/** Seeds that once failed, and what was wrong. A change of the code changes what a seed does; the stories guard the mechanisms. */
const REGRESSIONS: readonly (readonly [number, string])[] = [];

const traceOf = async (seed: number): Promise<readonly string[]> =>
  (await runScenario({ seed, operations: OPERATIONS, only: null, isTraced: true })).trace;

await t.test('seeds that once failed', async (t) => {
  for (const [seed, story] of REGRESSIONS) {
    const { violation } = await runScenario({ seed, operations: OPERATIONS, only: null, isTraced: false });
    t.equal(violation, null, `seed ${seed}: ${story}`);
  }
});

await t.test('fresh seeds', async (t) => {
  const first = Date.now() % 1_000_000_000;
  const failed: number[] = [];
  const range = { first, count: 1_000_000, operations: OPERATIONS, jobs: availableParallelism() };
  const endMs = Date.now() + FRESH_MS;
  const totals = await runSeeds({ ...range, isOver: () => Date.now() >= endMs }, ({ seed }) => failed.push(seed));
  t.comment(
    `seeds from ${first}: ${totals.seeds} seeds, ${totals.operations} I/Os, ${totals.faults} faults, ${totals.violations} violations`,
  );
  for (const seed of failed) t.fail(await explain(seed, OPERATIONS, SHRINK_MS));
  t.ok(totals.seeds > 0 && totals.operations >= totals.seeds * OPERATIONS, 'every seed did all its operations');
  t.ok(totals.acknowledged > 0 && totals.readsChecked > 0 && totals.faults > 0, 'and there was something to see');
});

await t.test(
  'a seed gives the same trace each time: after others in the process, and in another process',
  async (t) => {
    const main = fileURLToPath(new URL('main.js', import.meta.url));
    for (const seed of [4711, 4712, 4713]) {
      const first = await traceOf(seed);
      await traceOf(seed + 1_000);
      t.ok(first.length > OPERATIONS, 'the trace tells what happened');
      t.same(await traceOf(seed), first, `seed ${seed}, in this process`);
      const args = [main, '--seed', String(seed), '--operations', String(OPERATIONS), '--trace'];
      const { stdout } = await promisify(execFile)(process.execPath, args, { maxBuffer: 1 << 30 });
      t.same(stdout.split('\n').slice(0, first.length), first, `seed ${seed}, in another process`);
    }
  },
);

/** The simulator as a test: past failures, fresh seeds, and the promise that a seed replays exactly. */
import t from 'tap';
import { runScenario } from './scenario.js';

const OPERATIONS = 300;
const FRESH_SEEDS = 40;

/**
 * Seeds that once failed, and what was wrong; in plain runs, as they were then. A change of the code changes what a seed does: 37 and
 * 231668762 are known to fail still without what was mended, the others are kept as ordinary seeds. The stories guard the mechanisms.
 */
const REGRESSIONS: readonly (readonly [number, string])[] = [
  [8, 'a copy that had lost power was trusted over copies that had everything'],
  [231668762, 'a FLUSH lost with its connection was not sent again when the session came back without a copy'],
  [500080, 'a volume that lost its epoch while it was being opened was put into service'],
  [1129, 'writes queued behind an extent lock were forgotten when the volume was fenced'],
  [13, 'an ownership whose recording was answered by nobody was never given up'],
  [29, 'a copy that had lost power was trusted over copies that had everything'],
  [37, 'a copy that had lost power was trusted over copies that had everything'],
  [40, 'a copy that had lost power was trusted over copies that had everything'],
];

const replay = (seed: number, flag = ''): string =>
  `replay: npm run sim -- --seed ${seed} --operations ${OPERATIONS} ${flag} --trace`;

await t.test('seeds that once failed', async (t) => {
  for (const [seed, story] of REGRESSIONS) {
    const { violation } = await runScenario({ seed, operations: OPERATIONS, plain: true });
    t.equal(violation, null, `${story}; ${replay(seed, '--plain')}`);
  }
});

await t.test('fresh seeds', async (t) => {
  const first = Date.now() % 1_000_000_000;
  t.comment(`seeds ${first} to ${first + FRESH_SEEDS - 1}`);
  let acknowledged = 0;
  let readsChecked = 0;
  for (let seed = first; seed < first + FRESH_SEEDS; seed++) {
    const result = await runScenario({ seed, operations: OPERATIONS, plain: false });
    t.equal(result.violation, null, replay(seed));
    acknowledged += result.acknowledged;
    readsChecked += result.readsChecked;
  }
  t.ok(acknowledged > FRESH_SEEDS && readsChecked > FRESH_SEEDS, 'clients got something done');
});

await t.test('the same seed gives the same trace', async (t) => {
  const first = await runScenario({ seed: 4711, operations: OPERATIONS, plain: false });
  const second = await runScenario({ seed: 4711, operations: OPERATIONS, plain: false });
  t.ok(first.trace.length > OPERATIONS, 'the trace tells what happened');
  t.same(second.trace, first.trace);
});

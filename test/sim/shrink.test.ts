/** A failing run is reduced to the faults that it needs. */
import t from 'tap';
import { shrink, type Run } from './shrink.js';

const ALL = Array.from({ length: 100 }, (_, index) => `${index}`).concat(['a1', 'a2']);
const NEVER = Number.POSITIVE_INFINITY;

/** Fails with `kind` where all of `needed` happen. */
function failsWith(needed: readonly string[], kind = 'OracleViolation'): Run {
  return (only) => {
    const happened = ALL.filter((number) => only?.has(number) ?? true);
    const violation = needed.every((number) => happened.includes(number)) ? `${kind}: sector 1` : null;
    return Promise.resolve({ violation, faults: happened.map((number) => ({ number, text: '' })) });
  };
}

await t.test('what is not needed is left out', async (t) => {
  for (const needed of [[], ['17'], ['3', 'a2'], ['0', '50', '51', '99']])
    t.same([...((await shrink(failsWith(needed), NEVER)) ?? ['?'])], needed);
});

await t.test('another violation is another failure', async (t) => {
  const run: Run = async (only) =>
    only === null || only.has('7') ? failsWith([])(only) : failsWith([], 'LivenessViolation')(only);
  t.same([...((await shrink(run, NEVER)) ?? [])], ['7']);
});

await t.test('a run that does not fail is not shrunk, and time is bounded', async (t) => {
  const well: Run = () => Promise.resolve({ violation: null, faults: [] });
  t.equal(await shrink(well, NEVER), null);
  t.equal((await shrink(failsWith(['3']), 0))?.size, ALL.length);
});

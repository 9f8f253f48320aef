/** Makes a failing run smaller: leaves out faults as long as it still fails in the same way. */
import type { ScenarioResult } from './scenario.js';

/** Runs with all faults, or only with those. */
export type Run = (only: ReadonlySet<string> | null) => Promise<Pick<ScenarioResult, 'violation' | 'faults'>>;

/** The kind of a violation, without what it says of this run. */
function kindOf(violation: string): string {
  return violation.slice(0, violation.indexOf(':'));
}

/**
 * Numbers of a small set of faults with which the run fails as it does with all of them, found until `endMs` by leaving out ever smaller
 * parts (delta debugging); null when it does not fail at all.
 */
export async function shrink(run: Run, endMs: number): Promise<ReadonlySet<string> | null> {
  const all = await run(null);
  if (all.violation === null) return null;
  const kind = kindOf(all.violation);
  const stillFails = async (only: readonly string[]): Promise<readonly string[] | null> => {
    const { violation, faults } = await run(new Set(only));
    if (violation === null || kindOf(violation) !== kind) return null;
    // Those that were to happen after the end are not needed.
    const happened = new Set(faults.map(({ number }) => number));
    return only.filter((number) => happened.has(number));
  };
  let kept: readonly string[] = all.faults.map(({ number }) => number);
  for (let size = kept.length; size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let from = 0; from < kept.length && Date.now() < endMs;) {
      const smaller = await stillFails([...kept.slice(0, from), ...kept.slice(from + size)]);
      if (smaller === null) from += size;
      else kept = smaller;
    }
  }
  return new Set(kept);
}

/** The mutation checks of a list, as tests: each mutant is found, and what finds it finds nothing without it. */
import t from 'tap';
import { runScenario } from '../scenario.js';
import { hunt, type Hunt } from './hunt.js';
import { commandOf, optionsOf, type BySeeds, type Mutant } from './mutant.js';

/** Several times what any mutant needs now: what a seed does changes with the code. */
const LIMITS = { seeds: 60, timeoutMs: 120_000 };

export async function checkMutants(mutants: readonly Mutant[]): Promise<void> {
  /** By the command that replays it. */
  const finds = new Map<string, { readonly by: BySeeds; readonly seed: number }>();
  for (const mutant of mutants) {
    const { id, invariants, without, found } = mutant;
    await t.test(`${invariants.join(', ')}: without ${without} (${id})`, async (t) => {
      const result = await hunt(mutant, LIMITS);
      t.equal(result.end, 'found', told(mutant, result));
      if (result.end === 'found' && result.seed !== null && 'oracles' in found)
        finds.set(commandOf(found, result.seed), { by: found, seed: result.seed });
    });
  }
  await t.test('without a mutant, none of the seeds that found one finds anything', async (t) => {
    for (const [command, { by, seed }] of finds) {
      const { violation } = await runScenario(optionsOf(by, seed));
      t.equal(violation, null, command);
    }
    t.ok(finds.size > 0, 'some were found by seeds');
  });
}

function told({ id, found }: Mutant, result: Hunt): string {
  switch (result.end) {
    case 'found': {
      const isBySeed = result.seed !== null && 'oracles' in found;
      const replay = isBySeed ? `${commandOf(found, result.seed)} --mutant ${id}` : 'its story';
      return `${replay}: ${result.violation.split('\n', 1)[0]}`;
    }
    case 'survived':
      return `nobody noticed; violations of other kinds: ${result.others.join('; ') || 'none'}`;
    case 'broken':
      return `the mutant does not run, which proves nothing: ${result.reason}`;
  }
}

/**
 * The process in which a mutant is planted. Its parent (hunt.ts) sends what to hunt; it runs the mutant's story, whose output is TAP, or scenarios with
 * seeds from 1 on, and tells what became of each. The parent judges.
 */
import { once } from 'node:events';
import type { Prey, Sighting } from './hunt.js';
import { optionsOf } from './mutant.js';
import { plant } from './plant.js';

const [{ replacements, found, seeds }] = (await once(process, 'message')) as [Prey];
const assertLoaded = plant(replacements);
if ('file' in found) {
  await import(`../${found.file}.test.js`);
  assertLoaded();
} else {
  const { runScenario } = await import('../scenario.js');
  assertLoaded();
  for (let seed = 1; seed <= seeds; seed++) {
    const { violation } = await runScenario(optionsOf(found, seed));
    const sighting: Sighting = { seed, violation };
    process.send?.(sighting);
  }
}
process.disconnect();

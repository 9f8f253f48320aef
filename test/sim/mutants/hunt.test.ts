/** The hunt itself: an edit that does not fit, does nothing, or breaks the code is never taken for a mutant that was found. */
import { readFileSync } from 'node:fs';
import t from 'tap';
import { hunt } from './hunt.js';
import { MUTANTS } from './list.js';
import { oracleOf, type Edit, type Mutant } from './mutant.js';
import { mutate } from './mutate.js';

const LIMITS = { seeds: 2, timeoutMs: 60_000 };
const ARCHITECTURE = new URL('../../../../ARCHITECTURE.md', import.meta.url);
const STORY = { file: 'fencing', test: '1: what a copy owes is sent again when it is connected again' };

/** The first line of a function that every write goes through. */
const PLACE = { module: 'coordinator/io', find: `assert(lengthBytes > 0 &&` };

function mutantWith(edit: Edit, found: Mutant['found'] = { oracles: ['history', 'liveness'] }): Mutant {
  return { id: 'test', invariants: [1], without: 'nothing', edits: [edit], found };
}

await t.test('an edit fits its source exactly once, or nothing is planted', async (t) => {
  const edit = { module: 'base/assert', replace: '' };
  t.throws(() => mutate([{ ...edit, find: 'no such text' }]), /has 0 times, not once/);
  t.throws(() => mutate([{ ...edit, find: 'export function' }]), /has 3 times, not once/);
  t.throws(() => mutate([{ ...edit, find: 'export function assert(' }]), /is no TypeScript/);
});

await t.test('a mutant that changes nothing survives', async (t) => {
  const harmless = { ...PLACE, replace: `assert(lengthBytes >= 1 &&` };
  t.match(await hunt(mutantWith(harmless), LIMITS), { end: 'survived', others: [] });
  t.match(await hunt(mutantWith(harmless, STORY), LIMITS), { end: 'survived', others: [] });
});

await t.test('a violation of another kind than expected is no find', async (t) => {
  const asserting = { ...PLACE, replace: `assert(lengthBytes < 0 &&` };
  const result = await hunt(mutantWith(asserting), LIMITS);
  t.match(result, { end: 'survived', others: [/^seed 1: AssertionFailed: pieces lie inside the volume/] });
});

await t.test('a mutant that cannot run is no find', async (t) => {
  const crashing = { ...PLACE, replace: `assert(lengthBytes.no.such.thing &&` };
  t.match(await hunt(mutantWith(crashing), LIMITS), { end: 'broken', reason: /seed 1: TypeError/ });
  t.match(await hunt(mutantWith(crashing, STORY), LIMITS), { end: 'broken', reason: /^TypeError/ });
  const unloaded = { module: 'api/openapi', find: 'import { buildServer }', replace: 'import { buildServer }' };
  t.match(await hunt(mutantWith(unloaded), LIMITS), { end: 'broken', reason: /nobody loads it/ });
  const missing = { file: 'fencing', test: 'no such story' };
  const unchanged = { ...PLACE, replace: PLACE.find };
  t.match(await hunt(mutantWith(unchanged, missing), LIMITS), { end: 'broken', reason: /there is no story/ });
});

await t.test('the list covers every invariant of the simulator, and the document names each mutant', async (t) => {
  const ids = MUTANTS.map(({ id }) => id);
  t.equal(new Set(ids).size, ids.length, 'each has a name of its own');
  const covered = new Set(MUTANTS.flatMap(({ invariants }) => invariants));
  for (let invariant = 1; invariant <= 13; invariant++) t.ok(covered.has(invariant), `invariant ${invariant}`);
  const text = readFileSync(ARCHITECTURE, 'utf8');
  for (const id of ids) t.ok(text.includes(`\`${id}\``), `ARCHITECTURE.md names ${id}`);
});

await t.test('what the simulator reports is known by its kind', async (t) => {
  t.equal(oracleOf('OracleViolation: sector 1 read as write 2, but may only be one of: 3'), 'history');
  t.equal(oracleOf('TypeError: x is not a function'), null);
});

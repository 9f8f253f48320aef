/**
 * Power is lost at every point of short histories of a production replica server and drive, with every combination, or a sample of them, of
 * what the drive's cache had not written and what metadata was not durable (crash-states.ts). What must hold then is in judge.ts.
 *
 * The second half breaks what the drive waits for, one thing at a time, and expects the same checks to find it.
 */
import t from 'tap';
import { TABLE } from '../../../daemon/format/keys.js';
import { SimRandom } from '../world/sim-random.js';
import { Client } from './client.js';
import { crashStates, HONEST, type Base, type Medium } from './crash-states.js';
import { histories, randomHistory, type History } from './histories.js';
import { judge } from './judge.js';
import { Model } from './model.js';
import type { Entry } from './recorder.js';

/** Random histories: `HISTORIES=100 FROM=4` tries more. */
const RANDOM_COUNT = Number(process.env['HISTORIES'] ?? 4);
const RANDOM_FROM = Number(process.env['FROM'] ?? 0);
const RANDOM_REQUESTS = 24;
/** Cooling everything and opening once more costs as much again: every so many states. */
const THOROUGH_EVERY = 5;
const ERRORS_SHOWN = 5;

interface Recording {
  readonly base: Base;
  readonly entries: readonly Entry[];
}

async function record(name: string, { options = {}, live }: History): Promise<Recording> {
  const { client, base } = await Client.create(name, options);
  await live(client);
  await client.world.close();
  return { base, entries: client.recorder.entries };
}

interface Verdict {
  readonly states: number;
  readonly errors: readonly string[];
}

/** Stops at the first state that is wrong. */
async function enumerate(name: string, { base, entries }: Recording, medium: Medium): Promise<Verdict> {
  const random = new SimRandom(`crash points/${name}`);
  let states = 0;
  for (let point = 1; point <= entries.length; point++) {
    // A request alone changes nothing, and only allows more.
    if (entries[point - 1]?.type === 'request') continue;
    const model = new Model(entries, point);
    for (const state of crashStates(base, entries, point, medium, random)) {
      states++;
      const errors = await judge(state, model, states % THOROUGH_EVERY === 0);
      if (errors.length === 0) continue;
      return { states, errors: errors.slice(0, ERRORS_SHOWN).map((error) => `${name}, ${state.label}: ${error}`) };
    }
  }
  return { states, errors: [] };
}

function* allHistories(): Generator<readonly [string, History]> {
  yield* Object.entries(histories);
  for (let seed = RANDOM_FROM; seed < RANDOM_FROM + RANDOM_COUNT; seed++) {
    yield [`random ${seed}`, randomHistory(String(seed), RANDOM_REQUESTS)];
  }
}

t.test('a drive recovers from a crash at any point', async (t) => {
  const startMs = performance.now();
  let [total, points] = [0, 0];
  for (const [name, history] of allHistories()) {
    const recording = await record(name, history);
    const { states, errors } = await enumerate(name, recording, HONEST);
    t.same(errors, [], `${name}: ${states} states`);
    t.ok(states > 20, 'there was something to try');
    total += states;
    points += recording.entries.length;
  }
  const seconds = ((performance.now() - startMs) / 1_000).toFixed(1);
  t.comment(`${total} crash states of ${points} points checked in ${seconds} s`);
});

/** Commits that put something into one table, and nothing into another, are not waited for. */
const lags = (table: number, other = -1): Medium['isDurable'] => {
  return (operations) => {
    const touches = (each: number) => operations.some(({ key, value }) => key[0] === each && value !== null);
    return !touches(table) || touches(other);
  };
};

/** As if the drive did not wait for what it must wait for; the histories in which it shows at the latest, and what is seen. */
const bugs: Record<string, { readonly medium: Partial<Medium>; readonly history: string; readonly found: RegExp }> = {
  'a region cools, and a FLUSH is answered, without the drive having been flushed': {
    medium: { flushes: ({ kind }) => kind !== 'write' },
    history: 'hot and cold, flushed and not',
    found: /cold|none of/,
  },
  'data is written before its activation is durable': {
    medium: { isDurable: lags(TABLE.ACTIVITY) },
    history: 'hot and cold, flushed and not',
    found: /free slot|none of|missing/,
  },
  'a write of a higher generation is answered before its stamp is durable': {
    medium: { isDurable: lags(TABLE.EXTENT, TABLE.ACTIVITY) },
    history: 'generations, tombstones, and their end',
    found: /stamped/,
  },
  'an OPEN is answered before the epoch is durable': {
    medium: { isDurable: lags(TABLE.EPOCH) },
    history: 'owners come and go',
    found: /the epoch is/,
  },
  'a slot is free before its punch was flushed': {
    medium: { flushes: ({ kind }) => kind !== 'zeros' },
    history: 'trims, and slots that are used again',
    found: /free slot|none of/,
  },
  'a write with FUA is answered before it is on stable media': {
    medium: { isFuaStable: false },
    history: 'hot and cold, flushed and not',
    found: /none of/,
  },
  'a slot is punched before its extent is durably unmapped': {
    medium: { isDurable: lags(TABLE.FREED) },
    history: 'trims, and slots that are used again',
    found: /none of|cold/,
  },
};

for (const [what, { medium, history, found }] of Object.entries(bugs)) {
  t.test(`finds: ${what}`, async (t) => {
    const recording = await record(history, histories[history] as History);
    const { errors } = await enumerate(history, recording, { ...HONEST, ...medium });
    t.match(errors[0] ?? 'nothing was found', found, errors[0] ?? '');
  });
}

/** Short histories of a drive, each around one of its mechanisms. Blocks are few, so that most combinations can be tried. */
import { EXTENTS_PER_REGION } from '../../../daemon/base/units.js';
import { STATUS } from '../../../daemon/protocol/frame.js';
import { assert } from '../../../daemon/base/assert.js';
import { SimRandom } from '../world/sim-random.js';
import { OTHER_VOLUME, type WorldOptions } from '../../unit/replica/harness.js';
import type { ChangeOptions, Client, Pending } from './client.js';

export interface History {
  readonly options?: WorldOptions;
  readonly live: (client: Client) => Promise<void>;
}

/** First extent of a region. */
const at = (region: number, extent = 0) => region * EXTENTS_PER_REGION + extent;
const one: ChangeOptions = { count: 1 };

async function all(client: Client, pending: readonly Pending[]): Promise<void> {
  for (const each of pending) await client.settled(each);
}

export const histories: Record<string, History> = {
  'hot and cold, flushed and not': {
    live: async (client) => {
      await client.write(0, { block: 3, count: 2 });
      await client.write(0, { block: 4, count: 1 });
      await client.flush();
      await client.write(0, { block: 3, count: 1, fua: true });
      await client.write(at(1), { count: 2 });
      await client.cool([0]);
      await all(client, [
        client.startWrite(0, { block: 4, count: 2 }),
        client.startWrite(at(1), { block: 1, count: 2 }),
      ]);
      await client.cool([0, 1]);
      await client.write(0, { block: 3, count: 1 });
      await client.flush();
    },
  },
  'a write meets a region that cools': {
    live: async (client) => {
      await client.write(0, { count: 2 });
      const cooling = client.startCool([0]);
      const write = client.startWrite(0, { block: 1, count: 2 });
      await all(client, [cooling, write]);
      await client.cool([0]);
    },
  },
  'trims, and slots that are used again': {
    options: { slotCount: 5 },
    live: async (client) => {
      for (const extent of [3, 2, 1, 0]) await client.write(extent, { block: extent, count: 1 });
      await client.flush();
      await client.trim(2, { tombstone: true });
      await client.trim(1);
      await all(client, [client.startWrite(9, one), client.startWrite(11, { block: 2, count: 2 })]);
      await client.trim(9, { fua: true });
      await client.write(2, one);
      await client.cool([0]);
      await client.trim(2);
      await client.write(5, { block: 7, count: 1, fua: true });
    },
  },
  'zeros and parts of extents': {
    live: async (client) => {
      await client.write(0, { count: 4 });
      await client.zero(0, { block: 1, count: 1 });
      await client.trim(0, { block: 2, count: 1, fua: true });
      await client.zero(7, { count: 2, tombstone: true });
      await client.cool([0]);
      await client.zero(0, { block: 0, count: 1, fua: true });
      await client.write(0, { block: 1, count: 1 });
      await client.flush();
    },
  },
  'generations, tombstones, and their end': {
    live: async (client) => {
      await client.write(1, one);
      client.generation = 4;
      await client.write(1, { block: 1, count: 1 });
      await client.trim(2, { tombstone: true });
      await client.trim(1, { tombstone: true });
      await client.cool([0]);
      client.generation = 6;
      await client.write(3, one);
      await client.trim(5, { tombstone: true });
      await client.purge();
      await client.write(2, one);
    },
  },
  'a copy is made equal': {
    live: async (client) => {
      await client.write(0, one);
      await client.write(at(1), one);
      await client.flush();
      client.generation = 3;
      await client.open();
      await client.trim(at(1), { tombstone: true });
      await all(client, [
        client.startWrite(0),
        client.startWrite(4, { count: 3 }),
        client.startWrite(at(2), { count: 2 }),
        client.startTrim(6, { tombstone: true }),
      ]);
      await client.flush();
      await client.open([0], { certain: true });
      await client.write(4, one);
    },
  },
  'owners come and go': {
    live: async (client) => {
      await client.write(0, one);
      const late = [client.startWrite(0, { block: 1, count: 1 }), client.startWrite(at(1), one)];
      client.generation = 2;
      await client.open();
      await client.open([0], { volumeId: OTHER_VOLUME });
      await all(client, late);
      await client.write(2, { count: 2 });
      await client.open();
      await client.write(2, { block: 1, count: 1, fua: true });
    },
  },
  'a replica is deleted, and another takes its room': {
    options: { slotCount: 6 },
    live: async (client) => {
      await client.open([0, 1]);
      await client.write(0, { segment: 1, count: 1 });
      await client.write(5, { segment: 1, block: 3, count: 1 });
      await client.write(at(1), { segment: 1, count: 1 });
      await client.cool([1], 1);
      await client.write(3, one);
      await client.delete(1);
      await all(client, [client.startWrite(4, one), client.startWrite(6, one), client.startWrite(8, one)]);
      await client.flush();
      await client.open([0, 1]);
      await client.write(2, { segment: 1, count: 1 });
    },
  },
  'a full drive': {
    options: { slotCount: 4 },
    live: async (client) => {
      for (const extent of [8, 4, 2]) await client.write(extent, one);
      assert((await client.write(0, one)) === STATUS.NO_SPACE, 'the drive is full');
      await client.write(2, { block: 1, count: 1, fua: true });
      await all(client, [client.startTrim(4), client.startWrite(0, { block: 5, count: 1 })]);
      await client.cool([0]);
      await client.trim(0, { tombstone: true });
      await client.write(at(1), one);
    },
  },
  'a stream, mapped ahead': {
    options: { slotCount: 24 },
    live: async (client) => {
      for (let extent = 0; extent < 6; extent++) await client.write(extent, { block: extent, count: 1 });
      await client.trim(7);
      await client.cool([0]);
      await client.write(6, one);
      await client.flush();
    },
  },
  'slots are taken back from a stream': {
    options: { slotCount: 8 },
    live: async (client) => {
      for (let extent = 0; extent < 4; extent++) await client.write(extent, { count: 1 });
      for (const extent of [40, 44, 48]) await client.write(extent, one);
      await client.write(4, one);
      await client.cool([0, 1]);
    },
  },
  'the activity log is full': {
    options: { hotRegionsMax: 1 },
    live: async (client) => {
      await client.write(0, one);
      const waiting = client.startWrite(at(1), one);
      await client.write(0, { block: 1, count: 1 });
      await client.cool([0]);
      await client.settled(waiting);
      const again = client.startWrite(0, { block: 1, count: 2 });
      await client.cool([1]);
      await client.settled(again);
    },
  },
  'the agent restarts': {
    options: { slotCount: 8 },
    live: async (client) => {
      await client.write(0, { count: 2 });
      await client.write(at(1), one);
      await client.cool([1]);
      await client.reopenDrive();
      await client.write(0, { block: 1, count: 2 });
      await client.trim(at(1));
      await client.reopenDrive();
      await client.cool([0, 1]);
      await client.write(at(1), one);
    },
  },
};

/** A history by chance, of `count` requests, some of them at once. */
export function randomHistory(seed: string, count: number): History {
  const random = new SimRandom(`history/${seed}`);
  const live = async (client: Client): Promise<void> => {
    const busy = new Map<number, Pending>();
    const settle = async (extent: number) => {
      const pending = busy.get(extent);
      busy.delete(extent);
      if (pending !== undefined) await client.settled(pending);
    };
    const settleAll = async () => {
      for (const extent of [...busy.keys()]) await settle(extent);
    };
    for (let step = 0; step < count; step++) {
      const [region, kind] = [random.below(2), random.below(20)];
      const extent = at(region, random.below(3));
      const range = { block: random.below(3), count: 1 + random.below(2) };
      const options = { fua: random.chance(0.2), tombstone: random.chance(0.5) };
      await settle(extent);
      if (random.chance(0.1)) client.generation++;
      if (kind < 11) busy.set(extent, client.startWrite(extent, { ...range, ...options }));
      else if (kind < 14) busy.set(extent, client.startTrim(extent, options));
      else if (kind === 14) await client.zero(extent, { ...range, ...options });
      else if (kind === 15) await client.flush();
      else {
        await settleAll();
        if (kind < 19) await client.cool([region]);
        else if (random.chance(0.5)) await client.open();
        else await client.reopenDrive();
      }
      if (busy.size > 2) await settleAll();
    }
    await settleAll();
  };
  return { options: { slotCount: 6 }, live };
}

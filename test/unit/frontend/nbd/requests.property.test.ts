/** Random clients against a volume that ends pieces in any order, sometimes with errors. fast-check prints the seed of a failure. */
import fc from 'fast-check';
import t from 'tap';
import { limits } from '../../../../daemon/base/limits.js';
import { KIB, MIB } from '../../../../daemon/base/units.js';
import { CMD, CMD_FLAG, UNFRAGMENTED_BYTES_MAX } from '../../../../daemon/frontend/nbd/protocol.js';
import { POOL_FRONTEND } from '../../../../daemon/ports/slab.js';
import { STATUS } from '../../../../daemon/protocol/frame.js';
import { check } from './doubles.js';
import { FRONTEND_BYTES, Harness, type ClientKind } from './harness.js';
import { cut, type TestClient } from './test-transport.js';

const SIZE = 6 * MIB;
const KINDS = ['simple', 'simple', 'structured', 'contexts'] as const satisfies ClientKind[];
const NAME: Record<number, string> = {
  [CMD.READ]: 'read',
  [CMD.WRITE]: 'write',
  [CMD.TRIM]: 'trim',
  [CMD.WRITE_ZEROES]: 'zero',
};

type Step =
  | { do: 'ask'; client: number; type: number; offset: number; length: number; flags: number; kept: number }
  | { do: 'end'; index: number; status: number }
  | { do: 'capacity'; pieces: number }
  | { do: 'vanish'; client: number };

const range = fc
  .tuple(
    fc.nat(SIZE / 512 - 1),
    fc.oneof(fc.integer({ min: 1, max: 64 }), fc.integer({ min: 1, max: (5 * MIB) / 512 })),
  )
  .map(([at, sectors]) => ({ offset: at * 512, length: Math.min(sectors * 512, SIZE - at * 512) }));

const ask = (types: number[]): fc.Arbitrary<Step> =>
  fc
    .record({
      client: fc.nat(KINDS.length - 1),
      type: fc.constantFrom(...types),
      range,
      fua: fc.boolean(),
      df: fc.boolean(),
    })
    .map(({ client, type, range, fua, df }) => {
      const isUnfragmented = df && type === CMD.READ && KINDS[client] !== 'simple';
      const length = isUnfragmented ? Math.min(range.length, UNFRAGMENTED_BYTES_MAX) : range.length;
      const flags = (fua ? CMD_FLAG.FUA : 0) | (isUnfragmented ? CMD_FLAG.DF : 0);
      if (type === CMD.FLUSH) return { do: 'ask', client, type, offset: 0, length: 0, flags, kept: 0 };
      return { do: 'ask', client, type, offset: range.offset, length, flags, kept: 0 };
    });

const end = (hasErrors: boolean): fc.Arbitrary<Step> =>
  fc.record({
    do: fc.constant('end' as const),
    index: fc.nat(1000),
    status: hasErrors
      ? fc.oneof({ weight: 9, arbitrary: fc.constant(STATUS.OK) }, { weight: 1, arbitrary: fc.nat(STATUS.OVERLOADED) })
      : fc.constant(STATUS.OK),
  });

const capacity: fc.Arbitrary<Step> = fc.nat(40).map((pieces) => ({ do: 'capacity', pieces }));
const vanish: fc.Arbitrary<Step> = fc.nat(KINDS.length - 1).map((client) => ({ do: 'vanish', client }));

type World = {
  h: Harness;
  clients: TestClient[];
  asked: { step: Step & { do: 'ask' }; cookie: number; client: TestClient }[];
};

function play(steps: Step[], h = new Harness({ sizeBytes: SIZE })): World {
  h.volume.fill();
  for (let i = 0; i < h.volume.allocated.length; i += 3) h.volume.allocated[i] = false;
  const world: World = { h, clients: KINDS.map((kind) => h.connect(kind)), asked: [] };
  for (const step of steps) {
    take(world, step);
    h.transport.settle();
    h.check();
  }
  h.volume.capacity = 1_000_000;
  h.volume.settle();
  while (h.volume.pending.length > 0) h.volume.end(h.volume.pending.length >> 1);
  h.checkNoLeak();
  return world;
}

function take({ h, clients, asked }: World, step: Step): void {
  if (step.do === 'end') {
    if (h.volume.pending.length > 0) h.volume.end(step.index, step.status as typeof STATUS.OK);
  } else if (step.do === 'capacity') {
    h.volume.capacity = step.pieces;
    h.volume.settle();
  } else {
    const client = clients[step.client];
    check(client !== undefined, 'a client of the world');
    if (step.do === 'vanish') {
      h.transport.vanish(client);
      return;
    }
    // A transport does not read on while it has no buffer for the payload.
    const isRoom = step.type !== CMD.WRITE || h.slab.usedBytes(POOL_FRONTEND) + step.length < FRONTEND_BYTES;
    if (isRoom && !client.isClosed && client.unanswered < limits.nbdRequestsPerConnectionMax) {
      const payload = step.type === CMD.WRITE ? h.volume.data.slice(step.offset, step.offset + step.length) : undefined;
      const cookie = client.ask(step.type, step.offset, step.length, step.flags, payload);
      asked.push({ step, cookie, client });
    }
  }
}

const steps = (...kinds: fc.Arbitrary<Step>[]) => fc.array(fc.oneof(...kinds), { maxLength: 60 });
const READS = [CMD.READ, CMD.READ, CMD.FLUSH];
const ALL = [CMD.READ, CMD.READ, CMD.WRITE, CMD.TRIM, CMD.WRITE_ZEROES, CMD.FLUSH];

t.test('property: every byte is covered by one piece, every request has one reply', async (t) => {
  fc.assert(
    fc.property(steps(ask(ALL), end(false), end(false), capacity), (list) => {
      const { h, asked } = play(list);
      for (const { client, cookie } of asked) check(client.reply(cookie)?.error === 0, 'success');
      const wanted = asked
        .flatMap(({ step }) =>
          cut(step.offset, step.length).map((piece) => [NAME[step.type] ?? 'flush', piece] as const),
        )
        .map(([kind, { offset, length }]) => `${kind} ${offset} ${length}`);
      const started = h.volume.started.map(({ kind, offset, length }) => `${kind} ${offset} ${length}`);
      t.same(started.sort(), wanted.sort());
    }),
    { numRuns: 100 },
  );
});

t.test('property: reads bring what the volume holds, whatever the order in which pieces end', async (t) => {
  fc.assert(
    fc.property(steps(ask(READS), ask(READS), end(false), capacity), (list) => {
      const { h, asked } = play(list);
      for (const { client, cookie, step } of asked.filter(({ step }) => step.type === CMD.READ)) {
        const expected = Buffer.from(h.volume.data.slice(step.offset, step.offset + step.length));
        h.volume.allocated.forEach((isAllocated, extent) => {
          if (isAllocated) return;
          const from = Math.max(0, extent * 128 * KIB - step.offset);
          const to = Math.min(step.length, (extent + 1) * 128 * KIB - step.offset);
          if (from < to) expected.fill(0, from, to);
        });
        check(client.data(cookie).equals(expected), `read ${cookie} of client ${client.id}`);
      }
    }),
    { numRuns: 100 },
  );
  t.pass('for all of them');
});

t.test('property: with errors and vanishing clients nothing is lost, leaked or answered twice', async (t) => {
  fc.assert(
    fc.property(steps(ask(ALL), ask(ALL), end(true), capacity, vanish), (list) => {
      const { asked } = play(list);
      for (const { client, cookie } of asked) check(client.isClosed || client.reply(cookie) !== null, 'a reply');
    }),
    { numRuns: 200 },
  );
  t.pass('for all of them');
});

t.test('property: a small slab slows things down, and stops nothing', async (t) => {
  const ofSimpleClients = steps(ask(READS), ask(READS), ask(READS), end(false));
  fc.assert(
    fc.property(ofSimpleClients, (list) => {
      const slabBytes = 6 * 128 * KIB;
      const h = new Harness({ sizeBytes: SIZE, slabBytes, frontendBytes: slabBytes });
      h.volume.fill();
      const clients = KINDS.map((kind) => h.connect(kind));
      const world: World = { h, clients, asked: [] };
      // What has ended holds its buffer; what is pending has one reserved, as a coordinator would.
      h.volume.capacity = 2;
      for (const step of list) take(world, step);
      for (let round = 0; round < 10_000 && (h.volume.pending.length > 0 || round < 2); round++) {
        if (h.volume.pending.length > 0) h.volume.end(h.volume.pending.length - 1);
        h.server.onSlabAvailable(POOL_FRONTEND);
        h.clock.advance(limits.nbdThrottleTickMs);
      }
      h.checkNoLeak();
      for (const { client, cookie } of world.asked) check(client.reply(cookie)?.error === 0, 'success');
    }),
    { numRuns: 100 },
  );
  t.pass('for all of them');
});

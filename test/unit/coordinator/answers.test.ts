/** What a peer answers is read whole, or refused with PROTOCOL; never believed where it would lead out of a segment. */
import fc from 'fast-check';
import t from 'tap';
import { readExtents, readHello, readOpened } from '../../../daemon/coordinator/answers.js';
import { BraidError } from '../../../daemon/base/errors.js';
import { EXTENTS_PER_REGION } from '../../../daemon/base/units.js';
import { braid } from '../../../daemon/protocol/generated/messages.js';

const REGIONS = 4;
const EXTENTS = REGIONS * EXTENTS_PER_REGION;
const refused = { name: 'BraidError', code: 'PROTOCOL', message: /malformed/ };

const opened = (regions: number[]) =>
  braid.OpenReply.encode({ session: 1, segments: [{ index: 0, hotRegions: regions }] }).finish();
const page = (extents: number[], next = 0) => braid.ListExtentsReply.encode({ extents, next }).finish();

t.test('answers are what was sent', async (t) => {
  t.equal(readHello(braid.Hello.encode({ incarnation: 'one' }).finish()).incarnation, 'one');
  t.strictSame(readOpened(opened([0, REGIONS - 1]), REGIONS).segments[0]?.hotRegions, [0, REGIONS - 1]);
  t.strictSame(readExtents(page([3, 9, EXTENTS - 1]), 3, REGIONS).extents, [3, 9, EXTENTS - 1]);
  t.equal(readExtents(page([3], 4), 0, REGIONS).next, 4);
  t.equal(readExtents(page([]), 0, REGIONS).next, 0);
});

t.test('regions and extents outside the segment are refused, and so are lists that do not get on', async (t) => {
  t.throws(() => readOpened(opened([REGIONS]), REGIONS), refused);
  t.throws(() => readExtents(page([EXTENTS]), 0, REGIONS), refused, 'outside');
  t.throws(() => readExtents(page([5, 5]), 0, REGIONS), refused, 'twice');
  t.throws(() => readExtents(page([2]), 3, REGIONS), refused, 'before what was asked for');
  t.throws(() => readExtents(page([], 7), 7, REGIONS), refused, 'the same page for ever');
  t.throws(() => readExtents(page([9], 5), 0, REGIONS), refused, 'a page back');
  t.throws(() => readExtents(page([], EXTENTS + 1), 0, REGIONS), refused, 'a page outside');
});

t.test('property: any bytes are refused with PROTOCOL, or read', async () => {
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    fc
      .tuple(fc.array(fc.nat(2 * EXTENTS), { maxLength: 9 }), fc.nat(2 * EXTENTS))
      .map(([list, next]) => page(list, next)),
  );
  const property = fc.property(bytes, fc.nat(EXTENTS - 1), (payload, from) => {
    for (const read of [
      readHello,
      (all: Uint8Array) => readOpened(all, REGIONS),
      (all: Uint8Array) => readExtents(all, from, REGIONS),
    ]) {
      try {
        read(payload);
      } catch (error) {
        if (!(error instanceof BraidError) || error.code !== 'PROTOCOL') throw error;
      }
    }
    return true;
  });
  fc.assert(property, { numRuns: 2_000, seed: 3 });
});

/** Which copy is right, from checksums alone. */
import t from 'tap';
import { BLOCKS_PER_EXTENT } from '../../../daemon/base/units.js';
import { judge, type CopySums } from '../../../daemon/coordinator/comparison.js';
import { ALL_KNOWN, decodeExtentSums, encodeExtentSums } from '../../../daemon/protocol/extent-sums.js';
import { STATUS } from '../../../daemon/protocol/frame.js';

/** A copy with the sum 7 in every block but those given. */
function copy(replica: string, known: number, others: Record<number, number> = {}, stamp = 1): CopySums<string> {
  const sums = Uint32Array.from({ length: BLOCKS_PER_EXTENT }, (_, block) => others[block] ?? 7);
  return { replica, status: STATUS.OK, stamp, known: known >>> 0, sums };
}

const damaged = (replica: string, status: number): CopySums<string> => ({ ...copy(replica, 0), status });

t.test('equal copies are equal, whether or not they know their checksums', async (t) => {
  t.match(judge([copy('a', ALL_KNOWN), copy('b', ALL_KNOWN)]), { isEqual: true, unsure: [], stampMax: 1 });
  t.match(judge([copy('a', ALL_KNOWN), copy('b', ~2)]), { isEqual: true, unsure: ['b'] });
  t.match(judge([copy('a', 0)]), { isEqual: true, unsure: ['a'] });
});

t.test('who does not know the checksum of what differs is wrong', async (t) => {
  const verdict = judge([copy('a', ~(1 << 4), { 4: 9 }), copy('b', ALL_KNOWN), copy('c', ALL_KNOWN)]);
  t.match(verdict, {
    isEqual: false,
    mendable: [{ block: 4, holder: 'b', strays: ['a'] }],
    disputed: [],
    unsure: ['a'],
  });
  const crossed = judge([copy('a', ~(1 << 4), { 4: 9 }), copy('b', ~(1 << 31), { 31: 8 })]);
  t.match(crossed.mendable, [
    { block: 4, holder: 'b', strays: ['a'] },
    { block: 31, holder: 'a', strays: ['b'] },
  ]);
});

t.test('copies that differ and all know their checksums, or none does, are left to people', async (t) => {
  t.match(judge([copy('a', ALL_KNOWN, { 0: 9 }), copy('b', ALL_KNOWN)]), {
    isEqual: false,
    disputed: [0],
    mendable: [],
  });
  t.match(judge([copy('a', 0, { 3: 9 }), copy('b', 0)]), { isEqual: false, disputed: [3], mendable: [] });
  const three = [copy('a', ALL_KNOWN, { 5: 1 }), copy('b', ALL_KNOWN, { 5: 2 }), copy('c', 0)];
  t.match(judge(three), { disputed: [5], mendable: [] }, 'two that know do not agree');
});

t.test('damaged copies have no say', async (t) => {
  const verdict = judge([damaged('a', STATUS.CHECKSUM_MISMATCH), copy('b', ALL_KNOWN), damaged('c', STATUS.IO_ERROR)]);
  t.equal(verdict.isEqual, false);
  t.same(
    verdict.damaged.map(({ replica }) => replica),
    ['a', 'c'],
  );
  t.same([verdict.mendable, verdict.disputed], [[], []]);
});

t.test('checksums travel as they are, and nothing else is taken for them', async (t) => {
  const { stamp, known, sums } = copy('a', 0x8000_0001, { 0: 0xffff_ffff }, 12);
  const sent = encodeExtentSums({ stamp, known, sums });
  t.same(decodeExtentSums(sent), { stamp, known, sums });
  t.throws(() => decodeExtentSums(sent.subarray(1)), { code: 'INTERNAL' });
});

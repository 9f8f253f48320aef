import t from 'tap';
import { EXTENT_BYTES, MIB } from '../../../daemon/base/units.js';
import type { DriveId } from '../../../daemon/base/ids.js';
import { Progress } from '../../../daemon/coordinator/progress.js';

const DRIVE = 'drive-a' as DriveId;

function start() {
  let nowMs = 5_000;
  const progress = new Progress(() => nowMs);
  const pass = (ms: number): void => {
    nowMs += ms;
    progress.sample();
  };
  return { progress, pass };
}

t.test('segments that are copied to one drive add up, and the figure ends with the last of them', (t) => {
  const { progress } = start();
  const one = progress.begin('resync', DRIVE);
  const other = progress.begin('resync', DRIVE);
  one.expect(4 * MIB);
  other.expect(2 * MIB);
  one.copied(MIB);
  const expected = { kind: 'resync', driveId: DRIVE, bytesPerSecond: 0 } as const;
  t.same(progress.copies(), [{ ...expected, bytesDone: MIB, bytesTotal: 6 * MIB }]);
  t.equal(progress.bytesLeft, 5 * MIB);
  one.copied(3 * MIB);
  one.end();
  t.same(progress.copies(), [{ ...expected, bytesDone: 4 * MIB, bytesTotal: 6 * MIB }], 'what is done stays counted');
  other.copied(2 * MIB);
  other.end();
  t.same(progress.copies(), [], 'nothing is under way');
  t.equal(progress.bytesCopied, 6 * MIB);
  progress.begin('resync', DRIVE).expect(MIB);
  t.match(progress.copies(), [{ bytesDone: 0, bytesTotal: MIB }], 'the next one starts at 0');
  t.end();
});

t.test('what was not copied is not left for ever', (t) => {
  const { progress } = start();
  const failed = progress.begin('rebuild', DRIVE);
  const other = progress.begin('rebuild', DRIVE);
  failed.expect(10 * MIB);
  other.expect(MIB);
  failed.copied(MIB);
  failed.end();
  t.match(progress.copies(), [{ bytesDone: MIB, bytesTotal: 2 * MIB }]);
  t.end();
});

t.test('more than was expected raises the total', (t) => {
  const { progress } = start();
  const task = progress.begin('reconcile', null);
  task.copied(EXTENT_BYTES);
  t.match(progress.copies(), [{ bytesDone: EXTENT_BYTES, bytesTotal: EXTENT_BYTES, driveId: null }]);
  t.end();
});

t.test('the rate is unknown at first, then smooth', (t) => {
  const { progress, pass } = start();
  const task = progress.begin('resync', DRIVE);
  task.expect(100 * MIB);
  const rate = (): number | undefined => progress.copies()[0]?.bytesPerSecond;
  task.copied(MIB);
  pass(100);
  t.equal(rate(), 0, 'too soon to tell');
  task.copied(MIB);
  pass(900);
  t.equal(rate(), 2 * MIB, 'the first second gives it');
  task.copied(12 * MIB);
  pass(1_000);
  t.equal(rate(), 4 * MIB, 'a burst counts for a fifth');
  for (let second = 0; second < 60; second++) pass(1_000);
  t.equal(Math.round((rate() ?? 0) / MIB), 0, 'what does not move has no rate');
  t.end();
});

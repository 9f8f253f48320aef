import t from 'tap';
import { REGION_BYTES } from '../../../daemon/base/units.js';
import { RegionTracker } from '../../../daemon/coordinator/regions.js';

const all = (): boolean => true;

t.test('a region is cooled only when it is idle and has no write in flight (invariant 7)', (t) => {
  const regions = new RegionTracker(2, 4);
  const region = regions.regionOf(1, 2 * REGION_BYTES + 5);
  t.equal(region, 6);
  regions.writeStarted(region);
  regions.tick = 10;
  t.same(regions.takeIdle(5, 10, all), [], 'a write is in flight');
  regions.writeEnded(region);
  t.same(regions.takeIdle(11, 10, all), [], 'not idle for long enough');
  t.same(
    regions.takeIdle(5, 10, () => false),
    [],
    'not eligible',
  );
  t.same(regions.takeIdle(5, 10, all), [region]);
  t.equal(regions.hotCount, 0);
  regions.assertConsistent();
  t.end();
});

t.test('dirty regions are never cooled, and are found by segment', (t) => {
  const regions = new RegionTracker(2, 4);
  regions.markDirty(5);
  regions.markHot(1);
  regions.tick = 10;
  t.same(regions.takeIdle(0, 10, all), [1]);
  t.ok(regions.hasDirty(1) && !regions.hasDirty(0));
  regions.markClean(5);
  t.same(regions.takeIdle(0, 10, all), [5]);
  t.equal(regions.anyDirty(), null);
  t.end();
});

t.test('the hot list grows and stays consistent', (t) => {
  const regions = new RegionTracker(1, 1000);
  for (let region = 0; region < 1000; region++) regions.markHot(region);
  regions.assertConsistent();
  regions.tick = 1;
  t.equal(regions.takeIdle(1, 700, all).length, 700);
  regions.assertConsistent();
  t.equal(regions.hotCount, 300);
  t.end();
});

t.test('a dirty region that is postponed comes after the others', (t) => {
  const regions = new RegionTracker(1, 8);
  for (const region of [3, 5, 7]) regions.markDirty(region);
  regions.postpone(3);
  t.equal(regions.anyDirty(), 5);
  regions.markClean(5);
  regions.postpone(5);
  t.notOk(regions.isDirty(5), 'what is clean stays so');
  regions.postpone(7);
  t.equal(regions.anyDirty(), 3);
  t.end();
});

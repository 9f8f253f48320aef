import t from 'tap';
import { BatchClock, SystemClock } from '../../../daemon/adapters/clock.js';
import { type Clock, elapsedUs, tickAt } from '../../../daemon/ports/clock.js';

/** A clock whose ticks the test sets. */
class TickClock extends SystemClock {
  tick = 0;
  override tickUs(): number {
    return this.tick;
  }
}

t.test('ticks are microseconds of the same clock, and the difference of two survives their wrap', async (t) => {
  const clock: Clock = new SystemClock();
  const before = tickAt(clock.nowMs());
  const between = clock.tickUs();
  const after = tickAt(clock.nowMs());
  t.ok(((between - before) | 0) >= 0 && ((after - between) | 0) >= 0);
  const ticks = new TickClock();
  ticks.tick = tickAt(2 ** 31 / 1_000 + 1);
  t.ok(ticks.tick < 0, 'it has wrapped');
  t.equal(elapsedUs(ticks, tickAt(2 ** 31 / 1_000 - 1)), 2_000);
  t.equal(elapsedUs(ticks, ticks.tick + 1), 0x7fffffff, 'what is too long to tell is very long');
});

t.test('stands still during a batch', async (t) => {
  const batchMs = new Float64Array(1);
  const clock = new BatchClock(batchMs);
  const now = clock.nowMs();
  batchMs[0] = now - 1_000;
  t.equal(clock.nowMs(), now - 1_000);
  t.equal(clock.tickUs(), tickAt(now - 1_000));
  batchMs[0] = 0;
  t.ok(clock.nowMs() >= now, 'between batches it goes');
});

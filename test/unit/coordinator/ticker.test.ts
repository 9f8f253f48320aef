import t from 'tap';
import { Ticker } from '../../../daemon/coordinator/context.js';
import type { Clock } from '../../../daemon/ports/clock.js';
import { SimClock } from '../../sim/world/sim-clock.js';

/** A clock that counts the timers that it was asked for. */
function countingClock(): { readonly time: SimClock; readonly clock: Clock; readonly timers: () => number } {
  const time = new SimClock();
  let count = 0;
  const clock: Clock = {
    nowMs: () => time.nowMs(),
    tickUs: () => time.tickUs(),
    wallMs: () => time.wallMs(),
    after: (delayMs, callback) => {
      count++;
      return time.after(delayMs, callback);
    },
  };
  return { time, clock, timers: () => count };
}

t.test('fifty volumes cost one timer a period', (t) => {
  const { time, clock, timers } = countingClock();
  const ticker = new Ticker(clock, 1_000);
  let calls = 0;
  for (let volume = 0; volume < 50; volume++) {
    ticker.add(() => calls++);
    time.runUntil(time.nowMs() + 7);
  }
  time.runUntil(10_000);
  t.equal(calls, 500);
  t.equal(timers(), 11);
  t.end();
});

t.test('what is cancelled is called no more, and without any there is no timer', (t) => {
  const { time, clock, timers } = countingClock();
  const ticker = new Ticker(clock, 1_000);
  const calls: string[] = [];
  const first = ticker.add(() => {
    calls.push('first');
    first.cancel();
  });
  const second = ticker.add(() => calls.push('second'));
  time.runUntil(2_500);
  t.same(calls, ['first', 'second', 'second']);
  second.cancel();
  second.cancel();
  t.equal(time.nextMs(), null);
  const before = timers();
  time.runUntil(20_000);
  t.equal(timers(), before);
  ticker.add(() => calls.push('third'));
  time.runUntil(21_000);
  t.equal(calls.at(-1), 'third');
  t.end();
});

import t from 'tap';
import { BraidError } from '../../../daemon/base/errors.js';
import { Loop } from '../../../daemon/control/loop.js';
import { SimClock } from '../../sim/world/sim-clock.js';
import { silentLog } from './fixture.js';

const turns = async (): Promise<void> => {
  for (let i = 0; i < 20; i++) await Promise.resolve();
};

function loopOf(clock: SimClock, run: () => Promise<number | null>): Loop {
  return new Loop({ name: 'test', clock, log: silentLog, run, retryMsMin: 10, retryMsMax: 40 });
}

t.test('never runs twice at once; a trigger during a run causes one more', async (t) => {
  const clock = new SimClock();
  let running = 0;
  let runs = 0;
  let release = (): void => undefined;
  const loop = loopOf(clock, async () => {
    running += 1;
    runs += 1;
    t.equal(running, 1);
    await new Promise<void>((resolve) => (release = resolve));
    running -= 1;
    return null;
  });
  for (let i = 0; i < 3; i++) loop.trigger();
  await turns();
  t.equal(runs, 1);
  for (let i = 0; i < 3; i++) loop.trigger();
  release();
  await turns();
  t.equal(runs, 2);
  release();
  await turns();
  t.equal(runs, 2);
});

t.test('runs again after the delay that it names, and not after stop', async (t) => {
  const clock = new SimClock();
  let runs = 0;
  const loop = loopOf(clock, async () => {
    runs += 1;
    return 100;
  });
  loop.trigger();
  await turns();
  clock.runUntil(100);
  await turns();
  t.equal(runs, 2);
  await loop.stop();
  clock.runUntil(1_000);
  loop.trigger();
  await turns();
  t.equal(runs, 2);
});

t.test('operating errors are retried with growing delays', async (t) => {
  const clock = new SimClock();
  const at: number[] = [];
  const loop = loopOf(clock, async () => {
    at.push(clock.nowMs());
    if (at.length < 6) throw new BraidError('UNAVAILABLE', 'not yet');
    return null;
  });
  loop.trigger();
  for (let i = 0; i < 6; i++) {
    await turns();
    clock.step();
  }
  await turns();
  t.same(at, [0, 10, 30, 70, 110, 150]);
});

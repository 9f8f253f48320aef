import t from 'tap';
import { limits } from '../../../daemon/base/limits.js';
import { EXTENT_BYTES, MIB } from '../../../daemon/base/units.js';
import { CopyPacer } from '../../../daemon/coordinator/copy-pacer.js';
import { SimClock } from '../../sim/world/sim-clock.js';

const PERIOD_MS = (EXTENT_BYTES * 1_000) / limits.copyBytesPerSecondMin;

/** Copies that take as long as the test says, beside clients that start an operation each millisecond while they are busy. */
function start({ copyMs, isBusy }: { copyMs: number; isBusy: boolean }) {
  const clock = new SimClock();
  let clientStarts = 0;
  const pacer = new CopyPacer(clock, () => clientStarts);
  let copied = 0;
  let underWay = 0;
  let underWayMax = 0;
  const state = { copyMs, isBusy };
  const copy = async (): Promise<void> => {
    underWay++;
    underWayMax = Math.max(underWayMax, underWay);
    await new Promise<void>((resolve) => void clock.after(state.copyMs, resolve));
    underWay--;
    copied++;
  };
  const lane = async (): Promise<void> => {
    for (;;) await pacer.run(EXTENT_BYTES, copy);
  };
  const client = (): void => {
    if (state.isBusy) clientStarts++;
    clock.after(1, client);
  };
  client();
  for (let index = 0; index < limits.copyWindowExtents; index++) void lane();
  /** Extents copied in so many milliseconds, and how many at once at most. */
  const pass = async (ms: number): Promise<{ extents: number; atOnce: number }> => {
    const before = copied;
    underWayMax = underWay;
    const endMs = clock.nowMs() + ms;
    for (let next = clock.nextMs(); next !== null && next <= endMs; next = clock.nextMs()) {
      clock.step();
      await new Promise(setImmediate);
    }
    clock.runUntil(endMs);
    return { extents: copied - before, atOnce: underWayMax };
  };
  return { pacer, pass, state };
}

t.test('while clients are quiet nothing holds the copiers up', async (t) => {
  const { pass } = start({ copyMs: 2, isBusy: false });
  const { extents, atOnce } = await pass(1_000);
  t.equal(atOnce, limits.copyWindowExtents);
  t.ok(extents >= 490 * limits.copyWindowExtents, `${extents} extents`);
});

t.test('while clients are busy one copy is under way, and then there is a rest three times as long', async (t) => {
  const { pass } = start({ copyMs: 1, isBusy: true });
  await pass(500);
  const { extents, atOnce } = await pass(1_000);
  t.equal(atOnce, 1);
  t.ok(extents >= 240 && extents <= 260, `${extents} extents: a quarter of the time`);
});

t.test('clients that never pause cannot push it below the guaranteed rate', async (t) => {
  const { pass, state } = start({ copyMs: 7, isBusy: true });
  await pass(500);
  const guaranteed = 1_000 / PERIOD_MS;
  const slow = (await pass(1_000)).extents;
  t.ok(slow >= guaranteed - 2 && slow <= guaranteed + 2, `${slow} extents although it should rest longer`);
  state.copyMs = 4 * PERIOD_MS; // each takes longer than the guaranteed rate allows: the next ones do not wait for it
  await pass(500);
  const { extents, atOnce } = await pass(1_000);
  t.ok(extents >= guaranteed - 5, `${extents} extents although each hangs`);
  t.ok(atOnce > 1 && atOnce <= 5);
});

t.test('when clients pause it goes on at full speed, soon', async (t) => {
  const { pass, state } = start({ copyMs: 1, isBusy: true });
  await pass(500);
  state.isBusy = false;
  await pass(limits.copyBusyMs + PERIOD_MS);
  const { extents, atOnce } = await pass(100);
  t.equal(atOnce, limits.copyWindowExtents);
  t.ok(extents >= 90 * limits.copyWindowExtents, `${extents} extents`);
});

t.test('the bandwidth is kept, whatever the drives could do, and can be changed at any time', async (t) => {
  const { pacer, pass } = start({ copyMs: 0.5, isBusy: false });
  pacer.setBandwidth(10 * MIB);
  await pass(100);
  const { extents } = await pass(1_000);
  t.ok(extents >= 79 && extents <= 81, `${extents} extents of 128 KiB are 10 MiB`);
  pacer.setBandwidth(100 * MIB);
  await pass(100);
  const faster = (await pass(1_000)).extents;
  t.ok(faster >= 795 && faster <= 805, `${faster} extents are 100 MiB`);
  pacer.setBandwidth(null);
  await pass(100);
  t.ok((await pass(100)).extents > 1_000, 'no bound any more');
});

import t, { type Test } from 'tap';
import { OperationBudget } from '../../../daemon/coordinator/operation-budget.js';

const ASSURED = 2;

/** A volume that always has work, and starts it as the budget lets it. */
class BusyVolume {
  readonly #budget: OperationBudget;
  inFlight = 0;
  started = 0;
  readonly onRoom = (): void => {
    this.pump();
  };

  constructor(budget: OperationBudget) {
    this.#budget = budget;
  }

  pump(): void {
    while (this.#budget.admits(this.inFlight, this.onRoom)) {
      this.inFlight++;
      this.started++;
      this.#budget.started(this.inFlight);
    }
  }

  end(): void {
    this.inFlight--;
    this.#budget.ended(this.inFlight);
    this.pump(); // as the front end does on every result
    this.#budget.wake();
  }
}

function busy(count: number, sharedMax: number): { budget: OperationBudget; volumes: BusyVolume[] } {
  const budget = new OperationBudget(ASSURED, sharedMax);
  const volumes = Array.from({ length: count }, () => new BusyVolume(budget));
  for (const volume of volumes) volume.pump();
  return { budget, volumes };
}

t.test('every volume has its own, the rest is shared', (t: Test) => {
  const { volumes } = busy(3, 10);
  t.same(
    volumes.map(({ inFlight }) => inFlight),
    [ASSURED + 10, ASSURED, ASSURED],
  );
  t.end();
});

t.test('those that were refused share what becomes free, in turn', (t: Test) => {
  const { volumes } = busy(3, 10);
  const [first, second, third] = volumes as [BusyVolume, BusyVolume, BusyVolume];
  for (let round = 0; round < 6; round++) first.end();
  t.same([first.inFlight - ASSURED, second.inFlight - ASSURED, third.inFlight - ASSURED], [6, 2, 2]);
  t.end();
});

t.test('a volume that ends takes no turn', (t: Test) => {
  const { budget, volumes } = busy(2, 4);
  const [first, second] = volumes as [BusyVolume, BusyVolume];
  budget.forget(second.onRoom);
  first.end();
  t.same([first.inFlight, second.inFlight], [ASSURED + 4, ASSURED]);
  t.end();
});

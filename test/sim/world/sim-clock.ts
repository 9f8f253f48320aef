/**
 * Simulated time: a heap of events, ordered by (time, order of creation), so that a run is the same each time. Nothing
 * happens between events; an event's callback runs at its time, and code awaiting promises runs before the next event if
 * whoever steps the clock lets the microtasks finish first.
 */
import { assert } from '../../../daemon/base/assert.js';
import { type Clock, tickAt, type Timer } from '../../../daemon/ports/clock.js';

interface SimEvent {
  readonly atMs: number;
  readonly sequence: number;
  /** null once cancelled. */
  callback: (() => void) | null;
}

const WALL_START_MS = Date.UTC(2030, 0, 1);

const isBefore = (left: SimEvent, right: SimEvent): boolean =>
  left.atMs < right.atMs || (left.atMs === right.atMs && left.sequence < right.sequence);

/** A binary min-heap. */
class EventHeap {
  readonly #items: SimEvent[] = [];

  peek(): SimEvent | undefined {
    return this.#items[0];
  }

  push(event: SimEvent): void {
    let index = this.#items.push(event) - 1;
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (!this.#swapIfBefore(index, parent)) break;
      index = parent;
    }
  }

  pop(): SimEvent | undefined {
    const top = this.#items[0];
    const last = this.#items.pop();
    if (top === undefined || last === undefined || top === last) return top;
    this.#items[0] = last;
    let index = 0;
    for (;;) {
      const left = 2 * index + 1;
      const right = left + 1;
      const [leftItem, rightItem] = [this.#items[left], this.#items[right]];
      if (leftItem === undefined) break;
      const child = rightItem !== undefined && isBefore(rightItem, leftItem) ? right : left;
      if (!this.#swapIfBefore(child, index)) break;
      index = child;
    }
    return top;
  }

  #swapIfBefore(child: number, parent: number): boolean {
    const [childItem, parentItem] = [this.#items[child], this.#items[parent]];
    assert(childItem !== undefined && parentItem !== undefined, 'both are in the heap');
    if (!isBefore(childItem, parentItem)) return false;
    this.#items[child] = parentItem;
    this.#items[parent] = childItem;
    return true;
  }
}

export class SimClock implements Clock {
  readonly #heap = new EventHeap();
  #nowMs = 0;
  #sequence = 0;

  nowMs(): number {
    return this.#nowMs;
  }

  tickUs(): number {
    return tickAt(this.nowMs());
  }

  wallMs(): number {
    return WALL_START_MS + Math.floor(this.#nowMs);
  }

  after(delayMs: number, callback: () => void): Timer {
    assert(delayMs >= 0, 'a delay is not negative');
    const event: SimEvent = { atMs: this.#nowMs + delayMs, sequence: this.#sequence, callback };
    this.#sequence += 1;
    this.#heap.push(event);
    return {
      cancel: () => {
        event.callback = null;
      },
    };
  }

  /** Runs the next event; false when there is none. */
  step(): boolean {
    for (;;) {
      const event = this.#heap.pop();
      if (event === undefined) return false;
      const { callback } = event;
      if (callback === null) continue;
      assert(event.atMs >= this.#nowMs, 'time does not go back');
      this.#nowMs = event.atMs;
      event.callback = null;
      callback();
      return true;
    }
  }

  /** Time of the next event; null when there is none. */
  nextMs(): number | null {
    while (this.#heap.peek()?.callback === null) this.#heap.pop();
    return this.#heap.peek()?.atMs ?? null;
  }

  /** Runs all events up to `untilMs`, then sets the time to it. Promises that they settle go on afterwards only. */
  runUntil(untilMs: number): void {
    for (let next = this.nextMs(); next !== null && next <= untilMs; next = this.nextMs()) this.step();
    this.#nowMs = Math.max(this.#nowMs, untilMs);
  }

  /** A node's own clock: `rate` of 1.001 is fast by 1 ms each second; it showed `offsetMs` when simulated time was 0. */
  nodeClock(rate: number, offsetMs: number): SimNodeClock {
    return new SimNodeClock(this, rate, offsetMs);
  }
}

/** A view of the simulated time with drift. Once stopped (the node crashed), its timers never fire. */
export class SimNodeClock implements Clock {
  readonly #clock: SimClock;
  readonly #rate: number;
  readonly #offsetMs: number;
  #isStopped = false;
  /** What fell due while frozen; null when not. */
  #waiting: (() => void)[] | null = null;

  constructor(clock: SimClock, rate: number, offsetMs: number) {
    assert(rate > 0, 'a clock goes forward');
    this.#clock = clock;
    this.#rate = rate;
    this.#offsetMs = offsetMs;
  }

  nowMs(): number {
    return this.#offsetMs + this.#clock.nowMs() * this.#rate;
  }

  tickUs(): number {
    return tickAt(this.nowMs());
  }

  wallMs(): number {
    return this.#clock.wallMs();
  }

  after(delayMs: number, callback: () => void): Timer {
    return this.#clock.after(delayMs / this.#rate, () => {
      if (this.#waiting !== null) this.#waiting.push(callback);
      else if (!this.#isStopped) callback();
    });
  }

  /** The process is stopped (SIGSTOP): what falls due waits until `thaw`; time goes on. */
  freeze(): void {
    this.#waiting ??= [];
  }

  thaw(): void {
    const waiting = this.#waiting ?? [];
    this.#waiting = null;
    for (const callback of waiting) this.after(0, callback);
  }

  stop(): void {
    this.#isStopped = true;
  }
}

/**
 * A piece of work that converges: it runs when triggered, never twice at once, again when triggered meanwhile, and by itself after a
 * delay that each run names. Failures are logged and tried again with growing delays.
 */
import { asError, BraidError } from '../base/errors.js';
import type { Clock, Timer } from '../ports/clock.js';
import type { Log } from '../ports/log.js';

export interface LoopOptions {
  readonly name: string;
  readonly clock: Clock;
  readonly log: Log;
  /** Does the work once; answers after how many ms to run again by itself, null for only when triggered. */
  readonly run: () => Promise<number | null>;
  readonly retryMsMin: number;
  readonly retryMsMax: number;
}

export class Loop {
  readonly #options: LoopOptions;
  #timer: Timer | null = null;
  #running: Promise<void> | null = null;
  #isTriggered = false;
  #isStopped = false;
  #failures = 0;
  #lastMessage = '';

  constructor(options: LoopOptions) {
    this.#options = options;
  }

  /** Runs soon. Does nothing after `stop`. */
  trigger(): void {
    if (this.#isStopped) return;
    this.#isTriggered = true;
    this.#timer?.cancel();
    this.#timer = null;
    this.#running ??= this.#runAll();
  }

  /** Runs no more; resolves when a run that is under way has ended. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#timer?.cancel();
    this.#timer = null;
    await this.#running;
  }

  async #runAll(): Promise<void> {
    let delayMs: number | null = null;
    // The first turn of the microtask queue: whoever triggered finishes first.
    await Promise.resolve();
    while (this.#isTriggered && !this.#isStopped) {
      this.#isTriggered = false;
      delayMs = await this.#runOnce();
    }
    this.#running = null;
    if (this.#isStopped || delayMs === null) return;
    this.#timer = this.#options.clock.after(delayMs, () => this.trigger());
  }

  async #runOnce(): Promise<number | null> {
    try {
      const delayMs = await this.#options.run();
      this.#failures = 0;
      this.#lastMessage = '';
      return delayMs;
    } catch (thrown) {
      // An operating fault is tried again; anything else is a programmer's error and must stop the process.
      if (!(thrown instanceof BraidError)) throw asError(thrown);
      return this.#retryDelay(thrown);
    }
  }

  #retryDelay(error: BraidError): number {
    const { name, log, retryMsMin, retryMsMax } = this.#options;
    const delayMs = Math.min(retryMsMax, retryMsMin * 2 ** this.#failures);
    this.#failures = Math.min(this.#failures + 1, 30);
    if (error.message !== this.#lastMessage) {
      log.warn({ loop: name, code: error.code, retryMs: delayMs }, error.message);
    }
    this.#lastMessage = error.message;
    return delayMs;
  }
}

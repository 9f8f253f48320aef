export interface Timer {
  cancel(): void;
}

export interface Clock {
  /** Milliseconds on this node's monotonic clock: never jumps, meaningful only on this node since its boot. */
  nowMs(): number;
  /**
   * Microseconds on the same clock as a 32-bit integer, which wraps: for `elapsedUs`. V8 keeps it unboxed wherever it goes, so that timing
   * an I/O allocates nothing.
   */
  tickUs(): number;
  /** Wall-clock milliseconds since 1970, for records that people read; never for decisions. */
  wallMs(): number;
  /** Calls `callback` once, at least `delayMs` later. */
  after(delayMs: number, callback: () => void): Timer;
}

/** Microseconds since `clock.tickUs` gave `startedUs`, at most 35 minutes. */
export function elapsedUs(clock: Clock, startedUs: number): number {
  const elapsed = (clock.tickUs() - startedUs) | 0;
  return elapsed < 0 ? 0x7fffffff : elapsed;
}

/** `Clock.tickUs` for a clock that shows `nowMs`. */
export function tickAt(nowMs: number): number {
  return (nowMs * 1_000) | 0;
}

/** Resolves after `delayMs`. */
export function sleep(clock: Clock, delayMs: number): Promise<void> {
  return new Promise((resolve) => {
    clock.after(delayMs, resolve);
  });
}

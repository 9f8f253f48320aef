export interface Timer {
  cancel(): void;
}

export interface Clock {
  /** Milliseconds on this node's monotonic clock: never jumps, meaningful only on this node since its boot. */
  nowMs(): number;
  /** Wall-clock milliseconds since 1970, for records that people read; never for decisions. */
  wallMs(): number;
  /** Calls `callback` once, at least `delayMs` later. */
  after(delayMs: number, callback: () => void): Timer;
}

/** Resolves after `delayMs`. */
export function sleep(clock: Clock, delayMs: number): Promise<void> {
  return new Promise((resolve) => {
    clock.after(delayMs, resolve);
  });
}

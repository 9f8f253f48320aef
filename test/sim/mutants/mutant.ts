/** What a mutant is: one mechanism of the daemon, switched off, and who has to notice. */
import type { FaultKind } from '../dimensions.js';
import type { ScenarioOptions } from '../scenario.js';

/** Client operations of a hunted seed: what `npm run sim` runs unless told otherwise. */
const OPERATIONS = 300;

/** A replacement in a source file of the daemon. */
export interface Edit {
  /** Below `daemon/`, without extension. */
  readonly module: string;
  /** Occurs exactly once in the file: an edit that no longer fits its source fails, it is not skipped. */
  readonly find: string;
  readonly replace: string;
}

/** What the simulator can say of a seed; each is a kind of violation that `runScenario` reports. */
export const ORACLES = {
  /** An invariant that the code asserts itself. */
  assertion: /^AssertionFailed: /,
  /** A client read what it must not read. */
  history: /^OracleViolation: /,
  /** After healing, copies differ, are missing, or contradict their checksums. */
  copies: /^EndStateViolation: /,
  /** Something that has to happen does not happen. */
  liveness: /^LivenessViolation: |^Error: (the volume was never served|nothing came)/,
  /** Something that was taken was not given back. */
  leak: /^Error: .* leaks /,
} as const;
export type OracleName = keyof typeof ORACLES;

/** Random scenarios find it, and one of these oracles speaks. */
export interface BySeeds {
  readonly oracles: readonly OracleName[];
  /** Only these faults, where others would hide it or take too long. */
  readonly faults?: readonly FaultKind[];
}

/** Chance would take too long: a story (a test of `test/sim/<file>.test.ts`, by its name) fails. */
export interface ByStory {
  readonly file: string;
  readonly test: string;
}

export interface Mutant {
  readonly id: string;
  /** Numbers of ARCHITECTURE.md: what is broken. */
  readonly invariants: readonly number[];
  /** The mechanism that is gone. */
  readonly without: string;
  readonly edits: readonly Edit[];
  readonly found: BySeeds | ByStory;
}

export function optionsOf({ faults }: BySeeds, seed: number): ScenarioOptions {
  const options = { seed, operations: OPERATIONS, only: null, isTraced: false };
  return faults === undefined ? options : { ...options, kinds: faults };
}

/** The command that replays a seed, but for the mutant. */
export function commandOf({ faults }: BySeeds, seed: number): string {
  return `npm run sim -- --seed ${seed}${faults === undefined ? '' : ` --kinds ${faults.join(',')}`} --trace`;
}

export function oracleOf(violation: string): OracleName | null {
  const names = Object.keys(ORACLES) as OracleName[];
  return names.find((name) => ORACLES[name].test(violation)) ?? null;
}

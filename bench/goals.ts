/** The goals of the project, as ratios within one run. */
import type { Sample } from './measure.js';
import { COLD_WORKLOADS, COLUMNS, type ColumnName } from './workloads.js';

export interface Goal {
  readonly title: string;
  /** Measured ratio; NaN when one side was not measured. */
  readonly ratio: number;
  readonly wanted: number;
  readonly isMet: boolean;
}

/** Three copies by Braid against one by qemu-nbd, operations per second. */
const AGAINST_ONE_COPY: Readonly<Record<ColumnName, number>> = {
  '4k-write-d1': 0.6,
  '4k-write-d32': 0.6,
  '4k-read-d1': 1.1,
  '4k-read-d32': 0.95,
  '128k-write-d8': 0.9,
  '128k-read-d8': 2.0,
};
const AGAINST_QUORUM = 1.0;
const COLD_4K_AGAINST_HOT = 0.3;

/** Median of one subject in one column; null when it was not measured. */
export type Lookup = (subject: string, column: string) => Sample | null;

export function ratioOf(
  lookup: Lookup,
  over: readonly [subject: string, column: string],
  under: readonly [string, string],
): number {
  return (lookup(...over)?.iops ?? Number.NaN) / (lookup(...under)?.iops ?? Number.NaN);
}

function goal(title: string, ratio: number, wanted: number): Goal {
  return { title, ratio, wanted, isMet: ratio >= wanted };
}

/** Goals whose two sides were both measured. */
export function evaluateGoals(lookup: Lookup): Goal[] {
  const goals = COLUMNS.map(({ name, title }) => {
    const ratio = ratioOf(lookup, ['braid', name], ['qemu-nbd', name]);
    return goal(`${title}: of qemu-nbd, 1 copy`, ratio, AGAINST_ONE_COPY[name]);
  });
  for (const { name, title } of COLUMNS) {
    goals.push(goal(`${title}: of QEMU quorum`, ratioOf(lookup, ['braid', name], ['quorum', name]), AGAINST_QUORUM));
  }
  for (const { name, title, hot } of COLD_WORKLOADS) {
    if (hot === '4k-write-d32')
      goals.push(goal(`${title}: of hot`, ratioOf(lookup, ['cold', name], ['braid', hot]), COLD_4K_AGAINST_HOT));
  }
  return goals.filter(({ ratio }) => !Number.isNaN(ratio));
}

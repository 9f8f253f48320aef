/** What is measured: the columns of the table, and the first writes beside them. */
import { KIB } from '../daemon/base/units.js';

export interface Workload {
  readonly name: string;
  readonly title: string;
  readonly pattern: 'randwrite' | 'randread' | 'write' | 'read';
  readonly blockBytes: number;
  /** Requests in flight. */
  readonly depth: number;
}

export const COLUMNS = [
  { name: '4k-write-d1', title: '4k write d1', pattern: 'randwrite', blockBytes: 4 * KIB, depth: 1 },
  { name: '4k-write-d32', title: '4k write d32', pattern: 'randwrite', blockBytes: 4 * KIB, depth: 32 },
  { name: '4k-read-d1', title: '4k read d1', pattern: 'randread', blockBytes: 4 * KIB, depth: 1 },
  { name: '4k-read-d32', title: '4k read d32', pattern: 'randread', blockBytes: 4 * KIB, depth: 32 },
  { name: '128k-write-d8', title: '128k write d8', pattern: 'write', blockBytes: 128 * KIB, depth: 8 },
  { name: '128k-read-d8', title: '128k read d8', pattern: 'read', blockBytes: 128 * KIB, depth: 8 },
] as const satisfies readonly Workload[];

export type ColumnName = (typeof COLUMNS)[number]['name'];

/** Writes every byte of a volume once, so that nothing later is a first write. */
export const PREFILL: Workload = {
  name: 'prefill',
  title: 'prefill',
  pattern: 'write',
  blockBytes: 1024 * KIB,
  depth: 4,
};

/** Which hot column a cold case is compared with. */
export interface ColdWorkload extends Workload {
  readonly hot: ColumnName;
  /**
   * What was not written before: `fresh` is a new volume, none of whose extents has a place on a drive yet; `cooled` is a volume that
   * is written in full, and whose regions have left the activity log.
   */
  readonly state: 'fresh' | 'cooled';
  /** Part of the volume's 4 KiB blocks (or of its 128 KiB extents) that the run writes: it is over before the volume is warm. */
  readonly operationsPerExtent: number;
}

const RANDOM = {
  pattern: 'randwrite',
  blockBytes: 4 * KIB,
  depth: 32,
  hot: '4k-write-d32',
  operationsPerExtent: 0.25,
} as const;

/** Until nearly every extent of a new volume was written: first writes of all sorts. */
export const COLD_WARM_UP: ColdWorkload = {
  ...RANDOM,
  name: 'warm-up',
  title: 'warm up',
  state: 'fresh',
  operationsPerExtent: 4,
};

export const COLD_WORKLOADS: readonly ColdWorkload[] = [
  { ...RANDOM, name: 'fresh-4k-write-d32', title: '4k write d32, new volume', state: 'fresh' },
  {
    ...{ name: 'fresh-128k-write-d8', title: '128k write d8, new volume', state: 'fresh', pattern: 'write' },
    ...{ blockBytes: 128 * KIB, depth: 8, hot: '128k-write-d8', operationsPerExtent: 1 },
  },
  { ...RANDOM, name: 'cooled-4k-write-d32', title: '4k write d32, cooled', state: 'cooled' },
];

/** The runs: every subject in turn for every column, again and again, so that a change of the machine's mood meets all alike. */
import { EXTENT_BYTES } from '../daemon/base/units.js';
import { runFio, type FioLimit, type FioResult } from './fio.js';
import { cpuTimeUs, residentBytes } from './proc.js';
import type { BraidCluster } from './subjects/braid.js';
import type { Subject } from './subjects/subject.js';
import { COLD_WARM_UP, COLUMNS, type ColdWorkload, type Workload } from './workloads.js';

export interface Sample {
  readonly iops: number;
  readonly bytesPerSecond: number;
  readonly latencyUs: FioResult['latencyUs'];
  /** Of all daemons, microseconds for one operation; 0 without daemons. */
  readonly cpuUs: number;
  /** Of all daemons, after the run. */
  readonly residentBytes: number;
}

/** Samples by subject and column, in order of repetition. */
export type Samples = Map<string, Map<string, Sample[]>>;

export interface MeasureOptions {
  readonly signal: AbortSignal;
  /** Of each run. */
  readonly seconds: number;
  readonly onProgress: (text: string) => void;
}

export async function measureOnce(
  subject: Subject,
  workload: Workload,
  limit: FioLimit,
  signal: AbortSignal,
): Promise<Sample> {
  const cpuBeforeUs = cpuTimeUs(subject.pids);
  const { operations, iops, bytesPerSecond, latencyUs } = await runFio(subject.target, workload, limit, signal);
  const cpuUs = (cpuTimeUs(subject.pids) - cpuBeforeUs) / operations;
  return { iops, bytesPerSecond, latencyUs, cpuUs, residentBytes: residentBytes(subject.pids) };
}

/** One repetition of all columns. */
export async function measureColumns(
  subjects: readonly Subject[],
  samples: Samples,
  options: MeasureOptions,
): Promise<void> {
  for (const column of COLUMNS) {
    for (const subject of subjects) {
      options.onProgress(`${column.title}: ${subject.title}`);
      const sample = await measureOnce(subject, column, { seconds: options.seconds }, options.signal);
      addSample(samples, subject.name, column.name, sample);
    }
  }
}

/** First writes that are not measured: they compile the paths that the measured ones take, as filling the volume does for hot ones. */
export async function warmUpCold(cluster: BraidCluster, { signal, onProgress }: MeasureOptions): Promise<void> {
  onProgress('first writes: warming up');
  const { name, target, extents } = await cluster.makeFresh();
  await runFio(target, COLD_WARM_UP, { operations: COLD_WARM_UP.operationsPerExtent * extents }, signal);
  await cluster.dropFresh(name);
}

/** One run of a first-write case. */
export async function measureCold(
  cluster: BraidCluster,
  hot: Subject,
  volumeBytes: number,
  workload: ColdWorkload,
  options: MeasureOptions,
): Promise<Sample> {
  options.onProgress(`first writes: ${workload.title}`);
  if (workload.state === 'cooled') {
    await cluster.waitUntilCooled();
    const operations = (volumeBytes / EXTENT_BYTES) * workload.operationsPerExtent;
    return measureOnce(hot, workload, { operations }, options.signal);
  }
  const { name, target, extents } = await cluster.makeFresh();
  const operations = extents * workload.operationsPerExtent;
  const sample = await measureOnce({ ...hot, target }, workload, { operations }, options.signal);
  await cluster.dropFresh(name);
  return sample;
}

export function addSample(samples: Samples, subject: string, column: string, sample: Sample): void {
  const columns = samples.get(subject) ?? new Map<string, Sample[]>();
  samples.set(subject, columns.set(column, [...(columns.get(column) ?? []), sample]));
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}

/** Medians, number by number. */
export function medianSample(samples: readonly Sample[]): Sample {
  const of = (pick: (sample: Sample) => number) => median(samples.map(pick));
  return {
    iops: of((sample) => sample.iops),
    bytesPerSecond: of((sample) => sample.bytesPerSecond),
    latencyUs: {
      p50: of((sample) => sample.latencyUs.p50),
      p99: of((sample) => sample.latencyUs.p99),
      p999: of((sample) => sample.latencyUs.p999),
    },
    cpuUs: of((sample) => sample.cpuUs),
    residentBytes: of((sample) => sample.residentBytes),
  };
}

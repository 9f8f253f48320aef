/** What a run found: as a record for machines, as tables for people, as a chart. */
import { execFileSync } from 'node:child_process';
import { cpus, release, totalmem } from 'node:os';
import { MIB } from '../daemon/base/units.js';
import type { FailureFigure } from './failures.js';
import { evaluateGoals, ratioOf, type Goal, type Lookup } from './goals.js';
import type { HeapUse } from './heap.js';
import { median, medianSample, type Sample, type Samples } from './measure.js';
import { barChart } from './svg.js';
import { COLD_WORKLOADS, COLUMNS } from './workloads.js';

export interface ReportInput {
  readonly subjects: readonly { readonly name: string; readonly title: string }[];
  readonly samples: Samples;
  readonly heap: readonly HeapUse[];
  readonly failures: readonly FailureFigure[];
  readonly skipped: readonly string[];
  readonly settings: {
    readonly quick: boolean;
    readonly repetitions: number;
    readonly seconds: number;
    readonly volumeBytes: number;
  };
  readonly elapsedMs: number;
}

const BYTES_PER_MB = 1e6;
const whole = (value: number) => (Number.isNaN(value) ? '-' : Math.round(value).toLocaleString('en-US'));
const fine = (value: number) => (Number.isNaN(value) ? '-' : value.toFixed(value < 10 ? 1 : 0));
const ratioText = (value: number) => (Number.isNaN(value) ? '-' : value.toFixed(2));
const isLarge = (column: { readonly blockBytes: number }) => column.blockBytes >= 128 * 1024;

export function lookupOf(samples: Samples): Lookup {
  return (subject, column) => {
    const found = samples.get(subject)?.get(column);
    return found === undefined ? null : medianSample(found);
  };
}

// ---- for machines

export function jsonReport(input: ReportInput): object {
  const { subjects, samples, heap, failures, skipped, settings, elapsedMs } = input;
  const lookup = lookupOf(samples);
  const columnsOf = (subject: string) =>
    Object.fromEntries(
      [...(samples.get(subject) ?? [])].map(([name, runs]) => [name, { median: medianSample(runs), runs }]),
    );
  return {
    version: 2,
    host: hostFacts(),
    settings: { ...settings, elapsedMs },
    subjects: subjects.map(({ name, title }) => ({ name, title, columns: columnsOf(name) })),
    firstWrites: columnsOf('cold'),
    ratios: COLUMNS.map(({ name }) => ({
      column: name,
      ofOneCopy: ratioOf(lookup, ['braid', name], ['qemu-nbd', name]),
      ofQuorum: ratioOf(lookup, ['braid', name], ['quorum', name]),
    })),
    goals: evaluateGoals(lookup),
    heap,
    failures,
    skipped,
  };
}

function hostFacts(): object {
  const versionOf = (program: string) => {
    try {
      return (
        execFileSync(program, ['--version'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).split(
          '\n',
        )[0] ?? ''
      );
    } catch {
      return '';
    }
  };
  const [model = ''] = cpus().map((cpu) => cpu.model);
  return {
    cpus: cpus().length,
    model,
    memoryBytes: totalmem(),
    kernel: release(),
    node: process.version,
    fio: versionOf('fio'),
    qemu: versionOf('qemu-nbd'),
  };
}

// ---- for people

export function textReport(input: ReportInput): string {
  const lookup = lookupOf(input.samples);
  const sections = [
    ...(input.subjects.length > 0 ? subjectTables(input, lookup) : []),
    ...(input.samples.has('cold') ? [firstWriteTable(lookup)] : []),
    ...(input.subjects.length > 1 ? [ratioTable(lookup)] : []),
    goalList(evaluateGoals(lookup)),
    ...input.heap.map(heapTable),
    failureTable(input.failures),
    ...(input.skipped.length > 0 ? [`Not measured:\n${input.skipped.map((reason) => `  ${reason}`).join('\n')}`] : []),
  ];
  return sections.filter((section) => section !== '').join('\n\n');
}

function subjectTables({ subjects, settings }: ReportInput, lookup: Lookup): string[] {
  const titles = COLUMNS.map(({ title }) => title);
  const rows = (cell: (sample: Sample, column: (typeof COLUMNS)[number]) => string) =>
    subjects.map(({ name, title }) => [
      title,
      ...COLUMNS.map((column) => cellOf(lookup(name, column.name), column, cell)),
    ]);
  const heads = (last: string) => ['', ...titles.slice(0, -1), last];
  const memory = subjects.map(({ name }) => {
    const sizes = COLUMNS.map((column) => lookup(name, column.name)?.residentBytes ?? 0);
    return whole(Math.max(...sizes) / MIB);
  });
  const speed = rows(
    (sample, column) =>
      whole(sample.iops) + (isLarge(column) ? ` (${whole(sample.bytesPerSecond / BYTES_PER_MB)})` : ''),
  );
  const latency = rows(
    ({ latencyUs }) => `${whole(latencyUs.p50)} / ${whole(latencyUs.p99)} / ${whole(latencyUs.p999)}`,
  );
  const cpu = rows(({ cpuUs }) => fine(cpuUs)).map((row, index) => [...row, memory[index] ?? '']);
  const { repetitions, seconds, volumeBytes } = settings;
  const how = `medians of ${repetitions} x ${fine(seconds)} s, volume of ${whole(volumeBytes / MIB)} MiB`;
  return [
    `Operations per second (128k: MB/s); ${how}\n${table(heads(titles.at(-1) ?? ''), speed)}`,
    `Latency, µs: p50 / p99 / p99.9\n${table(['', ...titles], latency)}`,
    `CPU of all daemons, µs per operation; resident memory, MiB\n${table(['', ...titles, 'memory'], cpu)}`,
  ];
}

function cellOf<C>(sample: Sample | null, column: C, cell: (sample: Sample, column: C) => string): string {
  return sample === null ? '-' : cell(sample, column);
}

function firstWriteTable(lookup: Lookup): string {
  const rows = COLD_WORKLOADS.map(({ name, title, hot }) => {
    const sample = lookup('cold', name);
    const latency =
      sample === null
        ? '-'
        : `${whole(sample.latencyUs.p50)} / ${whole(sample.latencyUs.p99)} / ${whole(sample.latencyUs.p999)}`;
    const ratio = ratioText(ratioOf(lookup, ['cold', name], ['braid', hot]));
    return [title, whole(sample?.iops ?? Number.NaN), latency, fine(sample?.cpuUs ?? Number.NaN), ratio];
  });
  return `First writes (Braid, 3 copies)\n${table(['', 'IOPS', 'p50 / p99 / p99.9 µs', 'CPU µs', 'of hot'], rows)}`;
}

function ratioTable(lookup: Lookup): string {
  const against = (subject: string, other: string) =>
    COLUMNS.map(({ name }) => ratioText(ratioOf(lookup, [subject, name], [other, name])));
  const pairs = [
    ['Braid / qemu-nbd, 1 copy', 'braid', 'qemu-nbd'],
    ['Braid / QEMU quorum', 'braid', 'quorum'],
    ['Braid external / qemu-nbd, 1 copy', 'external', 'qemu-nbd'],
    ['Braid external / QEMU quorum', 'external', 'quorum'],
  ] as const;
  const rows = pairs
    .map(([title, subject, other]) => [title, ...against(subject, other)])
    .filter((row) => row.slice(1).some((cell) => cell !== '-'));
  return rows.length === 0
    ? ''
    : `Ratios of operations per second\n${table(['', ...COLUMNS.map(({ title }) => title)], rows)}`;
}

function goalList(goals: readonly Goal[]): string {
  if (goals.length === 0) return '';
  const rows = goals.map(({ title, ratio, wanted, isMet }) => [
    isMet ? 'PASS' : 'miss',
    ratioText(ratio),
    `>= ${wanted.toFixed(2)}`,
    title,
  ]);
  return `Goals (of this run on this machine; no exit code hangs on them)\n${table(['', 'is', 'goal', ''], rows)}`;
}

function heapTable({ workload, operations, seconds, processes }: HeapUse): string {
  const rows = processes.map((use) => [
    use.title,
    use.dataBytesPerOperation.toFixed(1),
    whole(use.collections),
    whole(use.controlBytesPerSecond / 1024),
  ]);
  const title = `JavaScript allocation, ${whole(operations)} x ${workload} in ${fine(seconds)} s`;
  return `${title}\n${table(['', 'bytes per I/O', 'collections', 'main thread, KiB/s'], rows)}`;
}

function failureTable(failures: readonly FailureFigure[]): string {
  const [first] = failures;
  if (first === undefined) return '';
  const rows = failures.map(({ title, depth, medianMs, goalMs, isMet, samplesMs, undisturbedMs }) => [
    `${title}, 4k d${depth}`,
    ...[whole(medianMs), whole(Math.min(...samplesMs)), whole(Math.max(...samplesMs)), whole(median(undisturbedMs))],
    `<= ${whole(goalMs)}`,
    isMet ? 'PASS' : 'miss',
  ]);
  const title = `Failures, ms; ${first.samplesMs.length} of each; undisturbed: longest write in the second before`;
  return `${title}\n${table(['', 'median', 'least', 'most', 'undisturbed', 'goal', ''], rows)}`;
}

/** Columns padded to their widest cell; the first to the left, all others to the right, and titles of goals to the left again. */
function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = header.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  const isText = (column: number) => column === 0 || (header[column] === '' && column === header.length - 1);
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, column) => (isText(column) ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0)))
      .join('  ');
  return [header, ...rows].map((cells) => `  ${line(cells).trimEnd()}`).join('\n');
}

// ---- for the eye

export function svgReport(input: ReportInput): string {
  const lookup = lookupOf(input.samples);
  const panels = COLUMNS.map(({ name, title }) => ({
    title,
    unit: 'IOPS',
    bars: input.subjects.map((subject) => ({ label: subject.title, value: lookup(subject.name, name)?.iops ?? 0 })),
  }));
  const { repetitions, seconds } = input.settings;
  const subtitle = `fio, medians of ${repetitions} x ${fine(seconds)} s, alternating; ${cpus().length} CPUs, Linux ${release()}; one host, one drive: read the ratios`;
  return barChart('Braid and its peers: operations per second', subtitle, panels);
}

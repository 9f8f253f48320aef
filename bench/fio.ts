/** Runs fio and reads its report. */
import { spawn } from 'node:child_process';
import type { Workload } from './workloads.js';

/** What fio is to talk to. */
export interface FioTarget {
  /** `--ioengine`, and what the engine has to know. */
  readonly options: readonly string[];
  /** Program and arguments to run fio under, such as `nsenter`. */
  readonly prefix?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
}

/** When the run ends: after a time, or after a number of operations (starting over at the target's end). */
export type FioLimit = { readonly seconds: number } | { readonly operations: number };

export interface FioResult {
  readonly operations: number;
  readonly elapsedMs: number;
  readonly iops: number;
  readonly bytesPerSecond: number;
  readonly latencyUs: { readonly p50: number; readonly p99: number; readonly p999: number };
}

/** A run that is limited by operations ends after this time in any case. */
const OPERATIONS_SECONDS_MAX = 300;
const ERROR_CHARS_MAX = 2_000;
const NS_PER_US = 1_000;

interface FioDirection {
  readonly total_ios: number;
  readonly runtime: number;
  readonly iops: number;
  readonly bw_bytes: number;
  readonly clat_ns: { readonly percentile?: Readonly<Record<string, number>> };
}

interface FioReport {
  readonly jobs: readonly { readonly error: number; readonly read: FioDirection; readonly write: FioDirection }[];
}

export function nbdTarget(uri: string): FioTarget {
  return { options: ['--ioengine=nbd', `--uri=${uri}`] };
}

export function fileTarget(path: string): FioTarget {
  return { options: ['--ioengine=io_uring', '--direct=1', `--filename=${path}`] };
}

/** Rejects when fio fails, any I/O fails, or `signal` aborts. */
export async function runFio(
  target: FioTarget,
  workload: Workload,
  limit: FioLimit,
  signal: AbortSignal,
): Promise<FioResult> {
  const command = [...(target.prefix ?? []), 'fio', '--size=100%', ...target.options, ...fioOptions(workload, limit)];
  const { output, errors, status } = await run(command, target.environment ?? {}, signal);
  const report = parseReport(output);
  const job = report?.jobs[0];
  if (job === undefined || job.error !== 0 || status !== 0) {
    const said = `${errors}\n${report === null ? output : ''}`.trim().slice(-ERROR_CHARS_MAX);
    throw new Error(`fio failed (${status ?? 'killed'}): ${command.join(' ')}\n${said}`);
  }
  return resultOf(workload.pattern.endsWith('read') ? job.read : job.write, command);
}

function fioOptions(workload: Workload, limit: FioLimit): string[] {
  const length =
    'seconds' in limit
      ? ['--time_based=1', `--runtime=${Math.round(limit.seconds * 1_000)}ms`]
      : [`--io_size=${limit.operations * workload.blockBytes}`, `--runtime=${OPERATIONS_SECONDS_MAX}s`];
  // Without a map of what was touched (as random workloads are), fio's own CPU time stays the same for all sizes.
  const pattern = [`--rw=${workload.pattern}`, `--bs=${workload.blockBytes}`, `--iodepth=${workload.depth}`];
  const random = ['--randrepeat=0', '--norandommap=1', '--random_generator=tausworthe64'];
  const report = ['--output-format=json', '--percentile_list=50:99:99.9', '--eta=never'];
  return ['--name=bench', ...pattern, ...random, ...length, ...report];
}

function run(
  command: readonly string[],
  environment: Readonly<Record<string, string>>,
  signal: AbortSignal,
): Promise<{ output: string; errors: string; status: number | null }> {
  const [program = '', ...programArguments] = command;
  return new Promise((resolve, reject) => {
    const child = spawn(program, programArguments, {
      env: { ...process.env, ...environment },
      stdio: ['ignore', 'pipe', 'pipe'],
      signal,
      killSignal: 'SIGKILL',
    });
    let [output, errors] = ['', ''];
    child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text));
    child.on('error', reject);
    child.on('close', (status) => resolve({ output, errors, status }));
  });
}

/** fio prints notes before the report, also on stdout. */
function parseReport(output: string): FioReport | null {
  const start = output.search(/^\{/m);
  if (start < 0) return null;
  try {
    return JSON.parse(output.slice(start)) as FioReport;
  } catch {
    return null;
  }
}

function resultOf(direction: FioDirection, command: readonly string[]): FioResult {
  const { percentile } = direction.clat_ns;
  if (direction.total_ios === 0 || percentile === undefined) throw new Error(`fio did no I/O: ${command.join(' ')}`);
  const percentileUs = (name: string) => (percentile[name] ?? Number.NaN) / NS_PER_US;
  return {
    operations: direction.total_ios,
    elapsedMs: direction.runtime,
    iops: direction.iops,
    bytesPerSecond: direction.bw_bytes,
    latencyUs: { p50: percentileUs('50.000000'), p99: percentileUs('99.000000'), p999: percentileUs('99.900000') },
  };
}

/** What the demo did and found: collected as it goes, told to people line by line, to machines at the end. */
import type { Output } from '../cli/output.js';
import { formatSize } from '../cli/units.js';
import type { Verification } from './workload.js';

export interface DemoReport {
  /** Every byte was right each time, all copies are identical, and nothing failed. */
  ok: boolean;
  /** `device`: ext4 on a block device. `nbd`: blocks over NBD. */
  mode: 'device' | 'nbd';
  modeReason: string;
  directory: string;
  nodes: { name: string; api: string; pid: number }[];
  volume: { name: string; sizeBytes: number; replicas: number };
  device: string | null;
  mountPoint: string | null;
  nbdUri: string;
  timeline: { atMs: number; what: string }[];
  bytesWritten: number;
  writes: number;
  verifications: { when: string; bytes: number; mismatches: readonly string[] }[];
  longestStallMs: { healthy: number; afterKill: number; afterReturn: number };
  resync: { bytes: number; durationMs: number } | null;
  /** `bytesCompared` of each copy. */
  replicas: { identical: boolean; copies: number; bytesCompared: number } | null;
  kept: boolean;
  error: string | null;
}

export class Narrator {
  readonly report: DemoReport;
  readonly #output: Output;
  readonly #startedAt = performance.now();

  constructor(output: Output, report: DemoReport) {
    this.#output = output;
    this.report = report;
  }

  get elapsedMs(): number {
    return Math.round(performance.now() - this.#startedAt);
  }

  /** Something happened. */
  say(what: string): void {
    const atMs = this.elapsedMs;
    this.report.timeline.push({ atMs, what });
    this.#output.endProgress();
    this.#output.line(`${this.#output.paint(`${(atMs / 1_000).toFixed(1).padStart(6)} s`, 'dim')}  ${what}`);
  }

  progress(label: string, fraction: number, detail: string): void {
    this.#output.progress(`          ${label}`, fraction, detail);
  }

  verified(when: string, { bytes, mismatches }: Verification): void {
    this.report.verifications.push({ when, bytes, mismatches });
    const isRight = mismatches.length === 0;
    const verdict = isRight
      ? this.#output.paint('every byte is right', 'green')
      : this.#output.paint('DATA DIFFERS', 'red');
    this.say(`read back ${when}: ${formatSize(bytes)}, ${verdict}`);
    for (const mismatch of mismatches.slice(0, 10)) this.say(`  ${mismatch}`);
  }
}

export function emptyReport(): DemoReport {
  return {
    ...{
      ok: false,
      mode: 'device',
      modeReason: '',
      directory: '',
      nodes: [],
      device: null,
      mountPoint: null,
      nbdUri: '',
    },
    ...{ volume: { name: '', sizeBytes: 0, replicas: 0 }, timeline: [], bytesWritten: 0, writes: 0, verifications: [] },
    ...{
      longestStallMs: { healthy: 0, afterKill: 0, afterReturn: 0 },
      resync: null,
      replicas: null,
      kept: false,
      error: null,
    },
  };
}

/** Whether everything that the demo promises has been seen. */
export function isProven(report: DemoReport): boolean {
  const areRight = report.verifications.every(({ bytes, mismatches }) => bytes > 0 && mismatches.length === 0);
  const areEqual = report.replicas?.identical === true && report.replicas.copies === report.volume.replicas;
  return report.error === null && report.verifications.length >= 3 && areRight && areEqual && report.bytesWritten > 0;
}

export function printSummary(output: Output, report: DemoReport): void {
  const verified = report.verifications.reduce((sum, { bytes }) => sum + bytes, 0);
  const { healthy, afterKill, afterReturn } = report.longestStallMs;
  const { resync, replicas } = report;
  output.line();
  output.line(
    report.ok ? output.paint('All good.', 'green') : output.paint(`Failed: ${report.error ?? 'data differs'}`, 'red'),
  );
  output.facts([
    [
      'written',
      `${formatSize(report.bytesWritten)} in ${report.writes} writes, each durable on every copy before it counted`,
    ],
    ['read back', `${formatSize(verified)} in ${report.verifications.length} passes`],
    [
      'longest write',
      `${Math.round(healthy)} ms healthy, ${Math.round(afterKill)} ms when the agent died, ${Math.round(afterReturn)} ms when it came back`,
    ],
    [
      'resync',
      resync === null
        ? 'not reached'
        : `${resyncSize(resync.bytes)} in ${(resync.durationMs / 1_000).toFixed(1)} s, from the agent's start to all copies in sync`,
    ],
    [
      'copies',
      replicas === null
        ? 'not compared'
        : `${replicas.copies}, ${replicas.identical ? 'identical' : 'DIFFERENT'} (${formatSize(replicas.bytesCompared)} of each compared)`,
    ],
  ]);
}

/** A small resync may be over between two looks at it. */
const resyncSize = (bytes: number) => (bytes === 0 ? 'too little to be seen' : formatSize(bytes));

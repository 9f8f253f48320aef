/** Rates from two samples of a node's counters. Pure. */
import type { Operations, Resync, Stats } from '../sdk/types.js';

export interface Rate {
  readonly operationsPerSecond: number;
  readonly bytesPerSecond: number;
  readonly errorsPerSecond: number;
  readonly latencyUsMean: number;
  /** Upper bound of the histogram bucket that holds the 99th percentile. */
  readonly latencyUsP99: number;
}

export interface VolumeRates {
  readonly name: string;
  readonly state: string;
  readonly inFlight: number;
  readonly degradedReplicas: number;
  readonly resyncBytesDone: number;
  readonly resyncBytesTotal: number;
  readonly resync: Resync;
  readonly read: Rate;
  readonly write: Rate;
}

export interface DriveRates {
  readonly id: string;
  readonly path: string;
  readonly state: string;
  readonly capacityBytes: number;
  readonly usedBytes: number;
  readonly read: Rate;
  readonly write: Rate;
}

const ZERO: Operations = { operations: 0, bytes: 0, errors: 0, latencyBuckets: [], latencySumUs: 0 };

/** What happened between two samples of one node; counters that went back (the agent restarted) count from zero. */
export function ratesBetween(before: Stats, now: Stats): { volumes: VolumeRates[]; drives: DriveRates[] } {
  const isRestarted = now.timeMs < before.timeMs;
  const seconds = Math.max(0.001, (now.timeMs - (isRestarted ? 0 : before.timeMs)) / 1_000);
  const volumesBefore = new Map(before.volumes.map((volume) => [volume.id, volume]));
  const drivesBefore = new Map(before.drives.map((drive) => [drive.id, drive]));
  return {
    volumes: now.volumes.map((volume) => {
      const { name, state, inFlight, degradedReplicas, resyncBytesDone, resyncBytesTotal, resync } = volume;
      const old = volumesBefore.get(volume.id);
      return {
        ...{ name, state, inFlight, degradedReplicas, resyncBytesDone, resyncBytesTotal, resync },
        read: rateBetween(old?.read, volume.read, seconds),
        write: rateBetween(old?.write, volume.write, seconds),
      };
    }),
    drives: now.drives.map((drive) => {
      const { id, path, state, capacityBytes, usedBytes } = drive;
      const old = drivesBefore.get(drive.id);
      return {
        ...{ id, path, state, capacityBytes, usedBytes },
        read: rateBetween(old?.read, drive.read, seconds),
        write: rateBetween(old?.write, drive.write, seconds),
      };
    }),
  };
}

export function rateBetween(before: Operations | undefined, now: Operations, seconds: number): Rate {
  const from = before === undefined || before.operations > now.operations ? ZERO : before;
  const operations = now.operations - from.operations;
  const buckets = now.latencyBuckets.map((count, index) => count - (from.latencyBuckets[index] ?? 0));
  return {
    operationsPerSecond: operations / seconds,
    bytesPerSecond: (now.bytes - from.bytes) / seconds,
    errorsPerSecond: (now.errors - from.errors) / seconds,
    latencyUsMean: operations === 0 ? 0 : (now.latencySumUs - from.latencySumUs) / operations,
    latencyUsP99: percentile(buckets, 0.99),
  };
}

/** Upper bound, in microseconds, of the bucket in which the share `fraction` of all operations is reached. */
export function percentile(buckets: readonly number[], fraction: number): number {
  const wanted = buckets.reduce((sum, count) => sum + count, 0) * fraction;
  if (wanted === 0) return 0;
  let seen = 0;
  for (const [index, count] of buckets.entries()) {
    seen += count;
    if (seen >= wanted) return 2 ** index;
  }
  return 2 ** (buckets.length - 1);
}

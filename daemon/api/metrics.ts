/**
 * Prometheus metrics of this node, made on every scrape from the shards' counters: nothing is collected in between.
 * Counters restart with the agent, as Prometheus expects.
 */
import { Registry, type MetricObject } from 'prom-client';
import type { ApiDependencies } from './dependencies.js';
import type { Operations, ScrubStats, Stats } from './schemas/index.js';
import { statsView } from './views/stats.js';

type Kind = 'counter' | 'gauge' | 'histogram';
type Labels = Record<string, string | number>;

interface Sample {
  readonly labels: Labels;
  readonly value: number;
  /** Absent: the metric's own. */
  readonly metricName?: string;
}

interface Metric {
  readonly name: string;
  readonly help: string;
  readonly kind: Kind;
  readonly samples: readonly Sample[];
}

const US_PER_SECOND = 1_000_000;

/** The text format, and its content type. */
export async function renderMetrics(
  api: ApiDependencies,
): Promise<{ readonly contentType: string; readonly text: string }> {
  const registry = new Registry();
  const storeBytes = await api.storeBytes();
  const all = [...volumeMetrics(await statsView(api.agent)), ...nodeMetrics(storeBytes)];
  for (const metric of all) registry.registerMetric(asMetric(metric));
  return { contentType: registry.contentType, text: await registry.metrics() };
}

/** prom-client renders whatever has this shape; its own classes cannot be set to counts that were taken elsewhere. */
function asMetric({ name, help, kind, samples }: Metric): never {
  const get = async (): Promise<MetricObject & { readonly values: readonly Sample[] }> => ({
    ...{ name, help, type: kind as never, aggregator: 'sum', collect: () => undefined },
    values: [...samples],
  });
  return { name, help, type: kind, aggregator: 'sum', get, reset: () => undefined } as never;
}

function volumeMetrics(stats: Stats): Metric[] {
  const operations = stats.volumes.flatMap(({ name, read, write, flush, trim }) =>
    Object.entries({ read, write, flush, trim }).map(([operation, counters]) => ({
      labels: { volume: name, operation },
      counters,
    })),
  );
  const driveOperations = stats.drives.flatMap(({ id, path, read, write, flush, trim }) =>
    Object.entries({ read, write, flush, trim }).map(([operation, counters]) => ({
      labels: { drive: id, path, operation },
      counters,
    })),
  );
  return [
    ...operationMetrics('braid_volume', 'of a volume that this node serves', operations),
    gauge('braid_volume_in_flight', 'Client operations under way', stats.volumes, ({ name, inFlight }) => [
      { volume: name },
      inFlight,
    ]),
    gauge('braid_volume_connections', 'NBD connections', stats.volumes, ({ name, connections }) => [
      { volume: name },
      connections,
    ]),
    gauge(
      'braid_volume_degraded_replicas',
      'Segment copies that are not in sync',
      stats.volumes,
      ({ name, degradedReplicas }) => [{ volume: name }, degradedReplicas],
    ),
    ...resyncMetrics(stats),
    counter('braid_volume_repairs', 'Damaged extents rewritten from another copy', stats.volumes, (volume) => [
      { volume: volume.name },
      volume.repairs,
    ]),
    ...scrubMetrics('braid_volume', 'of a volume', stats.volumes, ({ name }) => ({ volume: name })),
    ...operationMetrics('braid_drive', 'of a drive of this node', driveOperations),
    ...driveGauges(stats),
    ...shardGauges(stats),
  ];
}

function resyncMetrics({ volumes }: Stats): Metric[] {
  const copies = volumes.flatMap(({ name, resync }) =>
    resync.copies.map((copy) => ({
      labels: { volume: name, kind: copy.kind, drive: copy.driveId ?? '' },
      copy,
    })),
  );
  const help = 'Bytes copied by resync, rebuild and reconcile since this node took the volume';
  return [
    {
      ...{ name: 'braid_volume_resync_bytes_total', help, kind: 'counter' as const },
      samples: volumes.map(({ name, resyncBytesDone }) => ({ labels: { volume: name }, value: resyncBytesDone })),
    },
    gauge('braid_volume_resync_bytes_left', 'Bytes that the copying under way has still to do', volumes, (volume) => [
      { volume: volume.name },
      volume.resyncBytesTotal - volume.resyncBytesDone,
    ]),
    gauge('braid_copy_done_bytes', 'Copied by what is under way, by kind and drive', copies, ({ labels, copy }) => [
      labels,
      copy.bytesDone,
    ]),
    gauge('braid_copy_total_bytes', 'To copy by what is under way, done included', copies, ({ labels, copy }) => [
      labels,
      copy.bytesTotal,
    ]),
    gauge('braid_copy_bytes_per_second', 'Smoothed rate of what is under way', copies, ({ labels, copy }) => [
      labels,
      copy.bytesPerSecond,
    ]),
  ];
}

function driveGauges({ drives }: Stats): Metric[] {
  const of = (drive: Stats['drives'][number]): Labels => ({ drive: drive.id, path: drive.path });
  return [
    gauge('braid_drive_open', '1 when the drive is open', drives, (drive) => [
      of(drive),
      drive.state === 'open' ? 1 : 0,
    ]),
    gauge('braid_drive_capacity_bytes', 'Size of the data area', drives, (drive) => [of(drive), drive.capacityBytes]),
    gauge('braid_drive_used_bytes', 'Allocated to volumes', drives, (drive) => [of(drive), drive.usedBytes]),
    gauge('braid_drive_hot_regions', 'Regions in the activity log', drives, (drive) => [of(drive), drive.hotRegions]),
    gauge('braid_drive_in_flight', 'Drive operations under way', drives, (drive) => [of(drive), drive.inFlight]),
    gauge('braid_drive_metadata_bytes', 'Size of the LMDB environment', drives, (drive) => [
      of(drive),
      drive.metadataBytes,
    ]),
    counter('braid_drive_failures', 'Times it failed or could not be opened', drives, (drive) => [
      of(drive),
      drive.failures,
    ]),
    counter('braid_drive_checksum_mismatches', 'Bad blocks found', drives, (drive) => [
      of(drive),
      drive.checksumMismatches,
    ]),
    ...scrubMetrics('braid_drive', 'of a drive', drives, of),
  ];
}

function scrubMetrics<T extends { readonly scrub: ScrubStats }>(
  prefix: string,
  what: string,
  items: readonly T[],
  labels: (item: T) => Labels,
): Metric[] {
  const of = (value: (scrub: ScrubStats) => number) => (item: T) => [labels(item), value(item.scrub)] as const;
  const name = (suffix: string): string => `${prefix}_scrub_${suffix}`;
  return [
    counter(
      name('bytes'),
      `Scrubbed ${what}`,
      items,
      of(({ bytes }) => bytes),
    ),
    counter(
      name('errors'),
      `Damaged or differing extents that the scrub found ${what}`,
      items,
      of(({ errors }) => errors),
    ),
    counter(
      name('repaired'),
      `Those of them that are right again ${what}`,
      items,
      of(({ repaired }) => repaired),
    ),
    gauge(
      name('unresolved'),
      `Those that are not ${what}`,
      items,
      of(({ unresolved }) => unresolved),
    ),
    gauge(
      name('running'),
      `1 while a scrub is under way ${what}`,
      items,
      of(({ isRunning }) => Number(isRunning)),
    ),
    gauge(
      name('last_completed_timestamp_seconds'),
      `When a scrub came to its end last ${what}; 0: never`,
      items,
      of(({ completedMs }) => completedMs / 1_000),
    ),
  ];
}

function shardGauges({ shards }: Stats): Metric[] {
  const used = shards.flatMap(({ index, slabUsedBytes }) =>
    Object.entries(slabUsedBytes).map(([pool, bytes]) => ({ labels: { shard: index, pool }, value: bytes })),
  );
  return [
    { name: 'braid_slab_used_bytes', help: 'Buffers in use by purpose', kind: 'gauge', samples: used },
    gauge('braid_slab_bytes', 'Buffers of the shard', shards, ({ index, slabBytes }) => [{ shard: index }, slabBytes]),
    gauge('braid_event_loop_delay_seconds', "Delay of the shard's event loop, 99th percentile", shards, (shard) => [
      { shard: shard.index },
      shard.eventLoopDelayMsP99 / 1_000,
    ]),
  ];
}

function nodeMetrics(storeBytes: number | null): Metric[] {
  const { user, system } = process.cpuUsage();
  const one = (name: string, help: string, kind: Kind, value: number): Metric => ({
    name,
    help,
    kind,
    samples: [{ labels: {}, value }],
  });
  return [
    one('process_cpu_seconds_total', 'User and system time of the agent', 'counter', (user + system) / US_PER_SECOND),
    one('process_resident_memory_bytes', 'Resident memory of the agent', 'gauge', process.memoryUsage.rss()),
    ...(storeBytes === null
      ? []
      : [one('braid_store_bytes', 'Size of the embedded cluster store', 'gauge', storeBytes)]),
  ];
}

function counter<T>(
  name: string,
  help: string,
  items: readonly T[],
  sample: (item: T) => readonly [Labels, number],
): Metric {
  return { ...gauge(`${name}_total`, help, items, sample), kind: 'counter' };
}

function gauge<T>(
  name: string,
  help: string,
  items: readonly T[],
  sample: (item: T) => readonly [Labels, number],
): Metric {
  const samples = items.map((item) => {
    const [labels, value] = sample(item);
    return { labels, value };
  });
  return { name, help, kind: 'gauge', samples };
}

interface Labelled {
  readonly labels: Labels;
  readonly counters: Operations;
}

function operationMetrics(prefix: string, what: string, all: readonly Labelled[]): Metric[] {
  const sum = (name: string, help: string, value: (counters: Operations) => number): Metric =>
    counter(`${prefix}_${name}`, `${help} ${what}`, all, ({ labels, counters }) => [labels, value(counters)]);
  const name = `${prefix}_latency_seconds`;
  return [
    sum('operations', 'Operations', ({ operations }) => operations),
    sum('bytes', 'Bytes moved by operations', ({ bytes }) => bytes),
    sum('errors', 'Failed operations', ({ errors }) => errors),
    {
      name,
      help: `Time of operations ${what}`,
      kind: 'histogram',
      samples: all.flatMap((each) => histogram(name, each)),
    },
  ];
}

/** Bucket i counts what took less than 2^i microseconds (and not less than 2^(i-1)); Prometheus wants them added up. */
function histogram(name: string, { labels, counters }: Labelled): Sample[] {
  let total = 0;
  const buckets = counters.latencyBuckets.map((count, index) => {
    total += count;
    return { metricName: `${name}_bucket`, labels: { ...labels, le: 2 ** index / US_PER_SECOND }, value: total };
  });
  return [
    ...buckets,
    { metricName: `${name}_bucket`, labels: { ...labels, le: '+Inf' }, value: total },
    { metricName: `${name}_sum`, labels, value: counters.latencySumUs / US_PER_SECOND },
    { metricName: `${name}_count`, labels, value: total },
  ];
}

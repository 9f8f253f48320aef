import { Command } from 'commander';
import type { Cluster, Drive, VolumeSummary } from '../../sdk/types.js';
import { contextOf, type Surroundings } from '../context.js';
import { Failed } from '../errors.js';
import { copyingLines } from '../copying.js';
import type { Color, Output } from '../output.js';
import { formatSize } from '../units.js';

export const HEALTH_COLOR: Record<string, Color> = {
  ...{ ok: 'green', open: 'green', 'in-sync': 'green', serving: 'green', up: 'green' },
  ...{
    degraded: 'yellow',
    syncing: 'yellow',
    opening: 'yellow',
    stale: 'yellow',
    deleting: 'yellow',
    warning: 'yellow',
  },
  ...{ error: 'red', failed: 'red', down: 'red', unknown: 'red', suspended: 'red', unavailable: 'red' },
};

/** A state word in its colour. */
export function paintState(output: Output, state: string): string {
  const color = HEALTH_COLOR[state];
  return color === undefined ? state : output.paint(state, color);
}

/** `braid status`. */
export function statusCommand(surroundings: Surroundings): Command {
  return new Command('status')
    .description('health and capacity of the cluster, and what needs attention')
    .option('--check', 'exit with 1 unless the cluster is healthy (for monitoring)')
    .addHelpText('after', '\nExamples:\n  braid status\n  braid status --check --json')
    .action(async (options: { check?: boolean }, command: Command) => {
      const { client, output } = contextOf(command, surroundings);
      const [cluster, drives, volumes] = await Promise.all([client.cluster(), client.drives(), client.volumes()]);
      output.result(cluster, () => printStatus(output, cluster, drives, volumes));
      if (options.check === true && cluster.health !== 'ok') throw new Failed();
    });
}

function printStatus(output: Output, cluster: Cluster, drives: Drive[], volumes: VolumeSummary[]): void {
  const { capacity } = cluster;
  const upOf = ({ healthy, total }: { healthy: number; total: number }, word: string) =>
    `${healthy} of ${total} ${word}`;
  output.facts([
    ['cluster', `${output.paint(cluster.name, 'bold')} (${cluster.id})`],
    ['health', paintState(output, cluster.health)],
    ['nodes', upOf(cluster.nodes, 'up')],
    ['drives', upOf(cluster.drives, 'open')],
    ['volumes', upOf(cluster.volumes, 'healthy')],
    ['capacity', `${formatSize(capacity.usedBytes)} used of ${formatSize(capacity.rawBytes)}`],
    ['provisioned', `${formatSize(capacity.provisionedBytes)} (sizes of all volumes, times their copies)`],
  ]);
  if (cluster.settings.resyncBandwidthBytes !== null)
    output.line(`resync at each node: at most ${formatSize(cluster.settings.resyncBandwidthBytes)}/s`);
  for (const reason of cluster.reasons) output.line(`${output.paint('!', 'yellow')} ${reason}`);
  for (const { name, resync } of volumes)
    for (const line of copyingLines(resync)) output.line(`${output.paint('~', 'yellow')} volume ${name}: ${line}`);
  const tip = nextStep(drives, volumes);
  if (tip !== '') output.line(`\n${tip}`);
}

/** For a cluster that has just been set up: what comes next. */
function nextStep(drives: Drive[], volumes: VolumeSummary[]): string {
  if (drives.length === 0) return 'Next: give it a drive, braid drive add /path/to/directory --capacity 50Gi';
  if (volumes.length === 0) return 'Next: make a volume, braid volume create data --size 10Gi --replicas 2';
  return '';
}

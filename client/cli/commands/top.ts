import { setTimeout as delay } from 'node:timers/promises';
import { Command } from 'commander';
import { BraidClient } from '../../sdk/client.js';
import type { Stats } from '../../sdk/types.js';
import { contextOf, numberArgument, type Context, type Surroundings } from '../context.js';
import { copyingLines } from '../copying.js';
import { formatMicroseconds, formatSize } from '../units.js';
import { ratesBetween, type DriveRates, type Rate, type VolumeRates } from '../rates.js';
import { paintState } from './status.js';

const INTERVAL_SECONDS_MAX = 3_600;
const COUNT_MAX = 1_000_000;
const CLEAR_SCREEN = '\u001b[2J\u001b[H';
const HIDE_CURSOR = '\u001b[?25l';
const SHOW_CURSOR = '\u001b[?25h';

interface Sample {
  readonly timeMs: number;
  readonly stats: ReadonlyMap<string, Stats>;
  /** Nodes that did not answer. */
  readonly silent: readonly string[];
}

interface View {
  readonly timeMs: number;
  readonly volumes: readonly (VolumeRates & { readonly node: string })[];
  readonly drives: readonly (DriveRates & { readonly node: string })[];
  readonly silentNodes: readonly string[];
}

/** `braid top`. */
export function topCommand(surroundings: Surroundings): Command {
  return new Command('top')
    .description('live: operations, throughput and latency of every volume and drive')
    .option('--interval <seconds>', 'time between two views (1)', numberArgument(1, INTERVAL_SECONDS_MAX), 1)
    .option('--count <views>', 'end after so many views', numberArgument(1, COUNT_MAX))
    .addHelpText('after', '\nExamples:\n  braid top\n  braid top --count 1 --json')
    .action(async (options: { interval: number; count?: number }, command: Command) => {
      const context = contextOf(command, surroundings);
      const { output } = context;
      if (output.isLive) output.stdout.write(HIDE_CURSOR);
      try {
        await run(context, options.interval * 1_000, options.count ?? Infinity);
      } finally {
        if (output.isLive) output.stdout.write(SHOW_CURSOR);
      }
    });
}

async function run(context: Context, intervalMs: number, count: number): Promise<void> {
  const { signal } = context.surroundings;
  let before = await takeSample(context);
  for (let shown = 0; shown < count && !signal.aborted; shown++) {
    await delay(intervalMs, undefined, { signal }).catch(() => undefined);
    if (signal.aborted) return;
    const now = await takeSample(context);
    const view = viewOf(before, now);
    context.output.result(view, () => printView(context, view));
    before = now;
  }
}

/** The counters of every node that answers. */
async function takeSample({ client, surroundings }: Context): Promise<Sample> {
  const nodes = await client.nodes();
  const answers = await Promise.all(
    nodes.map(async (node) => {
      const baseUrl = node.apiAddress.includes('://') ? node.apiAddress : `http://${node.apiAddress}`;
      const its = new BraidClient({ baseUrl, timeoutMs: 2_000, signal: surroundings.signal });
      const stats = node.alive ? await its.stats().catch(() => null) : null;
      return { name: node.name, stats };
    }),
  );
  const stats = new Map(answers.flatMap(({ name, stats }) => (stats === null ? [] : [[name, stats] as const])));
  return { timeMs: Date.now(), stats, silent: answers.filter((each) => each.stats === null).map(({ name }) => name) };
}

function viewOf(before: Sample, now: Sample): View {
  const volumes: View['volumes'][number][] = [];
  const drives: View['drives'][number][] = [];
  for (const [node, stats] of now.stats) {
    const old = before.stats.get(node);
    if (old === undefined) continue;
    const rates = ratesBetween(old, stats);
    volumes.push(...rates.volumes.map((each) => ({ ...each, node })));
    drives.push(...rates.drives.map((each) => ({ ...each, node })));
  }
  return { timeMs: now.timeMs, volumes, drives, silentNodes: now.silent };
}

function rateCells(read: Rate, write: Rate): string[] {
  return [read, write].flatMap((rate) => [
    String(Math.round(rate.operationsPerSecond)),
    `${formatSize(Math.round(rate.bytesPerSecond))}/s`,
    rate.operationsPerSecond === 0 ? '-' : formatMicroseconds(rate.latencyUsMean),
    rate.operationsPerSecond === 0 ? '-' : formatMicroseconds(rate.latencyUsP99),
  ]);
}

const RATE_HEADER = ['READ/s', 'READ', 'MEAN', 'P99', 'WRITE/s', 'WRITE', 'MEAN', 'P99'];

function printView({ client, output }: Context, view: View): void {
  const lines: string[] = [];
  const time = new Date(view.timeMs).toISOString().slice(11, 19);
  lines.push(`${output.paint('braid top', 'bold')}  ${time} UTC  ${client.baseUrl}`);
  if (view.silentNodes.length > 0)
    lines.push(`${output.paint('!', 'red')} no answer from ${view.silentNodes.join(', ')}`);
  const volumes = view.volumes.map((volume) => [
    volume.name,
    volume.node,
    paintState(output, volume.state),
    String(volume.inFlight),
    ...rateCells(volume.read, volume.write),
  ]);
  lines.push('', ...output.tableLines(['VOLUME', 'NODE', 'STATE', 'IN FLIGHT', ...RATE_HEADER], volumes));
  if (volumes.length === 0) lines.push('no volume is served; braid volume attach NAME');
  for (const { name, resync } of view.volumes)
    for (const line of copyingLines(resync)) lines.push(`${output.paint('~', 'yellow')} ${name}: ${line}`);
  const drives = view.drives.map((drive) => [
    drive.path,
    drive.node,
    paintState(output, drive.state),
    drive.capacityBytes === 0 ? '-' : `${Math.round((100 * drive.usedBytes) / drive.capacityBytes)} %`,
    ...rateCells(drive.read, drive.write),
  ]);
  lines.push('', ...output.tableLines(['DRIVE', 'NODE', 'STATE', 'USED', ...RATE_HEADER], drives));
  if (output.isLive) lines.push('', output.paint('Ctrl-C ends', 'dim'));
  output.stdout.write(`${output.isLive ? CLEAR_SCREEN : ''}${lines.join('\n')}\n`);
}

import { basename, relative } from 'node:path';
import { Command } from 'commander';
import { stopDemo } from '../../demo/cluster.js';
import { printSummary, type DemoReport } from '../../demo/report.js';
import { runDemo } from '../../demo/run.js';
import { contextOf, type Surroundings } from '../context.js';
import { Failed } from '../errors.js';
import type { Output } from '../output.js';

interface DemoCommandOptions {
  readonly dir?: string;
  readonly keep?: boolean;
  readonly nbd?: boolean;
  readonly stop?: string;
}

/** `braid demo`. */
export function demoCommand(surroundings: Surroundings): Command {
  return new Command('demo')
    .description('a three-node cluster on this host, a 3-copy volume, and one agent killed while data is written')
    .option('--keep', 'leave the cluster running and the file system mounted')
    .option('--dir <directory>', 'where its drives live (2.5 GiB); default: a temporary directory')
    .option('--nbd', 'use the volume over NBD, without a block device, even as root')
    .option('--stop <directory>', 'stop a demo that was kept, and remove its files')
    .addHelpText(
      'after',
      '\nExamples:\n  braid demo\n  braid demo --keep --dir /var/tmp/demo\n  braid demo --stop /var/tmp/demo',
    )
    .action(async (options: DemoCommandOptions, command: Command) => {
      const { output } = contextOf(command, surroundings);
      if (options.stop !== undefined) {
        await stopDemo(options.stop);
        output.result({ stopped: options.stop }, () =>
          output.line(`The demo in ${options.stop} is stopped and removed`),
        );
        return;
      }
      const wanted = { keep: options.keep ?? false, nbd: options.nbd ?? false };
      const report = await runDemo(
        options.dir === undefined ? wanted : { ...wanted, directory: options.dir },
        output,
        surroundings.signal,
      );
      if (output.isJson || !surroundings.signal.aborted) output.result(report, () => printEnd(output, report));
      if (!report.ok) throw new Failed();
    });
}

/** How this program was called, so that what we print can be typed. */
function self(): string {
  const program = process.argv[1] ?? 'braid';
  return basename(program) === 'braid' ? 'braid' : `node ${relative(process.cwd(), program)}`;
}

function printEnd(output: Output, report: DemoReport): void {
  printSummary(output, report);
  if (!report.ok) return;
  output.line();
  if (report.kept) printKept(output, report);
  else {
    output.line('Everything is taken down again. To go on:');
    output.line('  npm run demo -- --keep    leave it running, and play with it');
    output.line('  README.md                 five-minute tour: a cluster of your own');
  }
}

function printKept(output: Output, report: DemoReport): void {
  const api = report.nodes[0]?.api ?? '';
  output.line('The cluster is left running. Try:');
  output.line(`  export BRAID_API=${api}`);
  for (const words of ['status', 'volume show demo', 'top', 'events']) output.line(`  ${self()} ${words}`);
  if (report.mountPoint !== null) output.line(`  ls ${report.mountPoint}    (${report.device})`);
  else output.line(`  nbdinfo '${report.nbdUri}'`);
  for (const { name, api: url, pid } of report.nodes) output.line(`  ${name}  ${url}  process ${pid}`);
  output.line('To stop it and remove its files:');
  output.line(`  ${self()} demo --stop ${report.directory}`);
}

import { resolve } from 'node:path';
import { Command, InvalidArgumentError } from 'commander';
import { BraidApiError } from '../../sdk/errors.js';
import type { Recover, Recovery } from '../../sdk/types.js';
import { confirm } from '../confirm.js';
import { contextOf, type Surroundings } from '../context.js';
import type { Output } from '../output.js';
import { formatCount, formatSize } from '../units.js';

const HELP = `
When the cluster store is lost: stop all agents, move what is left of the store away, start the agents (they make a new
one), and run this. It reads what the drives keep and restores drives, volumes, and which copies are in sync. Where the
drives leave a doubt it says which, and restores the volume only if you name it. Refused on a store that is in use.

Examples:
  braid recover --plan                         what would be restored; changes nothing
  braid recover                                the same, then asks
  braid recover --yes --accept data --skip tmp
  braid recover --drive node-1=/mnt/ssd1/braid a drive that its node does not remember`;

interface RecoverOptions {
  readonly plan?: boolean;
  readonly yes?: boolean;
  readonly accept?: string[];
  readonly skip?: string[];
  readonly cluster?: string;
  readonly drive?: { node: string; path: string }[];
}

const collect = (text: string, before: string[] = []): string[] => [...before, text];

function driveArgument(text: string, before: { node: string; path: string }[] = []) {
  const at = text.indexOf('=');
  if (at < 1 || text[at + 1] !== '/')
    throw new InvalidArgumentError('A drive is NODE=DIRECTORY, the directory absolute.');
  return [...before, { node: text.slice(0, at), path: resolve(text.slice(at + 1)) }];
}

/** `braid recover`. */
export function recoverCommand(surroundings: Surroundings): Command {
  return new Command('recover')
    .description('rebuild a lost cluster store from what the drives keep')
    .option('--plan', 'only say what would be restored')
    .option('--accept <volume>', 'restore this volume with its doubts (name or id); may be repeated', collect)
    .option('--skip <volume>', 'do not restore this volume (name or id); may be repeated', collect)
    .option('--cluster <id>', 'the cluster to rebuild, when the drives are of several')
    .option('--drive <node=directory>', 'a drive that its node does not remember; may be repeated', driveArgument)
    .option('--yes', 'do it without asking (for scripts)')
    .addHelpText('after', HELP)
    .action(async (options: RecoverOptions, command: Command) => {
      const context = contextOf(command, surroundings);
      const { client, output } = context;
      const { accept, skip, cluster, drive } = options;
      const wanted: Recover = {
        ...(accept === undefined ? {} : { accept }),
        ...(skip === undefined ? {} : { skip }),
        ...(cluster === undefined ? {} : { clusterId: cluster }),
        ...(drive === undefined ? {} : { drives: drive }),
      };
      const plan = await client.recover({ ...wanted, dryRun: true });
      printPlan(output, plan);
      if (options.plan === true) return output.result(plan, () => printOpen(output, plan));
      checkDecided(output, plan);
      await confirm(context, { isGiven: options.yes ?? false, word: 'recover', command: 'the same with --yes' });
      const done = await client.recover(wanted);
      output.result(done, () => printDone(output, done));
    });
}

const undecided = ({ volumes }: Recovery) =>
  volumes.filter(({ decision }) => decision === 'ambiguous' || decision === 'impossible');

function checkDecided(output: Output, plan: Recovery): void {
  if (plan.problems.length === 0 && undecided(plan).length === 0) return;
  const { problems } = plan;
  const doubts = undecided(plan).map(
    ({ id, name, doubts: why }) => `volume ${name === '' ? id : name}: ${why.join('; ')}`,
  );
  printOpen(output, plan);
  // People have read the reasons above.
  const reasons = output.isJson ? `: ${[...problems, ...doubts].join('. ')}` : '';
  throw new BraidApiError('CONFLICT', `nothing was restored${reasons}`);
}

function printPlan(output: Output, { clusterId, drives, volumes, problems }: Recovery): void {
  output.line(`Cluster ${clusterId === '' ? 'not known' : clusterId}`);
  output.table(
    ['DRIVE', 'NODE', 'STATE', 'PATH'],
    drives.map(({ id, node, state, path }) => [id === '' ? '-' : id, node === '' ? '-' : node, state, path]),
  );
  for (const { path, id, reason } of drives) if (reason !== '') output.line(`! ${path === '' ? id : path}: ${reason}`);
  output.line();
  output.table(
    ['VOLUME', 'SIZE', 'DECISION', 'ID'],
    volumes.map(({ name, sizeBytes, decision, id }) => [name === '' ? '-' : name, formatSize(sizeBytes), decision, id]),
  );
  for (const { id, name, doubts } of volumes)
    for (const doubt of doubts) output.line(`! ${name === '' ? id : name}: ${doubt}`);
  for (const problem of problems) output.line(`! ${problem}`);
}

function printOpen(output: Output, plan: Recovery): void {
  for (const { id, name, decision } of undecided(plan)) {
    const word = name === '' ? id : name;
    output.line(`To decide: ${decision === 'impossible' ? '' : `--accept ${word} or `}--skip ${word}`);
  }
}

function printDone(output: Output, { volumes, mustRestart }: Recovery): void {
  const restored = volumes.filter(({ decision }) => decision === 'restore' || decision === 'accepted');
  output.line(`Restored: ${formatCount(restored.length, 'volume')}`);
  if (mustRestart) output.line('Restart all agents now: they have to take on the identity of the cluster');
  for (const { name } of restored) output.line(`Next: braid volume attach ${name}`);
}

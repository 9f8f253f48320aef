import { Command } from 'commander';
import type { ScrubAnswer, ScrubRequest, ScrubStats, ScrubStatus } from '../../sdk/types.js';
import { contextOf, type Surroundings } from '../context.js';
import { Failed } from '../errors.js';
import type { Output } from '../output.js';
import { formatAge, formatCount, formatSize } from '../units.js';

interface Target {
  readonly drive?: string;
  readonly volume?: string;
}

const TARGETS = `
A drive's scrub reads all that is on it and compares it with its checksums; what is damaged is rewritten from another
copy, at once where the volume is attached, else when it is. A volume's scrub reads and compares all its copies; the
volume must be attached. Without --drive and --volume: all drives, and all volumes that are attached.
Agents scrub by themselves, too: see scrubIntervalHours and scrubBytesPerSecond in braidd --help.

Examples:
  braid scrub start                    everything
  braid scrub start --volume data
  braid scrub status`;

/** `braid scrub start`, `status` and `stop`. */
export function scrubCommand(surroundings: Surroundings): Command {
  const group = new Command('scrub').description('look for damaged data before it is needed, and repair it');
  addAction(group, surroundings, 'start', 'read and check a drive, a volume or everything, beside other work');
  addAction(group, surroundings, 'stop', 'end scrubs that are under way');
  group
    .command('status')
    .description('how far the scrubs are, and what they have found; exit code 1 while something is damaged')
    .action(async (_options: object, command: Command) => {
      const { client, output } = contextOf(command, surroundings);
      const status = await client.scrubStatus();
      output.result(status, () => printStatus(output, status));
      if ([...status.drives, ...status.volumes].some(isBad)) throw new Failed();
    });
  return group;
}

function addAction(group: Command, surroundings: Surroundings, action: ScrubRequest['action'], what: string): void {
  group
    .command(action)
    .description(what)
    .option('--drive <id>', 'this drive only (braid drive ls)')
    .option('--volume <name>', 'this volume only; it must be attached')
    .addHelpText('after', TARGETS)
    .action(async (target: Target, command: Command) => {
      const { client, output } = contextOf(command, surroundings);
      const answer = await client.scrub({ action, ...target });
      output.result(answer, () => printAnswer(output, action, answer));
      if (answer.failures.length > 0) throw new Failed();
    });
}

function printAnswer(output: Output, action: ScrubRequest['action'], answer: ScrubAnswer): void {
  const told = [
    ...(answer.drives.length > 0 ? [formatCount(answer.drives.length, 'drive')] : []),
    ...(answer.volumes.length > 0 ? [formatCount(answer.volumes.length, 'volume')] : []),
  ];
  const verb = action === 'start' ? 'is under way' : 'has ended';
  if (told.length > 0) output.line(`The scrub of ${told.join(' and ')} ${verb}`);
  else output.line('There is nothing to scrub: no drive is open and no volume is attached');
  for (const failure of answer.failures) output.line(`${output.paint('!', 'red')} ${failure}`);
  if (action === 'start') output.line('Next: braid scrub status');
}

function isBad({ scrub }: { readonly scrub: ScrubStats }): boolean {
  return scrub.unresolved > 0;
}

function printStatus(output: Output, status: ScrubStatus): void {
  const rows = [
    ...status.drives.map(({ id, node, scrub }) => ['drive', id, node, ...cells(output, scrub)]),
    ...status.volumes.map(({ name, node, scrub }) => ['volume', name, node, ...cells(output, scrub)]),
  ];
  output.table(['SCRUB', 'OF', 'NODE', 'STATE', 'LAST', 'FOUND', 'REPAIRED', 'LEFT'], rows);
  for (const reason of status.unknown) output.line(`${output.paint('!', 'yellow')} ${reason}`);
  if (![...status.drives, ...status.volumes].some(isBad)) return;
  output.line('What is left cannot be repaired now: "braid events" says which bytes are concerned, and what to do.');
}

function cells(output: Output, scrub: ScrubStats): string[] {
  const { isRunning, completedMs, passBytesDone, passBytesTotal, errors, repaired, unresolved } = scrub;
  const percent = passBytesTotal === 0 ? 100 : Math.floor((100 * passBytesDone) / passBytesTotal);
  const state = isRunning ? `${percent} % of ${formatSize(passBytesTotal)}` : 'idle';
  const last = completedMs === 0 ? 'never' : `${formatAge(Date.now() - completedMs)} ago`;
  const left = unresolved === 0 ? '0' : output.paint(String(unresolved), 'red');
  return [state, last, String(errors), String(repaired), left];
}

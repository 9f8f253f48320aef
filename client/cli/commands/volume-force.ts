import type { Command } from 'commander';
import type { ForcedPrimary, ForcePrimary } from '../../sdk/types.js';
import { confirm } from '../confirm.js';
import { contextOf, numberArgument, type Surroundings } from '../context.js';
import type { Output } from '../output.js';
import { formatCount } from '../units.js';

const SEGMENTS_MAX = 65_536;
const HELP = `
For a volume whose copies in sync are lost for good. It goes on with an older copy: what was written after that copy fell
behind is given up. Copies in sync that come back later are made equal to it. Refused while a copy in sync can be reached.

Examples:
  braid volume detach data
  braid volume show data --segments       which copies there are
  braid drive ls                          the ids of their drives
  braid volume force-primary data --drive 0f4c7b1e-…
  braid volume attach data`;

interface ForceOptions {
  readonly drive: string;
  readonly segment?: number;
  readonly yesIKnowThatWritesAreLost?: boolean;
}

/** `braid volume force-primary`. */
export function addForcePrimary(group: Command, surroundings: Surroundings): void {
  group
    .command('force-primary <name>')
    .description('last resort when no copy in sync is left: go on with an older one')
    .requiredOption('--drive <id>', 'the drive whose copies become primary')
    .option(
      '--segment <index>',
      'only this segment; default: all that have no good copy left',
      numberArgument(0, SEGMENTS_MAX),
    )
    .option('--yes-i-know-that-writes-are-lost', 'do it without asking (for scripts)')
    .addHelpText('after', HELP)
    .action(async (name: string, options: ForceOptions, command: Command) => {
      const context = contextOf(command, surroundings);
      const { client, output } = context;
      const { drive, segment } = options;
      const request: ForcePrimary = { drive, ...(segment === undefined ? {} : { segment }) };
      printLoss(output, drive, await client.forcePrimary(name, request));
      const which = `${name} --drive ${drive}${segment === undefined ? '' : ` --segment ${segment}`}`;
      await confirm(context, {
        isGiven: options.yesIKnowThatWritesAreLost ?? false,
        word: name,
        command: `braid volume force-primary ${which} --yes-i-know-that-writes-are-lost`,
      });
      const forced = await client.forcePrimary(name, { ...request, acceptLoss: true });
      output.result(forced, () => {
        output.line(`Done: ${formatCount(forced.segments.length, 'segment')} of ${name} go on with drive ${drive}`);
        output.line(`Next: braid volume attach ${name}`);
      });
    });
}

function printLoss(output: Output, drive: string, { segments }: ForcedPrimary): void {
  output.line(`Everything that was written after the copies on drive ${drive} fell behind may be lost:`);
  const rows = segments.map(({ index, generation, copyGeneration, staleSinceMs, missingDrives }) => [
    String(index),
    String(generation),
    String(copyGeneration),
    sinceOf(copyGeneration === generation, staleSinceMs),
    missingDrives.join(' '),
  ]);
  output.table(['SEGMENT', 'GENERATION', 'COPY HAS', 'BEHIND SINCE', 'IN SYNC, NOT REACHED'], rows);
}

function sinceOf(isInSync: boolean, staleSinceMs: number | undefined): string {
  if (isInSync) return 'its node lost power';
  return staleSinceMs === undefined ? 'not known' : new Date(staleSinceMs).toISOString();
}

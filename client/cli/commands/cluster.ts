import { Argument, Command, InvalidArgumentError } from 'commander';
import { contextOf, sizeArgument, type Surroundings } from '../context.js';
import { formatSize } from '../units.js';

const UNLIMITED = 'unlimited';

/** `braid cluster set`. */
export function clusterCommand(surroundings: Surroundings): Command {
  const group = new Command('cluster').description('settings of the whole cluster; for its health: braid status');
  group
    .command('set')
    .description('change a setting; agents follow within seconds')
    .addArgument(new Argument('<setting>', 'what to change').choices(['resync-bandwidth']))
    .argument('<value>', 'bytes a second that resync and rebuild may copy at each node, or "unlimited"', rateArgument)
    .addHelpText(
      'after',
      '\nExamples:\n  braid cluster set resync-bandwidth 200Mi\n  braid cluster set resync-bandwidth unlimited',
    )
    .action(async (_setting: string, value: number | null, _options: object, command: Command) => {
      const { client, output } = contextOf(command, surroundings);
      const { settings } = await client.changeCluster({ resyncBandwidth: value });
      const bytes = settings.resyncBandwidthBytes;
      output.result(settings, () =>
        output.line(`resync-bandwidth: ${bytes === null ? UNLIMITED : `${formatSize(bytes)}/s`}`),
      );
    });
  return group;
}

function rateArgument(text: string): number | null {
  if (text === UNLIMITED) return null;
  try {
    return sizeArgument(text.replace(/\/s$/, ''));
  } catch {
    throw new InvalidArgumentError(`A rate is bytes a second, with a unit if you like (200Mi), or "${UNLIMITED}".`);
  }
}

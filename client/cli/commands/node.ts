import { Command } from 'commander';
import { contextOf, type Surroundings } from '../context.js';
import { paintState } from './status.js';

/** `braid node ls`. */
export function nodeCommand(surroundings: Surroundings): Command {
  const group = new Command('node').description('hosts of the cluster');
  group
    .command('ls')
    .description('list the nodes')
    .action(async (_options: object, command: Command) => {
      const { client, output } = contextOf(command, surroundings);
      const nodes = await client.nodes();
      output.result({ nodes }, () => {
        const rows = nodes.map((node) => [
          node.name,
          paintState(output, node.alive ? 'up' : 'down'),
          String(node.driveCount),
          node.apiAddress,
          node.version,
          formatLabels(node.labels),
        ]);
        output.table(['NAME', 'STATE', 'DRIVES', 'API', 'VERSION', 'LABELS'], rows);
      });
    });
  return group;
}

export function formatLabels(labels: Readonly<Record<string, string>>): string {
  const pairs = Object.entries(labels).map(([key, value]) => `${key}=${value}`);
  return pairs.length === 0 ? '-' : pairs.join(',');
}

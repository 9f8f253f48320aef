import { resolve } from 'node:path';
import { Command, Option } from 'commander';
import type { AddDrive, Drive, DriveClass } from '../../sdk/types.js';
import { contextOf, sizeArgument, type Surroundings } from '../context.js';
import type { Output } from '../output.js';
import { formatSize } from '../units.js';
import { paintState } from './status.js';

interface AddOptions {
  readonly capacity: number;
  readonly class?: DriveClass;
  readonly node?: string;
}

/** `braid drive add`, `ls`, `show` and `reopen`. */
export function driveCommand(surroundings: Surroundings): Command {
  const group = new Command('drive').description('drives that nodes give to the pool');
  group
    .command('add <directory>')
    .description('give a directory of a node to the pool; its space is allocated at once')
    .requiredOption('--capacity <size>', 'how much of it Braid may use', sizeArgument)
    .addOption(new Option('--class <class>', 'what it is made of').choices(['nvme', 'ssd', 'hdd']))
    .option('--node <name>', 'the node that has the directory; default: the one that answers')
    .addHelpText('after', '\nExamples:\n  braid drive add /mnt/ssd1/braid --capacity 100Gi --class ssd')
    .action(async (directory: string, options: AddOptions, command: Command) => {
      const { client, output } = contextOf(command, surroundings);
      const drive: AddDrive = {
        // Relative to here, unless another host is meant.
        path: options.node === undefined ? resolve(directory) : directory,
        capacity: options.capacity,
        ...(options.class === undefined ? {} : { driveClass: options.class }),
        ...(options.node === undefined ? {} : { node: options.node }),
      };
      const added = await client.addDrive(drive);
      output.result(added, () => {
        output.line(
          `Drive ${added.id} on ${added.node}: ${formatSize(added.capacityBytes)} in ${added.path}, ${added.state}`,
        );
      });
    });
  group
    .command('ls')
    .description('list the drives')
    .action(async (_options: object, command: Command) => {
      const { client, output } = contextOf(command, surroundings);
      const drives = await client.drives();
      output.result({ drives }, () => printDrives(output, drives));
    });
  group
    .command('show <id>')
    .description('show one drive, and what to do when it is not open')
    .action(async (id: string, _options: object, command: Command) => {
      const { client, output } = contextOf(command, surroundings);
      const drive = await client.drive(id);
      output.result(drive, () => printDrives(output, [drive]));
    });
  group
    .command('reopen <id>')
    .description('open a drive that has failed, once it was repaired; its copies catch up with what they missed')
    .addHelpText('after', '\nExamples:\n  braid drive ls\n  braid drive reopen 6f1c2c5e-0d5b-4d7a-9d5e-3f6f0a1b2c3d')
    .action(async (id: string, _options: object, command: Command) => {
      const { client, output } = contextOf(command, surroundings);
      const drive = await client.reopenDrive(id);
      output.result(drive, () => output.line(`Drive ${drive.id} on ${drive.node} (${drive.path}) is ${drive.state}`));
    });
  return group;
}

function printDrives(output: Output, drives: Drive[]): void {
  const rows = drives.map((drive) => [
    drive.id,
    drive.node,
    paintState(output, drive.state),
    drive.driveClass,
    formatSize(drive.capacityBytes),
    drive.state === 'open' ? `${Math.round((100 * drive.usedBytes) / drive.capacityBytes)} %` : '-',
    String(drive.replicaCount),
    drive.path,
  ]);
  output.table(['ID', 'NODE', 'STATE', 'CLASS', 'CAPACITY', 'USED', 'COPIES', 'PATH'], rows);
  for (const drive of drives)
    if (drive.reason !== '') output.line(`${output.paint('!', 'yellow')} ${drive.path}: ${drive.reason}`);
}

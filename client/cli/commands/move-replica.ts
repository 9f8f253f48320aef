import { setTimeout as delay } from 'node:timers/promises';
import type { Command } from 'commander';
import type { MoveReplica, Volume } from '../../sdk/types.js';
import { contextOf, numberArgument, type Context, type Surroundings } from '../context.js';
import { formatCopying } from '../copying.js';
import { Failed, UsageError } from '../errors.js';
import { formatCount } from '../units.js';

const POLL_MS = 500;
const SEGMENT_MAX = 65_535;

interface MoveOptions {
  readonly from?: string;
  readonly to?: string;
  readonly segment?: number;
  readonly wait: boolean;
  readonly cancel?: boolean;
}

/** `braid volume move-replica`. */
export function addMoveReplica(group: Command, surroundings: Surroundings): void {
  group
    .command('move-replica <name>')
    .description(
      'move the copies of an attached volume from one drive to another, or make lost ones anew, while clients go on',
    )
    .option(
      '--from <drive>',
      'the drive that gives its copies up, or has lost them: its id (or the beginning), or node:/directory',
    )
    .option('--to <drive>', 'the drive that gets them')
    .option('--segment <index>', 'only the copy of this segment', numberArgument(0, SEGMENT_MAX))
    .option('--no-wait', 'answer when it has begun; braid volume show tells how far it is')
    .option('--cancel', 'give up moves that are under way (with --to: those to that drive); the old copies stay')
    .addHelpText(
      'after',
      '\nExamples:\n  braid volume move-replica data --from host-a:/mnt/old --to host-a:/mnt/new\n  braid volume move-replica data --cancel',
    )
    .action(async (name: string, options: MoveOptions, command: Command) => {
      const context = contextOf(command, surroundings);
      if (options.cancel === true) return cancel(context, name, options.to);
      const { from, to, segment, wait } = options;
      if (from === undefined || to === undefined)
        throw new UsageError('say which drive gives its copies and which gets them: --from DRIVE --to DRIVE');
      await move(context, name, { from, to, ...(segment === undefined ? {} : { segment }) }, wait);
    });
}

async function cancel({ client, output }: Context, name: string, to: string | undefined): Promise<void> {
  const cancelled = await client.cancelMove(name, to === undefined ? {} : { to });
  output.result(cancelled, () =>
    output.line(`Moves of ${formatCount(cancelled.segments, 'segment')} of ${name} are given up`),
  );
}

async function move(
  { client, output, surroundings }: Context,
  name: string,
  request: MoveReplica,
  isWaiting: boolean,
): Promise<void> {
  const moved = await client.moveReplica(name, request);
  const segments = formatCount(moved.segments, 'segment');
  if (!isWaiting)
    return output.result(moved, () => output.line(`The copies of ${segments} of ${name} are on their way`));
  let volume = await client.volume(name);
  const waitsFor = newcomers(volume);
  try {
    while (newcomers(volume).size > 0) {
      const { resync } = volume;
      output.progress(
        `moving ${name}`,
        resync.bytesTotal === 0 ? 0 : resync.bytesDone / resync.bytesTotal,
        formatCopying(resync),
      );
      await delay(POLL_MS, undefined, { signal: surroundings.signal });
      volume = await client.volume(name);
    }
  } finally {
    output.endProgress();
  }
  const held = new Set(
    volume.segments.flatMap(({ index, replicas }) => replicas.map(({ driveId }) => `${index} ${driveId}`)),
  );
  const missing = [...waitsFor].filter((copy) => !held.has(copy)).length;
  output.result({ ...moved, missing }, () => {
    if (missing === 0) output.line(`The copies of ${segments} of ${name} have moved`);
    else output.line(`${formatCount(missing, 'copy')} of ${name} did not move; braid events tells why`);
  });
  if (missing > 0) throw new Failed();
}

/** Copies that are to replace others, by segment and drive. */
function newcomers({ segments }: Volume): Set<string> {
  return new Set(
    segments.flatMap(({ index, replicas }) =>
      replicas.filter(({ replaces }) => replaces !== undefined).map(({ driveId }) => `${index} ${driveId}`),
    ),
  );
}

import { setTimeout as delay } from 'node:timers/promises';
import { Command } from 'commander';
import type { Event } from '../../sdk/types.js';
import { contextOf, numberArgument, type Context, type Surroundings } from '../context.js';
import { HEALTH_COLOR } from './status.js';

const FOLLOW_POLL_MS = 500;
const PAGE = 1_000;

interface EventOptions {
  readonly follow?: boolean;
  readonly after?: string;
  readonly limit?: number;
}

/** `braid events`. */
export function eventsCommand(surroundings: Surroundings): Command {
  return new Command('events')
    .description('what happened in the cluster, oldest first')
    .option('-f, --follow', 'go on printing what happens (JSON: one event per line)')
    .option('--after <id>', 'only what happened after this event')
    .option('--limit <count>', 'at most so many (100)', numberArgument(1, PAGE))
    .addHelpText('after', '\nExamples:\n  braid events --limit 20\n  braid events --follow --json')
    .action(async (options: EventOptions, command: Command) => {
      const context = contextOf(command, surroundings);
      const first = await context.client.events(queryOf(options.after, options.limit));
      if (options.follow !== true) {
        context.output.result(first, () => first.events.forEach((event) => printEvent(context, event)));
        return;
      }
      first.events.forEach((event) => printFollowed(context, event));
      await follow(context, first.next);
    });
}

const queryOf = (after?: string, limit?: number) => ({
  ...(after === undefined || after === '' ? {} : { after }),
  ...(limit === undefined ? {} : { limit }),
});

async function follow(context: Context, from: string): Promise<void> {
  const { signal } = context.surroundings;
  let after = from;
  while (!signal.aborted) {
    await delay(FOLLOW_POLL_MS, undefined, { signal }).catch(() => undefined);
    if (signal.aborted) return;
    const page = await context.client.events(queryOf(after, PAGE));
    for (const event of page.events) printFollowed(context, event);
    after = page.next;
  }
}

function printFollowed(context: Context, event: Event): void {
  context.output.result(event, () => printEvent(context, event));
}

function printEvent({ output }: Context, event: Event): void {
  const time = new Date(event.timeMs).toISOString().replace('T', ' ').slice(0, 23);
  const severity = output.paint(event.severity.padEnd(7), HEALTH_COLOR[event.severity] ?? 'dim');
  output.line(`${output.paint(time, 'dim')}  ${severity}  ${event.node}  ${event.subject}: ${event.message}`);
}

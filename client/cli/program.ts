/** The command line as a whole: global options, all command groups, and the way from an error to an exit code. */
import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { clusterCommand } from './commands/cluster.js';
import { completionCommand } from './commands/completion.js';
import { demoCommand } from './commands/demo.js';
import { driveCommand } from './commands/drive.js';
import { eventsCommand } from './commands/events.js';
import { initCommand } from './commands/init.js';
import { nodeCommand } from './commands/node.js';
import { scrubCommand } from './commands/scrub.js';
import { recoverCommand } from './commands/recover.js';
import { statusCommand } from './commands/status.js';
import { topCommand } from './commands/top.js';
import { volumeCommand } from './commands/volume.js';
import { API_DEFAULT, apiUrl, numberArgument, type Surroundings } from './context.js';
import { describeFailure, EXIT, EXIT_HELP, Failed } from './errors.js';

const TIMEOUT_SECONDS_MAX = 3_600;

const EXAMPLES = `
Examples:
  braid demo                                     try it on this host, all by itself
  braid init --dir /var/lib/braid                prepare an agent for this host
  braid status                                   is everything all right?
  braid drive add /mnt/ssd1/braid --capacity 100Gi
  braid volume create data --size 20Gi --replicas 3
  braid volume attach data --device              /dev/loopN, ready for mkfs
  braid --json volume ls | jq '.volumes[].name'  for scripts

${EXIT_HELP}`;

/** From the package that this is compiled into: dist/client/cli/program.js. */
function version(): string {
  const text = readFileSync(new URL('../../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

export function buildProgram(surroundings: Surroundings): Command {
  const program = new Command('braid')
    .description('Braid: network RAID for Linux hosts. Volumes mirrored over nodes, as ordinary block devices.')
    .option('--api <url>', `an agent's API; default: $BRAID_API, then ${API_DEFAULT}`, apiUrl)
    .option('--json', 'machine output: JSON on stdout, nothing else')
    .option('--timeout <seconds>', 'how long to wait for an answer (30)', numberArgument(1, TIMEOUT_SECONDS_MAX))
    .version(version(), '--version')
    .addHelpText('after', EXAMPLES)
    .helpCommand('help [command]', 'show the help of a command');
  const groups = [statusCommand, clusterCommand, nodeCommand, driveCommand, volumeCommand, scrubCommand, eventsCommand];
  const tools = [topCommand, initCommand, recoverCommand, demoCommand, completionCommand];
  for (const build of [...groups, ...tools]) program.addCommand(build(surroundings));
  configure(program, surroundings);
  return program;
}

/** Every command writes to our streams, throws instead of exiting, and shows the global options in its help. */
function configure(command: Command, surroundings: Surroundings): void {
  command
    .exitOverride()
    .showSuggestionAfterError(true)
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({
      writeOut: (text) => surroundings.stdout.write(text),
      writeErr: (text) => surroundings.stderr.write(text),
      // Errors are reported once, by `runCli`.
      outputError: () => undefined,
    });
  for (const child of command.commands) configure(child, surroundings);
}

/** Runs one command line (without the program's name) and resolves with the exit code. */
export async function runCli(args: readonly string[], surroundings: Surroundings): Promise<number> {
  const program = buildProgram(surroundings);
  try {
    await program.parseAsync(args, { from: 'user' });
    return EXIT.ok;
  } catch (error) {
    if (surroundings.signal.aborted) return EXIT.interrupted;
    if (error instanceof Failed) return EXIT.failed;
    // Help and --version end with exit code 0; a group without its subcommand shows its help as an error.
    if (error instanceof CommanderError && error.exitCode === 0) return EXIT.ok;
    if (error instanceof CommanderError && error.code === 'commander.help') return EXIT.usage;
    return report(error, args, program.opts<{ api?: string }>().api, surroundings);
  }
}

function report(thrown: unknown, args: readonly string[], api: string | undefined, surroundings: Surroundings): number {
  const failure = describeFailure(thrown, api ?? surroundings.env['BRAID_API'] ?? API_DEFAULT);
  if (args.includes('--json')) surroundings.stdout.write(`${JSON.stringify({ error: failure.error })}\n`);
  else {
    const help = failure.exitCode === EXIT.usage && thrown instanceof CommanderError ? '\nSee braid --help.' : '';
    surroundings.stderr.write(
      `braid: ${failure.error.message}${help}\n${failure.hint}${failure.hint === '' ? '' : '\n'}`,
    );
  }
  return failure.exitCode;
}

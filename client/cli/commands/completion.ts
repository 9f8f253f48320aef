import { Argument, Command } from 'commander';
import type { Surroundings } from '../context.js';

type Shell = 'bash' | 'zsh' | 'fish';

/** `braid completion bash|zsh|fish`: a script for the shell, made from the commands as they are. */
export function completionCommand(surroundings: Surroundings): Command {
  return new Command('completion')
    .description('print a completion script for a shell')
    .addArgument(new Argument('<shell>', 'the shell').choices(['bash', 'zsh', 'fish']))
    .addHelpText(
      'after',
      `
Examples:
  source <(braid completion bash)
  braid completion zsh > "\${fpath[1]}/_braid"
  braid completion fish > ~/.config/fish/completions/braid.fish`,
    )
    .action((shell: Shell, _options: object, command: Command) => {
      surroundings.stdout.write(completionScript(shell, rootOf(command)));
    });
}

function rootOf(command: Command): Command {
  return command.parent === null ? command : rootOf(command.parent);
}

interface Level {
  /** Words before this level, `braid volume`. */
  readonly path: readonly string[];
  readonly words: readonly { readonly word: string; readonly description: string }[];
  /** Its first argument is the name of a volume. */
  readonly wantsVolume: boolean;
}

/** Every command with what may follow it, from the program itself. */
export function levelsOf(command: Command, path: readonly string[] = []): Level[] {
  const own = [...path, command.name()];
  const children = command.commands.map((child) => ({ word: child.name(), description: child.description() }));
  const options = command.options.map((option) => ({
    word: option.long ?? option.flags,
    description: option.description,
  }));
  const wantsVolume = own[1] === 'volume' && own[2] !== 'create' && command.registeredArguments[0]?.name() === 'name';
  return [
    { path: own, words: [...children, ...options], wantsVolume },
    ...command.commands.flatMap((child) => levelsOf(child, own)),
  ];
}

function completionScript(shell: Shell, program: Command): string {
  const levels = levelsOf(program);
  if (shell === 'fish') return fishScript(levels);
  const bash = bashScript(levels);
  return shell === 'bash' ? bash : `#compdef braid\nautoload -U +X bashcompinit && bashcompinit\n${bash}`;
}

const VOLUME_NAMES = `braid --json volume ls 2>/dev/null | tr ',{' '\\n\\n' | sed -n 's/^"name":"\\(.*\\)"$/\\1/p'`;

function bashScript(levels: readonly Level[]): string {
  const cases = levels.map(({ path, words, wantsVolume }) => {
    const volumes = wantsVolume ? ` $(${VOLUME_NAMES})` : '';
    return `    "${path.join(' ')}") words="${words.map(({ word }) => word).join(' ')}${volumes}" ;;`;
  });
  return `# Completion of braid for bash (and zsh through bashcompinit).
_braid() {
  local current="\${COMP_WORDS[COMP_CWORD]}" path="braid" word words=""
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$path $word" in
      ${levels
        .slice(1)
        .map(({ path }) => `"${path.join(' ')}"`)
        .join('|')}) path="$path $word" ;;
    esac
  done
  case "$path" in
${cases.join('\n')}
  esac
  COMPREPLY=($(compgen -W "$words --api --json --timeout --help" -- "$current"))
}
complete -o default -F _braid braid
`;
}

function fishScript(levels: readonly Level[]): string {
  const quote = (text: string) => `'${text.replace(/[\\']/g, '\\$&')}'`;
  const lines = levels.flatMap(({ path, words, wantsVolume }) => {
    const seen = path.slice(1).map((word) => `__fish_seen_subcommand_from ${word}`);
    const condition = quote(seen.length === 0 ? '__fish_use_subcommand' : seen.join('; and '));
    const own = words.map(({ word, description }) => {
      const what = word.startsWith('--') ? `-l ${word.slice(2)}` : `-a ${word}`;
      return `complete -c braid -n ${condition} ${what} -d ${quote(description)}`;
    });
    return wantsVolume ? [...own, `complete -c braid -n ${condition} -a ${quote(`(${VOLUME_NAMES})`)}`] : own;
  });
  return `# Completion of braid for fish.\ncomplete -c braid -f\n${lines.join('\n')}\n`;
}

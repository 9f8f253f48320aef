/** Programs that set subjects up. */
import { execFile } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';

const OUTPUT_BYTES_MAX = 16 * 1024 * 1024;
const EXTRA_PATHS = ['/usr/sbin', '/sbin'];

export interface ToolOptions {
  readonly signal: AbortSignal;
  readonly environment?: Readonly<Record<string, string>>;
  readonly cwd?: string;
}

/** Runs a program to its end and resolves with its output; rejects with what it said when it fails. */
export async function runTool(command: readonly string[], options: ToolOptions): Promise<string> {
  const [program = '', ...programArguments] = command;
  const { signal, environment = {}, cwd } = options;
  const settings = {
    signal,
    maxBuffer: OUTPUT_BYTES_MAX,
    env: { ...process.env, ...environment },
    ...(cwd === undefined ? {} : { cwd }),
  };
  try {
    const { stdout } = await promisify(execFile)(program, programArguments, { ...settings, encoding: 'utf8' });
    return stdout;
  } catch (error) {
    const { stderr = '', message } = error as { stderr?: string; message: string };
    throw new Error(`${command.join(' ')} failed: ${stderr.trim() || message}`, { cause: error });
  }
}

/** Packages of `packages` (name to a program in it) whose program is not on this machine. */
export function missingPackages(packages: Readonly<Record<string, string>>): string[] {
  return Object.keys(packages).filter((name) => !isProgram(packages[name] ?? ''));
}

function isProgram(name: string): boolean {
  const directories = [...(process.env['PATH'] ?? '').split(delimiter), ...EXTRA_PATHS];
  return directories.some((directory) => {
    try {
      accessSync(join(directory, name), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

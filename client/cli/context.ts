/** What every command gets: its surroundings, and from the global options a client and an output. */
import { InvalidArgumentError, type Command } from 'commander';
import { BraidClient } from '../sdk/client.js';
import { Output, type Stream } from './output.js';
import { parseSize } from './units.js';

export const API_DEFAULT = 'http://127.0.0.1:7440';

/** The process that the CLI runs in; tests make their own. */
export interface Surroundings {
  readonly stdout: Stream;
  readonly stderr: Stream;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Aborts when the user interrupts. */
  readonly signal: AbortSignal;
  /** Asks the person at the terminal; absent where there is none. */
  readonly ask?: (question: string) => Promise<string>;
}

export interface Context {
  readonly client: BraidClient;
  readonly output: Output;
  readonly surroundings: Surroundings;
}

interface GlobalOptions {
  readonly api?: string;
  readonly json?: boolean;
  readonly timeout?: number;
}

/** `host:port` is a URL too. */
export function apiUrl(text: string): string {
  const url = text.includes('://') ? text : `http://${text}`;
  if (!URL.canParse(url)) throw new InvalidArgumentError(`"${text}" is no URL (example: ${API_DEFAULT}).`);
  return url.replace(/\/+$/, '');
}

export function contextOf(command: Command, surroundings: Surroundings): Context {
  const options = command.optsWithGlobals<GlobalOptions>();
  const { env } = surroundings;
  const token = env['BRAID_TOKEN'];
  const client = new BraidClient({
    baseUrl: options.api ?? apiUrl(env['BRAID_API'] ?? API_DEFAULT),
    signal: surroundings.signal,
    ...(token === undefined ? {} : { token }),
    ...(options.timeout === undefined ? {} : { timeoutMs: options.timeout * 1_000 }),
  });
  const noColor = (env['NO_COLOR'] ?? '') !== '' || env['TERM'] === 'dumb';
  return { client, output: new Output(surroundings, { json: options.json ?? false, noColor }), surroundings };
}

/** Argument parsers for commander: they throw what it reports as wrong usage. */
export function sizeArgument(text: string): number {
  const bytes = parseSize(text);
  if (bytes === null) throw new InvalidArgumentError('A size is bytes or a number with a unit: 512Mi, 20Gi, 1.5Ti.');
  return bytes;
}

export function numberArgument(minimum: number, maximum: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!Number.isInteger(value) || value < minimum || value > maximum) {
      throw new InvalidArgumentError(`It must be a whole number from ${minimum} to ${maximum}.`);
    }
    return value;
  };
}

/** Collects repeated `key=value`. */
export function labelArgument(text: string, before: Record<string, string> = {}): Record<string, string> {
  const at = text.indexOf('=');
  if (at < 1) throw new InvalidArgumentError('A label is key=value.');
  return { ...before, [text.slice(0, at)]: text.slice(at + 1) };
}

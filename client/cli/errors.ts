/** How commands end: the exit codes, and what a failure says. */
import { CommanderError } from 'commander';
import { BraidApiError } from '../sdk/errors.js';

export const EXIT = { ok: 0, failed: 1, usage: 2, notFound: 3, conflict: 4, unavailable: 5, interrupted: 130 } as const;

export const EXIT_HELP = `Exit codes:
  0  done
  1  failed
  2  wrong usage
  3  not found
  4  conflict: it exists already, or its state forbids it
  5  cluster unavailable, or no answer in time; try again`;

/** A command was called in a way that cannot work. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

/** The command has said what is wrong; the exit code tells the rest. */
export class Failed extends Error {
  override readonly name = 'Failed';
}

export interface Failure {
  readonly exitCode: number;
  /** For machines. */
  readonly error: { readonly code: string; readonly message: string; readonly retryable: boolean };
  /** Further lines for people. */
  readonly hint: string;
}

function exitCodeOf(error: BraidApiError): number {
  switch (error.code) {
    case 'NOT_FOUND':
      return EXIT.notFound;
    case 'ALREADY_EXISTS':
    case 'CONFLICT':
    case 'ABORTED':
    case 'FENCED':
      return EXIT.conflict;
    case 'UNAVAILABLE':
    case 'TIMEOUT':
      return EXIT.unavailable;
    case 'INVALID_ARGUMENT':
      return EXIT.usage;
    default:
      return EXIT.failed;
  }
}

const hintOf = (error: BraidApiError, apiUrl: string) =>
  error.status === 0 && error.code === 'UNAVAILABLE'
    ? `
Is an agent running there? To start one on this host:
  braid init --dir /var/lib/braid
  braidd --config /var/lib/braid/braid.yaml
To talk to another host: --api URL, or set BRAID_API (now ${apiUrl}).`
    : '';

/** What went wrong, for people and for machines. */
export function describeFailure(thrown: unknown, apiUrl: string): Failure {
  if (thrown instanceof BraidApiError) {
    const { code, message, retryable } = thrown;
    return { exitCode: exitCodeOf(thrown), error: { code, message, retryable }, hint: hintOf(thrown, apiUrl) };
  }
  if (thrown instanceof UsageError || thrown instanceof CommanderError) {
    const message = thrown.message.replace(/^error: /, '');
    return { exitCode: EXIT.usage, error: { code: 'INVALID_ARGUMENT', message, retryable: false }, hint: '' };
  }
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  return { exitCode: EXIT.failed, error: { code: 'INTERNAL', message, retryable: false }, hint: '' };
}

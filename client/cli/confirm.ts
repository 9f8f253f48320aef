/** Asks people before something that cannot be taken back; scripts say it with a flag. */
import type { Context } from './context.js';
import { UsageError } from './errors.js';

export interface Confirmation {
  /** The flag was given. */
  readonly isGiven: boolean;
  /** What has to be typed. */
  readonly word: string;
  /** The command that does it without asking. */
  readonly command: string;
}

/** Rejects with `UsageError` unless it is confirmed. */
export async function confirm({ output, surroundings }: Context, confirmation: Confirmation): Promise<void> {
  const { isGiven, word, command } = confirmation;
  if (isGiven) return;
  const isAsked = !output.isJson && surroundings.ask !== undefined;
  const answer = isAsked ? await surroundings.ask?.(`To do it, type ${word}: `) : undefined;
  if (answer?.trim() === word) return;
  throw new UsageError(`nothing was changed; to do it without being asked: ${command}`);
}

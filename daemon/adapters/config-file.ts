/** Reads a YAML configuration file into plain values; what they mean is `control/config.ts`. */
import { readFile } from 'node:fs/promises';
import { parseDocument } from 'yaml';
import { asError, BraidError } from '../base/errors.js';

export interface ConfigFile {
  readonly path: string;
  readonly values: Readonly<Record<string, unknown>>;
}

/** Rejects with INVALID_ARGUMENT when it is missing, unreadable, not YAML, has aliases, or is not a map. An empty file is an empty map. */
export async function readConfigFile(path: string): Promise<ConfigFile> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    throw new BraidError('INVALID_ARGUMENT', `cannot read the configuration file: ${asError(error).message}`, {
      cause: error,
    });
  }
  const document = parseDocument(text, { prettyErrors: true, uniqueKeys: true });
  const [problem] = document.errors;
  if (problem !== undefined) throw new BraidError('INVALID_ARGUMENT', `${path} is not YAML: ${problem.message}`);
  const values = toValues(path, document) ?? {};
  if (typeof values !== 'object' || Array.isArray(values)) {
    throw new BraidError('INVALID_ARGUMENT', `${path} is not a list of settings: write lines like "apiPort: 7440"`);
  }
  return { path, values: values as Record<string, unknown> };
}

/** Without aliases: a few lines of them can stand for gigabytes. */
function toValues(path: string, document: ReturnType<typeof parseDocument>): unknown {
  try {
    return document.toJS({ maxAliasCount: 0 });
  } catch (error) {
    const advice = 'write the value out in place of the alias';
    throw new BraidError('INVALID_ARGUMENT', `${path}: ${asError(error).message}: ${advice}`, { cause: error });
  }
}

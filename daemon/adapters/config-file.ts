/** Reads a YAML configuration file into plain values; what they mean is `control/config.ts`. */
import { readFile } from 'node:fs/promises';
import { parseDocument } from 'yaml';
import { asError, BraidError } from '../base/errors.js';

export interface ConfigFile {
  readonly path: string;
  readonly values: Readonly<Record<string, unknown>>;
}

/** Rejects with INVALID_ARGUMENT when it is missing, unreadable, not YAML, or not a map. An empty file is an empty map. */
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
  const values: unknown = document.toJS({ maxAliasCount: 0 }) ?? {};
  if (typeof values !== 'object' || Array.isArray(values)) {
    throw new BraidError('INVALID_ARGUMENT', `${path} is not a list of settings: write lines like "apiPort: 7440"`);
  }
  return { path, values: values as Record<string, unknown> };
}

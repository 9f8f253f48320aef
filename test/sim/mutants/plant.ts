/**
 * Plants a mutant: what this process imports of the daemon from now on has the mutant's edits in it. The daemon itself has no switches: a hook of
 * Node's module loader (loader-worker.ts) hands out other code for the files that are edited.
 */
import { register } from 'node:module';

/** By the URL of a module, the code to load instead. */
export type Replacements = Record<string, string>;

/** Returns a function that throws unless every replacement has been loaded. */
export function plant(replacements: Replacements): () => void {
  const marked = Object.entries(replacements).map(([url, code]) => [url, code + markOf(url)] as const);
  register('./loader-worker.js', import.meta.url, { data: Object.fromEntries(marked) });
  return () => {
    const { planted } = globalThis as { planted?: Set<string> };
    for (const url of Object.keys(replacements))
      if (planted?.has(url) !== true) throw new Error(`${url} is mutated, and nobody loads it`);
  };
}

/** The mutated module says that it is the one that runs. */
function markOf(url: string): string {
  return `\n(globalThis.planted ??= new Set()).add(${JSON.stringify(url)});\n`;
}

/** From the edits of a mutant to code that can be loaded. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import type { Edit } from './mutant.js';
import type { Replacements } from './plant.js';

const ROOT = new URL('../../../../', import.meta.url);
const COMPILER_OPTIONS = {
  target: ts.ScriptTarget.ES2023,
  module: ts.ModuleKind.ESNext,
  verbatimModuleSyntax: true,
};

/** Throws when an edit does not fit, or breaks the file. */
export function mutate(edits: readonly Edit[]): Replacements {
  const sources = new Map<string, string>();
  for (const { module, find, replace } of edits) {
    const path = fileURLToPath(new URL(`daemon/${module}.ts`, ROOT));
    const source = sources.get(module) ?? readFileSync(path, 'utf8');
    const occurrences = source.split(find).length - 1;
    if (occurrences !== 1)
      throw new Error(`daemon/${module}.ts has ${occurrences} times, not once, what is to be replaced: ${find}`);
    sources.set(module, source.split(find).join(replace));
  }
  const compiled = [...sources].map(([module, source]) => [urlOf(module), compile(module, source)] as const);
  return Object.fromEntries(compiled);
}

function urlOf(module: string): string {
  return new URL(`dist/daemon/${module}.js`, ROOT).href;
}

function compile(module: string, source: string): string {
  const options = { compilerOptions: COMPILER_OPTIONS, reportDiagnostics: true };
  const { outputText, diagnostics } = ts.transpileModule(source, options);
  const [wrong] = diagnostics ?? [];
  if (wrong === undefined) return outputText;
  throw new Error(`the mutated ${module} is no TypeScript: ${ts.flattenDiagnosticMessageText(wrong.messageText, ' ')}`);
}

/** Hooks of Node's module loader, which run in a thread of their own: other code for some modules. */
import type { InitializeHook, LoadHook } from 'node:module';
import type { Replacements } from './plant.js';

let replacements: Replacements = {};

export const initialize: InitializeHook<Replacements> = (data) => {
  replacements = data;
};

export const load: LoadHook = (url, context, nextLoad) => {
  const source = replacements[url];
  if (source === undefined) return nextLoad(url, context);
  return { format: 'module', source, shortCircuit: true };
};

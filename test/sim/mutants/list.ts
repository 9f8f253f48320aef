/** All mutants: a closed list. Each takes away one mechanism that ARCHITECTURE.md §5 promises. */
import { COPIES_MUTANTS } from './copies-mutants.js';
import { ORDER_MUTANTS } from './order-mutants.js';
import { REPLICA_MUTANTS } from './replica-mutants.js';
import type { Mutant } from './mutant.js';

export const MUTANTS: readonly Mutant[] = [...ORDER_MUTANTS, ...COPIES_MUTANTS, ...REPLICA_MUTANTS];

export function mutantOf(id: string): Mutant {
  const mutant = MUTANTS.find((candidate) => candidate.id === id);
  if (mutant !== undefined) return mutant;
  throw new Error(`there is no mutant "${id}"; there are: ${MUTANTS.map((each) => each.id).join(', ')}`);
}

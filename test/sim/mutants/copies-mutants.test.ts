import { checkMutants } from './check.js';
import { COPIES_MUTANTS } from './copies-mutants.js';

await checkMutants(COPIES_MUTANTS);

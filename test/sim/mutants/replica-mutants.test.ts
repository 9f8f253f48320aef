import { checkMutants } from './check.js';
import { REPLICA_MUTANTS } from './replica-mutants.js';

await checkMutants(REPLICA_MUTANTS);

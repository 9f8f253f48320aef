import { checkMutants } from './check.js';
import { ORDER_MUTANTS } from './order-mutants.js';

await checkMutants(ORDER_MUTANTS);

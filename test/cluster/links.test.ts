/** Links between nodes are cut: `links-scenarios.ts`. */
import { isInOwnNamespaces } from '../support/own-namespaces.js';

if (await isInOwnNamespaces()) await import('./links-scenarios.js');

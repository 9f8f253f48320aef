/** Drives that fail while they are written to: `lost-drive-scenarios.ts`. */
import { isInOwnNamespaces } from '../support/own-namespaces.js';

if (await isInOwnNamespaces()) await import('./lost-drive-scenarios.js');

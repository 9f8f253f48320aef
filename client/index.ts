/** The SDK: everything that a program needs to work with a Braid cluster over its REST API. */
export { BraidClient, type BraidClientOptions } from './sdk/client.js';
export { BraidApiError } from './sdk/errors.js';
export type * from './sdk/types.js';

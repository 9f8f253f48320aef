/** Every schema of the REST API: the single source for validation, the OpenAPI document and the SDK's types. */
export * from './cluster.js';
export * from './common.js';
export * from './drive.js';
export * from './event.js';
export * from './force.js';
export * from './health.js';
export * from './scrub.js';
export * from './recovery.js';
export * from './stats.js';
export * from './volume.js';

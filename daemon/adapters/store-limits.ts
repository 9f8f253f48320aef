/** What every `ClusterStore` refuses, so that code that works on one works on all (the bounds are etcd's defaults). */
import { BraidError } from '../base/errors.js';
import { MIB } from '../base/units.js';
import type { StoreCompare, StoreOperation } from '../ports/cluster-store.js';

export const storeLimits = {
  comparesMax: 64,
  operationsMax: 128,
  keyCharsMax: 256,
  valueBytesMax: MIB,
  leaseTtlMsMax: 24 * 60 * 60 * 1_000,
} as const;

/** Visible ASCII: then string order is byte order, and a key is as long in bytes as in characters. */
const KEY = /^[\x21-\x7e]+$/;

function checkKey(key: string): void {
  if (key.length > storeLimits.keyCharsMax) {
    throw new BraidError('LIMIT_EXCEEDED', `a key has ${key.length} characters, more than ${storeLimits.keyCharsMax}`);
  }
  if (!KEY.test(key))
    throw new BraidError('INVALID_ARGUMENT', `${JSON.stringify(key)} is not a key: use visible ASCII`);
}

/** Throws `BraidError` LIMIT_EXCEEDED or INVALID_ARGUMENT when no store would take this transaction. */
export function checkTransaction(compares: readonly StoreCompare[], operations: readonly StoreOperation[]): void {
  if (compares.length > storeLimits.comparesMax || operations.length > storeLimits.operationsMax) {
    const size = `${compares.length} compares and ${operations.length} operations`;
    const bound = `${storeLimits.comparesMax} and ${storeLimits.operationsMax}`;
    throw new BraidError('LIMIT_EXCEEDED', `a transaction has ${size}, more than ${bound}; split it`);
  }
  for (const { key } of compares) checkKey(key);
  const keys = new Set<string>();
  for (const operation of operations) {
    checkKey(operation.key);
    if (keys.has(operation.key)) {
      throw new BraidError('INVALID_ARGUMENT', `a transaction changes ${operation.key} twice`);
    }
    keys.add(operation.key);
    if (operation.type === 'put' && operation.value.length > storeLimits.valueBytesMax) {
      const size = `${operation.value.length} bytes, more than ${storeLimits.valueBytesMax}`;
      throw new BraidError('LIMIT_EXCEEDED', `the value of ${operation.key} has ${size}`);
    }
  }
}

/** Throws `BraidError` INVALID_ARGUMENT unless `ttlMs` is a whole number from 1 to a day's milliseconds. */
export function checkLeaseTtl(ttlMs: number): void {
  if (!Number.isInteger(ttlMs) || ttlMs < 1 || ttlMs > storeLimits.leaseTtlMsMax) {
    throw new BraidError('INVALID_ARGUMENT', `a lease cannot last ${ttlMs} ms`);
  }
}

/** What a put under a lease that has ended fails with, in every store. */
export function leaseEnded(lease: string): BraidError {
  return new BraidError('ABORTED', `lease ${lease} has ended: get a new one and put the key again`);
}

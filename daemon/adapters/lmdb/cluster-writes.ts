/**
 * What the embedded cluster store does inside one LMDB write transaction. LMDB lets one process in at a time, and the
 * clock is read inside, so the decisions made here (compare, lease alive or ended) are in one order for the whole host.
 *
 * Every function assumes that a transaction is open; nothing here waits.
 */
import { assert } from '../../base/assert.js';
import type { BraidError } from '../../base/errors.js';
import type { LeaseId, StoreCompare, StoreOperation } from '../../ports/cluster-store.js';
import { leaseEnded } from '../store-limits.js';
import type { ClusterTables, StoredLease } from './cluster-tables.js';

/** Old changes removed per new one at most, so that no transaction grows with the backlog. */
const PRUNED_PER_CHANGE = 4;

export interface LeaseTime {
  /** CLOCK_MONOTONIC, in milliseconds. */
  readonly nowMs: number;
  /** Names the boot of the host that the clock belongs to. */
  readonly bootId: string;
}

export interface TxnResult {
  readonly committed: boolean;
  readonly revision: number;
}

/** The clock starts anew with the host: a lease of another boot has ended, whatever its deadline. */
export function hasEnded(lease: StoredLease, time: LeaseTime): boolean {
  return lease.bootId !== time.bootId || lease.deadlineMs <= time.nowMs;
}

export class ClusterWrites {
  readonly #tables: ClusterTables;
  readonly #changesKept: number;

  /** `changesKept`: how many revisions of the change log stay, for watches that are behind. */
  constructor(tables: ClusterTables, changesKept: number) {
    this.#tables = tables;
    this.#changesKept = changesKept;
  }

  /** Ends the leases that have run out. Comes first in every transaction. */
  sweep(time: LeaseTime): void {
    for (const lease of this.#tables.leases()) if (hasEnded(lease, time)) this.endLease(lease.id);
  }

  /** Removes the lease and its keys, as one revision. Does nothing when there is no such lease. */
  endLease(id: string): void {
    const keys = this.#tables.keysUnder(id);
    this.#tables.removeLease(id);
    if (keys.length === 0) return;
    const revision = this.#tables.revision() + 1;
    for (const key of keys) this.#removeEntry(key);
    this.#recordChange(revision, keys);
  }

  putLease(id: LeaseId, ttlMs: number, time: LeaseTime): void {
    this.#tables.putLease({ id, ttlMs, deadlineMs: time.nowMs + ttlMs, bootId: time.bootId });
  }

  renewLease(id: LeaseId, time: LeaseTime): boolean {
    const lease = this.#tables.lease(id);
    if (lease === null) return false;
    assert(!hasEnded(lease, time), 'ended leases are swept before anything else');
    this.putLease(id, lease.ttlMs, time);
    return true;
  }

  /** Returns the error, with nothing changed, when a put is under a lease that has ended. */
  txn(compares: readonly StoreCompare[], operations: readonly StoreOperation[]): TxnResult | BraidError {
    const revision = this.#tables.revision();
    const holds = compares.every((compare) => (this.#tables.entry(compare.key)?.revision ?? 0) === compare.revision);
    if (!holds) return { committed: false, revision };
    for (const operation of operations) {
      const lease = operation.type === 'put' ? operation.lease : undefined;
      if (lease !== undefined && this.#tables.lease(lease) === null) return leaseEnded(lease);
    }
    const changed = operations.filter((operation) => this.#apply(operation, revision + 1)).map(({ key }) => key);
    if (changed.length === 0) return { committed: true, revision };
    this.#recordChange(revision + 1, changed);
    return { committed: true, revision: revision + 1 };
  }

  /** False when it changes nothing: a delete of a key that is not there. */
  #apply(operation: StoreOperation, revision: number): boolean {
    const existed = this.#removeEntry(operation.key);
    if (operation.type === 'delete') return existed;
    const { key, value, lease = '' } = operation;
    this.#tables.putEntry({ key, value, lease, revision });
    return true;
  }

  #removeEntry(key: string): boolean {
    const entry = this.#tables.entry(key);
    if (entry !== null) this.#tables.removeEntry(entry);
    return entry !== null;
  }

  #recordChange(revision: number, keys: readonly string[]): void {
    assert(revision === this.#tables.revision() + 1, 'revisions have no gaps');
    this.#tables.setRevision(revision);
    keys.forEach((key, index) => this.#tables.addChange(revision, index, key));
    const pruned = this.#tables.pruned();
    const target = Math.min(revision - this.#changesKept, pruned + PRUNED_PER_CHANGE);
    if (target <= pruned) return;
    this.#tables.removeChanges(pruned, target);
    this.#tables.setPruned(target);
  }
}

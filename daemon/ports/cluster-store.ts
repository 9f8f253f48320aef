/**
 * The state of the cluster: an ordered map from path-like keys to protobuf values, with revisions, compare-and-swap transactions,
 * watches and leases. Modelled on etcd v3 so that etcd can implement it directly. Key layout: `protocol/store.ts`.
 *
 * Any call may fail with `BraidError` UNAVAILABLE; for `txn` the outcome is then unknown and the caller must read again.
 */

export interface StoreEntry {
  readonly key: string;
  readonly value: Uint8Array;
  /** Revision of the last change of this key. */
  readonly revision: number;
}

/** Holds when the key's last change has this revision; 0 means that the key does not exist. */
export interface StoreCompare {
  readonly key: string;
  readonly revision: number;
}

export type StoreOperation =
  | { readonly type: 'put'; readonly key: string; readonly value: Uint8Array; readonly lease?: LeaseId }
  | { readonly type: 'delete'; readonly key: string };

export type StoreEvent =
  | { readonly type: 'put'; readonly entry: StoreEntry }
  | { readonly type: 'delete'; readonly key: string; readonly revision: number };

/** Name of a lease, unique in the cluster for ever. */
export type LeaseId = string;

export interface StoreWatch {
  close(): void;
}

export interface ClusterStore {
  get(key: string): Promise<StoreEntry | null>;
  /** All entries below `prefix`, in key order, as of one `revision`. */
  list(prefix: string): Promise<{ readonly entries: readonly StoreEntry[]; readonly revision: number }>;
  /** If every compare holds, applies all operations atomically and durably. At most 64 compares and 128 operations (etcd's default bound). */
  txn(
    compares: readonly StoreCompare[],
    operations: readonly StoreOperation[],
  ): Promise<{ readonly committed: boolean; readonly revision: number }>;
  /**
   * Reports every change below `prefix` after `afterRevision`, in order, each key's latest state at least once (intermediate states
   * of one key may be skipped). Pass the `revision` of a `list` to miss nothing.
   */
  watch(prefix: string, afterRevision: number, onEvents: (events: readonly StoreEvent[]) => void): StoreWatch;
  /** A lease that ends `ttlMs` after its last renewal, by a clock that does not jump; keys put under it are deleted when it ends. */
  grantLease(ttlMs: number): Promise<LeaseId>;
  /** True when renewed; false when the lease has already ended (then it stays ended). */
  keepAlive(lease: LeaseId): Promise<boolean>;
  /** Ends the lease now and deletes its keys. */
  revokeLease(lease: LeaseId): Promise<void>;
  close(): Promise<void>;
}

/**
 * `ClusterStore` in memory: one `SimStoreState` for the cluster, one `SimClusterStore` for each node. A call takes a
 * random time to arrive and its reply a random time to come back; either can be lost. The state itself is always right:
 * it stands for etcd, or for the embedded store.
 */
import { assert } from '../../../daemon/base/assert.js';
import { BraidError } from '../../../daemon/base/errors.js';
import { checkLeaseTtl, checkTransaction, leaseEnded } from '../../../daemon/adapters/store-limits.js';
import type { Clock } from '../../../daemon/ports/clock.js';
import type {
  ClusterStore,
  LeaseId,
  StoreCompare,
  StoreEntry,
  StoreEvent,
  StoreOperation,
  StoreWatch,
} from '../../../daemon/ports/cluster-store.js';
import type { SimRandom } from './sim-random.js';

type TxnResult = { readonly committed: boolean; readonly revision: number };
type Listing = { readonly entries: readonly StoreEntry[]; readonly revision: number };

interface Lease {
  readonly ttlMs: number;
  deadlineMs: number;
  readonly keys: Set<string>;
}

/** What happened to a key last: its entry, or null since it was deleted at `revision`. */
interface Latest {
  readonly revision: number;
  readonly entry: (StoreEntry & { readonly lease: LeaseId | undefined }) | null;
}

/** The store itself, on the cluster's own (undrifted) clock. */
export class SimStoreState {
  readonly #clock: Clock;
  readonly #random: SimRandom;
  /** Every key ever used, in the order of the last changes. */
  readonly #latest = new Map<string, Latest>();
  readonly #leases = new Map<LeaseId, Lease>();
  readonly #listeners = new Set<() => void>();
  #revision = 0;
  /** Nobody gets an answer: calls and replies are lost, events wait. */
  isDown = false;
  /** Off: no call or reply is lost by chance any more. */
  isLossy = true;
  /** Calls, replies and events are on the way this many times as long. */
  slowness = 1;

  constructor(clock: Clock, random: SimRandom) {
    this.#clock = clock;
    this.#random = random;
  }

  get(key: string): StoreEntry | null {
    const entry = this.#latest.get(key)?.entry;
    return entry ? { key, value: entry.value.slice(), revision: entry.revision } : null;
  }

  list(prefix: string): Listing {
    const keys = [...this.#latest.keys()].filter((key) => key.startsWith(prefix)).sort();
    const entries = keys.map((key) => this.get(key)).filter((entry) => entry !== null);
    return { entries, revision: this.#revision };
  }

  txn(compares: readonly StoreCompare[], operations: readonly StoreOperation[]): TxnResult {
    const holds = compares.every(({ key, revision }) => (this.get(key)?.revision ?? 0) === revision);
    if (!holds) return { committed: false, revision: this.#revision };
    for (const operation of operations) {
      const lease = operation.type === 'put' ? operation.lease : undefined;
      if (lease !== undefined && !this.#leases.has(lease)) throw leaseEnded(lease);
    }
    this.#change(operations);
    return { committed: true, revision: this.#revision };
  }

  /** The latest state of each key below `prefix` that changed after `revision`, in order of change. */
  changes(prefix: string, after: number): { readonly events: readonly StoreEvent[]; readonly revision: number } {
    const events: StoreEvent[] = [];
    for (const [key, { revision, entry }] of this.#latest) {
      if (revision <= after || !key.startsWith(prefix)) continue;
      if (entry === null) events.push({ type: 'delete', key, revision });
      else events.push({ type: 'put', entry: { key, value: entry.value.slice(), revision } });
    }
    return { events, revision: this.#revision };
  }

  grantLease(ttlMs: number): LeaseId {
    const id = this.#random.uuid();
    const lease: Lease = { ttlMs, deadlineMs: this.#clock.nowMs() + ttlMs, keys: new Set() };
    this.#leases.set(id, lease);
    this.#expireLater(id, lease);
    return id;
  }

  keepAlive(id: LeaseId): boolean {
    const lease = this.#leases.get(id);
    if (lease === undefined) return false;
    lease.deadlineMs = this.#clock.nowMs() + lease.ttlMs;
    return true;
  }

  revokeLease(id: LeaseId): void {
    const lease = this.#leases.get(id);
    this.#leases.delete(id);
    if (lease !== undefined) this.#change([...lease.keys].sort().map((key) => ({ type: 'delete', key })));
  }

  /** Everyone who watches looks again: after the store was down, or a node was cut off from it. */
  notify(): void {
    for (const listener of this.#listeners) listener();
  }

  /** Calls `listener` after each change; returns how to stop it. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  #expireLater(id: LeaseId, lease: Lease): void {
    this.#clock.after(lease.deadlineMs - this.#clock.nowMs(), () => {
      if (this.#leases.get(id) !== lease) return;
      if (lease.deadlineMs > this.#clock.nowMs()) this.#expireLater(id, lease);
      else this.revokeLease(id);
    });
  }

  #change(operations: readonly StoreOperation[]): void {
    const effective = operations.filter(({ type, key }) => type === 'put' || this.get(key) !== null);
    if (effective.length === 0) return;
    this.#revision += 1;
    for (const operation of effective) this.#apply(operation, this.#revision);
    this.notify();
  }

  #apply(operation: StoreOperation, revision: number): void {
    const { key } = operation;
    const previous = this.#latest.get(key)?.entry;
    if (previous?.lease !== undefined) this.#leases.get(previous.lease)?.keys.delete(key);
    this.#latest.delete(key);
    if (operation.type === 'delete') {
      this.#latest.set(key, { revision, entry: null });
      return;
    }
    const { value, lease } = operation;
    this.#latest.set(key, { revision, entry: { key, value: value.slice(), revision, lease } });
    if (lease !== undefined) this.#leases.get(lease)?.keys.add(key);
  }
}

/** A node's way to the store; it stays when its agent is started anew. */
export interface StoreLink {
  /** How many cuts there are. */
  cuts: number;
}

export interface SimStoreOptions {
  readonly link: StoreLink;
  /** Bounds of the time that a call, its reply or an event is on the way. */
  readonly delayMsMin: number;
  readonly delayMsMax: number;
  /** Probability that a call is lost on its way there: nothing happens, and the caller gets UNAVAILABLE. */
  readonly loseCall: number;
  /** Probability that a reply is lost: it happened, and the caller gets UNAVAILABLE. */
  readonly loseReply: number;
  /** How long a caller waits before a lost call or reply counts as lost. */
  readonly timeoutMs: number;
}

const DEFAULTS: Omit<SimStoreOptions, 'link'> = {
  delayMsMin: 0.2,
  delayMsMax: 3,
  loseCall: 0,
  loseReply: 0,
  timeoutMs: 500,
};

/** One node's access to the state. */
export class SimClusterStore implements ClusterStore {
  readonly #state: SimStoreState;
  readonly #clock: Clock;
  readonly #random: SimRandom;
  readonly #options: SimStoreOptions;
  #isCut = false;
  /** How to stop each watch. */
  readonly #watches = new Set<() => void>();
  /** After a crash nothing settles any more; after `close` calls fail. */
  #status: 'open' | 'closed' | 'crashed' = 'open';

  constructor(state: SimStoreState, clock: Clock, random: SimRandom, options: Partial<SimStoreOptions> = {}) {
    this.#state = state;
    this.#clock = clock;
    this.#random = random;
    this.#options = { link: { cuts: 0 }, ...DEFAULTS, ...options };
  }

  /** Cuts this run of the node off from the store, or connects it again: calls and replies are lost, events wait. */
  setReachable(isReachable: boolean): void {
    this.#isCut = !isReachable;
    if (isReachable) this.#state.notify();
  }

  get #isReachable(): boolean {
    return !this.#isCut && this.#options.link.cuts === 0 && !this.#state.isDown;
  }

  /** The node died: promises that are pending never settle, watches are silent. Calls on the way may still arrive. */
  crash(): void {
    this.#status = 'crashed';
    this.#stopAllWatches();
  }

  get(key: string): Promise<StoreEntry | null> {
    return this.#call(() => this.#state.get(key));
  }

  list(prefix: string): Promise<Listing> {
    return this.#call(() => this.#state.list(prefix));
  }

  async txn(compares: readonly StoreCompare[], operations: readonly StoreOperation[]): Promise<TxnResult> {
    checkTransaction(compares, operations);
    const sent = operations.map((operation) =>
      operation.type === 'put' ? { ...operation, value: operation.value.slice() } : operation,
    );
    return this.#call(() => this.#state.txn([...compares], sent));
  }

  watch(prefix: string, afterRevision: number, onEvents: (events: readonly StoreEvent[]) => void): StoreWatch {
    this.#assertOpen();
    let after = afterRevision;
    let isScheduled = false;
    const schedule = () => {
      if (isScheduled) return;
      isScheduled = true;
      this.#clock.after(this.#delayMs(), deliver);
    };
    const deliver = () => {
      isScheduled = false;
      if (!this.#isReachable || !this.#watches.has(stop)) return;
      const { events, revision } = this.#state.changes(prefix, after);
      after = revision;
      if (events.length > 0) onEvents(events);
    };
    const stopListening = this.#state.onChange(schedule);
    const stop = () => {
      stopListening();
      this.#watches.delete(stop);
    };
    this.#watches.add(stop);
    schedule();
    return { close: stop };
  }

  async grantLease(ttlMs: number): Promise<LeaseId> {
    checkLeaseTtl(ttlMs);
    return this.#call(() => this.#state.grantLease(ttlMs));
  }

  keepAlive(lease: LeaseId): Promise<boolean> {
    return this.#call(() => this.#state.keepAlive(lease));
  }

  revokeLease(lease: LeaseId): Promise<void> {
    return this.#call(() => this.#state.revokeLease(lease));
  }

  async close(): Promise<void> {
    if (this.#status === 'open') this.#status = 'closed';
    this.#stopAllWatches();
  }

  #stopAllWatches(): void {
    for (const stop of [...this.#watches]) stop();
  }

  #assertOpen(): void {
    if (this.#status === 'closed') throw new BraidError('UNAVAILABLE', 'this cluster store is closed; open it again');
    assert(this.#status === 'open', 'a crashed node calls nobody');
  }

  #isLost(chance: number): boolean {
    return this.#state.isLossy && this.#random.chance(chance);
  }

  #delayMs(): number {
    return this.#state.slowness * this.#random.between(this.#options.delayMsMin, this.#options.delayMsMax);
  }

  async #call<T>(apply: () => T): Promise<T> {
    this.#assertOpen();
    return new Promise<T>((resolve, reject) => {
      const settle = (delayMs: number, action: () => void) => {
        this.#clock.after(delayMs, () => {
          if (this.#status !== 'crashed') action();
        });
      };
      const lose = (what: string) => {
        const error = new BraidError('UNAVAILABLE', `the cluster store did not answer (simulated: ${what} lost)`);
        settle(this.#options.timeoutMs, () => reject(error));
      };
      this.#clock.after(this.#delayMs(), () => {
        if (!this.#isReachable || this.#isLost(this.#options.loseCall)) return lose('call');
        const outcome = outcomeOf(apply);
        if (!this.#isReachable || this.#isLost(this.#options.loseReply)) return lose('reply');
        settle(this.#delayMs(), () => (outcome.ok ? resolve(outcome.value) : reject(outcome.error)));
      });
    });
  }
}

type Outcome<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly error: BraidError };

function outcomeOf<T>(apply: () => T): Outcome<T> {
  try {
    return { ok: true, value: apply() };
  } catch (error) {
    if (error instanceof BraidError) return { ok: false, error };
    throw error;
  }
}

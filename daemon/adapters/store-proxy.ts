/**
 * The cluster store for a shard's thread: every call goes over rpc to the store of the main thread (`serveStore`), which is the only one
 * that has the database open. Watches: the proxy numbers them, the main thread notifies `store.events` with that number.
 *
 * Order: the events of one watch arrive in order, and after `close` of a watch its callback is not called again.
 *
 * Main thread:   `const served = serveStore(store, rpc); rpc.serve(served.methods); ... served.close()`
 * Shard thread:  `const store = new StoreProxy(rpc); rpc.serve(store.methods);`
 */
import { BraidError } from '../base/errors.js';
import type {
  ClusterStore,
  LeaseId,
  StoreCompare,
  StoreEntry,
  StoreEvent,
  StoreOperation,
  StoreWatch,
} from '../ports/cluster-store.js';
import type { RpcEndpoint } from './rpc.js';

/** What the main thread serves for `StoreProxy`. */
export interface StoreMethods {
  'store.get'(key: string): Promise<StoreEntry | null>;
  'store.list'(prefix: string): ReturnType<ClusterStore['list']>;
  'store.txn'(
    compares: readonly StoreCompare[],
    operations: readonly StoreOperation[],
  ): ReturnType<ClusterStore['txn']>;
  'store.watch'(watchId: number, prefix: string, afterRevision: number): void;
  'store.unwatch'(watchId: number): void;
  'store.grantLease'(ttlMs: number): Promise<LeaseId>;
  'store.keepAlive'(lease: LeaseId): Promise<boolean>;
  'store.revokeLease'(lease: LeaseId): Promise<void>;
}

/** What a shard's thread serves for `serveStore`. */
export interface StoreEventMethods {
  'store.events'(watchId: number, events: readonly StoreEvent[]): void;
}

/** Serves `store` to one other thread. `close` ends that thread's watches and leaves the store open. */
export function serveStore(
  store: ClusterStore,
  rpc: Pick<RpcEndpoint<StoreEventMethods>, 'notify'>,
): { readonly methods: StoreMethods; close(): void } {
  const watches = new Map<number, StoreWatch>();
  const methods: StoreMethods = {
    'store.get': async (key) => {
      const entry = await store.get(key);
      return entry === null ? null : compactEntry(entry);
    },
    'store.list': async (prefix) => {
      const { entries, revision } = await store.list(prefix);
      return { entries: entries.map(compactEntry), revision };
    },
    'store.txn': (compares, operations) => store.txn(compares, operations),
    'store.watch': (watchId, prefix, afterRevision) => {
      const onEvents = (events: readonly StoreEvent[]): void =>
        rpc.notify('store.events', watchId, events.map(compactEvent));
      watches.set(watchId, store.watch(prefix, afterRevision, onEvents));
    },
    'store.unwatch': (watchId) => {
      watches.get(watchId)?.close();
      watches.delete(watchId);
    },
    'store.grantLease': (ttlMs) => store.grantLease(ttlMs),
    'store.keepAlive': (lease) => store.keepAlive(lease),
    'store.revokeLease': (lease) => store.revokeLease(lease),
  };
  const close = (): void => {
    for (const watch of watches.values()) watch.close();
    watches.clear();
  };
  return { methods, close };
}

export class StoreProxy implements ClusterStore {
  /** To be served by this thread's endpoint. */
  readonly methods: StoreEventMethods;
  readonly #rpc: Pick<RpcEndpoint<StoreMethods>, 'call' | 'notify'>;
  readonly #watches = new Map<number, (events: readonly StoreEvent[]) => void>();
  #nextWatchId = 1;
  #closed = false;

  constructor(rpc: Pick<RpcEndpoint<StoreMethods>, 'call' | 'notify'>) {
    this.#rpc = rpc;
    this.methods = { 'store.events': (watchId, events) => this.#watches.get(watchId)?.(events) };
  }

  async get(key: string): Promise<StoreEntry | null> {
    this.#assertOpen();
    return this.#rpc.call('store.get', key);
  }

  async list(prefix: string): Promise<{ readonly entries: readonly StoreEntry[]; readonly revision: number }> {
    this.#assertOpen();
    return this.#rpc.call('store.list', prefix);
  }

  async txn(
    compares: readonly StoreCompare[],
    operations: readonly StoreOperation[],
  ): Promise<{ readonly committed: boolean; readonly revision: number }> {
    this.#assertOpen();
    return this.#rpc.call('store.txn', compares, operations.map(compactOperation));
  }

  watch(prefix: string, afterRevision: number, onEvents: (events: readonly StoreEvent[]) => void): StoreWatch {
    const watchId = this.#nextWatchId++;
    if (this.#closed) return { close: () => undefined };
    this.#watches.set(watchId, onEvents);
    this.#rpc.notify('store.watch', watchId, prefix, afterRevision);
    return {
      close: () => {
        if (this.#watches.delete(watchId)) this.#rpc.notify('store.unwatch', watchId);
      },
    };
  }

  async grantLease(ttlMs: number): Promise<LeaseId> {
    this.#assertOpen();
    return this.#rpc.call('store.grantLease', ttlMs);
  }

  async keepAlive(lease: LeaseId): Promise<boolean> {
    this.#assertOpen();
    return this.#rpc.call('store.keepAlive', lease);
  }

  async revokeLease(lease: LeaseId): Promise<void> {
    this.#assertOpen();
    return this.#rpc.call('store.revokeLease', lease);
  }

  /** Ends this thread's watches; the store itself belongs to the main thread. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const watchId of this.#watches.keys()) this.#rpc.notify('store.unwatch', watchId);
    this.#watches.clear();
  }

  #assertOpen(): void {
    if (this.#closed) throw new BraidError('UNAVAILABLE', 'the cluster store is closed: this shard is stopping');
  }
}

/** Structured clone copies the whole buffer below a view: a value that is part of a pool or page is cut out first. */
function compact(value: Uint8Array): Uint8Array {
  return value.byteLength === value.buffer.byteLength ? value : Uint8Array.prototype.slice.call(value);
}

function compactEntry({ key, value, revision }: StoreEntry): StoreEntry {
  return { key, value: compact(value), revision };
}

function compactEvent(event: StoreEvent): StoreEvent {
  return event.type === 'put' ? { type: 'put', entry: compactEntry(event.entry) } : event;
}

function compactOperation(operation: StoreOperation): StoreOperation {
  return operation.type === 'put' ? { ...operation, value: compact(operation.value) } : operation;
}

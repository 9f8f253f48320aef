/**
 * Metadata of one drive: an ordered map of binary keys, kept together with the drive. One user per environment.
 * Reads see every commit whose `done` was called, and may see later ones.
 */

export interface MetaOperation {
  readonly key: Uint8Array;
  /** null deletes the key. */
  readonly value: Uint8Array | null;
}

/** `get` and `scan` throw `BraidError` CORRUPT when what is stored cannot be read. */
export interface MetaStore {
  /** The value, valid until the next call; null when absent. */
  get(key: Uint8Array): Uint8Array | null;
  /** Calls `visit`, which does not use the store, for every key that starts with `prefix`, in key order. The arrays are valid only during the call. */
  scan(prefix: Uint8Array, visit: (key: Uint8Array, value: Uint8Array) => void): void;
  /**
   * Applies all operations or none. `done(null)` is called when they are durable on stable media; `done(error)` when the commit failed and
   * nothing was applied (the caller treats the drive as failed). Commits become durable in the order of the calls.
   */
  commit(operations: readonly MetaOperation[], done: (error: Error | null) => void): void;
  /** What has happened to it behind our back: its file has vanished, is another one, or was cut short; empty while nothing has. Never rejects. */
  check(): Promise<string>;
  /** Bytes that the store occupies, for metrics. */
  usedBytes(): number;
  close(): Promise<void>;
}

export interface MetaStoreOpener {
  /** Opens (creating it if asked) the environment in `directory`. Rejects with `BraidError` DRIVE when it is corrupt, locked by another process or absent. */
  open(directory: string, options: { create: boolean }): Promise<MetaStore>;
}

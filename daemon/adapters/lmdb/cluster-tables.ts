/**
 * The tables of the embedded cluster store, in one LMDB tree, told apart by the first byte of the key:
 *
 * ```
 * 'm' revision              u64          revision of the last change
 * 'm' pruned                u64          changes up to this revision are no longer in the log
 * 'k' key                   u64 revision · u8 lease length · lease · value
 * 'c' u64 revision u16 n    key          the n-th key that this revision changed
 * 'l' lease                 f64 ttl ms · f64 deadline ms (CLOCK_MONOTONIC) · boot id
 * 'x' lease '/' key         0            the keys under a lease
 * ```
 *
 * Numbers are big-endian. Reads see the transaction that is being written, when inside of one; else the newest commit as
 * of the last `refresh`.
 *
 * Invariants: every 'k' with a lease has its 'x', and the reverse; no revision in 'k' or 'c' is above 'm' revision; each
 * revision in (pruned, revision] has at least one 'c'.
 */
import { assert } from '../../base/assert.js';
import type { StoreEntry } from '../../ports/cluster-store.js';
import type { Environment } from './environment.js';

export interface StoredEntry extends StoreEntry {
  readonly lease: string;
}

export interface StoredLease {
  readonly id: string;
  readonly ttlMs: number;
  readonly deadlineMs: number;
  readonly bootId: string;
}

export interface StoredChange {
  readonly revision: number;
  readonly key: string;
}

const REVISION_BYTES = 8;
/** Ends a range of keys that start with a text: no key holds this byte. */
const AFTER_TEXT = '\x7f';
const NOTHING = Uint8Array.of(0);

const textKey = (text: string): Buffer => Buffer.from(text, 'latin1');

const numberValue = (value: number): Buffer => {
  const bytes = Buffer.alloc(REVISION_BYTES);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
};

const readNumber = (bytes: Uint8Array, offset = 0): number => Number(asBuffer(bytes).readBigUInt64BE(offset));

const asBuffer = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);

function changeKey(revision: number, index: number): Buffer {
  const bytes = Buffer.alloc(1 + REVISION_BYTES + 2);
  bytes.write('c', 'latin1');
  bytes.writeBigUInt64BE(BigInt(revision), 1);
  bytes.writeUInt16BE(index, 1 + REVISION_BYTES);
  return bytes;
}

function encodeEntry({ revision, lease, value }: StoredEntry): Uint8Array {
  return Buffer.concat([numberValue(revision), Uint8Array.of(lease.length), textKey(lease), value]);
}

function decodeEntry(key: string, bytes: Uint8Array): StoredEntry {
  const leaseEnd = REVISION_BYTES + 1 + (bytes[REVISION_BYTES] ?? 0);
  assert(bytes.length >= leaseEnd, 'an entry holds its header');
  const lease = asBuffer(bytes).toString('latin1', REVISION_BYTES + 1, leaseEnd);
  return { key, revision: readNumber(bytes), lease, value: new Uint8Array(bytes.subarray(leaseEnd)) };
}

function encodeLease({ ttlMs, deadlineMs, bootId }: StoredLease): Uint8Array {
  const bytes = Buffer.alloc(16 + bootId.length);
  bytes.writeDoubleBE(ttlMs, 0);
  bytes.writeDoubleBE(deadlineMs, 8);
  bytes.write(bootId, 16, 'latin1');
  return bytes;
}

function decodeLease(id: string, stored: Uint8Array): StoredLease {
  const bytes = asBuffer(stored);
  return { id, ttlMs: bytes.readDoubleBE(0), deadlineMs: bytes.readDoubleBE(8), bootId: bytes.toString('latin1', 16) };
}

export class ClusterTables {
  readonly #database: Environment;

  constructor(database: Environment) {
    this.#database = database;
  }

  /** Lets the following reads see what other processes have committed. */
  refresh(): void {
    this.#database.resetReadTxn();
  }

  revision(): number {
    return this.#number('mrevision');
  }

  setRevision(revision: number): void {
    this.#put(textKey('mrevision'), numberValue(revision));
  }

  pruned(): number {
    return this.#number('mpruned');
  }

  setPruned(revision: number): void {
    this.#put(textKey('mpruned'), numberValue(revision));
  }

  entry(key: string): StoredEntry | null {
    const bytes = this.#database.getBinary(textKey(`k${key}`));
    return bytes === undefined ? null : decodeEntry(key, bytes);
  }

  /** In key order. */
  entries(prefix: string): StoredEntry[] {
    const found: StoredEntry[] = [];
    for (const { key, value } of this.#range(`k${prefix}`)) found.push(decodeEntry(key.slice(1), value));
    return found;
  }

  putEntry(entry: StoredEntry): void {
    this.#put(textKey(`k${entry.key}`), encodeEntry(entry));
    if (entry.lease !== '') this.#put(textKey(`x${entry.lease}/${entry.key}`), NOTHING);
  }

  removeEntry({ key, lease }: StoredEntry): void {
    this.#remove(textKey(`k${key}`));
    if (lease !== '') this.#remove(textKey(`x${lease}/${key}`));
  }

  lease(id: string): StoredLease | null {
    const bytes = this.#database.getBinary(textKey(`l${id}`));
    return bytes === undefined ? null : decodeLease(id, bytes);
  }

  leases(): StoredLease[] {
    const found: StoredLease[] = [];
    for (const { key, value } of this.#range('l')) found.push(decodeLease(key.slice(1), value));
    return found;
  }

  putLease(lease: StoredLease): void {
    this.#put(textKey(`l${lease.id}`), encodeLease(lease));
  }

  removeLease(id: string): void {
    this.#remove(textKey(`l${id}`));
  }

  keysUnder(lease: string): string[] {
    const prefix = `x${lease}/`;
    return Array.from(this.#range(prefix), ({ key }) => key.slice(prefix.length));
  }

  addChange(revision: number, index: number, key: string): void {
    this.#put(changeKey(revision, index), textKey(key));
  }

  /** Changes with a revision in (after, upTo], oldest first. */
  changes(after: number, upTo: number): StoredChange[] {
    const found: StoredChange[] = [];
    for (const { key, value } of this.#changeRange(after, upTo)) {
      found.push({ revision: readNumber(key, 1), key: asBuffer(value).toString('latin1') });
    }
    return found;
  }

  removeChanges(after: number, upTo: number): void {
    const keys = Array.from(this.#changeRange(after, upTo), ({ key }) => key);
    for (const key of keys) this.#remove(key);
  }

  #changeRange(after: number, upTo: number): Iterable<{ key: Uint8Array; value: Uint8Array }> {
    return this.#database.getRange({ start: changeKey(after + 1, 0), end: changeKey(upTo + 1, 0) });
  }

  *#range(prefix: string): Generator<{ key: string; value: Uint8Array }> {
    const range = this.#database.getRange({ start: textKey(prefix), end: textKey(prefix + AFTER_TEXT) });
    for (const { key, value } of range) yield { key: asBuffer(key).toString('latin1'), value };
  }

  #number(name: string): number {
    const bytes = this.#database.getBinary(textKey(name));
    return bytes === undefined ? 0 : readNumber(bytes);
  }

  #put(key: Uint8Array, value: Uint8Array): void {
    this.#database.putSync(key, value);
  }

  #remove(key: Uint8Array): void {
    this.#database.removeSync(key);
  }
}

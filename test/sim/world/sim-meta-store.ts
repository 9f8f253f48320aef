/**
 * `MetaStore` in memory. The media (`SimMetaMedia`) outlives the stores opened on it; a crash loses every commit that is
 * not durable yet. Commits become durable in the order of the calls; those of one group together or, at a crash, a prefix
 * of them: none is ever half there.
 */
import { assert } from '../../../daemon/base/assert.js';
import { BraidError } from '../../../daemon/base/errors.js';
import type { Clock } from '../../../daemon/ports/clock.js';
import type { MetaOperation, MetaStore, MetaStoreOpener } from '../../../daemon/ports/meta-store.js';
import { TABLE } from '../../../daemon/format/keys.js';
import type { SimRandom } from './sim-random.js';

interface Commit {
  readonly operations: readonly MetaOperation[];
  readonly done: (error: Error | null) => void;
}

export interface SimMetaOptions {
  /** Bounds of the time from the start of a group commit until it is durable. */
  readonly commitDelayMsMin: number;
  readonly commitDelayMsMax: number;
}

const DEFAULTS: SimMetaOptions = { commitDelayMsMin: 0.1, commitDelayMsMax: 2 };

/** One character per byte: order of texts is order of bytes. */
const textOf = (bytes: Uint8Array): string => String.fromCharCode(...bytes);

const copyOf = ({ key, value }: MetaOperation): MetaOperation => ({ key: key.slice(), value: value && value.slice() });

/** Index of the first text that is not before `text`. */
function lowerBound(order: readonly string[], text: string): number {
  let [low, high] = [0, order.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((order[middle] ?? '') < text) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** What stays of a volume when its replicas are deleted (DISK.md). */
const KEPT_TABLES: readonly number[] = [TABLE.EPOCH, TABLE.VOLUME];

/** What is on the drive. */
export class SimMetaMedia {
  readonly #entries = new Map<string, { readonly key: Uint8Array; readonly value: Uint8Array }>();
  /** Keys in order; null when the map has changed since. */
  #order: string[] | null = [];
  #bytes = 0;
  /** The store that uses it now. */
  user: SimMetaStore | null = null;
  /** Why commits fail (a failed drive); null while they work. */
  failure: BraidError | null = null;
  /** Probability that a commit that fails has taken effect nevertheless: it was the last step that failed. */
  chanceFailedIsThere = 0;
  /** Commits take this many times as long. */
  slowness = 1;
  /** Why nothing can be read; null while it can. */
  damage: BraidError | null = null;

  apply(operations: readonly MetaOperation[]): void {
    for (const { key, value } of operations) {
      const text = textOf(key);
      const previous = this.#entries.get(text);
      if (previous !== undefined) this.#bytes -= previous.key.length + previous.value.length;
      if ((previous === undefined) !== (value === null)) this.#order = null;
      if (value === null) this.#entries.delete(text);
      else this.#entries.set(text, { key, value });
      if (value !== null) this.#bytes += key.length + value.length;
    }
  }

  get(key: Uint8Array): Uint8Array | null {
    return this.#entries.get(textOf(key))?.value ?? null;
  }

  scan(prefix: Uint8Array, visit: (key: Uint8Array, value: Uint8Array) => void): void {
    const text = textOf(prefix);
    this.#order ??= [...this.#entries.keys()].sort();
    const order = this.#order;
    for (let index = lowerBound(order, text); order[index]?.startsWith(text); index += 1) {
      const entry = this.#entries.get(order[index] ?? '');
      if (entry !== undefined) visit(entry.key.slice(), entry.value.slice());
    }
  }

  /** Whether anything but what stays of a deleted volume names it. */
  mentions(volume: Uint8Array): boolean {
    const text = textOf(volume);
    const isKept = (key: string): boolean => KEPT_TABLES.includes(key.charCodeAt(0));
    return [...this.#entries.keys()].some((key) => !isKept(key) && key.startsWith(text, 1));
  }

  usedBytes(): number {
    return this.#bytes;
  }
}

export class SimMetaStore implements MetaStore {
  readonly #media: SimMetaMedia;
  readonly #clock: Clock;
  readonly #random: SimRandom;
  readonly #options: SimMetaOptions;
  #waiting: Commit[] = [];
  #inFlight: Commit[] = [];
  #state: 'open' | 'closing' | 'closed' | 'crashed' = 'open';
  #onIdle: (() => void) | null = null;

  constructor(media: SimMetaMedia, clock: Clock, random: SimRandom, options: SimMetaOptions) {
    assert(media.user === null, 'a medium has one user');
    this.#media = media;
    this.#clock = clock;
    this.#random = random;
    this.#options = options;
    media.user = this;
  }

  get(key: Uint8Array): Uint8Array | null {
    this.#assertOpen();
    if (this.#media.damage !== null) throw this.#media.damage;
    return this.#media.get(key)?.slice() ?? null;
  }

  scan(prefix: Uint8Array, visit: (key: Uint8Array, value: Uint8Array) => void): void {
    this.#assertOpen();
    if (this.#media.damage !== null) throw this.#media.damage;
    this.#media.scan(prefix, visit);
  }

  commit(operations: readonly MetaOperation[], done: (error: Error | null) => void): void {
    this.#assertOpen();
    this.#waiting.push({ operations: operations.map(copyOf), done });
    if (this.#inFlight.length === 0) this.#startGroup();
  }

  check(): Promise<string> {
    return Promise.resolve('');
  }

  usedBytes(): number {
    this.#assertOpen();
    return this.#media.usedBytes();
  }

  async close(): Promise<void> {
    if (this.#state !== 'open') return;
    this.#state = 'closing';
    if (this.#inFlight.length > 0) await new Promise<void>((resolve) => (this.#onIdle = resolve));
    this.#leave('closed');
  }

  /** The node lost power: what is not durable is gone, nothing is ever called back, and the media is free for another. */
  crash(): void {
    const survivorCount = this.#inFlight.length === 0 ? 0 : this.#random.below(this.#inFlight.length + 1);
    if (this.#media.failure === null) {
      for (const { operations } of this.#inFlight.slice(0, survivorCount)) this.#media.apply(operations);
    }
    this.#waiting = [];
    this.#inFlight = [];
    this.#leave('crashed');
  }

  #leave(state: 'closed' | 'crashed'): void {
    this.#state = state;
    if (this.#media.user === this) this.#media.user = null;
  }

  #assertOpen(): void {
    assert(this.#state === 'open', 'a metadata store is used while it is open');
  }

  #startGroup(): void {
    this.#inFlight = this.#waiting;
    this.#waiting = [];
    const { commitDelayMsMin, commitDelayMsMax } = this.#options;
    const delayMs = this.#media.slowness * this.#random.between(commitDelayMsMin, commitDelayMsMax);
    this.#clock.after(delayMs, () => this.#endGroup());
  }

  #endGroup(): void {
    if (this.#state === 'crashed') return;
    const group = this.#inFlight;
    const { failure } = this.#media;
    const isThere = failure === null || this.#random.chance(this.#media.chanceFailedIsThere);
    if (isThere) for (const { operations } of group) this.#media.apply(operations);
    // From here on the group is durable; `done` may commit more, which waits for the next group.
    for (const { done } of group) {
      done(failure);
      if (this.#isCrashed()) return;
    }
    this.#inFlight = [];
    if (this.#waiting.length > 0) this.#startGroup();
    else this.#onIdle?.();
  }

  #isCrashed(): boolean {
    return this.#state === 'crashed';
  }
}

/** The drives of one node, by directory. */
export class SimMetaStoreOpener implements MetaStoreOpener {
  readonly #clock: Clock;
  readonly #random: SimRandom;
  readonly #options: SimMetaOptions;
  readonly #media = new Map<string, SimMetaMedia>();

  constructor(clock: Clock, random: SimRandom, options: SimMetaOptions = DEFAULTS) {
    this.#clock = clock;
    this.#random = random;
    this.#options = options;
  }

  /** The media in `directory`, to fail it, or to move it to another node. */
  media(directory: string): SimMetaMedia | null {
    return this.#media.get(directory) ?? null;
  }

  attach(directory: string, media: SimMetaMedia): void {
    this.#media.set(directory, media);
  }

  async open(directory: string, options: { create: boolean }): Promise<SimMetaStore> {
    let media = this.#media.get(directory);
    if (media === undefined && !options.create) throw new BraidError('DRIVE', `${directory} holds no store`);
    media ??= new SimMetaMedia();
    this.#media.set(directory, media);
    if (media.user !== null) throw new BraidError('DRIVE', `${directory} is in use`);
    return new SimMetaStore(media, this.#clock, this.#random.fork(directory), this.#options);
  }
}

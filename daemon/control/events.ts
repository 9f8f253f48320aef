/**
 * The cluster's event list: what an operator should know, newest last, bounded. Written by the controllers and, through `EventSink`, by
 * the shards. Best effort: an event is dropped when the store cannot be reached, and is in the log in any case.
 */
import type { NodeId, VolumeId } from '../base/ids.js';
import { asError } from '../base/errors.js';
import type { Clock } from '../ports/clock.js';
import type { EventSink, ReportedEvent } from '../ports/event-sink.js';
import type { Log } from '../ports/log.js';
import type { Random } from '../ports/random.js';
import { storeKeys } from '../protocol/store.js';
import type { ClusterState } from './cluster-state.js';
import { controlLimits } from './limits.js';

export interface EventView {
  readonly id: string;
  readonly timeMs: number;
  readonly severity: 'info' | 'warning' | 'error';
  readonly nodeId: NodeId;
  readonly subject: string;
  readonly message: string;
}

export interface EventsOptions {
  readonly state: ClusterState;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly nodeId: NodeId;
}

/** Milliseconds since 1970 have 13 digits until the year 2286. */
const TIME_DIGITS = 14;

export class Events implements EventSink {
  readonly #options: EventsOptions;
  readonly #queue: ReportedEvent[] = [];
  #writing: Promise<void> | null = null;
  /** Prune with the first event, so that nodes which restart often prune too. */
  #untilPrune = 1;
  #lastTimeMs = 0;

  constructor(options: EventsOptions) {
    this.#options = options;
  }

  report(event: ReportedEvent): void {
    const level = event.severity === 'warning' ? 'warn' : event.severity;
    this.#options.log[level]({ event: event.subject }, event.message);
    if (this.#queue.length >= controlLimits.eventsQueuedMax) this.#queue.shift();
    this.#queue.push(event);
    this.#writing ??= this.#writeAll();
  }

  /** Resolves when everything reported so far is in the store, or dropped. */
  async flush(): Promise<void> {
    await this.#writing;
  }

  /** Without `after` the newest `limit` events, with it the oldest `limit` after it. Oldest first. */
  async list(after: string | undefined, limit: number): Promise<EventView[]> {
    const all = await this.#options.state.events();
    if (after === undefined) return all.slice(-limit);
    return all.filter(({ id }) => id > after).slice(0, limit);
  }

  async #writeAll(): Promise<void> {
    // The first turn of the microtask queue: events that are reported together are written in one go.
    await Promise.resolve();
    for (let event = this.#queue.shift(); event !== undefined; event = this.#queue.shift()) {
      try {
        await this.#write(event);
      } catch (error) {
        this.#options.log.warn({ event: event.subject, err: asError(error) }, 'event not stored');
      }
    }
    this.#writing = null;
  }

  async #write(event: ReportedEvent): Promise<void> {
    const { state, clock, random, nodeId } = this.#options;
    // Ids of one node grow even when its wall clock is set back.
    this.#lastTimeMs = Math.max(this.#lastTimeMs + 1, Math.floor(clock.wallMs()));
    const timeMs = this.#lastTimeMs;
    const id = `${String(timeMs).padStart(TIME_DIGITS, '0')}-${random.uint32().toString(16).padStart(8, '0')}`;
    const subject = await this.#named(event.subject);
    const message = event.message.slice(0, controlLimits.eventMessageCharsMax);
    await state.putEvent({ id, timeMs, severity: event.severity, nodeId, subject, message });
    this.#untilPrune -= 1;
    if (this.#untilPrune <= 0) await this.#prune();
  }

  /** `volume/<id>` as `volume/<name>`: the record may be gone when the event is read. */
  async #named(subject: string): Promise<string> {
    const [kind, id] = subject.split('/', 2);
    if (id === undefined) return subject;
    if (kind === 'volume') {
      const volume = await this.#options.state.volume(id as VolumeId);
      return volume === null ? subject : `volume/${volume.value.name}`;
    }
    if (kind === 'node') {
      const node = await this.#options.state.node(id as NodeId);
      return node === null ? subject : `node/${node.value.name}`;
    }
    return subject;
  }

  async #prune(): Promise<void> {
    const { state } = this.#options;
    this.#untilPrune = controlLimits.eventsPerPrune;
    const all = await state.events();
    const surplus = all.slice(0, Math.max(0, all.length - controlLimits.eventsKept));
    await state.deleteKeys(surplus.map(({ id }) => `${storeKeys.events}${id}`));
  }
}

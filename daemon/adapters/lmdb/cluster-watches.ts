/**
 * The watches of one store handle: each is at a revision, and is brought to the newest one whenever somebody has reason
 * to believe that there is one (`advance`). Normally the change log says what happened in between; a watch that fell
 * behind the log lists its prefix again and tells the difference from the keys that it knew.
 *
 * A watch that *starts* behind the log cannot learn of keys that were deleted before it knew them: `changesKept`
 * revisions lie between a `list` and the `watch` that follows it before that can happen.
 */
import type { StoreEvent, StoreWatch } from '../../ports/cluster-store.js';
import type { ClusterTables, StoredChange, StoredEntry } from './cluster-tables.js';

interface Watch {
  readonly prefix: string;
  readonly onEvents: (events: readonly StoreEvent[]) => void;
  /** Everything up to this revision has been reported. */
  after: number;
  /** The keys below the prefix as of `after`. */
  readonly known: Set<string>;
}

function putEvent({ key, value, revision }: StoredEntry): StoreEvent {
  return { type: 'put', entry: { key, value, revision } };
}

const revisionOf = (event: StoreEvent): number => (event.type === 'put' ? event.entry.revision : event.revision);

/** Each key's last change, in the order of these. */
function latestByKey(changes: readonly StoredChange[]): Map<string, number> {
  const latest = new Map<string, number>();
  for (const { key, revision } of changes) {
    latest.delete(key);
    latest.set(key, revision);
  }
  return latest;
}

export class ClusterWatches {
  readonly #tables: ClusterTables;
  readonly #watches = new Set<Watch>();

  constructor(tables: ClusterTables) {
    this.#tables = tables;
  }

  /** The caller calls `advance` soon. */
  add(prefix: string, after: number, onEvents: Watch['onEvents']): StoreWatch {
    const entries = this.#tables.entries(prefix).filter(({ revision }) => revision <= after);
    const watch: Watch = { prefix, onEvents, after, known: new Set(entries.map(({ key }) => key)) };
    this.#watches.add(watch);
    return { close: () => void this.#watches.delete(watch) };
  }

  closeAll(): void {
    this.#watches.clear();
  }

  /** Reports what is new. */
  advance(): void {
    this.#tables.refresh();
    const revision = this.#tables.revision();
    const behind = [...this.#watches].filter((watch) => watch.after < revision);
    if (behind.length === 0) return;
    const pruned = this.#tables.pruned();
    const from = behind.reduce((lowest, { after }) => Math.min(lowest, after), revision);
    const latest = latestByKey(this.#tables.changes(from, revision));
    // All reads come before the first callback: they are of one moment.
    const reports = behind.map((watch) => {
      const events = watch.after < pruned ? this.#difference(watch, revision) : this.#logged(watch, latest);
      return { watch, events };
    });
    for (const { watch, events } of reports) {
      watch.after = revision;
      for (const event of events) {
        if (event.type === 'put') watch.known.add(event.entry.key);
        else watch.known.delete(event.key);
      }
      if (events.length > 0 && this.#watches.has(watch)) watch.onEvents(events);
    }
  }

  #logged(watch: Watch, latest: ReadonlyMap<string, number>): StoreEvent[] {
    const events: StoreEvent[] = [];
    for (const [key, revision] of latest) {
      if (revision <= watch.after || !key.startsWith(watch.prefix)) continue;
      const entry = this.#tables.entry(key);
      events.push(entry === null ? { type: 'delete', key, revision } : putEvent(entry));
    }
    return events;
  }

  #difference(watch: Watch, revision: number): StoreEvent[] {
    const entries = this.#tables.entries(watch.prefix);
    const present = new Set(entries.map(({ key }) => key));
    const puts = entries.filter((entry) => entry.revision > watch.after).map(putEvent);
    puts.sort((left, right) => revisionOf(left) - revisionOf(right));
    const gone = [...watch.known].filter((key) => !present.has(key));
    return [...puts, ...gone.map((key): StoreEvent => ({ type: 'delete', key, revision }))];
  }
}

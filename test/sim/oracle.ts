/**
 * What a correct block device may return: a set of possible values per 512-byte sector, kept from what the client sent and heard.
 *
 * A write gets a number, and every sector it writes starts with that number; zeroing writes 0. Per sector:
 * - `current`: writes one of which is the last that took effect. An acknowledged write replaces all that were acknowledged before it started.
 * - `pending`: writes that were sent and not acknowledged; each may take effect at any time, once.
 * A read must return a current or pending value (or, if the sector changed meanwhile, one of those in between); what it returned
 * is from then on the only current value: reads never go backwards. When a new owner serves, pending writes of the old one are decided:
 * they become candidates of `current`, so none can take effect later unnoticed. A write that failed is decided at once.
 *
 * Power: `recent` is what may be found when every copy has lost power. A write becomes durable with its own acknowledgement (FUA), or by a
 * FLUSH that was sent after it was known to have taken effect (acknowledged, or read). What ended before a durable write started is gone for good.
 */
import { SECTOR_BYTES } from '../../daemon/base/units.js';

interface WriteRecord {
  readonly value: number;
  readonly startedAt: number;
  endedAt: number;
}

/** A write in one sector, and what is known of it there: lost power may have taken a part of it. */
interface Recent {
  readonly record: WriteRecord;
  /** When it was known to have taken effect. */
  sureAt: number;
  isDurable: boolean;
}

interface Sector {
  current: WriteRecord[];
  pending: WriteRecord[];
  recent: Recent[];
  /** Everything that became possible since the given change. */
  history: { readonly version: number; readonly record: WriteRecord }[];
  version: number;
}

/** What the client saw contradicts what a block device may do. */
export class OracleViolation extends Error {
  override readonly name = 'OracleViolation';
}

export interface OracleOptions {
  /** Keep what the client saw of each sector, for the report of a violation; `nowMs` tells the time there. */
  readonly nowMs: (() => number) | null;
}

export interface PendingRead {
  readonly firstSector: number;
  readonly allowed: Set<number>[];
  readonly versions: number[];
}

const NEVER = Number.POSITIVE_INFINITY;
/** The value of a sector whose ends differ. */
export const TORN = -1;
const ALL = -1;
const INITIAL: WriteRecord = { value: 0, startedAt: -1, endedAt: -1 };

export class Oracle {
  readonly #sectors = new Map<number, Sector>();
  readonly #options: OracleOptions;
  /** What the client saw, by sector; what concerns all is at -1. */
  readonly #seen = new Map<number, string[]>();
  readonly #writes = new Map<number, { record: WriteRecord; first: number; count: number }>();
  /** Logical time: one tick per event. */
  #now = 0;
  /** History is kept for as long as some read may need it. */
  #readsInFlight = 0;

  constructor(options: OracleOptions = { nowMs: null }) {
    this.#options = options;
  }

  #note(sector: number, what: string): void {
    const { nowMs } = this.#options;
    if (nowMs === null) return;
    const seen = this.#seen.get(sector) ?? [];
    seen.push(`${nowMs().toFixed(3).padStart(12)} ms  ${what}`);
    this.#seen.set(sector, seen);
  }

  #sector(index: number): Sector {
    let sector = this.#sectors.get(index);
    if (sector === undefined) {
      const recent = [{ record: INITIAL, sureAt: INITIAL.endedAt, isDurable: true }];
      sector = { current: [INITIAL], pending: [], recent, history: [], version: 0 };
      this.#sectors.set(index, sector);
    }
    return sector;
  }

  /** `id` names the write; `value` is what its sectors read back as. */
  writeStarted(id: number, value: number, offsetBytes: number, lengthBytes: number): void {
    const record = { value, startedAt: this.#now++, endedAt: NEVER };
    const first = offsetBytes / SECTOR_BYTES;
    const count = lengthBytes / SECTOR_BYTES;
    this.#writes.set(id, { record, first, count });
    for (let index = first; index < first + count; index++) {
      const sector = this.#sector(index);
      if (this.#readsInFlight === 0) sector.history.length = 0;
      this.#note(index, `${nameOf(record, id)} is sent`);
      sector.pending.push(record);
      sector.recent.push({ record, sureAt: NEVER, isDurable: false });
      sector.version++;
      sector.history.push({ version: sector.version, record });
    }
  }

  /** `isDurable`: it was sent with FUA. */
  writeAcknowledged(id: number, isDurable: boolean): void {
    const write = this.#writes.get(id);
    if (write === undefined) return;
    this.#writes.delete(id);
    const { record, first, count } = write;
    record.endedAt = this.#now++;
    for (let index = first; index < first + count; index++) {
      const sector = this.#sector(index);
      this.#note(index, `${nameOf(record, id)} is acknowledged${isDurable ? ', durable' : ''}`);
      sector.pending = sector.pending.filter((other) => other !== record);
      sector.current = [
        record,
        ...sector.current.filter((other) => other !== record && other.endedAt > record.startedAt),
      ];
      sector.version++;
      const recent = sector.recent.find((other) => other.record === record);
      if (recent !== undefined) {
        recent.sureAt = record.endedAt;
        recent.isDurable = isDurable;
      }
      if (isDurable) forgetOverwritten(sector);
    }
  }

  /** It ended with an error: it happened or it did not, and will not happen later. */
  writeFailed(id: number): void {
    this.#decide(id);
    this.#now++;
  }

  /** A new owner serves: whatever was pending under the old one is decided. */
  settle(): void {
    for (const id of [...this.#writes.keys()]) this.#decide(id);
    this.#now++;
  }

  #decide(id: number): void {
    const write = this.#writes.get(id);
    if (write === undefined) return;
    this.#writes.delete(id);
    const { record, first, count } = write;
    record.endedAt = this.#now;
    for (let index = first; index < first + count; index++) {
      const sector = this.#sector(index);
      this.#note(index, `${nameOf(record, id)} is decided: it happened, or never will`);
      sector.pending = sector.pending.filter((other) => other !== record);
      if (!sector.current.includes(record)) sector.current.push(record);
      sector.version++;
    }
  }

  /** What to say when it is acknowledged. */
  flushStarted(): number {
    return this.#now++;
  }

  flushAcknowledged(startedAt: number): void {
    this.#note(ALL, 'a FLUSH is acknowledged');
    for (const sector of this.#sectors.values()) {
      for (const recent of sector.recent) if (recent.sureAt < startedAt) recent.isDurable = true;
      forgetOverwritten(sector);
    }
  }

  /** Every copy may have lost what was not flushed: none of it is sure until it is read again. */
  powerLost(): void {
    this.#note(ALL, 'power is lost: what was not flushed may be gone');
    for (const sector of this.#sectors.values()) {
      for (const recent of sector.recent) if (!recent.isDurable) recent.sureAt = NEVER;
      sector.current = sector.recent.map(({ record }) => record).filter((record) => !sector.pending.includes(record));
      sector.version++;
    }
  }

  readStarted(offsetBytes: number, lengthBytes: number): PendingRead {
    this.#readsInFlight++;
    const firstSector = offsetBytes / SECTOR_BYTES;
    const allowed: Set<number>[] = [];
    const versions: number[] = [];
    for (let index = 0; index < lengthBytes / SECTOR_BYTES; index++) {
      const sector = this.#sector(firstSector + index);
      allowed.push(new Set([...sector.current, ...sector.pending].map((record) => record.value)));
      versions.push(sector.version);
    }
    return { firstSector, allowed, versions };
  }

  /** Throws `OracleViolation` if `values` (one per sector) cannot be. */
  readEnded(read: PendingRead, values: readonly number[]): void {
    this.#readsInFlight--;
    values.forEach((value, index) => {
      const number = read.firstSector + index;
      const sector = this.#sector(number);
      const since = read.versions[index] ?? 0;
      const started = sector.history.filter((entry) => entry.version > since).map((entry) => entry.record.value);
      const allowed = read.allowed[index] ?? new Set();
      this.#note(number, `is read as ${value}`);
      if (!allowed.has(value) && !started.includes(value)) this.#violated(number, value, [...allowed, ...started]);
      if (sector.version === since) this.#observe(sector, value);
    });
  }

  /** Whether the client ever wrote to one of the sectors, or read it. */
  knows(first: number, count: number): boolean {
    for (let index = first; index < first + count; index++) if (this.#sectors.has(index)) return true;
    return false;
  }

  /** What lies on a copy when nothing is under way any more; throws `OracleViolation` as a read would. */
  assertPossible(number: number, value: number): void {
    const sector = this.#sectors.get(number);
    if (sector === undefined) {
      if (value !== 0) this.#violated(number, value, [0]);
      return;
    }
    const allowed = [...sector.current, ...sector.pending].map((record) => record.value);
    if (!allowed.includes(value)) this.#violated(number, value, allowed);
  }

  #violated(number: number, value: number, allowed: readonly number[]): never {
    const sector = this.#sector(number);
    const found = value === TORN ? 'torn' : `write ${value}`;
    const message = `sector ${number} is ${found}, but may only be one of: ${[...new Set(allowed)].join(', ')}`;
    if (this.#options.nowMs === null) throw new OracleViolation(message);
    const seen = [...(this.#seen.get(number) ?? []), ...(this.#seen.get(ALL) ?? [])].sort();
    const records = (list: readonly WriteRecord[]): string =>
      list.length === 0 ? 'none' : list.map(describe).join(', ');
    const recent = sector.recent.map((one) => `${describe(one.record)}${one.isDurable ? ' durable' : ''}`).join(', ');
    const model = [
      `took effect last, one of: ${records(sector.current)}`,
      `sent and not decided: ${records(sector.pending)}`,
      `may be found when every copy lost power: ${recent}`,
    ];
    const saw = `what the client saw of sector ${number}:\n${seen.join('\n')}`;
    throw new OracleViolation(
      `${message}\n${saw}\nwhat the model allows (logical time in brackets):\n${model.join('\n')}`,
    );
  }

  /** The read ended without data. */
  readFailed(): void {
    this.#readsInFlight--;
  }

  #observe(sector: Sector, value: number): void {
    const seen = sector.current.filter((record) => record.value === value);
    sector.current = seen.length > 0 ? seen : sector.pending.filter((record) => record.value === value);
    sector.version++;
    const readAt = this.#now++;
    if (sector.current.length > 1) return; // several writes of zeros: it is not known which
    for (const recent of sector.recent)
      if (recent.record === sector.current[0]) recent.sureAt = Math.min(recent.sureAt, readAt);
  }
}

function nameOf({ value }: WriteRecord, id: number): string {
  return value === 0 ? `write ${id} of zeros` : `write ${id}`;
}

function describe({ value, startedAt, endedAt }: WriteRecord): string {
  return `${value} [${startedAt}, ${endedAt === NEVER ? '' : endedAt}]`;
}

/** What ended before a durable write started cannot come back. */
function forgetOverwritten(sector: Sector): void {
  const durable = sector.recent.filter(({ isDurable }) => isDurable);
  const lastStartedAt = Math.max(...durable.map(({ record }) => record.startedAt));
  sector.recent = sector.recent.filter(({ record }) => record.endedAt >= lastStartedAt);
}

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

export class OracleViolation extends Error {
  override readonly name = 'OracleViolation';
}

export interface PendingRead {
  readonly firstSector: number;
  readonly allowed: Set<number>[];
  readonly versions: number[];
}

const NEVER = Number.POSITIVE_INFINITY;
const INITIAL: WriteRecord = { value: 0, startedAt: -1, endedAt: -1 };

export class Oracle {
  readonly #sectors = new Map<number, Sector>();
  readonly #writes = new Map<number, { record: WriteRecord; first: number; count: number }>();
  /** Logical time: one tick per event. */
  #now = 0;
  /** History is kept for as long as some read may need it. */
  #readsInFlight = 0;

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
    for (const sector of this.#sectors.values()) {
      for (const recent of sector.recent) if (recent.sureAt < startedAt) recent.isDurable = true;
      forgetOverwritten(sector);
    }
  }

  /** Every copy may have lost what was not flushed: none of it is sure until it is read again. */
  powerLost(): void {
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
      if (!allowed.has(value) && !started.includes(value)) {
        const possible = [...allowed, ...started].join(', ');
        throw new OracleViolation(`sector ${number} read as write ${value}, but may only be one of: ${possible}`);
      }
      if (sector.version === since) this.#observe(sector, value);
    });
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

/** What ended before a durable write started cannot come back. */
function forgetOverwritten(sector: Sector): void {
  const durable = sector.recent.filter(({ isDurable }) => isDurable);
  const lastStartedAt = Math.max(...durable.map(({ record }) => record.startedAt));
  sector.recent = sector.recent.filter(({ record }) => record.endedAt >= lastStartedAt);
}

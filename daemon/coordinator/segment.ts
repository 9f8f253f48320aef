/**
 * A segment's in-sync set as its owner sees it: the record in the cluster store plus what is connected.
 *
 * Invariants
 * - The masks are what `refresh` computes from the replicas; call it after every change.
 * - Volume and sessions count what the masks say (`SegmentCounts`, `Session`), so that neither a tick nor a FLUSH walks all segments.
 * - readable is a subset of in-sync, in-sync of targets: reads come from in-sync copies only, writes go to in-sync and syncing ones.
 * - `generation` and the in-sync set change only after the cluster store has committed the change (invariant 5).
 */
import { assert } from '../base/assert.js';
import type { DriveId } from '../base/ids.js';
import { limits } from '../base/limits.js';
import { segmentNumber } from '../protocol/frame.js';
import type { ReplicaRecord } from '../protocol/records.js';
import type { Peer } from './peers.js';

export type ReplicaState = 'in-sync' | 'syncing' | 'stale';

/** One volume's session with one peer. */
export interface Session {
  readonly peer: Peer;
  /** Position among the volume's sessions. */
  readonly index: number;
  /** Handle given by the peer; 0 while there is none. */
  handle: number;
  /** Data may be sent: the session is open under our epoch. */
  open: boolean;
  /** Incarnation of the peer under which its replicas became in sync; empty before the first open. */
  incarnation: string;
  /** Writes acknowledged on it, and how many of them its last flush covered; starts with one, for what earlier owners left unflushed. */
  writesAcked: number;
  writesFlushed: number;
  /** Its targets (in-sync and syncing replicas), and those of them that are not open on it: their drive failed, or their agent was restarted. */
  targetCopies: number;
  shutCopies: number;
}

/** Segments of a volume that are not as they should be. */
export class SegmentCounts {
  readonly #minInSync: number;
  /** With a replica that is not in sync; and such replicas. */
  degraded = 0;
  degradedReplicas = 0;
  /** With an in-sync replica that is not connected. */
  incomplete = 0;
  /** Writes wait, or nothing can be read. */
  suspended = 0;

  constructor(minInSync: number) {
    this.#minInSync = minInSync;
  }

  assertConsistent(segments: readonly Segment[], sessions: readonly Session[]): void {
    const isIncomplete = ({ replicas }: Segment) => replicas.some(({ state, ready }) => state === 'in-sync' && !ready);
    const isDegraded = ({ replicas }: Segment) => replicas.some(({ state }) => state !== 'in-sync');
    assert(this.incomplete === segments.filter(isIncomplete).length, 'unreachable in-sync copies are counted');
    assert(this.degraded === segments.filter(isDegraded).length, 'copies that are not in sync are counted');
    const targets = segments.flatMap(({ replicas }) => replicas).filter(({ state }) => state !== 'stale');
    for (const session of sessions) {
      const copies = targets.filter((replica) => replica.session === session);
      assert(session.targetCopies === copies.length, 'a session counts its targets');
      assert(session.shutCopies === copies.filter(({ opened }) => !opened).length, 'and those that are not open');
    }
  }

  /** Counts the segment as its masks are now, or takes back that it was counted. */
  count(segment: Segment, change: 1 | -1): void {
    this.degradedReplicas += change * (segment.replicas.length - segment.inSyncCount);
    if (!segment.whole) this.degraded += change;
    if (segment.readableMask !== segment.inSyncMask) this.incomplete += change;
    if (segment.inSyncCount < this.#minInSync || segment.readableMask === 0) this.suspended += change;
    for (const { session, bit } of segment.replicas) {
      if ((segment.targetMask & bit) !== 0) session.targetCopies += change;
      if ((segment.shutMask & bit) !== 0) session.shutCopies += change;
    }
  }
}

export class Replica {
  readonly driveId: DriveId;
  readonly session: Session;
  /** Bit position in the masks, 0..targetsPerSegmentMax-1; another replica may get it when this one has left the segment. */
  readonly slot: number;
  /** What frames call it on its session; never used again for another replica under this owner. */
  readonly number: number;
  /** The drive whose copy it takes over when it is in sync; null: none. */
  replaces: DriveId | null;
  state: ReplicaState;
  /** While not in sync: the generation up to which it was (0: never). */
  syncedGeneration: number;
  /** While not in sync: since when; 0: not known. */
  staleSinceMs: number;
  /** The segment is open on the session. */
  opened = false;
  /** Regions in its own activity log when it was opened last. */
  hotRegions: readonly number[] = [];
  /** It may lack acknowledged writes that were not flushed when its node lost power; cleared when its regions are reconciled. */
  uncertain = false;
  /** So its activity log said when it was opened last; it goes on saying so until the owner renews it, or its regions cool. */
  logIsUncertain = false;
  /** This owner's reconcile or resync has made it equal to the others, and the same process has had it since. */
  isEqualized = false;
  /** The commit that makes it in-sync is under way: it may count already, so what it misses is not acknowledged. */
  joining = false;
  /** Its node lost power while it was in sync: it is not used before it was dropped and made equal. */
  suspect = false;
  readsInFlight = 0;
  /** How often it has answered with an error. */
  failures = 0;

  constructor(
    { driveId, session, slot, number }: Pick<Replica, 'driveId' | 'session' | 'slot' | 'number'>,
    { inSync, syncedGeneration, replaces, staleSinceMs }: Omit<ReplicaRecord, 'driveId'>,
  ) {
    assert(slot < limits.targetsPerSegmentMax, 'a segment has a bounded number of targets');
    this.driveId = driveId;
    this.session = session;
    this.slot = slot;
    this.number = number;
    this.state = inSync ? 'in-sync' : 'stale';
    this.syncedGeneration = syncedGeneration;
    this.replaces = replaces === '' ? null : (replaces as DriveId);
    this.staleSinceMs = staleSinceMs;
  }

  get bit(): number {
    return 1 << this.slot;
  }

  get ready(): boolean {
    return this.opened && this.session.open;
  }
}

export class Segment {
  readonly index: number;
  generation: number;
  /** Revision of the record in the cluster store. */
  revision: number;
  replicas: readonly Replica[];
  readonly #bySlot = new Array<Replica | null>(limits.targetsPerSegmentMax).fill(null);
  #copies: number;
  readonly #counts: SegmentCounts;
  inSyncMask = 0;
  targetMask = 0;
  readableMask = 0;
  /** Targets that are not open on their session. */
  shutMask = 0;
  inSyncCount = 0;
  /** Every replica is in sync: trims need no tombstones. */
  whole = false;

  constructor(
    index: number,
    generation: number,
    revision: number,
    replicas: readonly Replica[],
    counts: SegmentCounts,
  ) {
    this.index = index;
    this.generation = generation;
    this.revision = revision;
    this.replicas = replicas;
    this.#counts = counts;
    this.#copies = replicas.length;
    this.#fillSlots();
    this.#derive();
    counts.count(this, 1);
  }

  refresh(): void {
    this.#counts.count(this, -1);
    this.#derive();
    this.#counts.count(this, 1);
  }

  /** A copy has come or gone, and the change is committed. */
  setReplicas(replicas: readonly Replica[]): void {
    this.#counts.count(this, -1);
    this.replicas = replicas;
    this.#fillSlots();
    this.#derive();
    this.#counts.count(this, 1);
  }

  #fillSlots(): void {
    this.#bySlot.fill(null);
    for (const replica of this.replicas) {
      assert(this.#bySlot[replica.slot] === null, 'replicas of a segment have slots of their own');
      this.#bySlot[replica.slot] = replica;
    }
  }

  /** A copy that is to replace the one on drive `replaces`: never in sync, and not in the segment yet. */
  newcomer(driveId: DriveId, session: Session, replaces: DriveId, nowMs: number): Replica {
    const slot = this.#bySlot.indexOf(null);
    assert(slot >= 0, 'one copy of a segment is replaced at a time');
    // Unlike the numbers of all that ever were on the session: answers to requests for an earlier copy may be on their way.
    const number = segmentNumber(this.index, this.#copies++);
    const record = { inSync: false, syncedGeneration: 0, replaces, staleSinceMs: nowMs };
    return new Replica({ driveId, session, slot, number }, record);
  }

  /** Bits of all replicas that it has. */
  get slotsMask(): number {
    return this.replicas.reduce((mask, { bit }) => mask | bit, 0);
  }

  #derive(): void {
    let inSync = 0;
    let shut = 0;
    let targets = 0;
    let readable = 0;
    let count = 0;
    for (const replica of this.replicas) {
      if (replica.state === 'in-sync') {
        inSync |= replica.bit;
        count++;
        if (replica.ready) readable |= replica.bit;
      }
      if (replica.state === 'stale') continue;
      targets |= replica.bit;
      if (!replica.opened) shut |= replica.bit;
    }
    this.inSyncMask = inSync;
    this.targetMask = targets;
    this.readableMask = readable;
    this.shutMask = shut;
    this.inSyncCount = count;
    this.whole = count === this.replicas.length;
  }

  /** Whether a connected in-sync replica other than those in `excludedMask` is known to have everything. */
  hasCertain(excludedMask: number): boolean {
    return this.replicas.some(
      (replica) => (this.readableMask & ~excludedMask & replica.bit) !== 0 && !replica.uncertain,
    );
  }

  /** Whether no copy that is not connected could have more than those that are: one surely has everything, or all in-sync ones are there. */
  get hasBest(): boolean {
    return this.hasCertain(0) || (this.readableMask !== 0 && this.readableMask === this.inSyncMask);
  }

  /** Null when the replica that had the slot has left the segment. */
  replicaAt(slot: number): Replica | null {
    return this.#bySlot[slot] ?? null;
  }

  /** The in-sync, connected replica to read from: the local one, else the least loaded; null if there is none outside `excludedMask`. */
  readSource(excludedMask: number, isLocal: (replica: Replica) => boolean): Replica | null {
    let best: Replica | null = null;
    const candidates = this.readableMask & ~excludedMask;
    if (candidates === 0) return null;
    for (const replica of this.replicas) {
      if ((candidates & replica.bit) === 0) continue;
      if (isLocal(replica)) return replica;
      if (best === null || replica.readsInFlight < best.readsInFlight) best = replica;
    }
    return best;
  }
}

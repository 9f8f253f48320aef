/**
 * The in-sync sets of an owned volume: opens sessions with the peers that hold its replicas, notices which replicas are lost, and changes
 * the sets by compare-and-swap in the cluster store.
 *
 * Invariants
 * - 5: the in-memory state of a segment follows the committed record, never the other way round. Until a drop is committed
 *   the replica's answers stay pending in `VolumeIo`, so nothing that it missed is acknowledged.
 * - 12: a replica is dropped only while another in-sync one is connected that surely has everything; the last such copy is waited for.
 * - A change is committed only together with our ownership: every transaction compares the Owner record's revision.
 * - Changes are made one at a time (`#serial`).
 */
import { BraidError, asError } from '../base/errors.js';
import { limits } from '../base/limits.js';
import { REGION_BYTES } from '../base/units.js';
import { sleep } from '../ports/clock.js';
import type { StoreCompare, StoreOperation } from '../ports/cluster-store.js';
import { OPCODE, segmentIndexOf, STATUS, statusName } from '../protocol/frame.js';
import { braid } from '../protocol/generated/messages.js';
import { readRecord } from '../ports/stored-records.js';
import { records, type DriveRecord } from '../protocol/records.js';
import { storeKeys } from '../protocol/store.js';
import { readOpened } from './answers.js';
import { Serial } from './context.js';
import { sessionFor } from './load-segments.js';
import type { MembershipOptions } from './membership-options.js';
import type { DownCause, Peer } from './peers.js';
import { applyChanges, changedRecord, copiesOn, leaving, recordOf, type Change, type Copy } from './segment-changes.js';
import type { Replica, Segment, Session } from './segment.js';

/** What a segment takes in an OPEN, its drive and layout included, and in the answer, where a region that is hot takes two more. */
const OPEN_BYTES_PER_SEGMENT = 384;
/** The volume's record and the rest: the labels are most of it, 32 with 130 bytes each at most. */
const OPEN_BYTES_REST = 8_192;
const OPENED_BYTES_PER_SEGMENT = 16;
/** OPENs of a session that are out at once: the peer takes them in turn, and need not wait for the next. */
const OPENS_AT_ONCE = 4;
/** Store transactions hold at most 64 compares; one is the owner's. */
const SEGMENTS_PER_TXN = 60;
const STORE_RETRY_MS = 100;

interface SessionLife {
  /** Since when it is not open; null while it is. */
  downSinceMs: number | null;
  /** Nobody answers there: no use in waiting for the grace to end. */
  dead: boolean;
  /** Guards against an opening that was overtaken by a newer one. */
  attempt: number;
  opening: boolean;
}

export class Membership {
  readonly #options: MembershipOptions;
  readonly #serial = new Serial();
  readonly #lives = new Map<Session, SessionLife>();
  readonly #segmentsPerOpen: number;
  #closed = false;
  /** Until the volume serves, lost replicas are judged once, together (`dropUnreachable`). */
  #serving = false;

  constructor(options: MembershipOptions) {
    this.#options = options;
    const answerBytes = OPENED_BYTES_PER_SEGMENT + (2 * options.volume.segmentBytes) / REGION_BYTES;
    const bytesMax = limits.controlPayloadBytesMax - OPEN_BYTES_REST;
    this.#segmentsPerOpen = Math.floor(bytesMax / Math.max(OPEN_BYTES_PER_SEGMENT, answerBytes));
    for (const session of options.sessions) this.#beginLife(session);
  }

  #beginLife(session: Session): SessionLife {
    const downSinceMs = this.#options.context.clock.nowMs();
    const life = { downSinceMs, dead: false, attempt: 0, opening: false };
    this.#lives.set(session, life);
    return life;
  }

  connect(): void {
    for (const session of this.#options.sessions) session.peer.subscribe(this);
  }

  startServing(): void {
    this.#serving = true;
  }

  // ---- sessions

  onPeerReady(peer: Peer): void {
    const session = this.#sessionOf(peer);
    if (session !== undefined && !this.#closed) void this.#openSession(session);
  }

  onPeerDown(peer: Peer, cause: DownCause): void {
    const session = this.#sessionOf(peer);
    if (session === undefined || this.#closed) return;
    const life = this.#life(session);
    life.attempt++;
    life.opening = false;
    if (cause !== 'lost') life.dead = true;
    if (session.open || life.downSinceMs === null) {
      life.downSinceMs = this.#options.context.clock.nowMs();
      this.#closeLocally(session);
    }
    if (this.#serving) void this.dropOverdue();
  }

  #closeLocally(session: Session): void {
    const { events } = this.#options;
    session.open = false;
    session.handle = 0;
    const changed: Segment[] = [];
    this.#forReplicas(session, (segment, replica) => {
      replica.opened = false;
      if (replica.state === 'syncing' && !replica.joining) {
        replica.state = 'stale';
        changed.push(segment);
      }
      segment.refresh();
    });
    events.sessionDown(session);
    for (const segment of changed) events.segmentChanged(segment);
  }

  /** Opens (or extends) the session with everything the peer holds of the volume. */
  async #openSession(session: Session): Promise<void> {
    const { context, events, volume } = this.#options;
    const life = this.#life(session);
    const attempt = ++life.attempt;
    life.opening = true;
    try {
      const all = copiesOn(session, this.#options.segments);
      if (all.length === 0) return;
      const opened = new Map<number, braid.IOpenedSegment>();
      let handle = 0;
      let from = 0;
      const openNext = async (): Promise<void> => {
        while (from < all.length) {
          const first = from;
          from += this.#segmentsPerOpen;
          const reply = await this.#open(session, all.slice(first, from));
          if (life.attempt !== attempt || this.#closed) return;
          events.progressed();
          handle = reply.session;
          for (const segment of reply.segments) opened.set(segment.index ?? 0, segment);
        }
      };
      await Promise.all(Array.from({ length: OPENS_AT_ONCE }, openNext));
      if (life.attempt !== attempt || this.#closed) return;
      this.#sessionOpened(session, handle, opened);
    } catch (error) {
      if (life.attempt !== attempt || this.#closed) return;
      if (error instanceof BraidError && error.code === 'FENCED') events.fenced(error.message);
      else
        context.log.warn(
          { volume: volume.name, peer: session.peer.name, error: asError(error).message },
          'cannot open a session',
        );
    } finally {
      if (life.attempt === attempt) life.opening = false;
    }
  }

  async #open(session: Session, copies: readonly Copy[]): Promise<braid.OpenReply> {
    const { volumeId, epoch, volume } = this.#options;
    const request = {
      volumeId,
      epoch,
      volume: records.volume.encode(volume),
      segments: copies.map(({ segment, replica }) => ({
        index: segment.index,
        copy: Math.floor(replica.number / limits.segmentsPerVolumeMax),
        driveId: replica.driveId,
        generation: segment.generation,
        sizeBytes: volume.segmentBytes,
        layout: records.segment.encode(recordOf(segment)),
        certain: isCertain(replica),
      })),
    };
    const reply = await session.peer.call(OPCODE.OPEN, 0, 0, braid.OpenRequest.encode(request).finish());
    if (reply.status === STATUS.FENCED)
      throw new BraidError('FENCED', `${session.peer.name} knows a higher epoch of the volume`);
    if (reply.status !== STATUS.OK)
      throw new BraidError('UNAVAILABLE', `${session.peer.name} answered ${statusName(reply.status)} to OPEN`);
    return readOpened(reply.payload, volume.segmentBytes / REGION_BYTES);
  }

  #sessionOpened(session: Session, handle: number, opened: ReadonlyMap<number, braid.IOpenedSegment>): void {
    const { events } = this.#options;
    const restarted = session.incarnation !== '' && session.incarnation !== session.peer.incarnation;
    const lost: Change[] = [];
    session.handle = handle;
    session.incarnation = session.peer.incarnation;
    session.peer.sinks.set(handle, {
      epoch: this.#options.epoch,
      onReply: (frame, buffer) => {
        events.onReply(session, frame, buffer);
      },
      onPressure: () => {
        events.onPressure();
      },
      onDamaged: (number, offsetBytes) => {
        const segment = this.#options.segments[segmentIndexOf(number)];
        const replica = segment?.replicas.find((one) => one.session === session && one.number === number);
        if (segment !== undefined && replica !== undefined) events.onDamaged(segment, replica, offsetBytes);
      },
    });
    const touched = new Set<Segment>();
    this.#forReplicas(session, (segment, replica) => {
      const state = opened.get(replica.number);
      replica.opened = state?.status === STATUS.OK;
      replica.hotRegions = state?.hotRegions ?? [];
      replica.logIsUncertain = state?.uncertain === true;
      replica.isEqualized &&= !restarted;
      if (!this.#serving) replica.uncertain = state?.uncertain === true;
      touched.add(segment);
      // A new incarnation may have lost writes that were acknowledged and not flushed, unless no other copy can tell.
      const counts = replica.state === 'in-sync' || replica.joining;
      if (restarted && counts && state?.uncertain === true) replica.suspect = true;
      if (replica.suspect) replica.opened = false;
      if (replica.state === 'in-sync' && !replica.opened) lost.push({ kind: 'drop', segment, replica });
      if (restarted && replica.state === 'in-sync' && replica.opened) events.onForgotten(segment, replica.hotRegions);
    });
    session.open = true;
    const life = this.#life(session);
    life.downSinceMs = null;
    life.dead = false;
    for (const segment of touched) segment.refresh();
    events.sessionReady(session);
    events.progressed();
    if (this.#serving) for (const segment of touched) this.vouch(segment);
    if (lost.length > 0 && this.#serving)
      void this.#drop(lost, restarted ? 'its agent was restarted' : 'its drive cannot be opened');
  }

  /** Opens replicas that their session lacks: dropped ones whose drive or agent may be well again. */
  async reopen(session: Session, segments: readonly Segment[]): Promise<void> {
    const life = this.#life(session);
    const attempt = life.attempt;
    const reply = await this.#open(session, copiesOn(session, segments).slice(0, this.#segmentsPerOpen));
    if (life.attempt !== attempt || !session.open)
      throw new BraidError('UNAVAILABLE', `${session.peer.name} went away`);
    for (const state of reply.segments) {
      const number = state.index ?? 0;
      const segment = this.#options.segments[segmentIndexOf(number)];
      const replica = segment?.replicas.find((one) => one.session === session && one.number === number);
      if (segment === undefined || replica === undefined) continue;
      replica.opened = state.status === STATUS.OK && !replica.suspect;
      replica.hotRegions = state.hotRegions ?? [];
      replica.logIsUncertain = state.uncertain === true;
      segment.refresh();
    }
  }

  /**
   * Has the activity logs of the copies that are known to have everything say so. After the next failure they are all that a new owner has to
   * go by: a copy that still seems uncertain would be no better than one that has lost something since.
   */
  vouch(segment: Segment): void {
    const { context, volume } = this.#options;
    for (const replica of segment.replicas) {
      if (!replica.logIsUncertain || !isCertain(replica)) continue;
      const { session } = replica;
      this.reopen(session, [segment]).catch((error: unknown) => {
        // It went away, and is asked again when it is back.
        const details = { volume: volume.name, peer: session.peer.name, error: asError(error).message };
        context.log.warn(details, 'cannot renew the activity log of a copy');
      });
    }
  }

  // ---- losing replicas

  /** A replica answered with an error: it leaves the set, and its session is drained and opened anew (invariant 6). */
  replicaFailed(replica: Replica, reason: string): void {
    if (!replica.opened || this.#closed) return;
    replica.opened = false;
    replica.failures++;
    const segment = this.#options.segments.find((candidate) => candidate.replicas.includes(replica));
    if (segment === undefined) return;
    segment.refresh();
    void this.#removeFailed(segment, replica, reason);
  }

  async #removeFailed(segment: Segment, replica: Replica, reason: string): Promise<void> {
    const { events, context, volume } = this.#options;
    await Promise.resolve(); // the caller is inside a reply: its operation must be whole again first
    context.log.warn({ volume: volume.name, segment: segment.index, drive: replica.driveId, reason }, 'replica failed');
    if (replica.state === 'syncing' && !replica.joining) {
      replica.state = 'stale';
      segment.refresh();
      events.segmentChanged(segment);
    } else await this.#drop([{ kind: 'drop', segment, replica }], reason);
    await this.#resetSession(replica.session);
  }

  async #resetSession(session: Session): Promise<void> {
    if (!session.open || this.#closed) return;
    const life = this.#life(session);
    const { handle } = session;
    life.downSinceMs = this.#options.context.clock.nowMs();
    const closed = session.peer.call(OPCODE.CLOSE, handle, 0);
    session.peer.sinks.delete(handle);
    this.#closeLocally(session);
    try {
      await closed;
    } catch {
      return; // the peer went down: it comes back through onPeerReady
    }
    if (!session.open && session.peer.ready) await this.#openSession(session);
  }

  /** Drops in-sync replicas whose peer has been gone for longer than the grace, or surely. */
  async dropOverdue(): Promise<void> {
    if (this.#options.counts.incomplete === 0) return;
    const now = this.#options.context.clock.nowMs();
    const changes: Change[] = [];
    for (const segment of this.#options.segments) {
      for (const replica of segment.replicas) {
        const life = this.#life(replica.session);
        const overdue = life.downSinceMs !== null && (life.dead || now - life.downSinceMs >= limits.reconnectGraceMs);
        // Open, but without this replica: its agent was restarted or its drive failed when no other copy was there to replace it.
        const shut = replica.session.open && !replica.opened;
        if (replica.state === 'in-sync' && (overdue || shut)) changes.push({ kind: 'drop', segment, replica });
      }
    }
    if (changes.length > 0) await this.#drop(changes, 'it does not answer');
  }

  /** Every tick: sessions that could not be opened, or lack an in-sync copy that could not be dropped, are tried again. */
  async reviveSessions(): Promise<void> {
    for (const segment of this.#options.counts.incomplete === 0 ? [] : this.#options.segments) {
      const inSync = segment.replicas.filter(({ state }) => state === 'in-sync');
      if (inSync.length > 0 && inSync.every(({ suspect }) => suspect))
        this.#options.events.fenced('every in-sync copy of a segment lost power: the volume has to be opened anew');
    }
    for (const session of this.#options.sessions) {
      if (this.#closed || !session.peer.ready) continue;
      if (!session.open) {
        if (!this.#life(session).opening) await this.#openSession(session);
        continue;
      }
      if (session.shutCopies === 0) continue;
      const isShut = this.#options.segments.some(({ replicas }) =>
        replicas.some((one) => one.session === session && one.state === 'in-sync' && !one.opened && !one.suspect),
      );
      if (isShut) await this.#resetSession(session);
    }
  }

  /** On opening: whatever could not be opened leaves the sets, as far as another copy is there. */
  async dropUnreachable(): Promise<void> {
    const changes: Change[] = [];
    for (const segment of this.#options.segments) {
      for (const replica of segment.replicas) {
        if (replica.state === 'in-sync' && !replica.ready) changes.push({ kind: 'drop', segment, replica });
      }
    }
    if (changes.length > 0) await this.#drop(changes, 'it could not be reached when the volume was opened');
  }

  #drop(changes: readonly Change[], reason: string): Promise<void> {
    return this.#serial.run(async () => {
      const { context, volume } = this.#options;
      await this.#hearSurvivors(changes);
      const valid = changes.filter(({ segment, replica }) => this.#mayDrop(segment, replica));
      if (valid.length === 0) return;
      await this.#commit(valid);
      const drives = [...new Set(valid.map(({ replica }) => replica.driveId))].join(', ');
      const message = `${valid.length} segment(s) lost the copy on drive ${drives}: ${reason}; it catches up by itself when it is back`;
      context.report('warning', `volume/${volume.name}`, message);
    });
  }

  /**
   * Waits until every peer that would hold the copies that are left has answered, or is known to be gone: a node that lost power
   * a moment ago looks connected until the heartbeat ends, and must not be what the others are dropped for.
   */
  async #hearSurvivors(changes: readonly Change[]): Promise<void> {
    const survivors = new Set<Peer>();
    for (const { segment } of changes) {
      for (const replica of segment.replicas) {
        if (replica.state === 'in-sync' && replica.ready) survivors.add(replica.session.peer);
      }
    }
    for (const { kind, replica } of changes) if (kind === 'join') survivors.add(replica.session.peer);
    await Promise.allSettled([...survivors].map((peer) => peer.call(OPCODE.PING, 0, 0)));
  }

  #mayDrop(segment: Segment, replica: Replica): boolean {
    if (replica.state !== 'in-sync' || replica.ready || this.#closed) return false;
    return segment.hasCertain(replica.bit);
  }

  /**
   * Makes a syncing replica in-sync; the caller has made it equal and durable. Resolves to false when it was lost meanwhile. The copy that it
   * replaces leaves the segment in the same transaction: what counts at any moment is the one or the other.
   */
  join(segment: Segment, replica: Replica): Promise<boolean> {
    const mayJoin = (): boolean => replica.state === 'syncing' && replica.ready && !this.#closed;
    return this.#serial.run(async () => {
      const changes: Change[] = [{ kind: 'join', segment, replica }];
      if (mayJoin() && replica.replaces !== null) await this.#hearSurvivors(changes);
      if (!mayJoin()) return false;
      replica.joining = true; // until the outcome is known; for ever if this owner ends before
      await this.#commit(changes);
      return replica.state === 'in-sync';
    });
  }

  // ---- copies that come and go

  /** The session with the peer that serves the drive: a new one when it holds nothing of the volume yet. */
  sessionOf(drive: DriveRecord): Session {
    const { context, sessions } = this.#options;
    const session = sessionFor(context, sessions, drive);
    if (!this.#lives.has(session)) {
      this.#beginLife(session);
      session.peer.subscribe(this);
    }
    return session;
  }

  /** Adds the copies, stale and empty, that `make` makes when nothing else is being changed. */
  add(make: () => Promise<readonly Copy[]>): Promise<void> {
    return this.#serial.run(async () => {
      const copies = await make();
      await this.#commit(copies.map((copy) => ({ kind: 'add', ...copy })));
      if (this.#closed) throw new BraidError('FENCED', 'the volume is not owned here any more');
      for (const session of new Set(copies.map(({ replica }) => replica.session)))
        if (!session.open && session.peer.ready) void this.#openSession(session);
    });
  }

  /** Takes copies that have not replaced another yet out of their segments; those that have by then stay. Resolves to their number. */
  giveUp(copies: readonly Copy[]): Promise<number> {
    return this.#serial.run(async () => {
      const left = copies.filter(
        ({ segment, replica }) =>
          replica.replaces !== null && replica.state !== 'in-sync' && segment.replicas.includes(replica),
      );
      await this.#commit(left.map((copy) => ({ kind: 'remove', ...copy })));
      return left.length;
    });
  }

  /** Frees the space of a copy that has left its segment, and takes it out of the session; its node goes on if this does not come to an end. */
  async #deleteLeft({ segment, replica }: Copy): Promise<void> {
    const { session, driveId } = replica;
    const { volumeId, epoch } = this.#options;
    const request = { volumeId, epoch, segments: [{ index: segment.index, driveId }] };
    if (!session.open) return;
    await session.peer
      .call(OPCODE.DELETE, session.handle, 0, braid.DeleteRequest.encode(request).finish())
      .catch(() => undefined); // its session has ended with the connection
  }

  // ---- compare-and-swap

  async #commit(changes: readonly Change[]): Promise<void> {
    const bySegment = new Map<Segment, Change[]>();
    for (const change of changes) bySegment.set(change.segment, [...(bySegment.get(change.segment) ?? []), change]);
    const groups = [...bySegment.entries()];
    for (let from = 0; from < groups.length; from += SEGMENTS_PER_TXN) {
      await this.#commitGroup(groups.slice(from, from + SEGMENTS_PER_TXN));
    }
  }

  async #commitGroup(groups: readonly [Segment, Change[]][]): Promise<void> {
    const { context, volumeId, volume, ownerRevision, events } = this.#options;
    const compares: StoreCompare[] = [{ key: storeKeys.owner(volumeId), revision: ownerRevision }];
    const operations: StoreOperation[] = [];
    const nowMs = Math.floor(context.clock.wallMs());
    for (const [segment, changes] of groups) {
      const key = storeKeys.segment(volumeId, segment.index);
      compares.push({ key, revision: segment.revision });
      operations.push({ type: 'put', key, value: records.segment.encode(changedRecord(segment, changes, nowMs)) });
      for (const { driveId } of leaving(segment, changes)) {
        const left = storeKeys.left(driveId, volumeId, segment.index);
        operations.push({ type: 'put', key: left, value: records.name.encode(volume.name) });
      }
    }
    for (;;) {
      if (this.#closed) return;
      const revision = await this.#tryCommit(compares, operations, groups);
      if (revision === null) {
        await sleep(context.clock, STORE_RETRY_MS);
        continue;
      }
      for (const [segment, changes] of groups) {
        const left = applyChanges(segment, changes, { revision, nowMs });
        for (const replica of left) void this.#deleteLeft({ segment, replica });
      }
      for (const [segment] of groups) events.segmentChanged(segment);
      this.#keepLayouts(groups.map(([segment]) => segment));
      return;
    }
  }

  /** The revision under which the change is committed, or null when that is unknown or did not happen and is to be tried again. */
  async #tryCommit(
    compares: readonly StoreCompare[],
    operations: readonly StoreOperation[],
    groups: readonly [Segment, Change[]][],
  ): Promise<number | null> {
    const { context, volumeId, ownerRevision, epoch, events } = this.#options;
    try {
      const result = await context.store.txn(compares, operations);
      if (result.committed) return result.revision;
      const owner = await context.store.get(storeKeys.owner(volumeId));
      const [segment] = groups[0] ?? [];
      if (segment === undefined) return null;
      const current = await readRecord(context.store, storeKeys.segment(volumeId, segment.index), records.segment);
      // Refused because an earlier try took effect whose answer was lost?
      const ours = owner?.revision === ownerRevision && current?.value.generation === segment.generation + 1;
      if (ours) return current.revision;
      this.#closed = true;
      events.fenced(
        owner?.revision === ownerRevision
          ? 'a segment record was changed by someone else'
          : `epoch ${epoch} is over: the volume has a new owner`,
      );
      return null;
    } catch (error) {
      context.log.warn({ error: asError(error).message }, 'the cluster store does not answer; trying again');
      return null;
    }
  }

  /**
   * Has every copy that is open keep the layouts as they are now: the cluster can be rebuilt from its drives. Nobody waits for it. A drive
   * that has not heard of the change yet does not hide it: what was written since is stamped above the generation of its layout.
   */
  #keepLayouts(segments: readonly Segment[]): void {
    const { context, sessions, volume } = this.#options;
    for (const session of sessions) {
      const open = copiesOn(session, segments).filter(({ replica }) => replica.ready);
      for (let from = 0; from < open.length; from += this.#segmentsPerOpen) {
        this.#open(session, open.slice(from, from + this.#segmentsPerOpen)).catch((error: unknown) => {
          // It went away, and is told when it is back.
          const details = { volume: volume.name, peer: session.peer.name, error: asError(error).message };
          context.log.warn(details, 'a layout could not be kept');
        });
      }
    }
  }

  // ---- end

  /** Ends the sessions; `clean` lets the replicas know. */
  async close(clean: boolean): Promise<void> {
    this.#closed = true;
    if (clean) {
      const open = this.#options.sessions.filter((session) => session.open);
      await Promise.allSettled(open.map((session) => session.peer.call(OPCODE.CLOSE, session.handle, 0)));
    }
    for (const session of this.#options.sessions) {
      session.peer.sinks.delete(session.handle);
      session.open = false;
      session.peer.unsubscribe(this);
    }
    for (const segment of this.#options.segments) segment.refresh();
  }

  #life(session: Session): SessionLife {
    const life = this.#lives.get(session);
    if (life === undefined) throw new BraidError('INTERNAL', 'a session of another volume');
    return life;
  }

  #sessionOf(peer: Peer): Session | undefined {
    return this.#options.sessions.find((session) => session.peer === peer);
  }

  #forReplicas(session: Session, visit: (segment: Segment, replica: Replica) => void): void {
    for (const segment of this.#options.segments) {
      for (const replica of segment.replicas) if (replica.session === session) visit(segment, replica);
    }
  }
}

/** It has everything, and its node has not lost power since: its session is with the very process that was known to have it. */
function isCertain({ state, isEqualized, suspect, session }: Replica): boolean {
  const isSameProcess = session.open && session.peer.ready && session.incarnation === session.peer.incarnation;
  return state === 'in-sync' && isEqualized && !suspect && isSameProcess;
}

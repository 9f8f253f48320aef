/**
 * Sessions: under which epoch, from which connection, which replicas of a volume may be written now.
 *
 * Invariants (assertConsistent):
 * - a volume has at most one current session, and no session of it is current while an older one has requests being served
 *   (invariant 6), nor under an epoch below the highest seen (invariant 2);
 * - a session that has ended never becomes current again, and its handle is never used again in this process.
 */
import { assert } from '../base/assert.js';
import type { VolumeId } from '../base/ids.js';
import { uuidToBytes } from '../format/keys.js';
import type { ConnectionId } from '../ports/network.js';
import type { ReplicaDrive } from './drive.js';
import type { OperationOwner } from './operations.js';
import type { Replica } from './replica.js';

/** One accepted connection. */
export class Peer {
  readonly connection: ConnectionId;
  /** HELLO has been exchanged. */
  isGreeted = false;
  isClosed = false;
  nodeId = '';
  /** The server's tick at the last frame. */
  heardTick: number;
  /** Requests being served, and those of them that are control requests. */
  operations = 0;
  controls = 0;
  /** Its socket is not read for now: backpressure. */
  isPaused = false;

  constructor(connection: ConnectionId, tick: number) {
    this.connection = connection;
    this.heardTick = tick;
  }
}

/** A segment in a session. */
export class OpenSegment {
  readonly drive: ReplicaDrive;
  readonly replica: Replica;
  /** The highest generation seen in this session: older ones are not written any more. */
  generation: number;

  constructor(drive: ReplicaDrive, replica: Replica, generation: number) {
    this.drive = drive;
    this.replica = replica;
    this.generation = generation;
  }
}

export class Session implements OperationOwner {
  readonly handle: number;
  readonly volume: VolumeState;
  readonly epoch: number;
  readonly peer: Peer;
  readonly segments = new Map<number, OpenSegment>();
  /** What `segments` lives on. */
  drives: ReplicaDrive[] = [];
  readonly #segmentsOf = new Map<ReplicaDrive, number>();
  /** Requests being served. */
  operations = 0;
  isCurrent = true;
  #onDrained: (() => void)[] = [];

  constructor(handle: number, volume: VolumeState, epoch: number, peer: Peer) {
    this.handle = handle;
    this.volume = volume;
    this.epoch = epoch;
    this.peer = peer;
  }

  setSegment(index: number, segment: OpenSegment | null): void {
    const before = this.segments.get(index);
    if (before !== undefined) this.#count(before.drive, -1);
    if (segment === null) this.segments.delete(index);
    else {
      this.segments.set(index, segment);
      this.#count(segment.drive, 1);
    }
  }

  /** Segments come by the thousand, drives do not: the list of drives changes only with the first and last segment of one. */
  #count(drive: ReplicaDrive, change: 1 | -1): void {
    const count = (this.#segmentsOf.get(drive) ?? 0) + change;
    if (count === 0) this.#segmentsOf.delete(drive);
    else this.#segmentsOf.set(drive, count);
    if (this.drives.length !== this.#segmentsOf.size) this.drives = [...this.#segmentsOf.keys()];
  }

  /** One of its requests has ended. */
  operationEnded(): void {
    this.operations--;
    assert(this.operations >= 0, 'a request ends once');
    if (this.operations > 0) return;
    const waiting = this.#onDrained;
    this.#onDrained = [];
    for (const resolve of waiting) resolve();
  }

  drained(): Promise<void> {
    if (this.operations === 0) return Promise.resolve();
    return new Promise((resolve) => this.#onDrained.push(resolve));
  }
}

/** One attempt to open, from its arrival to its reply. */
export interface Opening {
  readonly peer: Peer;
  readonly epoch: number;
}

export class VolumeState {
  readonly id: VolumeId;
  readonly bytes: Uint8Array;
  /** Highest seen, persisted or not: lower ones are refused from the moment that a higher one has arrived. */
  epoch = 0;
  session: Session | null = null;
  /** Sessions that have ended but have requests being served. */
  readonly ending = new Set<Session>();
  /** The opening that arrived last. */
  opening: Opening | null = null;
  /** Openings and deletions take turns. */
  #turn: Promise<void> = Promise.resolve();
  /** Slow paths that use this. */
  users = 0;

  constructor(id: VolumeId) {
    this.id = id;
    this.bytes = uuidToBytes(id);
  }

  /** Runs `work` when all work given before has ended. */
  inTurn(work: () => Promise<void>): Promise<void> {
    this.users++;
    const run = async () => {
      await work();
      this.users--;
    };
    this.#turn = this.#turn.then(run);
    return this.#turn;
  }

  get isIdle(): boolean {
    return this.users === 0 && this.session === null && this.ending.size === 0;
  }
}

export class SessionRegistry {
  readonly #volumes = new Map<VolumeId, VolumeState>();
  readonly #sessions = new Map<number, Session>();
  #lastHandle = 0;

  get(handle: number): Session | undefined {
    return this.#sessions.get(handle);
  }

  sessions(): Iterable<Session> {
    return this.#sessions.values();
  }

  volume(id: VolumeId): VolumeState {
    const volume = this.#volumes.get(id) ?? new VolumeState(id);
    this.#volumes.set(id, volume);
    return volume;
  }

  /** Makes a session current. Every older one of the volume has ended, with all of its requests. */
  start(volume: VolumeState, epoch: number, peer: Peer): Session {
    assert(
      volume.session === null && volume.ending.size === 0,
      'a session starts after the older ones have drained (invariant 6)',
    );
    assert(epoch === volume.epoch, 'a session has the highest epoch seen (invariant 2)');
    this.#lastHandle++;
    assert(this.#lastHandle < 2 ** 32, 'session handles are not used again');
    const session = new Session(this.#lastHandle, volume, epoch, peer);
    volume.session = session;
    this.#sessions.set(session.handle, session);
    return session;
  }

  /** From now on the session's requests are refused; it is gone when those being served have ended. */
  end(session: Session): void {
    if (!session.isCurrent) return;
    const { volume } = session;
    session.isCurrent = false;
    this.#sessions.delete(session.handle);
    volume.session = null;
    volume.ending.add(session);
    void session.drained().then(() => {
      volume.ending.delete(session);
      this.forgetIfIdle(volume);
    });
  }

  forgetIfIdle(volume: VolumeState): void {
    if (volume.isIdle && this.#volumes.get(volume.id) === volume) this.#volumes.delete(volume.id);
  }

  /** Waits until no request of an older session is being served. */
  async drain(volume: VolumeState): Promise<void> {
    while (volume.ending.size > 0) {
      await Promise.all([...volume.ending].map((session) => session.drained()));
      for (const session of volume.ending) if (session.operations === 0) volume.ending.delete(session);
    }
  }

  assertConsistent(): void {
    for (const [handle, session] of this.#sessions) {
      assert(session.handle === handle && session.isCurrent, 'a session that can be named is current');
      assert(session.volume.session === session, 'a volume has one current session');
      assert(this.#volumes.get(session.volume.id) === session.volume, 'a volume with a session is known');
      assert(session.epoch === session.volume.epoch, 'a current session has the highest epoch seen (invariant 2)');
      for (const old of session.volume.ending)
        assert(old.operations === 0, 'no older session has requests being served');
    }
  }
}

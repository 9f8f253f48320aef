/**
 * The replica server of one shard: takes frames from coordinators, remote and local alike, and serves them from this shard's drives.
 * Here the requests are checked, admitted and answered; the drives do the rest. Control requests: control.ts.
 *
 * Invariants (assertConsistent):
 * - every admitted request is answered exactly once (unless its connection is gone), and every buffer reference given back exactly once;
 * - a data request is admitted only in the current session of its volume, under that session's epoch, from its own connection (invariant 2);
 * - the requests counted by peers and sessions are those in the operation table.
 */
import { assert, must } from '../base/assert.js';
import type { DriveId } from '../base/ids.js';
import { limits } from '../base/limits.js';
import { BLOCKS_PER_EXTENT, EXTENT_BYTES, BLOCK_BYTES } from '../base/units.js';
import type { Clock, Timer } from '../ports/clock.js';
import type { Log } from '../ports/log.js';
import type { ConnectionId, Network } from '../ports/network.js';
import { NO_BUFFER, POOL_INTERNAL, POOL_PEER, type BufferId, type Pool, type Slab } from '../ports/slab.js';
import { FLAG, Frame, OPCODE, PROTOCOL_VERSION, STATUS, statusName, type Status } from '../protocol/frame.js';
import { ALL_KNOWN, encodeExtentSums } from '../protocol/extent-sums.js';
import { braid } from '../protocol/generated/messages.js';
import { type ControlHost, ControlRequests } from './control.js';
import type { DriveHost, ReplicaDrive } from './drive.js';
import { NO_OPERATION, OPERATION, OperationList, OperationTable } from './operations.js';
import type { Replica } from './replica.js';
import type { OpenSegment } from './sessions.js';
import { Peer, type Session, SessionRegistry } from './sessions.js';

/** Below this many free slots busy peers are not read from until there are RESUME_FREE again. */
const PAUSE_FREE = limits.replicaOperationsMax / 4;
const RESUME_FREE = PAUSE_FREE + PAUSE_FREE / 2;
const TICK_MS = limits.heartbeatIntervalMs;
const SILENT_TICKS_MAX = (2 * limits.heartbeatTimeoutMs) / TICK_MS;
const NOTHING = new Uint8Array(0);

export interface ReplicaServerOptions {
  readonly slab: Slab;
  readonly network: Network;
  readonly clock: Clock;
  readonly log: Log;
  readonly clusterId: string;
  readonly nodeId: string;
  readonly incarnation: string;
}

export class ReplicaServer implements DriveHost, ControlHost {
  readonly operations = new OperationTable(limits.replicaOperationsMax);
  readonly registry = new SessionRegistry();
  readonly #options: ReplicaServerOptions;
  readonly #slab: Slab;
  readonly #network: Network;
  readonly #log: Log;
  readonly #control: ControlRequests;
  readonly #drives = new Map<DriveId, ReplicaDrive>();
  readonly #peers = new Map<ConnectionId, Peer>();
  // By operation, beside the table's own columns.
  readonly #peerOf: (Peer | null)[];
  readonly #sessionOf: (Session | null)[];
  readonly #segmentOf: (OpenSegment | null)[];
  /** Operations that wait for a buffer, by pool. */
  readonly #reads = new OperationList(this.operations);
  readonly #checksumReads = new OperationList(this.operations);
  readonly #reply = new Frame();
  readonly #storedChecksums = new Uint32Array(BLOCKS_PER_EXTENT);
  readonly #pressed = new Set<ReplicaDrive>();
  #unanswered = 0;
  #pausedPeers = 0;
  #tick = 0;
  #timer: Timer | null = null;
  #isStopping = false;
  #onStopped: (() => void) | null = null;

  constructor(options: ReplicaServerOptions) {
    this.#options = options;
    this.#slab = options.slab;
    this.#network = options.network;
    this.#log = options.log;
    this.#control = new ControlRequests(this);
    const { capacity } = this.operations;
    this.#peerOf = new Array<Peer | null>(capacity).fill(null);
    this.#sessionOf = new Array<Session | null>(capacity).fill(null);
    this.#segmentOf = new Array<OpenSegment | null>(capacity).fill(null);
    this.#armTimer();
  }

  addDrive(drive: ReplicaDrive): void {
    assert(!this.#drives.has(drive.id) && !this.#isStopping, 'a drive is served once');
    this.#drives.set(drive.id, drive);
    drive.attach(this);
  }

  /** Resolves when nothing of the drive is in use any more and it is closed. */
  async removeDrive(id: DriveId): Promise<void> {
    const drive = this.#drives.get(id);
    if (drive === undefined) return;
    this.#drives.delete(id);
    for (const session of this.registry.sessions()) {
      for (const [index, segment] of session.segments) if (segment.drive === drive) session.setSegment(index, null);
    }
    await drive.close();
  }

  drives(): Iterable<ReplicaDrive> {
    return this.#drives.values();
  }

  drive(id: string): ReplicaDrive | undefined {
    return this.#drives.get(id as DriveId);
  }

  /** Requests being served, and sessions, for metrics. */
  load(): { readonly operations: number; readonly sessions: number } {
    return { operations: this.operations.inUse, sessions: [...this.registry.sessions()].length };
  }

  /** Closes all connections and waits until every request has ended, then closes the drives. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    this.#timer?.cancel();
    for (const peer of [...this.#peers.values()]) this.#drop(peer);
    if (this.#unanswered > 0) await new Promise<void>((resolve) => (this.#onStopped = resolve));
    await Promise.all([...this.#drives.keys()].map((id) => this.removeDrive(id)));
  }

  // ---- called by the shard's switchboard

  onAccepted(connection: ConnectionId): void {
    if (this.#isStopping || this.#peers.size >= limits.connectionsPerShardMax) return this.#network.close(connection);
    this.#peers.set(connection, new Peer(connection, this.#tick));
  }

  /** A request from a coordinator. One reference of `buffer`, if any, is now ours. */
  onFrame(connection: ConnectionId, frame: Frame, buffer: BufferId): void {
    const peer = this.#peers.get(connection);
    if (peer === undefined) return this.#giveBack(buffer);
    peer.heardTick = this.#tick;
    if (!peer.isGreeted) return this.#greet(peer, frame, buffer);
    const { opcode } = frame;
    if (opcode >= OPCODE.WRITE && opcode < OPCODE.REPLY) this.#onData(peer, frame, buffer);
    else if (opcode >= OPCODE.REPLY) this.#giveBack(buffer);
    else if (opcode === OPCODE.PING) this.#answerNow(peer, frame, buffer, STATUS.OK);
    else this.#onControl(peer, frame, buffer);
  }

  onClosed(connection: ConnectionId, reason: string): void {
    const peer = this.#peers.get(connection);
    if (peer === undefined) return;
    this.#log.debug({ connection, node: peer.nodeId, reason }, 'coordinator disconnected');
    this.#forget(peer);
  }

  onSlabAvailable(pool: Pool): void {
    if (pool === POOL_PEER) this.#resumeReads(this.#reads, pool);
    else if (pool === POOL_INTERNAL) this.#resumeReads(this.#checksumReads, pool);
  }

  // ---- DriveHost

  onDone(op: number, status: Status, isHeld: boolean): void {
    const opcode = this.operations.opcode[op];
    const isData = status === STATUS.OK && (opcode === OPCODE.READ || opcode === OPCODE.CHECKSUM);
    if (isData) this.#replyWithData(op);
    else this.#send(op, status, 0, NO_BUFFER, 0);
    this.#release(op, isHeld);
  }

  onFlushed(op: number, status: Status): void {
    const table = this.operations;
    table.pending[op] = (table.pending[op] as number) - 1;
    if (status !== STATUS.OK) table.status[op] = status;
    if (table.pending[op] !== 0) return;
    const result = table.status[op] as Status;
    if (result !== STATUS.OK)
      table.segment[op] = this.#failedSegment(must(this.#sessionOf[op], 'the session of a flush'));
    // Durable now: everything that was acknowledged in the session before the FLUSH arrived, on all of its drives.
    this.onDone(op, result, false);
  }

  onPressure(drive: ReplicaDrive): void {
    if (this.#pressed.has(drive)) return;
    this.#pressed.add(drive);
    for (const session of this.registry.sessions()) {
      if (!session.drives.includes(drive)) continue;
      this.#reply.request(OPCODE.PRESSURE, 0, session.handle, 0);
      this.#reply.epoch = session.epoch;
      this.#network.send(session.peer.connection, this.#reply, NO_BUFFER, 0, NO_BUFFER);
    }
  }

  onDamaged(replica: Replica, extent: number): void {
    for (const session of this.registry.sessions()) {
      const number = numberOf(session, replica);
      if (number === null) continue;
      this.#reply.request(OPCODE.DAMAGED, 0, session.handle, number);
      this.#reply.epoch = session.epoch;
      this.#reply.offset = extent * EXTENT_BYTES;
      this.#network.send(session.peer.connection, this.#reply, NO_BUFFER, 0, NO_BUFFER);
    }
  }

  hasSession(replica: Replica): boolean {
    for (const session of this.registry.sessions()) if (numberOf(session, replica) !== null) return true;
    return false;
  }

  onFailed(drive: ReplicaDrive, reason: string): void {
    this.#log.error({ drive: drive.id, reason }, 'requests to this drive are answered IO_ERROR from now on');
  }

  // ---- ControlHost

  endSession(session: Session): void {
    this.registry.end(session);
    this.#dropWaiting(this.#reads);
    this.#dropWaiting(this.#checksumReads);
    for (const drive of session.drives) drive.pump();
  }

  answer(op: number, status: Status, payload: Uint8Array): void {
    const peer = must(this.#peerOf[op], 'who sent a control request');
    peer.controls--;
    if (payload.length === 0) this.#send(op, status, 0, NO_BUFFER, 0);
    else this.#sendPayload(op, status, payload);
    this.#release(op, false);
  }

  assertConsistent(): void {
    this.operations.assertConsistent();
    this.registry.assertConsistent();
    for (const drive of this.#drives.values()) drive.assertConsistent();
    const byPeer = new Map<Peer, number>();
    const bySession = new Map<Session, number>();
    for (let op = 0; op < this.operations.capacity; op++) {
      const [peer, session] = [this.#peerOf[op] ?? null, this.#sessionOf[op] ?? null];
      if (peer !== null) byPeer.set(peer, (byPeer.get(peer) ?? 0) + 1);
      if (session !== null) bySession.set(session, (bySession.get(session) ?? 0) + 1);
    }
    for (const peer of this.#peers.values())
      assert(peer.operations === (byPeer.get(peer) ?? 0), 'a peer counts its requests');
    for (const session of this.registry.sessions()) {
      assert(session.operations === (bySession.get(session) ?? 0), 'a session counts its requests');
      assert(!session.peer.isClosed, 'a current session has a connection');
    }
  }

  // ---- requests

  #greet(peer: Peer, frame: Frame, buffer: BufferId): void {
    const payload = this.#takePayload(frame, buffer);
    if (frame.opcode !== OPCODE.HELLO) return this.#drop(peer);
    let hello: braid.Hello;
    try {
      hello = braid.Hello.decode(payload);
    } catch {
      return this.#drop(peer);
    }
    const { clusterId, nodeId, incarnation } = this.#options;
    const isVersionKnown = hello.versionMin <= PROTOCOL_VERSION && hello.versionMax >= PROTOCOL_VERSION;
    const status =
      hello.clusterId !== clusterId ? STATUS.WRONG_CLUSTER : isVersionKnown ? STATUS.OK : STATUS.UNSUPPORTED_VERSION;
    const versions = { versionMin: PROTOCOL_VERSION, versionMax: PROTOCOL_VERSION };
    const reply = braid.Hello.encode({ clusterId, nodeId, incarnation, ...versions }).finish();
    this.#reply.copyFrom(frame).toReply(status).payloadLength = reply.length;
    this.#network.sendControl(peer.connection, this.#reply, reply);
    if (status !== STATUS.OK) {
      this.#log.warn(
        { node: hello.nodeId, status: statusName(status) },
        'a coordinator was refused; check its cluster and version',
      );
      return this.#drop(peer);
    }
    peer.isGreeted = true;
    peer.nodeId = hello.nodeId;
  }

  #onData(peer: Peer, frame: Frame, buffer: BufferId): void {
    const session = this.registry.get(frame.session);
    if (session === undefined || session.peer !== peer || session.epoch !== frame.epoch) {
      return this.#answerNow(peer, frame, buffer, STATUS.FENCED);
    }
    if (frame.opcode === OPCODE.FLUSH) return this.#startFlush(peer, session, frame, buffer);
    const segment = session.segments.get(frame.segment);
    if (segment === undefined || !isValid(frame, segment, buffer)) {
      return this.#answerNow(peer, frame, buffer, STATUS.BAD_REQUEST);
    }
    const op = this.#admit(peer, session, segment, frame);
    if (op === NO_OPERATION) return this.#answerNow(peer, frame, buffer, STATUS.OVERLOADED);
    this.operations.buffer[op] = buffer;
    if (frame.opcode === OPCODE.READ) return this.#startRead(op, segment, this.#reads, POOL_PEER);
    if (frame.opcode === OPCODE.CHECKSUM) {
      this.operations.length[op] = EXTENT_BYTES;
      if ((frame.flags & FLAG.STORED) !== 0 && this.#answerStored(op, segment)) return;
      return this.#startRead(op, segment, this.#checksumReads, POOL_INTERNAL);
    }
    segment.generation = frame.generation;
    segment.drive.change(op);
  }

  #startFlush(peer: Peer, session: Session, frame: Frame, buffer: BufferId): void {
    if (buffer !== NO_BUFFER) return this.#answerNow(peer, frame, buffer, STATUS.BAD_REQUEST);
    const op = this.#admit(peer, session, null, frame);
    if (op === NO_OPERATION) return this.#answerNow(peer, frame, buffer, STATUS.OVERLOADED);
    // One more than there are drives, so that it cannot end before all have been asked.
    const { drives } = session;
    this.operations.pending[op] = drives.length + 1;
    for (const drive of drives) drive.flush(op);
    this.onFlushed(op, STATUS.OK);
  }

  #startRead(op: number, segment: OpenSegment, waiting: OperationList, pool: Pool): void {
    const table = this.operations;
    const extent = table.extent[op] as number;
    if (segment.replica.isBlank(extent)) {
      this.#send(op, STATUS.OK, FLAG.ZEROES, NO_BUFFER, 0);
      return this.#release(op, false);
    }
    if (table.buffer[op] === NO_BUFFER) {
      const buffer = waiting.isEmpty ? this.#slab.alloc(table.length[op] as number, pool) : NO_BUFFER;
      if (buffer === NO_BUFFER) {
        table.state[op] = OPERATION.BUFFER;
        return waiting.push(op);
      }
      table.buffer[op] = buffer;
    }
    segment.drive.read(op);
  }

  /** Answers with the checksums that are kept, if all are known. */
  #answerStored(op: number, { drive, replica }: OpenSegment): boolean {
    const extent = this.operations.extent[op] as number;
    const known = drive.isServing && !replica.isBlank(extent);
    if (!known || drive.knownChecksums(replica, extent, this.#storedChecksums) !== ALL_KNOWN) return false;
    this.#sendChecksums(op, this.#storedChecksums, 0);
    this.#release(op, false);
    return true;
  }

  /** The pool has room again: those who waited for it first come first. */
  #resumeReads(waiting: OperationList, pool: Pool): void {
    const table = this.operations;
    while (!waiting.isEmpty) {
      const buffer = this.#slab.alloc(table.length[waiting.head] as number, pool);
      if (buffer === NO_BUFFER) return;
      const op = waiting.shift();
      table.buffer[op] = buffer;
      table.state[op] = OPERATION.STARTED;
      this.#startRead(op, must(this.#segmentOf[op], 'the segment of a read'), waiting, pool);
    }
  }

  /** Ends what waits for a buffer in sessions that have ended. */
  #dropWaiting(waiting: OperationList): void {
    const considered = new OperationList(this.operations);
    considered.append(waiting);
    for (let op = considered.shift(); op !== NO_OPERATION; op = considered.shift()) {
      if (must(this.#sessionOf[op], 'the session of a read').isCurrent) waiting.push(op);
      else this.onDone(op, STATUS.FENCED, false);
    }
  }

  #onControl(peer: Peer, frame: Frame, buffer: BufferId): void {
    const named = this.registry.get(frame.session);
    const session = named !== undefined && named.peer === peer && named.epoch === frame.epoch ? named : null;
    // OPEN, DELETE and CLOSE outlive the session that they may belong to.
    const isOfSession = frame.opcode !== OPCODE.OPEN && frame.opcode !== OPCODE.DELETE && frame.opcode !== OPCODE.CLOSE;
    const op =
      peer.controls < limits.controlsPerPeerMax
        ? this.#admit(peer, isOfSession ? session : null, null, frame)
        : NO_OPERATION;
    if (op === NO_OPERATION) return this.#answerNow(peer, frame, buffer, STATUS.OVERLOADED);
    peer.controls++;
    this.operations.state[op] = OPERATION.CONTROL;
    this.#control.start(op, peer, session, this.#takePayload(frame, buffer));
  }

  /** Gives a request a slot; NO_OPERATION when there is none. */
  #admit(peer: Peer, session: Session | null, segment: OpenSegment | null, frame: Frame): number {
    const table = this.operations;
    const op = table.take();
    if (op === NO_OPERATION) return op;
    table.opcode[op] = frame.opcode;
    table.flags[op] = frame.flags;
    table.tag[op] = frame.tag;
    table.session[op] = frame.session;
    table.segment[op] = frame.segment;
    table.generation[op] = frame.generation;
    table.epoch[op] = frame.epoch;
    table.offset[op] = frame.offset;
    table.length[op] = frame.length;
    table.extent[op] = Math.floor(frame.offset / EXTENT_BYTES);
    table.owner[op] = session;
    this.#peerOf[op] = peer;
    this.#sessionOf[op] = session;
    this.#segmentOf[op] = segment;
    peer.operations++;
    this.#unanswered++;
    if (session !== null) session.operations++;
    if (segment !== null) {
      table.replica[op] = segment.replica;
      segment.replica.operations++;
    }
    if (table.free < PAUSE_FREE && peer.operations > limits.busyPeerOperations) this.#pause(peer);
    return op;
  }

  #release(op: number, isHeld: boolean): void {
    const table = this.operations;
    this.#giveBack(table.buffer[op] as BufferId);
    table.buffer[op] = NO_BUFFER;
    const peer = must(this.#peerOf[op], 'who sent a request');
    const session = this.#sessionOf[op] ?? null;
    const segment = this.#segmentOf[op] ?? null;
    this.#peerOf[op] = null;
    this.#sessionOf[op] = null;
    this.#segmentOf[op] = null;
    if (isHeld) table.state[op] = OPERATION.ABANDONED;
    else table.release(op);
    peer.operations--;
    this.#unanswered--;
    if (segment !== null) segment.replica.operations--;
    session?.operationEnded();
    if (this.#pausedPeers > 0) this.#resumePeers();
    if (this.#unanswered === 0) this.#onStopped?.();
  }

  // ---- replies

  /**
   * What is durable when OK leaves. WRITE, TRIM, ZERO: the extent's slot, its stamp of at least the request's generation or its tombstone (invariant 8), and its
   * region's entry in the activity log (invariant 7); the data itself is on the drive, perhaps in its volatile cache, and on stable media with FUA.
   */
  #send(op: number, status: Status, flags: number, buffer: BufferId, payloadLength: number): void {
    const peer = must(this.#peerOf[op], 'who sent a request');
    if (peer.isClosed) return;
    this.#fillReply(op, status, flags, payloadLength);
    this.#network.send(peer.connection, this.#reply, buffer, 0, NO_BUFFER);
  }

  #sendPayload(op: number, status: Status, payload: Uint8Array): void {
    const peer = must(this.#peerOf[op], 'who sent a request');
    if (peer.isClosed) return;
    this.#fillReply(op, status, 0, payload.length);
    this.#network.sendControl(peer.connection, this.#reply, payload);
  }

  #fillReply(op: number, status: Status, flags: number, payloadLength: number): void {
    const table = this.operations;
    const reply = this.#reply;
    reply.opcode = (table.opcode[op] as number) | OPCODE.REPLY;
    reply.flags = flags;
    reply.tag = table.tag[op] as number;
    reply.session = table.session[op] as number;
    reply.segment = table.segment[op] as number;
    reply.generation = table.generation[op] as number;
    reply.epoch = table.epoch[op] as number;
    reply.offset = table.offset[op] as number;
    reply.length = table.length[op] as number;
    reply.payloadLength = payloadLength;
    reply.status = status;
  }

  #replyWithData(op: number): void {
    const buffer = this.operations.buffer[op] as BufferId;
    if (this.operations.opcode[op] === OPCODE.READ) {
      const flags = (this.operations.flags[op] as number) & FLAG.UNVERIFIED;
      return this.#send(op, STATUS.OK, flags, buffer, this.operations.length[op] as number);
    }
    this.#sendChecksums(op, this.#slab.checksums, this.#slab.checksumIndex(buffer));
  }

  #sendChecksums(op: number, checksums: Uint32Array, from: number): void {
    const { drive, replica } = must(this.#segmentOf[op], 'the segment of a read');
    const extent = this.operations.extent[op] as number;
    const sums = checksums.slice(from, from + BLOCKS_PER_EXTENT);
    const known = drive.knownChecksums(replica, extent, this.#storedChecksums);
    this.#sendPayload(op, STATUS.OK, encodeExtentSums({ stamp: replica.stampOf(extent), known, sums }));
  }

  /** Answers a request that takes no slot: refused, or a PING. */
  #answerNow(peer: Peer, frame: Frame, buffer: BufferId, status: Status): void {
    this.#giveBack(buffer);
    this.#reply.copyFrom(frame).toReply(status);
    this.#network.send(peer.connection, this.#reply, NO_BUFFER, 0, NO_BUFFER);
  }

  /** A private copy of a control message. */
  #takePayload(frame: Frame, buffer: BufferId): Uint8Array {
    if (buffer === NO_BUFFER) return NOTHING;
    const payload = this.#slab.bytes(buffer, 0, frame.payloadLength).slice();
    this.#slab.release(buffer);
    return payload;
  }

  #giveBack(buffer: BufferId): void {
    if (buffer !== NO_BUFFER) this.#slab.release(buffer);
  }

  #failedSegment(session: Session): number {
    for (const [index, { drive }] of session.segments) if (!drive.isServing) return index;
    return 0;
  }

  // ---- connections

  #drop(peer: Peer): void {
    this.#network.close(peer.connection);
    this.#forget(peer);
  }

  #forget(peer: Peer): void {
    if (peer.isClosed) return;
    peer.isClosed = true;
    if (peer.isPaused) this.#pausedPeers--;
    this.#peers.delete(peer.connection);
    for (const session of [...this.registry.sessions()]) if (session.peer === peer) this.endSession(session);
  }

  #pause(peer: Peer): void {
    if (peer.isPaused) return;
    peer.isPaused = true;
    this.#pausedPeers++;
    this.#network.setReceiving(peer.connection, false);
  }

  #resumePeers(): void {
    if (this.operations.free < RESUME_FREE) return;
    for (const peer of this.#peers.values()) {
      if (!peer.isPaused) continue;
      peer.isPaused = false;
      peer.heardTick = this.#tick;
      this.#network.setReceiving(peer.connection, true);
    }
    this.#pausedPeers = 0;
  }

  #armTimer(): void {
    this.#timer = this.#options.clock.after(TICK_MS, () => {
      this.#armTimer();
      this.#onTick();
    });
  }

  #onTick(): void {
    this.#tick++;
    if (this.#pausedPeers > 0) this.#resumePeers();
    this.#pressed.clear();
    for (const drive of this.#drives.values()) if (drive.isServing && drive.isUnderPressure) this.onPressure(drive);
    for (const peer of [...this.#peers.values()]) {
      if (peer.isPaused || this.#tick - peer.heardTick <= SILENT_TICKS_MAX) continue;
      this.#log.warn({ node: peer.nodeId }, 'a coordinator is silent; its connection is closed');
      this.#drop(peer);
    }
  }
}

/** Whether a data request is well-formed, in range, and not older than what its segment has seen. */
function isValid(frame: Frame, segment: OpenSegment, buffer: BufferId): boolean {
  const { opcode, offset, length } = frame;
  const { replica } = segment;
  if (offset % BLOCK_BYTES !== 0 || length % BLOCK_BYTES !== 0 || length === 0) return false;
  if (offset + length > replica.sizeBytes) return false;
  const extent = Math.floor(offset / EXTENT_BYTES);
  if (offset + length > (extent + 1) * EXTENT_BYTES) return false;
  if (opcode === OPCODE.READ) return frame.payloadLength === 0;
  if (opcode === OPCODE.CHECKSUM) return buffer === NO_BUFFER && replica.isWholeExtent(offset, length);
  if (opcode === OPCODE.WRITE) {
    if (buffer === NO_BUFFER || frame.payloadLength !== length) return false;
  } else if (buffer !== NO_BUFFER || (opcode !== OPCODE.TRIM && opcode !== OPCODE.ZERO)) return false;
  return frame.generation >= 1 && frame.generation >= segment.generation && frame.generation >= replica.stampOf(extent);
}

/** What the frames of the session call the replica; null if it does not have it. */
function numberOf({ segments }: Session, replica: Replica): number | null {
  for (const [number, segment] of segments) if (segment.replica === replica) return number;
  return null;
}

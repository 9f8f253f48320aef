/**
 * The requests of one export: checks them, cuts them into pieces of at most one extent, starts as many as the volume accepts, and
 * turns the results into one reply per request.
 *
 * A request has a piece to start or it does not. Those that have one stand in a FIFO; its head starts pieces while the volume accepts
 * them, until it has no more, or `limits.nbdPiecesPerRequestMax` of its pieces are under way or held. It comes back, at the
 * tail, when one of them has ended. So a large request cannot starve others, and small ones are served as they came.
 *
 * A READ whose client does not take what it has asked for leaves the FIFO until it does (`ReadThrottle`).
 *
 * Invariants, executed by `assertConsistent`:
 * - A request is QUEUED or THROTTLED exactly when it has a piece to start (`#isStartable`), and no other request is in the FIFO.
 * - Every byte of a valid request is covered by exactly one piece, unless an error ends the request earlier.
 * - A WRITE is checked as a whole before any piece of it starts. The first error of a request is its reply; no piece starts after it.
 * - Each request of an open connection gets one final reply; `NbdConnection.requestCount` counts those that have not.
 * - A buffer is owned by a WAITING or HELD piece, or is the volume's or the transport's. Pieces of requests whose connection is over hold none.
 */
import { assert, must } from '../../base/assert.js';
import { limits } from '../../base/limits.js';
import { EXTENT_BYTES } from '../../base/units.js';
import type { BlockVolume, BlockVolumeHandler } from '../../ports/block-volume.js';
import { type Clock, elapsedUs } from '../../ports/clock.js';
import type { NbdRequest, NbdTransport } from '../../ports/nbd-transport.js';
import { NO_BUFFER, type BufferId, type Slab } from '../../ports/slab.js';
import { STATUS, type Status } from '../../protocol/frame.js';
import { blockStatusReply, describeExtents, lookupRange } from './block-status.js';
import type { NbdConnection, RequestSink } from './connection.js';
import { CMD, CMD_FLAG, ERRNO, checkRequest, errnoOfStatus, pieceCount } from './protocol.js';
import { ReadThrottle } from './read-throttle.js';
import { ReplyWriter } from './replies.js';
import { ReplyOrder } from './reply-order.js';
import { NONE, PIECE_STATE, PieceSlots, REPLY, REQUEST_STATE, RequestSlots, appendPiece, shiftPiece } from './slots.js';
import { RequestStats } from './stats.js';

export interface ConnectionCloser {
  /** Closes the connection; `ExportRequests.abandon` is called from within. */
  close(connection: NbdConnection, reason: string): void;
}

export interface ExportRequestsOptions {
  readonly volume: BlockVolume;
  readonly readOnly: boolean;
  readonly transport: NbdTransport;
  readonly slab: Slab;
  readonly frontendBytes: number;
  readonly clock: Clock;
  /** An extent of zeros; stays the caller's. */
  readonly zeroes: BufferId;
  readonly closer: ConnectionCloser;
}

export class ExportRequests implements BlockVolumeHandler, RequestSink {
  readonly stats = new RequestStats();
  readonly #volume: BlockVolume;
  readonly #readOnly: boolean;
  readonly #transport: NbdTransport;
  readonly #slab: Slab;
  readonly #clock: Clock;
  readonly #closer: ConnectionCloser;
  readonly #requests = new RequestSlots<NbdConnection>();
  readonly #pieces = new PieceSlots();
  readonly #replies: ReplyWriter;
  readonly #order: ReplyOrder;
  readonly #throttle: ReadThrottle;
  #queueHead = NONE;
  #queueTail = NONE;
  #piecesInFlight = 0;
  #isPumping = false;
  /** BLOCK_STATUS: one look-up at a time, the others wait in this list. */
  #lookupHead = NONE;
  #lookupTail = NONE;
  #isLookingUp = false;
  #isStopping = false;
  #onStopped: (() => void) | null = null;

  constructor(options: ExportRequestsOptions) {
    this.#volume = options.volume;
    this.#readOnly = options.readOnly;
    this.#transport = options.transport;
    this.#slab = options.slab;
    this.#clock = options.clock;
    this.#closer = options.closer;
    this.#replies = new ReplyWriter(options.transport, options.slab, options.zeroes, this.#requests, this.#pieces);
    this.#order = new ReplyOrder(this.#requests);
    const onTick = (): void => this.#resumeAll();
    this.#throttle = new ReadThrottle({ ...options, onTick }, this.#requests);
    options.volume.setHandler(this);
  }

  /** Takes a request, or a piece of a WRITE, off the transport. The buffer's reference is taken over. */
  accept(connection: NbdConnection, request: NbdRequest, buffer: BufferId): void {
    if (request.type === CMD.WRITE) this.#acceptWrite(connection, request, buffer);
    else this.#acceptWhole(connection, request);
    this.pump();
  }

  onDrained(connection: NbdConnection): void {
    this.#resume(connection);
    this.pump();
  }

  /** The connection is over: nothing of its requests starts any more, and what is under way ends without a reply. */
  abandon(connection: NbdConnection): void {
    assert(connection.state === 'over', 'only what is over is abandoned');
    const r = this.#requests;
    this.#order.clearGate(connection);
    this.#order.clearDeferred(connection);
    while (this.#throttle.next(connection, true) !== NONE);
    connection.arriving = NONE;
    this.#clearLookups(connection);
    for (let row = 0; row < r.capacity; row++) {
      if (r.owner[row] !== connection) continue;
      this.#drop(row);
      this.#advance(row);
    }
  }

  /**
   * Refuses whatever has not started and whatever comes, with ESHUTDOWN. Resolves when the volume has nothing of this export under way
   * ("Terminating the transmission phase").
   */
  stop(): Promise<void> {
    assert(!this.#isStopping, 'an export stops once');
    this.#isStopping = true;
    const r = this.#requests;
    this.#clearLookups(null);
    for (let row = 0; row < r.capacity; row++) {
      if (r.state[row] === REQUEST_STATE.GATED) this.#order.clearGate(must(r.owner[row], 'owner of a gated request'));
      if (r.state[row] === REQUEST_STATE.THROTTLED) {
        while (this.#throttle.next(must(r.owner[row], 'owner of a throttled request'), true) !== NONE);
      }
    }
    for (let row = 0; row < r.capacity; row++) {
      const state = r.state[row] as number;
      if (state === REQUEST_STATE.FREE || state === REQUEST_STATE.DEFERRED) continue;
      if (state === REQUEST_STATE.RUNNING && r.inFlight[row] !== 0 && this.#isAllStarted(row)) continue;
      this.#fail(row, ERRNO.ESHUTDOWN);
      this.#advance(row);
    }
    return new Promise((resolve) => {
      this.#onStopped = resolve;
      this.#checkStopped();
    });
  }

  get piecesInFlight(): number {
    return this.#piecesInFlight;
  }

  get requestsInUse(): number {
    return this.#requests.inUse;
  }

  onDone(ticket: number, status: Status, buffer: BufferId, bufferOffsetBytes: number): void {
    const r = this.#requests;
    const p = this.#pieces;
    assert(p.state[ticket] === PIECE_STATE.STARTED, 'a piece ends once, after it was started');
    const row = p.request[ticket] as number;
    const connection = must(r.owner[row], 'owner of a request in flight');
    this.#piecesInFlight--;
    r.inFlight[row] = (r.inFlight[row] as number) - 1;
    assert(buffer === NO_BUFFER || (status === STATUS.OK && r.type[row] === CMD.READ), 'only a READ brings data');
    if (r.type[row] === CMD.READ && status === STATUS.OK && r.error[row] === 0 && connection.isOpen) {
      this.#replies.readPiece(connection, row, ticket, buffer, bufferOffsetBytes);
    } else {
      if (buffer !== NO_BUFFER) this.#slab.release(buffer);
      if (status !== STATUS.OK) this.#fail(row, errnoOfStatus(status));
      if (r.type[row] === CMD.READ) connection.readBytes -= p.length[ticket] as number;
      p.free(ticket);
    }
    this.#advance(row);
    this.#resume(connection);
    this.pump();
    this.#checkStopped();
  }

  onCapacity(): void {
    this.pump();
  }

  /** The invariants at the head of this file. Walks everything: tests and debugging only. */
  assertConsistent(): void {
    const r = this.#requests;
    let inFlight = 0;
    let queued = 0;
    for (let row = 0; row < r.capacity; row++) {
      const state = r.state[row] as number;
      if (state === REQUEST_STATE.FREE) continue;
      const connection = must(r.owner[row], 'owner of a request in use');
      this.#order.assertConsistent(connection);
      const isStarting = state === REQUEST_STATE.QUEUED || state === REQUEST_STATE.RUNNING;
      assert(!isStarting || this.#isStartable(row) === (state === REQUEST_STATE.QUEUED), 'QUEUED means startable');
      assert(r.error[row] === 0 || r.pieceHead[row] === NONE, 'a failed request holds nothing');
      assert(connection.isOpen || r.pieceHead[row] === NONE, 'a request without connection holds nothing');
      assert(!isStarting || r.inFlight[row] !== 0 || !this.#isAllStarted(row), 'what is over has ended');
      if (state === REQUEST_STATE.QUEUED) queued++;
      if (r.type[row] !== CMD.BLOCK_STATUS) inFlight += r.inFlight[row] as number;
    }
    assert(inFlight === this.#piecesInFlight, 'pieces in flight are counted');
    let linked = 0;
    for (let row = this.#queueHead; row !== NONE; row = r.link[row] as number) {
      assert(r.state[row] === REQUEST_STATE.QUEUED, 'the FIFO links queued requests');
      linked++;
    }
    assert(linked === queued, 'the FIFO links all queued requests');
    this.#assertPiecesConsistent();
  }

  #assertPiecesConsistent(): void {
    const p = this.#pieces;
    const readBytes = new Map<NbdConnection, number>();
    let started = 0;
    let inUse = 0;
    for (let piece = 0; piece < p.capacity; piece++) {
      const state = p.state[piece] as number;
      if (state === PIECE_STATE.FREE) continue;
      inUse++;
      const row = p.request[piece] as number;
      assert(this.#requests.state[row] !== REQUEST_STATE.FREE, 'a piece belongs to a request');
      const connection = must(this.#requests.owner[row], 'owner of a piece');
      const length = this.#requests.type[row] === CMD.READ ? (p.length[piece] as number) : 0;
      readBytes.set(connection, (readBytes.get(connection) ?? 0) + length);
      if (state === PIECE_STATE.STARTED) started++;
      if (state === PIECE_STATE.WAITING) assert(p.buffer[piece] !== NO_BUFFER, 'a waiting piece owns its buffer');
    }
    for (const [connection, bytes] of readBytes) assert(bytes === connection.readBytes, 'bytes being read are counted');
    assert(started === this.#piecesInFlight && inUse === p.inUse, 'pieces are counted');
  }

  /** Starts pieces while there are any and the volume accepts them. The volume may end a piece within the call that starts it. */
  pump(): void {
    if (this.#isPumping) return;
    this.#isPumping = true;
    const r = this.#requests;
    while (
      this.#queueHead !== NONE &&
      this.#piecesInFlight < limits.operationsPerVolumeMax &&
      this.#volume.canAccept()
    ) {
      const row = this.#queueHead;
      const connection = must(r.owner[row], 'owner of a queued request');
      if (r.type[row] !== CMD.READ || this.#throttle.mayStart(connection, row)) {
        this.#startPiece(connection, row);
      } else {
        this.#dequeue(row);
        this.#throttle.stop(connection, row);
      }
    }
    this.#isPumping = false;
  }

  /** The READs of a connection go on that were throttled and need not be any more. */
  #resume(connection: NbdConnection): void {
    for (let row = this.#throttle.next(connection, false); row !== NONE; row = this.#throttle.next(connection, false)) {
      this.#advance(row);
    }
  }

  /** The pool may have room again for those that it has stopped. */
  #resumeAll(): void {
    const r = this.#requests;
    for (let row = 0; row < r.capacity; row++)
      if (r.state[row] === REQUEST_STATE.THROTTLED) this.#resume(must(r.owner[row], 'owner of a throttled request'));
    this.pump();
  }

  #open(connection: NbdConnection, request: NbdRequest): number {
    assert(connection.requestCount < limits.nbdRequestsPerConnectionMax, 'the transport bounds the requests');
    const r = this.#requests;
    const row = r.alloc(connection);
    connection.requestCount++;
    r.type[row] = request.type;
    r.flags[row] = request.flags;
    r.cookieHigh[row] = request.cookieHigh;
    r.cookieLow[row] = request.cookieLow;
    r.offset[row] = request.offset;
    r.startedUs[row] = this.#clock.tickUs();
    this.stats.begin(request.type);
    return row;
  }

  #check(connection: NbdConnection, request: NbdRequest): number {
    if (this.#isStopping) return ERRNO.ESHUTDOWN;
    const { structured, hasContext } = connection;
    return checkRequest(request, this.#volume.sizeBytes, this.#readOnly, structured, hasContext);
  }

  #acceptWhole(connection: NbdConnection, request: NbdRequest): void {
    const r = this.#requests;
    const row = this.#open(connection, request);
    r.length[row] = request.length;
    const error = this.#check(connection, request);
    if (error !== ERRNO.OK) {
      this.#fail(row, error);
    } else if (request.type === CMD.BLOCK_STATUS) {
      this.#queueLookup(row);
      return;
    } else {
      r.next[row] = request.offset;
      // A flush is one piece of no length; it is cut like any other.
      r.end[row] = request.type === CMD.FLUSH ? 1 : request.offset + request.length;
    }
    if (request.type === CMD.READ && error === ERRNO.OK) {
      r.reply[row] = replyKind(connection.structured, request);
      if (!this.#order.enter(connection, row)) return;
    }
    this.#advance(row);
  }

  /**
   * Pieces of one WRITE come one after the other, nothing between them. It is checked with the first, as a whole; what is refused is taken
   * off the wire all the same.
   */
  #acceptWrite(connection: NbdConnection, request: NbdRequest, buffer: BufferId): void {
    const r = this.#requests;
    assert(request.first === (connection.arriving === NONE), 'pieces of WRITEs do not mix');
    const row = request.first ? this.#open(connection, request) : connection.arriving;
    connection.arriving = request.last ? NONE : row;
    r.isArriving[row] = request.last ? 0 : 1;
    r.length[row] = (r.length[row] as number) + request.length;
    assert(r.length[row] <= request.totalLength, 'a WRITE is as long as it says');
    if (request.first) {
      const error = this.#check(connection, request);
      if (error !== ERRNO.OK) this.#fail(row, error);
    } else if (this.#isStopping) {
      this.#fail(row, ERRNO.ESHUTDOWN);
    }
    if (r.error[row] !== 0) {
      if (buffer !== NO_BUFFER) this.#slab.release(buffer);
    } else {
      assert(buffer !== NO_BUFFER, 'a WRITE has a payload');
      const piece = this.#pieces.alloc(PIECE_STATE.WAITING, row, request.offset, request.length);
      this.#pieces.buffer[piece] = buffer;
      appendPiece(r, this.#pieces, piece);
    }
    this.#advance(row);
  }

  /** Records the first error of a request. Nothing of it starts any more, and what it holds is released. */
  #fail(row: number, error: number): void {
    const r = this.#requests;
    if (r.error[row] !== 0) return;
    r.error[row] = error;
    const connection = must(r.owner[row], 'owner of a failing request');
    this.#dropPieces(row);
    // The header has promised data ("Simple replies" of NBD_CMD_READ): there is no way left to report an error but this.
    if (connection.stream === row && connection.isStreaming && connection.isOpen) {
      this.#closer.close(connection, 'a read failed in the middle of its simple reply');
    }
  }

  /** Releases what a request holds and forgets what it has not started. */
  #dropPieces(row: number): void {
    const r = this.#requests;
    const p = this.#pieces;
    r.next[row] = r.end[row] as number;
    while (r.pieceHead[row] !== NONE) {
      const piece = shiftPiece(r, p, row);
      if (p.state[piece] === PIECE_STATE.STARTED) continue;
      if (p.state[piece] === PIECE_STATE.HELD) must(r.owner[row], 'owner').readBytes -= p.length[piece] as number;
      if (p.buffer[piece] !== NO_BUFFER) this.#slab.release(p.buffer[piece] as number);
      p.free(piece);
    }
    r.held[row] = 0;
  }

  #drop(row: number): void {
    this.#requests.isArriving[row] = 0;
    this.#dropPieces(row);
  }

  #isAllStarted(row: number): boolean {
    const r = this.#requests;
    if (r.type[row] === CMD.WRITE) return r.pieceHead[row] === NONE && r.isArriving[row] === 0;
    return r.next[row] === r.end[row];
  }

  #isStartable(row: number): boolean {
    const r = this.#requests;
    if ((r.inFlight[row] as number) + (r.held[row] as number) >= limits.nbdPiecesPerRequestMax) return false;
    return r.type[row] === CMD.WRITE ? r.pieceHead[row] !== NONE : r.next[row] !== r.end[row];
  }

  /** Moves a request to where it belongs after anything about it has changed; ends it when it is over. */
  #advance(row: number): void {
    const r = this.#requests;
    const state = r.state[row] as number;
    if (state !== REQUEST_STATE.QUEUED && state !== REQUEST_STATE.RUNNING) return;
    if (this.#isStartable(row)) {
      if (state === REQUEST_STATE.RUNNING) this.#enqueue(row);
      return;
    }
    if (state === REQUEST_STATE.QUEUED) this.#dequeue(row);
    if (r.inFlight[row] === 0 && this.#isAllStarted(row)) this.#finish(row);
  }

  #enqueue(row: number): void {
    const r = this.#requests;
    r.state[row] = REQUEST_STATE.QUEUED;
    r.previous[row] = this.#queueTail;
    r.link[row] = NONE;
    if (this.#queueTail === NONE) this.#queueHead = row;
    else r.link[this.#queueTail] = row;
    this.#queueTail = row;
  }

  #dequeue(row: number): void {
    const r = this.#requests;
    const previous = r.previous[row] as number;
    const next = r.link[row] as number;
    if (previous === NONE) this.#queueHead = next;
    else r.link[previous] = next;
    if (next === NONE) this.#queueTail = previous;
    else r.previous[next] = previous;
    r.link[row] = NONE;
    r.previous[row] = NONE;
    r.state[row] = REQUEST_STATE.RUNNING;
  }

  /** Gives the next piece of a queued request to the volume. Nothing of the request is touched after the call, which may end it. */
  #startPiece(connection: NbdConnection, row: number): void {
    const r = this.#requests;
    const p = this.#pieces;
    const type = r.type[row] as number;
    const piece = type === CMD.WRITE ? shiftPiece(r, p, row) : this.#cutPiece(row, type);
    const buffer = p.buffer[piece] as number;
    p.buffer[piece] = NO_BUFFER;
    p.state[piece] = PIECE_STATE.STARTED;
    r.inFlight[row] = (r.inFlight[row] as number) + 1;
    this.#piecesInFlight++;
    const flags = r.flags[row] as number;
    const fua = (flags & CMD_FLAG.FUA) !== 0;
    const offset = p.offset[piece] as number;
    const length = p.length[piece] as number;
    if (type === CMD.READ) connection.readBytes += length;
    if (!this.#isStartable(row)) this.#dequeue(row);
    if (type === CMD.READ) this.#volume.read(piece, offset, length);
    else if (type === CMD.WRITE) this.#volume.write(piece, offset, length, buffer, fua);
    else if (type === CMD.FLUSH) this.#volume.flush(piece);
    else if (type === CMD.TRIM) this.#volume.trim(piece, offset, length, fua);
    else this.#volume.zero(piece, offset, length, fua, (flags & CMD_FLAG.NO_HOLE) === 0);
  }

  /** Cuts the next piece at the end of its extent. */
  #cutPiece(row: number, type: number): number {
    const r = this.#requests;
    const from = r.next[row] as number;
    const to = Math.min(r.end[row] as number, (Math.floor(from / EXTENT_BYTES) + 1) * EXTENT_BYTES);
    r.next[row] = to;
    const piece = this.#pieces.alloc(PIECE_STATE.STARTED, row, from, type === CMD.FLUSH ? 0 : to - from);
    if (type === CMD.READ && r.reply[row] !== REPLY.CHUNKS) appendPiece(r, this.#pieces, piece);
    return piece;
  }

  /** All pieces have ended, or never started: the request's reply, now or behind the stream that is being sent. */
  #finish(row: number): void {
    const r = this.#requests;
    const connection = must(r.owner[row], 'owner of a request that ends');
    if (!connection.isOpen) {
      this.stats.drop(r.type[row] as number);
      this.#dropPieces(row);
      this.#release(connection, row);
      return;
    }
    if (this.#order.mustDefer(connection, row)) this.#order.defer(connection, row);
    else this.#reply(connection, row);
  }

  #reply(connection: NbdConnection, row: number): void {
    const r = this.#requests;
    const latencyUs = elapsedUs(this.#clock, r.startedUs[row] as number);
    this.stats.end(r.type[row] as number, r.length[row] as number, r.error[row] as number, latencyUs);
    this.#replies.conclude(connection, row);
    this.#release(connection, row);
  }

  #release(connection: NbdConnection, row: number): void {
    const isAdmitted = this.#requests.isAdmitted[row] === 1;
    this.#requests.free(row);
    connection.requestCount--;
    if (isAdmitted) this.#order.leave(connection, row);
    if (isAdmitted && connection.isOpen) this.#openGate(connection);
    if (connection.state === 'draining' && connection.requestCount === 0) {
      this.#closer.close(connection, 'the client disconnected');
    }
  }

  #openGate(connection: NbdConnection): void {
    for (let row = this.#order.nextDeferred(connection); row !== NONE; row = this.#order.nextDeferred(connection)) {
      this.#reply(connection, row);
    }
    if (!connection.isOpen) return;
    for (let row = this.#order.next(connection); row !== NONE; row = this.#order.next(connection)) this.#advance(row);
  }

  #queueLookup(row: number): void {
    const r = this.#requests;
    r.state[row] = REQUEST_STATE.LOOKUP;
    r.link[row] = NONE;
    if (this.#lookupTail === NONE) this.#lookupHead = row;
    else r.link[this.#lookupTail] = row;
    this.#lookupTail = row;
    this.#startLookup();
  }

  /** Takes the waiting look-ups of one connection, or all, off the list. They are RUNNING then. */
  #clearLookups(connection: NbdConnection | null): void {
    const r = this.#requests;
    let row = this.#lookupHead;
    this.#lookupHead = NONE;
    this.#lookupTail = NONE;
    while (row !== NONE) {
      const next = r.link[row] as number;
      r.link[row] = NONE;
      if (connection === null || r.owner[row] === connection) r.state[row] = REQUEST_STATE.RUNNING;
      else {
        if (this.#lookupTail === NONE) this.#lookupHead = row;
        else r.link[this.#lookupTail] = row;
        this.#lookupTail = row;
      }
      row = next;
    }
  }

  #startLookup(): void {
    const row = this.#lookupHead;
    if (this.#isLookingUp || row === NONE) return;
    const r = this.#requests;
    this.#lookupHead = r.link[row] as number;
    if (this.#lookupHead === NONE) this.#lookupTail = NONE;
    r.link[row] = NONE;
    r.state[row] = REQUEST_STATE.RUNNING;
    r.inFlight[row] = 1;
    this.#isLookingUp = true;
    const range = lookupRange(r.offset[row] as number, r.length[row] as number, this.#volume.sizeBytes);
    this.#volume.allocation(range.startBytes, range.lengthBytes).then(
      (allocated) => this.#onLookup(row, allocated),
      () => this.#onLookup(row, null),
    );
  }

  #onLookup(row: number, allocated: readonly boolean[] | null): void {
    const r = this.#requests;
    const connection = must(r.owner[row], 'owner of a look-up');
    this.#isLookingUp = false;
    r.inFlight[row] = 0;
    if (allocated === null || allocated.length === 0) {
      this.#fail(row, ERRNO.EIO);
    } else if (connection.isOpen && r.error[row] === 0) {
      const isOne = ((r.flags[row] as number) & CMD_FLAG.REQ_ONE) !== 0;
      const descriptors = describeExtents(allocated, r.offset[row] as number, r.length[row] as number, isOne);
      const reply = blockStatusReply(r.cookieHigh[row] as number, r.cookieLow[row] as number, descriptors);
      this.#transport.sendBytes(connection.id, reply, true);
      r.reply[row] = REPLY.SENT;
    }
    this.#advance(row);
    this.#startLookup();
    this.#checkStopped();
  }

  #checkStopped(): void {
    if (this.#onStopped === null || this.#piecesInFlight > 0 || this.#isLookingUp) return;
    const onStopped = this.#onStopped;
    this.#onStopped = null;
    onStopped();
  }
}

/** How a valid READ is answered. */
function replyKind(structured: boolean, request: NbdRequest): number {
  const isOnePiece = pieceCount(request.offset, request.length) === 1;
  if (!structured) return isOnePiece ? REPLY.SINGLE : REPLY.STREAM;
  return (request.flags & CMD_FLAG.DF) !== 0 && !isOnePiece ? REPLY.WHOLE : REPLY.CHUNKS;
}

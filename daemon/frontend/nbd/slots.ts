/**
 * Requests and pieces of one export, as rows of typed arrays: nothing is allocated per I/O. A table starts small and doubles while
 * its export gets busier, up to a limit that its user has derived; exceeding it is a programmer error.
 *
 * Invariants:
 * - A row is free or in use. Free rows are linked through `link`, each once; their `state` is FREE.
 */
import { assert } from '../../base/assert.js';
import { limits } from '../../base/limits.js';
import { BLOCK_BYTES } from '../../base/units.js';
import { NO_BUFFER } from '../../ports/slab.js';

/** No row. */
export const NONE = -1;
const ROWS_AT_START = 64;

/**
 * Requests of live connections, and those of vanished ones of which a piece (or the one look-up of block states) is still under way.
 * 64 x 256 + 1,024 + 1.
 */
const REQUESTS_MAX =
  limits.nbdConnectionsPerVolumeMax * limits.nbdRequestsPerConnectionMax + limits.operationsPerVolumeMax + 1;

/**
 * Pieces under way; WRITE pieces that wait, each with a buffer of the slab; READ pieces that wait for an earlier one of their request:
 * a window for the one ordered reply of each connection, and two for each unfragmented read.
 */
const PIECES_MAX =
  limits.operationsPerVolumeMax +
  limits.slabBytes / BLOCK_BYTES +
  limits.nbdConnectionsPerVolumeMax * limits.nbdPiecesPerRequestMax +
  2 * REQUESTS_MAX;

/** Where a request is. Each state but RUNNING is a list that holds the request through `link`. */
export const REQUEST_STATE = {
  FREE: 0,
  /** READ under simple replies: waits until the connection's reply stream is free. */
  GATED: 1,
  /** In the FIFO: a piece of it could start as soon as the volume takes one. */
  QUEUED: 2,
  /** Nothing to start now: its pieces are under way, its window is full, or more of its payload is to come. */
  RUNNING: 3,
  /** BLOCK_STATUS: waits for the look-ups before it. */
  LOOKUP: 4,
  /** Has ended; its reply waits for the payload of another reply that is being sent. */
  DEFERRED: 5,
  /** READ with a piece to start: waits until the client has taken more of what is queued for it. */
  THROTTLED: 6,
} as const;

/** What its reply looks like when it succeeds. */
export const REPLY = {
  /** An error or nothing. Everything but READ. */
  STATUS: 0,
  /** Simple reply with the payload of the only piece. */
  SINGLE: 1,
  /** Simple reply with the payload of several pieces, in the order of their offsets. */
  STREAM: 2,
  /** Structured reply, a chunk for each piece in the order in which they end. */
  CHUNKS: 3,
  /** Structured reply with one chunk for all pieces (DF flag). */
  WHOLE: 4,
  /** It has been sent already. */
  SENT: 5,
} as const;

export const PIECE_STATE = {
  FREE: 0,
  /** Part of a WRITE that has not been given to the volume. */
  WAITING: 1,
  /** Under way in the volume. */
  STARTED: 2,
  /** Part of a READ that has ended, and is to be sent after others. */
  HELD: 3,
} as const;

function grown<T extends Uint8Array | Uint16Array | Uint32Array | Int32Array | Float64Array>(old: T, rows: number): T {
  const larger = new (old.constructor as new (length: number) => T)(rows);
  larger.set(old);
  return larger;
}

export class RequestSlots<Owner> {
  capacity = ROWS_AT_START;
  inUse = 0;
  state = new Uint8Array(ROWS_AT_START);
  link = new Int32Array(ROWS_AT_START);
  /** Back link while QUEUED. */
  previous = new Int32Array(ROWS_AT_START);
  type = new Uint16Array(ROWS_AT_START);
  flags = new Uint16Array(ROWS_AT_START);
  cookieHigh = new Uint32Array(ROWS_AT_START);
  cookieLow = new Uint32Array(ROWS_AT_START);
  reply = new Uint8Array(ROWS_AT_START);
  /** An NBD errno; the first error wins. */
  error = new Uint16Array(ROWS_AT_START);
  /** Of the request; of a WRITE what has arrived. */
  offset = new Float64Array(ROWS_AT_START);
  length = new Float64Array(ROWS_AT_START);
  /** What is left to be cut into pieces: from `next` to `end`. Nothing for a WRITE, which arrives cut. */
  next = new Float64Array(ROWS_AT_START);
  end = new Float64Array(ROWS_AT_START);
  /** Pieces given to the volume whose result is outstanding. */
  inFlight = new Int32Array(ROWS_AT_START);
  /** READ pieces that have ended and are held. */
  held = new Int32Array(ROWS_AT_START);
  /** Pieces in order of offset: of a WRITE those that wait, of a STREAM or WHOLE reply those that were started and not sent. */
  pieceHead = new Int32Array(ROWS_AT_START);
  pieceTail = new Int32Array(ROWS_AT_START);
  /** 1 while the last piece of a WRITE has not arrived. */
  isArriving = new Uint8Array(ROWS_AT_START);
  /** 1 when a READ was let through the gate. */
  isAdmitted = new Uint8Array(ROWS_AT_START);
  startedUs = new Int32Array(ROWS_AT_START);
  readonly owner: (Owner | null)[] = new Array<Owner | null>(ROWS_AT_START).fill(null);
  #freeHead = NONE;

  constructor() {
    this.#linkFree(0);
  }

  /** A cleared row in state RUNNING. */
  alloc(owner: Owner): number {
    if (this.#freeHead === NONE) this.#grow();
    const row = this.#freeHead;
    this.#freeHead = this.link[row] as number;
    this.inUse++;
    this.state[row] = REQUEST_STATE.RUNNING;
    this.link[row] = NONE;
    this.previous[row] = NONE;
    this.reply[row] = REPLY.STATUS;
    this.error[row] = 0;
    this.length[row] = 0;
    this.next[row] = 0;
    this.end[row] = 0;
    this.inFlight[row] = 0;
    this.held[row] = 0;
    this.pieceHead[row] = NONE;
    this.pieceTail[row] = NONE;
    this.isArriving[row] = 0;
    this.isAdmitted[row] = 0;
    this.owner[row] = owner;
    return row;
  }

  free(row: number): void {
    assert(this.state[row] === REQUEST_STATE.RUNNING, 'a request is freed when no list holds it');
    assert(this.inFlight[row] === 0 && this.pieceHead[row] === NONE, 'a request is freed without pieces');
    this.state[row] = REQUEST_STATE.FREE;
    this.owner[row] = null;
    this.link[row] = this.#freeHead;
    this.#freeHead = row;
    this.inUse--;
  }

  #grow(): void {
    const from = this.capacity;
    assert(from < REQUESTS_MAX, 'connections keep within their limit of requests');
    const rows = 2 * from;
    this.capacity = rows;
    this.state = grown(this.state, rows);
    this.link = grown(this.link, rows);
    this.previous = grown(this.previous, rows);
    this.type = grown(this.type, rows);
    this.flags = grown(this.flags, rows);
    this.cookieHigh = grown(this.cookieHigh, rows);
    this.cookieLow = grown(this.cookieLow, rows);
    this.reply = grown(this.reply, rows);
    this.error = grown(this.error, rows);
    this.offset = grown(this.offset, rows);
    this.length = grown(this.length, rows);
    this.next = grown(this.next, rows);
    this.end = grown(this.end, rows);
    this.inFlight = grown(this.inFlight, rows);
    this.held = grown(this.held, rows);
    this.pieceHead = grown(this.pieceHead, rows);
    this.pieceTail = grown(this.pieceTail, rows);
    this.isArriving = grown(this.isArriving, rows);
    this.isAdmitted = grown(this.isAdmitted, rows);
    this.startedUs = grown(this.startedUs, rows);
    while (this.owner.length < rows) this.owner.push(null);
    this.#linkFree(from);
  }

  #linkFree(from: number): void {
    for (let row = this.capacity - 1; row >= from; row--) {
      this.link[row] = this.#freeHead;
      this.#freeHead = row;
    }
  }
}

export class PieceSlots {
  capacity = ROWS_AT_START;
  inUse = 0;
  state = new Uint8Array(ROWS_AT_START);
  /** Next piece of the same request, or next free row. */
  link = new Int32Array(ROWS_AT_START);
  request = new Int32Array(ROWS_AT_START);
  offset = new Float64Array(ROWS_AT_START);
  length = new Uint32Array(ROWS_AT_START);
  /** A reference that the piece owns while WAITING or HELD. */
  buffer = new Uint32Array(ROWS_AT_START);
  bufferOffset = new Uint32Array(ROWS_AT_START);
  #freeHead = NONE;

  constructor() {
    this.#linkFree(0);
  }

  alloc(state: number, request: number, offset: number, length: number): number {
    if (this.#freeHead === NONE) this.#grow();
    const row = this.#freeHead;
    this.#freeHead = this.link[row] as number;
    this.inUse++;
    this.state[row] = state;
    this.link[row] = NONE;
    this.request[row] = request;
    this.offset[row] = offset;
    this.length[row] = length;
    this.buffer[row] = NO_BUFFER;
    this.bufferOffset[row] = 0;
    return row;
  }

  free(row: number): void {
    assert(this.state[row] !== PIECE_STATE.FREE, 'a piece is freed once');
    this.state[row] = PIECE_STATE.FREE;
    this.link[row] = this.#freeHead;
    this.#freeHead = row;
    this.inUse--;
  }

  #grow(): void {
    const from = this.capacity;
    assert(from < PIECES_MAX, 'pieces keep within the limits they derive from');
    const rows = 2 * from;
    this.capacity = rows;
    this.state = grown(this.state, rows);
    this.link = grown(this.link, rows);
    this.request = grown(this.request, rows);
    this.offset = grown(this.offset, rows);
    this.length = grown(this.length, rows);
    this.buffer = grown(this.buffer, rows);
    this.bufferOffset = grown(this.bufferOffset, rows);
    this.#linkFree(from);
  }

  #linkFree(from: number): void {
    for (let row = this.capacity - 1; row >= from; row--) {
      this.link[row] = this.#freeHead;
      this.#freeHead = row;
    }
  }
}

/** Appends a piece to those of its request. */
export function appendPiece(requests: RequestSlots<unknown>, pieces: PieceSlots, piece: number): void {
  const request = pieces.request[piece] as number;
  const tail = requests.pieceTail[request] as number;
  if (tail === NONE) requests.pieceHead[request] = piece;
  else pieces.link[tail] = piece;
  requests.pieceTail[request] = piece;
}

/** Takes the first piece off those of a request. */
export function shiftPiece(requests: RequestSlots<unknown>, pieces: PieceSlots, request: number): number {
  const piece = requests.pieceHead[request] as number;
  assert(piece !== NONE, 'the request has a piece');
  const next = pieces.link[piece] as number;
  requests.pieceHead[request] = next;
  if (next === NONE) requests.pieceTail[request] = NONE;
  pieces.link[piece] = NONE;
  return piece;
}

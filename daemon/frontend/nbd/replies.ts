/**
 * Puts replies on the wire ("Simple reply message", "Structured reply chunk message").
 * A buffer that is handed to the transport is released here at once: the transport holds its own reference while it sends.
 *
 * Invariants:
 * - Between the header of a simple reply and its last byte nothing else is sent on the connection; `NbdConnection.isStreaming` says so.
 * - The final part of a reply is sent when no piece of its request can fail any more.
 */
import { assert } from '../../base/assert.js';
import type { NbdTransport } from '../../ports/nbd-transport.js';
import { NO_BUFFER, type BufferId, type Slab } from '../../ports/slab.js';
import { ByteWriter } from './bytes.js';
import type { NbdConnection } from './connection.js';
import { REPLY_FLAG_DONE, REPLY_TYPE, STRUCTURED_REPLY_MAGIC } from './protocol.js';
import { NONE, PIECE_STATE, REPLY, shiftPiece, type PieceSlots, type RequestSlots } from './slots.js';

const CHUNK_OFFSET_BYTES = 8;

export class ReplyWriter {
  readonly #transport: NbdTransport;
  readonly #slab: Slab;
  /** An extent of zeros, for holes that cannot be described. */
  readonly #zeroes: BufferId;
  readonly #requests: RequestSlots<NbdConnection>;
  readonly #pieces: PieceSlots;

  constructor(
    transport: NbdTransport,
    slab: Slab,
    zeroes: BufferId,
    requests: RequestSlots<NbdConnection>,
    pieces: PieceSlots,
  ) {
    this.#transport = transport;
    this.#slab = slab;
    this.#zeroes = zeroes;
    this.#requests = requests;
    this.#pieces = pieces;
  }

  /** A piece of a READ has ended well; its buffer is now the writer's. */
  readPiece(connection: NbdConnection, row: number, piece: number, buffer: BufferId, bufferOffsetBytes: number): void {
    const r = this.#requests;
    const p = this.#pieces;
    if (r.reply[row] === REPLY.CHUNKS) {
      this.#sendChunk(connection, row, piece, buffer, bufferOffsetBytes);
      return;
    }
    p.state[piece] = PIECE_STATE.HELD;
    p.buffer[piece] = buffer;
    p.bufferOffset[piece] = bufferOffsetBytes;
    r.held[row] = (r.held[row] as number) + 1;
    if (r.reply[row] === REPLY.STREAM) this.#sendStream(connection, row);
  }

  /** The request has ended, and whatever of its reply was not sent is sent. */
  conclude(connection: NbdConnection, row: number): void {
    const r = this.#requests;
    const reply = r.reply[row] as number;
    const error = r.error[row] as number;
    if (reply === REPLY.SENT) return;
    const cookieHigh = r.cookieHigh[row] as number;
    const cookieLow = r.cookieLow[row] as number;
    if (error !== 0 && connection.structured) {
      this.#transport.sendStatusChunk(connection.id, cookieHigh, cookieLow, error);
    } else if (error !== 0 || reply === REPLY.STATUS) {
      // Success of a write: its pieces are on every in-sync replica; of a flush or with FUA: and durable there.
      this.#transport.sendSimpleReply(connection.id, cookieHigh, cookieLow, error, 0);
    } else if (reply === REPLY.SINGLE) {
      this.#transport.sendSimpleReply(connection.id, cookieHigh, cookieLow, 0, r.length[row] as number);
      this.#sendData(connection, row, true);
    } else {
      assert(reply === REPLY.WHOLE, 'chunks and streams are sent as they end');
      this.#sendWhole(connection, row);
    }
  }

  #sendChunk(connection: NbdConnection, row: number, piece: number, buffer: BufferId, bufferOffsetBytes: number): void {
    const r = this.#requests;
    const cookieHigh = r.cookieHigh[row] as number;
    const cookieLow = r.cookieLow[row] as number;
    const offset = this.#pieces.offset[piece] as number;
    const length = this.#pieces.length[piece] as number;
    const done = r.inFlight[row] === 0 && r.next[row] === r.end[row];
    connection.readBytes -= length;
    if (done) r.reply[row] = REPLY.SENT;
    if (buffer === NO_BUFFER) {
      this.#transport.sendHoleChunk(connection.id, cookieHigh, cookieLow, offset, length, done);
    } else {
      this.#transport.sendDataChunk(
        connection.id,
        cookieHigh,
        cookieLow,
        offset,
        buffer,
        bufferOffsetBytes,
        length,
        done,
      );
      this.#slab.release(buffer);
    }
    this.#pieces.free(piece);
  }

  /** Sends what has ended of a simple reply, as far as it is without gaps. The first of it brings the header. */
  #sendStream(connection: NbdConnection, row: number): void {
    const r = this.#requests;
    assert(connection.stream === row, 'a stream has the connection to itself');
    for (;;) {
      const head = r.pieceHead[row] as number;
      if (head === NONE || this.#pieces.state[head] !== PIECE_STATE.HELD) return;
      if (!connection.isStreaming) {
        connection.isStreaming = true;
        const length = r.length[row] as number;
        this.#transport.sendSimpleReply(
          connection.id,
          r.cookieHigh[row] as number,
          r.cookieLow[row] as number,
          0,
          length,
        );
      }
      const isLast = this.#pieces.link[head] === NONE && r.next[row] === r.end[row];
      if (isLast) r.reply[row] = REPLY.SENT;
      this.#sendData(connection, row, isLast);
    }
  }

  /** One chunk for all pieces, its header packed here because the transport packs one buffer per chunk. */
  #sendWhole(connection: NbdConnection, row: number): void {
    const r = this.#requests;
    const cookieHigh = r.cookieHigh[row] as number;
    const cookieLow = r.cookieLow[row] as number;
    const offset = r.offset[row] as number;
    const length = r.length[row] as number;
    if (this.#isHole(row)) {
      while (r.pieceHead[row] !== NONE) this.#takeHeld(connection, row);
      this.#transport.sendHoleChunk(connection.id, cookieHigh, cookieLow, offset, length, true);
      return;
    }
    const header = new ByteWriter().u32(STRUCTURED_REPLY_MAGIC).u16(REPLY_FLAG_DONE).u16(REPLY_TYPE.OFFSET_DATA);
    header.u32(cookieHigh).u32(cookieLow);
    header.u32(CHUNK_OFFSET_BYTES + length).u64(BigInt(offset));
    this.#transport.sendBytes(connection.id, header.take(), false);
    while (r.pieceHead[row] !== NONE) {
      const isLast = this.#pieces.link[r.pieceHead[row] as number] === NONE;
      this.#sendData(connection, row, isLast);
    }
  }

  #isHole(row: number): boolean {
    let piece = this.#requests.pieceHead[row] as number;
    while (piece !== NONE) {
      if (this.#pieces.buffer[piece] !== NO_BUFFER) return false;
      piece = this.#pieces.link[piece] as number;
    }
    return true;
  }

  /** The payload of the first held piece. */
  #sendData(connection: NbdConnection, row: number, final: boolean): void {
    const p = this.#pieces;
    const piece = this.#requests.pieceHead[row] as number;
    const buffer = p.buffer[piece] as number;
    const length = p.length[piece] as number;
    if (buffer === NO_BUFFER) {
      this.#transport.sendData(connection.id, this.#zeroes, 0, length, final);
    } else {
      this.#transport.sendData(connection.id, buffer, p.bufferOffset[piece] as number, length, final);
      this.#slab.release(buffer);
    }
    this.#takeHeld(connection, row);
  }

  #takeHeld(connection: NbdConnection, row: number): void {
    const piece = shiftPiece(this.#requests, this.#pieces, row);
    assert(this.#pieces.state[piece] === PIECE_STATE.HELD, 'only pieces that have ended are sent');
    this.#requests.held[row] = (this.#requests.held[row] as number) - 1;
    connection.readBytes -= this.#pieces.length[piece] as number;
    this.#pieces.free(piece);
  }
}

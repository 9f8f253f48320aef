/**
 * NBD connections: raw bytes during the handshake, framed requests afterwards (NBD protocol, "Transmission").
 *
 * A WRITE larger than an extent, or crossing an extent boundary of the volume, arrives as several pieces with one cookie, cut at multiples of
 * 128 KiB of the volume's offset, `first` and `last` marking the ends. All other requests arrive once, whole.
 * The transport stops parsing a connection while `limits.nbdRequestsPerConnectionMax` of its requests lack their final reply,
 * and while the slab's front-end pool is exhausted. It closes a connection whose client takes nothing for `limits.sendStallMs`
 * while something is being sent to it.
 */
import type { ConnectionId } from './network.js';
import type { BufferId } from './slab.js';

/** One request or one piece of a WRITE. Reused between calls. */
export class NbdRequest {
  /** NBD_CMD_*: READ 0, WRITE 1, DISC 2, FLUSH 3, TRIM 4, CACHE 5, WRITE_ZEROES 6, BLOCK_STATUS 7; others as they came. */
  type = 0;
  /** NBD_CMD_FLAG_*. */
  flags = 0;
  /** The client's 64-bit cookie, in two halves as they came. */
  cookieHigh = 0;
  cookieLow = 0;
  /** Of this piece, in bytes of the export. An offset at or above 2^53 is reported as 2^53. */
  offset = 0;
  /** Of this piece. */
  length = 0;
  /** Of the request as the client sent it, the same in all of its pieces. */
  totalLength = 0;
  first = true;
  last = true;
}

export interface NbdTransportHandler {
  onAccepted(connection: ConnectionId, listener: number): void;
  /** Handshake bytes, a private copy. */
  onBytes(connection: ConnectionId, bytes: Uint8Array): void;
  /**
   * For WRITE, `buffer` (one reference, now the handler's) holds the payload at offset `request.offset % 4096`; checksums are computed
   * when the piece is whole blocks. Otherwise `NO_BUFFER`.
   */
  onRequest(connection: ConnectionId, request: NbdRequest, buffer: BufferId): void;
  /** `unsentBytes`, which was at least half of `limits.nbdUnsentBytesPerConnectionMax`, has fallen below that. */
  onDrained(connection: ConnectionId): void;
  onClosed(connection: ConnectionId, reason: string): void;
}

export interface NbdTransport {
  /** Queues bytes (copied). `final` when they complete the reply to a request. */
  sendBytes(connection: ConnectionId, bytes: Uint8Array, final: boolean): void;
  /** The handshake is over: what follows are requests; `leftover` are bytes that were delivered but not consumed. */
  startTransmission(connection: ConnectionId, leftover: Uint8Array): void;
  /** Simple reply. With success, `totalLength` > 0 announces payload that follows by `sendData`; otherwise it is final. `error` is an NBD errno. */
  sendSimpleReply(
    connection: ConnectionId,
    cookieHigh: number,
    cookieLow: number,
    error: number,
    totalLength: number,
  ): void;
  /** Payload of a simple reply. */
  sendData(
    connection: ConnectionId,
    buffer: BufferId,
    bufferOffsetBytes: number,
    lengthBytes: number,
    final: boolean,
  ): void;
  /** Structured reply chunk NBD_REPLY_TYPE_OFFSET_DATA; `done` sets the DONE flag and makes it final. */
  sendDataChunk(
    connection: ConnectionId,
    cookieHigh: number,
    cookieLow: number,
    offset: number,
    buffer: BufferId,
    bufferOffsetBytes: number,
    lengthBytes: number,
    done: boolean,
  ): void;
  /** Structured reply chunk NBD_REPLY_TYPE_OFFSET_HOLE. */
  sendHoleChunk(
    connection: ConnectionId,
    cookieHigh: number,
    cookieLow: number,
    offset: number,
    lengthBytes: number,
    done: boolean,
  ): void;
  /** Structured reply chunk NBD_REPLY_TYPE_ERROR with an NBD errno, always final; or NBD_REPLY_TYPE_NONE with `error` 0. */
  sendStatusChunk(connection: ConnectionId, cookieHigh: number, cookieLow: number, error: number): void;
  /** Payload that was queued by `sendData` and `sendDataChunk` and that the client has not taken yet. */
  unsentBytes(connection: ConnectionId): number;
  /** Closes after what is queued has been sent. */
  close(connection: ConnectionId): void;
}

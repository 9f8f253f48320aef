/**
 * Framed connections between agents. Frames of one connection arrive in order, whole and verified, or the connection closes:
 * a checksum or grammar error closes it with a reason. See `protocol/WIRE.md`.
 */
import type { Frame } from '../protocol/frame.js';
import type { BufferId } from './slab.js';

/** Name of a connection within a shard; never 0, not reused while events of the old one can still arrive. */
export type ConnectionId = number;

export interface NetworkHandler {
  onAccepted(connection: ConnectionId): void;
  onConnected(connection: ConnectionId): void;
  /**
   * A frame arrived. `frame` is reused: read it before returning. `buffer` holds the payload at offset 0 (`NO_BUFFER` when there is
   * none) and comes with one reference that the handler now owns. For the reply to a request sent with a reply buffer
   * it is that buffer.
   */
  onFrame(connection: ConnectionId, frame: Frame, buffer: BufferId): void;
  /** The connection is gone (peer closed, refused, reset, protocol error, or our `close`). No event of it follows and the network holds none of its buffers. */
  onClosed(connection: ConnectionId, reason: string): void;
}

export interface Network {
  /** Starts connecting to `host:port`; `onConnected` or `onClosed` follows. */
  connect(address: string): ConnectionId;
  /**
   * Queues a frame. `frame.payloadLength` bytes of `buffer` from `bufferOffsetBytes` (block-aligned) are its payload, with the buffer's checksums.
   * A READ request passes in `replyBuffer` where the reply's payload is to land (one reference is taken until the reply or the close);
   * other frames pass `NO_BUFFER`. The frame object may be reused at once. Sending on a closed connection is a no-op: `onClosed` tells.
   */
  send(
    connection: ConnectionId,
    frame: Frame,
    buffer: BufferId,
    bufferOffsetBytes: number,
    replyBuffer: BufferId,
  ): void;
  /** Queues a control frame whose payload is copied from `payload` (at most `limits.controlPayloadBytesMax`). Slow paths only. */
  sendControl(connection: ConnectionId, frame: Frame, payload: Uint8Array): void;
  /** Stops or resumes taking bytes from the socket: backpressure. Frames that were already parsed may still arrive. */
  setReceiving(connection: ConnectionId, receiving: boolean): void;
  close(connection: ConnectionId): void;
}

/** One NBD connection. The server moves it through its states, the requests of its export keep their lists in it. */
import type { ConnectionId } from '../../ports/network.js';
import type { NbdRequest } from '../../ports/nbd-transport.js';
import type { BufferId } from '../../ports/slab.js';
import type { Handshake } from './handshake.js';
import { NONE } from './slots.js';

/**
 * - `handshake`: options are negotiated.
 * - `transmission`: requests are served.
 * - `draining`: the client has said NBD_CMD_DISC; closes when its requests have ended, and takes no more.
 * - `over`: closed by either side; what is left of its requests ends without replies.
 */
export type ConnectionState = 'handshake' | 'transmission' | 'draining' | 'over';

/** Where the requests of a connection go. */
export interface RequestSink {
  accept(connection: NbdConnection, request: NbdRequest, buffer: BufferId): void;
  /** The client has taken much of what was queued for it. */
  onDrained(connection: NbdConnection): void;
  abandon(connection: NbdConnection): void;
}

export class NbdConnection {
  readonly id: ConnectionId;
  state: ConnectionState = 'handshake';
  readonly handshake: Handshake;
  /** From the end of the handshake on. */
  exportName = '';
  sink: RequestSink | null = null;
  structured = false;
  /** NBD_CMD_BLOCK_STATUS was negotiated. */
  hasContext = false;

  /** Requests without their final reply. */
  requestCount = 0;
  /** The WRITE whose pieces are arriving. */
  arriving = NONE;

  /** READ pieces under way or held, in bytes; and the READs that wait until the client has taken what it asked for before. */
  readBytes = 0;
  throttledHead = NONE;
  throttledTail = NONE;

  /** Simple replies only: READs that were let through the gate and have not ended, those behind it, and what follows a stream. */
  readsAdmitted = 0;
  gateHead = NONE;
  gateTail = NONE;
  /** The READ of several pieces that has the connection's replies to itself; `isStreaming` from its header to its last byte. */
  stream = NONE;
  isStreaming = false;
  deferredHead = NONE;
  deferredTail = NONE;

  constructor(id: ConnectionId, handshake: Handshake) {
    this.id = id;
    this.handshake = handshake;
  }

  get isOpen(): boolean {
    return this.state === 'transmission' || this.state === 'draining';
  }
}

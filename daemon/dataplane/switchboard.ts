/**
 * The `Network` of one shard: real connections plus a loopback, so that the coordinators reach the shard's own replicas in exactly the way
 * they reach remote ones, fencing and all, without a socket or a copy.
 *
 * Loopback frames are queued and delivered from `deliver`, which the shard runs after each batch of events; nothing is delivered from within `send`.
 *
 * The replica server pauses a busy connection when it runs short of room (`setReceiving`). A socket is not read then; here the data requests
 * are held. Control requests go on: what the server is full of may wait for a COOL.
 *
 * Invariants
 * - Requests of one loopback connection arrive in order, except that control requests overtake held data requests; so do its replies.
 * - Both rings are bounded by `OperationBudget`. A paused connection whose requests no longer fit is closed, like any whose peer does not read.
 */
import { assert } from '../base/assert.js';
import { limits } from '../base/limits.js';
import type { ConnectionId, Network, NetworkHandler } from '../ports/network.js';
import { NO_BUFFER, POOL_FRONTEND, POOL_INTERNAL, POOL_PEER, type BufferId, type Slab } from '../ports/slab.js';
import { OPCODE, type Frame } from '../protocol/frame.js';
import { FrameRing } from './frame-ring.js';

/** Address of the loopback. */
export const LOOPBACK = 'loopback';

/** Loopback connection names lie above those of any real network, and are still small integers to V8. */
const LOOPBACK_BASE = 2 ** 30;

type Notice = { readonly type: 'accepted' | 'connected' | 'closed'; readonly connection: ConnectionId };

export class Switchboard implements Network {
  readonly #network: Network;
  readonly #slab: Slab;
  /** Receives what concerns connections that we opened, and those that others opened. */
  readonly #outgoing: NetworkHandler;
  readonly #incoming: NetworkHandler;
  /** Called when something was queued outside of a batch, so that `deliver` gets run. */
  readonly #wake: () => void;
  readonly #connections = new Set<ConnectionId>();
  readonly #ownConnections = new Set<ConnectionId>();
  #nextPair = 0;
  readonly #queued = new FrameRing(limits.loopbackFramesMax);
  /** Data requests to ends that are paused, and those behind them. */
  readonly #held = new FrameRing(limits.framesQueuedPerConnectionMax);
  readonly #paused = new Set<ConnectionId>();
  #notices: Notice[] = [];

  constructor(network: Network, slab: Slab, outgoing: NetworkHandler, incoming: NetworkHandler, wake: () => void) {
    this.#network = network;
    this.#slab = slab;
    this.#outgoing = outgoing;
    this.#incoming = incoming;
    this.#wake = wake;
  }

  /** Handler for the real network. */
  readonly handler: NetworkHandler = {
    onAccepted: (connection) => {
      this.#incoming.onAccepted(connection);
    },
    onConnected: (connection) => {
      this.#outgoing.onConnected(connection);
    },
    onFrame: (connection, frame, buffer) => {
      this.#handlerOf(connection).onFrame(connection, frame, buffer);
    },
    onClosed: (connection, reason) => {
      const handler = this.#handlerOf(connection);
      this.#ownConnections.delete(connection);
      handler.onClosed(connection, reason);
    },
  };

  #handlerOf(connection: ConnectionId): NetworkHandler {
    if (connection >= LOOPBACK_BASE) return connection % 2 === 0 ? this.#outgoing : this.#incoming;
    return this.#ownConnections.has(connection) ? this.#outgoing : this.#incoming;
  }

  connect(address: string): ConnectionId {
    if (address !== LOOPBACK) {
      const connection = this.#network.connect(address);
      assert(connection < LOOPBACK_BASE, 'names of real connections are below those of the loopback');
      this.#ownConnections.add(connection);
      return connection;
    }
    // The pair's even name is the coordinator's end, the odd one the replica server's.
    const connection = LOOPBACK_BASE + 2 * this.#nextPair++;
    this.#connections.add(connection).add(connection + 1);
    this.#notices.push({ type: 'accepted', connection: connection + 1 }, { type: 'connected', connection });
    this.#wake();
    return connection;
  }

  send(
    connection: ConnectionId,
    frame: Frame,
    buffer: BufferId,
    bufferOffsetBytes: number,
    replyBuffer: BufferId,
  ): void {
    if (connection < LOOPBACK_BASE) {
      this.#network.send(connection, frame, buffer, bufferOffsetBytes, replyBuffer);
      return;
    }
    assert(bufferOffsetBytes === 0 || buffer === NO_BUFFER, 'payload of the loopback starts its buffer');
    // A READ hands over the buffer that its reply is to be put in; the reply brings it back as its payload.
    const carried = replyBuffer === NO_BUFFER ? buffer : replyBuffer;
    if (carried !== NO_BUFFER) this.#slab.retain(carried);
    this.#queue(connection, frame, carried);
  }

  sendControl(connection: ConnectionId, frame: Frame, payload: Uint8Array): void {
    if (connection < LOOPBACK_BASE) {
      this.#network.sendControl(connection, frame, payload);
      return;
    }
    frame.payloadLength = payload.length;
    let buffer = NO_BUFFER;
    if (payload.length > 0) {
      for (const pool of [POOL_INTERNAL, POOL_PEER, POOL_FRONTEND] as const) {
        if (buffer === NO_BUFFER) buffer = this.#slab.alloc(payload.length, pool);
      }
      if (buffer === NO_BUFFER) {
        this.close(connection); // no memory at all for a control message: like a lost connection
        return;
      }
      this.#slab.bytes(buffer, 0, payload.length).set(payload);
    }
    this.#queue(connection, frame, buffer);
  }

  #queue(connection: ConnectionId, frame: Frame, buffer: BufferId): void {
    const peer = connection % 2 === 0 ? connection + 1 : connection - 1;
    if (!this.#connections.has(peer)) {
      if (buffer !== NO_BUFFER) this.#slab.release(buffer);
      return;
    }
    this.#queued.push(peer, frame, buffer);
    if (this.#queued.count === 1) this.#wake();
  }

  setReceiving(connection: ConnectionId, receiving: boolean): void {
    if (connection < LOOPBACK_BASE) this.#network.setReceiving(connection, receiving);
    else if (!receiving) this.#paused.add(connection);
    else if (this.#paused.delete(connection)) this.#wake();
  }

  close(connection: ConnectionId): void {
    if (connection < LOOPBACK_BASE) {
      this.#network.close(connection);
      return;
    }
    const first = connection - (connection % 2);
    for (const end of [first, first + 1]) {
      this.#paused.delete(end);
      if (this.#connections.delete(end)) this.#notices.push({ type: 'closed', connection: end });
    }
    this.#wake();
  }

  /** Delivers everything that is queued on the loopback and not held, and what that queues in turn. */
  deliver(): void {
    while (this.#queued.count > 0 || this.#notices.length > 0 || this.#mayRelease()) {
      if (this.#notices.length > 0) this.#deliverNotices();
      else if (this.#mayRelease()) this.#deliverFrom(this.#held);
      else if (this.#mustHold()) this.#hold();
      else this.#deliverFrom(this.#queued);
    }
  }

  #mayRelease(): boolean {
    return this.#held.count > 0 && !this.#paused.has(this.#held.target);
  }

  /** Whether the first queued frame has to wait. What is held is held for good reason: nothing overtakes it but control requests. */
  #mustHold(): boolean {
    if (this.#paused.size === 0 && this.#held.count === 0) return false;
    const { target, opcode } = this.#queued;
    return target % 2 === 1 && opcode >= OPCODE.WRITE && this.#connections.has(target);
  }

  #hold(): void {
    const { target, buffer } = this.#queued;
    const frame = this.#queued.shift();
    if (this.#held.count < this.#held.capacity) {
      this.#held.push(target, frame, buffer);
      return;
    }
    if (buffer !== NO_BUFFER) this.#slab.release(buffer);
    this.close(target);
  }

  #deliverNotices(): void {
    if (this.#notices.length === 0) return;
    const notices = this.#notices;
    this.#notices = [];
    for (const { type, connection } of notices) {
      const handler = this.#handlerOf(connection);
      if (type === 'accepted') handler.onAccepted(connection);
      else if (type === 'connected') handler.onConnected(connection);
      else handler.onClosed(connection, 'closed');
    }
  }

  #deliverFrom(ring: FrameRing): void {
    const { target, buffer } = ring;
    const frame = ring.shift();
    if (this.#connections.has(target)) this.#handlerOf(target).onFrame(target, frame, buffer);
    else if (buffer !== NO_BUFFER) this.#slab.release(buffer);
  }
}

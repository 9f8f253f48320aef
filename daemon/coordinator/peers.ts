/**
 * Connections from this shard's coordinators to the replica servers of other shards and nodes (and, over the loopback, of its own): one per
 * peer, shared by all volumes. Reconnects for as long as some volume is interested.
 *
 * Invariants
 * - A listener hears ready and down in turn; while nobody answers it may hear `refused` again.
 * - When a peer goes down every call and request that is out on it fails, and the network holds none of their buffers any more.
 */
import { assert } from '../base/assert.js';
import { asError, BraidError } from '../base/errors.js';
import { limits } from '../base/limits.js';
import { EXTENT_BYTES } from '../base/units.js';
import type { NodeId } from '../base/ids.js';
import type { Clock, Timer } from '../ports/clock.js';
import type { Log } from '../ports/log.js';
import type { ConnectionId, Network } from '../ports/network.js';
import { NO_BUFFER, type BufferId, type Slab } from '../ports/slab.js';
import { FLAG, Frame, OPCODE, PROTOCOL_VERSION, STATUS, statusName } from '../protocol/frame.js';
import { braid } from '../protocol/generated/messages.js';
import { readHello } from './answers.js';

/** Why a peer went down. `refused` and `silent` say that nobody answers; `lost` may be a blip. */
export type DownCause = 'refused' | 'silent' | 'lost' | 'rejected';

export interface PeerListener {
  onPeerReady(peer: Peer): void;
  onPeerDown(peer: Peer, cause: DownCause): void;
}

/** Receives the replies of one session's data operations. */
export interface SessionSink {
  readonly epoch: number;
  /** `frame` is reused; `buffer` carries one reference that is now the sink's. */
  onReply(frame: Frame, buffer: BufferId): void;
  /** The replica's activity log fills up. */
  onPressure(): void;
  /** The replica's extent does not match its checksums, or cannot be read: its drive's scrub found it. */
  onDamaged(segment: number, offsetBytes: number): void;
}

export interface PeersOptions {
  readonly network: Network;
  readonly slab: Slab;
  readonly clock: Clock;
  readonly log: Log;
  readonly clusterId: string;
  readonly nodeId: NodeId;
  readonly incarnation: string;
  /** Current data address of a node's shard; rejects when the node is unknown. `LOOPBACK` for this shard itself. */
  readonly resolve: (nodeId: NodeId, shard: number) => Promise<string>;
}

/** Answer to a call; `payload` is a private copy. */
export interface CallReply {
  readonly status: number;
  readonly flags: number;
  readonly payload: Uint8Array;
}

/** Answer to a data request; `buffer` carries one reference that is now the caller's. */
export interface DataReply {
  readonly status: number;
  readonly flags: number;
  readonly buffer: BufferId;
}

type Pending =
  | {
      readonly type: 'call';
      readonly resolve: (reply: CallReply) => void;
      readonly reject: (error: BraidError) => void;
    }
  | {
      readonly type: 'data';
      readonly resolve: (reply: DataReply) => void;
      readonly reject: (error: BraidError) => void;
    };

const CALL_TAG = 0x8000_0000;
const RECONNECT_MS = [0, 50, 100, 200, 400, 800] as const;
const NOTHING = new Uint8Array(0);

type PeerState = 'idle' | 'resolving' | 'connecting' | 'greeting' | 'ready' | 'waiting';

export class Peer {
  readonly nodeId: NodeId;
  readonly shard: number;
  incarnation = '';
  readonly sinks = new Map<number, SessionSink>();
  readonly #pool: PeerPool;
  readonly #options: PeersOptions;
  readonly #listeners = new Set<PeerListener>();
  readonly #pending = new Map<number, Pending>();
  readonly #frame = new Frame();
  #state: PeerState = 'idle';
  #connection: ConnectionId = 0;
  #nextCall = 0;
  #attempts = 0;
  #timer: Timer | null = null;
  /** Ticks of the heartbeat since a frame arrived. */
  #silentTicks = 0;
  #closeCause: DownCause | null = null;

  constructor(pool: PeerPool, options: PeersOptions, nodeId: NodeId, shard: number) {
    this.#pool = pool;
    this.#options = options;
    this.nodeId = nodeId;
    this.shard = shard;
  }

  get name(): string {
    return `${this.nodeId}/${this.shard}`;
  }

  get ready(): boolean {
    return this.#state === 'ready';
  }

  /** Connects and stays connected while anyone listens. `onPeerReady` is called at once if it is ready. */
  subscribe(listener: PeerListener): void {
    this.#listeners.add(listener);
    if (this.ready) listener.onPeerReady(this);
    else if (this.#state === 'idle') this.#connect();
  }

  unsubscribe(listener: PeerListener): void {
    this.#listeners.delete(listener);
    if (this.#listeners.size > 0) return;
    this.#timer?.cancel();
    this.#timer = null;
    if (this.#connection !== 0) this.#options.network.close(this.#connection);
    else this.#state = 'idle';
  }

  /** Queues a data frame; the reply reaches the session's sink. The frame object may be reused at once. */
  send(frame: Frame, buffer: BufferId, bufferOffsetBytes: number, replyBuffer: BufferId): void {
    this.#options.network.send(this.#connection, frame, buffer, bufferOffsetBytes, replyBuffer);
  }

  /** CHECKSUM of one extent, without reading it where that can be (`stored`); fails as `call` does. */
  checksums(session: number, segment: number, offsetBytes: number, stored: boolean): Promise<CallReply> {
    return this.call(OPCODE.CHECKSUM, session, segment, NOTHING, (frame) => {
      frame.flags = stored ? FLAG.STORED : 0;
      frame.offset = offsetBytes;
      frame.length = EXTENT_BYTES;
    });
  }

  /** Sends a control message and waits for its answer. Rejects with UNAVAILABLE when the peer is or goes down. */
  call(
    opcode: number,
    session: number,
    segment: number,
    payload: Uint8Array = NOTHING,
    shape: (frame: Frame) => void = () => undefined,
  ): Promise<CallReply> {
    return new Promise((resolve, reject) => {
      if (this.#connection === 0 || (this.#state !== 'ready' && this.#state !== 'greeting')) {
        reject(this.#unavailable());
        return;
      }
      const tag = this.#remember({ type: 'call', resolve, reject });
      const frame = this.#frame.request(opcode, tag, session, segment);
      frame.epoch = this.sinks.get(session)?.epoch ?? 0;
      shape(frame);
      this.#options.network.sendControl(this.#connection, this.#frame, payload);
    });
  }

  /**
   * Sends a data request of the slow paths (copies, repairs) and waits for its answer. `shape` fills everything but tag, session and segment.
   * Rejects with UNAVAILABLE when the peer is or goes down.
   */
  request(
    opcode: number,
    session: number,
    segment: number,
    shape: (frame: Frame) => void,
    buffer: BufferId,
    replyBuffer: BufferId,
  ): Promise<DataReply> {
    return new Promise((resolve, reject) => {
      if (!this.ready) {
        reject(this.#unavailable());
        return;
      }
      const tag = this.#remember({ type: 'data', resolve, reject });
      shape(this.#frame.request(opcode, tag, session, segment));
      this.send(this.#frame, buffer, 0, replyBuffer);
    });
  }

  #unavailable(): BraidError {
    return new BraidError('UNAVAILABLE', `node ${this.name} is not connected; it is tried again by itself`);
  }

  #remember(pending: Pending): number {
    do this.#nextCall = (this.#nextCall + 1) % CALL_TAG;
    while (this.#pending.has(this.#nextCall));
    this.#pending.set(this.#nextCall, pending);
    return (CALL_TAG + this.#nextCall) >>> 0;
  }

  #connect(): void {
    this.#state = 'resolving';
    this.#options.resolve(this.nodeId, this.shard).then(
      (address) => {
        if (this.#state !== 'resolving') return;
        if (this.#listeners.size === 0) {
          this.#state = 'idle';
          return;
        }
        this.#state = 'connecting';
        this.#silentTicks = 0;
        this.#connection = this.#options.network.connect(address);
        this.#pool.register(this.#connection, this);
      },
      () => {
        if (this.#state === 'resolving') this.#retry('refused');
      },
    );
  }

  onConnected(): void {
    this.#state = 'greeting';
    const { clusterId, nodeId, incarnation } = this.#options;
    const hello = { clusterId, nodeId, incarnation, versionMin: PROTOCOL_VERSION, versionMax: PROTOCOL_VERSION };
    this.call(OPCODE.HELLO, 0, 0, braid.Hello.encode(hello).finish()).then(
      (reply) => {
        this.#onHello(reply);
      },
      () => undefined, // the connection closed: onClosed goes on from there
    );
  }

  #onHello(reply: CallReply): void {
    if (this.#state !== 'greeting') return;
    if (reply.status !== STATUS.OK) {
      this.#options.log.error({ peer: this.name, status: statusName(reply.status) }, 'peer refuses this node');
      this.#close('rejected');
      return;
    }
    try {
      this.incarnation = readHello(reply.payload).incarnation;
    } catch (error) {
      this.#options.log.error({ peer: this.name, error: asError(error).message }, 'peer is refused');
      this.#close('rejected');
      return;
    }
    this.#state = 'ready';
    this.#attempts = 0;
    for (const listener of [...this.#listeners]) listener.onPeerReady(this);
  }

  onFrame(frame: Frame, buffer: BufferId): void {
    this.#silentTicks = 0;
    if ((frame.opcode & OPCODE.REPLY) === 0) {
      if (buffer !== NO_BUFFER) this.#options.slab.release(buffer);
      if (frame.opcode === OPCODE.PRESSURE) for (const sink of this.sinks.values()) sink.onPressure();
      if (frame.opcode === OPCODE.DAMAGED) this.sinks.get(frame.session)?.onDamaged(frame.segment, frame.offset);
      return;
    }
    if (frame.tag < CALL_TAG) {
      const sink = this.sinks.get(frame.session);
      if (sink !== undefined) sink.onReply(frame, buffer);
      else if (buffer !== NO_BUFFER) this.#options.slab.release(buffer);
      return;
    }
    this.#onAnswer(frame, buffer);
  }

  #onAnswer(frame: Frame, buffer: BufferId): void {
    const { slab } = this.#options;
    const tag = frame.tag - CALL_TAG;
    const pending = this.#pending.get(tag);
    this.#pending.delete(tag);
    const { status, flags } = frame;
    if (pending?.type === 'data') {
      pending.resolve({ status, flags, buffer });
      return;
    }
    const payload = buffer === NO_BUFFER ? NOTHING : slab.bytes(buffer, 0, frame.payloadLength).slice();
    if (buffer !== NO_BUFFER) slab.release(buffer);
    pending?.resolve({ status, flags, payload });
  }

  onClosed(reason: string): void {
    const wasReady = this.#state === 'ready';
    const cause = this.#closeCause ?? (reason.includes('ECONNREFUSED') ? 'refused' : 'lost');
    this.#pool.forget(this.#connection);
    this.#connection = 0;
    this.#closeCause = null;
    this.sinks.clear();
    const failed = [...this.#pending.values()];
    this.#pending.clear();
    this.#state = 'waiting';
    for (const { reject } of failed) reject(this.#unavailable());
    if (wasReady) {
      this.#options.log.warn({ peer: this.name, cause, reason }, 'peer is down');
      for (const listener of [...this.#listeners]) listener.onPeerDown(this, cause);
    }
    this.#retry(cause);
  }

  /** Tries again after a pause, at once the first time; tells listeners when nobody answers. */
  #retry(cause: DownCause): void {
    if (this.#listeners.size === 0) {
      this.#state = 'idle';
      return;
    }
    this.#state = 'waiting';
    const delayMs = RECONNECT_MS[Math.min(this.#attempts, RECONNECT_MS.length - 1)] ?? 0;
    if (this.#attempts > 0 && cause === 'refused')
      for (const listener of [...this.#listeners]) listener.onPeerDown(this, cause);
    this.#attempts++;
    this.#timer?.cancel();
    this.#timer = this.#options.clock.after(delayMs, () => {
      this.#timer = null;
      if (this.#state === 'waiting') this.#connect();
    });
  }

  #close(cause: DownCause): void {
    this.#closeCause = cause;
    this.#options.network.close(this.#connection);
  }

  /** Every `limits.heartbeatIntervalMs`. */
  tick(): void {
    if (this.#state !== 'ready' && this.#state !== 'connecting' && this.#state !== 'greeting') return;
    this.#silentTicks++;
    if (this.#silentTicks * limits.heartbeatIntervalMs > limits.heartbeatTimeoutMs) this.#close('silent');
    // Also when it is heard: what it says need not be an answer, and it closes connections from which it hears nothing.
    else if (this.ready) this.call(OPCODE.PING, 0, 0).catch(() => undefined);
  }
}

/** All peers of one shard; routes the network's events to them. */
export class PeerPool {
  readonly #options: PeersOptions;
  readonly #peers = new Map<string, Peer>();
  readonly #byConnection = new Map<ConnectionId, Peer>();
  #timer: Timer | null = null;

  constructor(options: PeersOptions) {
    this.#options = options;
  }

  peer(nodeId: NodeId, shard: number): Peer {
    const key = `${nodeId}/${shard}`;
    let peer = this.#peers.get(key);
    if (peer === undefined) {
      assert(this.#peers.size < limits.nodesMax * limits.drivesPerNodeMax, 'peers are bounded by the cluster');
      peer = new Peer(this, this.#options, nodeId, shard);
      this.#peers.set(key, peer);
    }
    if (this.#timer === null) this.#scheduleTick();
    return peer;
  }

  register(connection: ConnectionId, peer: Peer): void {
    this.#byConnection.set(connection, peer);
  }

  forget(connection: ConnectionId): void {
    this.#byConnection.delete(connection);
  }

  onConnected(connection: ConnectionId): void {
    this.#byConnection.get(connection)?.onConnected();
  }

  onFrame(connection: ConnectionId, frame: Frame, buffer: BufferId): void {
    const peer = this.#byConnection.get(connection);
    if (peer !== undefined) peer.onFrame(frame, buffer);
    else if (buffer !== NO_BUFFER) this.#options.slab.release(buffer);
  }

  onClosed(connection: ConnectionId, reason: string): void {
    this.#byConnection.get(connection)?.onClosed(reason);
  }

  stop(): void {
    this.#timer?.cancel();
    this.#timer = null;
  }

  #scheduleTick(): void {
    this.#timer = this.#options.clock.after(limits.heartbeatIntervalMs, () => {
      for (const peer of this.#peers.values()) peer.tick();
      this.#scheduleTick();
    });
  }
}

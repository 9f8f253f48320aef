/**
 * The network between simulated nodes: connections that deliver frames in order after random delays, as TCP does, or break. Links between
 * nodes can be cut in one direction: what is sent waits, as TCP retransmits, until the link heals or the connection is closed.
 */
import { assert } from '../../../daemon/base/assert.js';
import type { ConnectionId, Network, NetworkHandler } from '../../../daemon/ports/network.js';
import { NO_BUFFER, POOL_INTERNAL, POOL_PEER, type BufferId, type Slab } from '../../../daemon/ports/slab.js';
import { Frame, OPCODE } from '../../../daemon/protocol/frame.js';
import type { SimClock } from './sim-clock.js';
import type { SimRandom } from './sim-random.js';

export interface FabricOptions {
  readonly delayMsMin: number;
  readonly delayMsMax: number;
}

const RETRY_MS = 5;

/** One end of a connection. */
interface End {
  readonly id: ConnectionId;
  readonly network: SimNetwork;
  remote: End | null;
  open: boolean;
  receiving: boolean;
  /** Nothing sent earlier arrives later than this. */
  arrivesMs: number;
  /** Reply buffers of READ requests, by tag. */
  readonly expected: Map<number, BufferId>;
}

export class SimFabric {
  readonly clock: SimClock;
  readonly random: SimRandom;
  readonly options: FabricOptions;
  readonly #nodes = new Map<string, SimNetwork>();
  readonly #cut = new Set<string>();

  constructor(clock: SimClock, random: SimRandom, options: FabricOptions) {
    this.clock = clock;
    this.random = random;
    this.options = options;
  }

  attach(address: string, network: SimNetwork): void {
    this.#nodes.set(address, network);
  }

  detach(address: string): void {
    this.#nodes.delete(address);
  }

  at(address: string): SimNetwork | undefined {
    return this.#nodes.get(address);
  }

  cut(from: string, to: string): void {
    this.#cut.add(`${from}>${to}`);
  }

  heal(from: string, to: string): void {
    this.#cut.delete(`${from}>${to}`);
  }

  healAll(): void {
    this.#cut.clear();
  }

  isCut(from: string, to: string): boolean {
    return this.#cut.has(`${from}>${to}`);
  }

  delayMs(): number {
    return this.random.between(this.options.delayMsMin, this.options.delayMsMax);
  }
}

export class SimNetwork implements Network {
  readonly address: string;
  readonly #fabric: SimFabric;
  readonly #slab: Slab;
  readonly #ends = new Map<ConnectionId, End>();
  readonly #frame = new Frame();
  #handler: NetworkHandler | null = null;
  #nextId = 1;
  #dead = false;
  /** Called after each delivery, as the real engine does after a batch. */
  onBatchEnd: () => void = () => undefined;
  onBatchStart: () => void = () => undefined;

  constructor(fabric: SimFabric, address: string, slab: Slab) {
    this.#fabric = fabric;
    this.address = address;
    this.#slab = slab;
    fabric.attach(address, this);
  }

  setHandler(handler: NetworkHandler): void {
    this.#handler = handler;
  }

  #newEnd(): End {
    const end: End = {
      id: this.#nextId++,
      network: this,
      remote: null,
      open: true,
      receiving: true,
      arrivesMs: 0,
      expected: new Map(),
    };
    this.#ends.set(end.id, end);
    return end;
  }

  connect(address: string): ConnectionId {
    const end = this.#newEnd();
    this.#at(this.#fabric.delayMs(), () => {
      this.#tryConnect(end, address);
    });
    return end.id;
  }

  #tryConnect(end: End, address: string): void {
    if (!end.open) return;
    const cut = this.#fabric.isCut(this.address, address) || this.#fabric.isCut(address, this.address);
    if (cut) {
      this.#at(RETRY_MS, () => {
        this.#tryConnect(end, address);
      });
      return;
    }
    const target = this.#fabric.at(address);
    if (target === undefined) {
      this.#drop(end, 'ECONNREFUSED');
      return;
    }
    const remote = target.#newEnd();
    remote.remote = end;
    end.remote = remote;
    target.#event(() => target.#handler?.onAccepted(remote.id));
    this.#event(() => this.#handler?.onConnected(end.id));
  }

  send(
    connection: ConnectionId,
    frame: Frame,
    buffer: BufferId,
    bufferOffsetBytes: number,
    replyBuffer: BufferId,
  ): void {
    const end = this.#ends.get(connection);
    if (end === undefined || !end.open) return;
    const payload =
      frame.payloadLength === 0 ? null : this.#slab.bytes(buffer, bufferOffsetBytes, frame.payloadLength).slice();
    if (replyBuffer !== NO_BUFFER) {
      this.#slab.retain(replyBuffer);
      end.expected.set(frame.tag, replyBuffer);
    }
    this.#transmit(end, new Frame().copyFrom(frame), payload);
  }

  sendControl(connection: ConnectionId, frame: Frame, payload: Uint8Array): void {
    const end = this.#ends.get(connection);
    if (end === undefined || !end.open) return;
    frame.payloadLength = payload.length;
    this.#transmit(end, new Frame().copyFrom(frame), payload.length === 0 ? null : payload.slice());
  }

  #transmit(end: End, frame: Frame, payload: Uint8Array | null): void {
    const { remote } = end;
    if (remote === null) return;
    const now = this.#fabric.clock.nowMs();
    end.arrivesMs = Math.max(end.arrivesMs, now + this.#fabric.delayMs());
    this.#fabric.clock.after(end.arrivesMs - now, () => {
      this.#arrive(end, remote, frame, payload);
    });
  }

  /** Delivers, or waits while the link is cut, the receiver does not read or has no buffer; later frames wait behind. */
  #arrive(end: End, remote: End, frame: Frame, payload: Uint8Array | null): void {
    if (!remote.open || remote.network.#dead) return;
    const waits = this.#backlog(end);
    const blocked = this.#fabric.isCut(this.address, remote.network.address) || !remote.receiving;
    if (waits.length > 0 || blocked || !remote.network.#deliver(remote, frame, payload)) {
      waits.push(() => remote.network.#deliver(remote, frame, payload));
      if (waits.length === 1) this.#retryLater(end, remote);
    }
  }

  readonly #backlogs = new Map<End, (() => boolean)[]>();

  #backlog(end: End): (() => boolean)[] {
    let waits = this.#backlogs.get(end);
    if (waits === undefined) {
      waits = [];
      this.#backlogs.set(end, waits);
    }
    return waits;
  }

  #retryLater(end: End, remote: End): void {
    this.#fabric.clock.after(RETRY_MS, () => {
      const waits = this.#backlog(end);
      if (!remote.open || remote.network.#dead) {
        waits.length = 0;
        return;
      }
      const blocked = (): boolean => this.#fabric.isCut(this.address, remote.network.address) || !remote.receiving;
      while (waits.length > 0 && !blocked() && waits[0]?.() === true) waits.shift();
      if (waits.length > 0) this.#retryLater(end, remote);
    });
  }

  /** False when there is no buffer for the payload now. */
  #deliver(end: End, frame: Frame, payload: Uint8Array | null): boolean {
    if (!end.open || this.#dead) return true;
    const isReply = (frame.opcode & OPCODE.REPLY) !== 0;
    const isReadReply = frame.opcode === (OPCODE.READ | OPCODE.REPLY);
    let buffer = NO_BUFFER;
    const announced = isReadReply ? end.expected.get(frame.tag) : undefined;
    if (payload !== null) {
      buffer = announced ?? this.#slab.alloc(payload.length, isReply ? POOL_INTERNAL : POOL_PEER);
      if (buffer === NO_BUFFER) return false;
      this.#slab.bytes(buffer, 0, payload.length).set(payload);
      this.#slab.computeChecksums(buffer, 0, payload.length);
    } else if (announced !== undefined) this.#slab.release(announced);
    end.expected.delete(frame.tag);
    this.#event(() => this.#handler?.onFrame(end.id, this.#frame.copyFrom(frame), buffer));
    return true;
  }

  setReceiving(connection: ConnectionId, receiving: boolean): void {
    const end = this.#ends.get(connection);
    if (end !== undefined) end.receiving = receiving;
  }

  close(connection: ConnectionId): void {
    const end = this.#ends.get(connection);
    if (end?.open !== true) return;
    const { remote } = end;
    this.#stopEnd(end);
    this.#at(0, () => {
      this.#ends.delete(end.id);
      this.#event(() => this.#handler?.onClosed(end.id, 'closed'));
    });
    if (remote !== null) this.#hangUp(remote);
  }

  /** Breaks every connection of this node, as a reset of its links would. */
  resetAll(): void {
    for (const end of [...this.#ends.values()]) {
      const { remote } = end;
      this.#drop(end, 'ECONNRESET');
      if (remote !== null) this.#hangUp(remote);
    }
  }

  /** The other side hears of the end when the link lets it. */
  #hangUp(remote: End): void {
    this.#fabric.clock.after(this.#fabric.delayMs(), () => {
      if (this.#fabric.isCut(this.address, remote.network.address)) this.#hangUp(remote);
      else if (!remote.network.#dead) remote.network.#drop(remote, 'ECONNRESET');
    });
  }

  #drop(end: End, reason: string): void {
    if (!end.open) return;
    this.#stopEnd(end);
    this.#ends.delete(end.id);
    this.#event(() => this.#handler?.onClosed(end.id, reason));
  }

  #stopEnd(end: End): void {
    end.open = false;
    if (!this.#dead) for (const buffer of end.expected.values()) this.#slab.release(buffer);
    end.expected.clear();
  }

  /** The process died: its kernel resets the connections, unless the whole node lost power and nobody hears anything. */
  die(silently: boolean): void {
    this.#dead = true;
    this.#fabric.detach(this.address);
    for (const end of this.#ends.values()) {
      end.open = false;
      if (!silently && end.remote !== null) this.#hangUp(end.remote);
    }
    this.#ends.clear();
  }

  #at(delayMs: number, callback: () => void): void {
    this.#fabric.clock.after(delayMs, () => {
      if (!this.#dead) callback();
    });
  }

  /** While frozen, events wait; they run in order when the node thaws. */
  #frozen: (() => void)[] | null = null;

  freeze(): void {
    this.#frozen ??= [];
  }

  thaw(): void {
    const waiting = this.#frozen ?? [];
    this.#frozen = null;
    for (const event of waiting) this.#event(event);
  }

  #event(callback: () => void): void {
    if (this.#frozen !== null) {
      this.#frozen.push(callback);
      return;
    }
    assert(this.#handler !== null, 'a node has a handler before it has traffic');
    this.onBatchStart();
    callback();
    this.onBatchEnd();
  }
}

/**
 * The network between simulated nodes: connections that deliver frames in order after random delays, as TCP does, or break. Links between
 * nodes can be cut in one direction: what is sent waits, as TCP retransmits, until the link heals or the connection is closed.
 *
 * Inside a connection TCP neither loses nor doubles nor reorders a frame; connections know nothing of each other. The worst that it allows when
 * one side breaks a connection: what is on its way is lost, or it arrives much later (`lingerChance`), and only then does the other side hear
 * of the end, while the first one has long connected again and said the same, and more, over the new connection.
 */
import { assert } from '../../../daemon/base/assert.js';
import { BLOCK_BYTES } from '../../../daemon/base/units.js';
import type { ConnectionId, Network, NetworkHandler } from '../../../daemon/ports/network.js';
import { NO_BUFFER, POOL_INTERNAL, POOL_PEER, type BufferId, type Slab } from '../../../daemon/ports/slab.js';
import { Frame, OPCODE } from '../../../daemon/protocol/frame.js';
import type { SimClock } from './sim-clock.js';
import type { SimRandom } from './sim-random.js';

export interface FabricOptions {
  readonly delayMsMin: number;
  readonly delayMsMax: number;
  /** Probability that what is on its way in a connection that breaks still arrives, late. */
  readonly lingerChance: number;
}

const LINGER_MS_MAX = 1_500;

const RETRY_MS = 5;

/** On its way; `checksums` null: a control message. */
interface Payload {
  readonly bytes: Uint8Array;
  readonly checksums: Uint32Array | null;
}

/** One end of a connection. */
interface End {
  readonly id: ConnectionId;
  readonly network: SimNetwork;
  remote: End | null;
  open: boolean;
  receiving: boolean;
  /** Nothing sent earlier arrives later than this. */
  arrivesMs: number;
  /** It is broken, and what it sent before is held up until then. */
  lingersUntilMs: number;
  /** Reply buffers of READ requests, by tag. */
  readonly expected: Map<number, BufferId>;
}

export class SimFabric {
  readonly clock: SimClock;
  readonly random: SimRandom;
  readonly options: FabricOptions;
  readonly #nodes = new Map<string, SimNetwork>();
  /** How many cuts there are of each direction of a link. */
  readonly #cuts = new Map<string, number>();
  /** Delays are this many times as long. */
  slowness = 1;

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

  /** Cuts one direction of a link; returns how to heal what this cut. */
  cut(from: string, to: string): () => void {
    const link = `${from}>${to}`;
    this.#cuts.set(link, (this.#cuts.get(link) ?? 0) + 1);
    return () => {
      const count = this.#cuts.get(link) ?? 0;
      if (count > 1) this.#cuts.set(link, count - 1);
      else this.#cuts.delete(link);
    };
  }

  /** All cuts of one direction of a link. */
  heal(from: string, to: string): void {
    this.#cuts.delete(`${from}>${to}`);
  }

  healAll(): void {
    this.#cuts.clear();
  }

  isCut(from: string, to: string): boolean {
    return this.#cuts.size > 0 && this.#cuts.has(`${from}>${to}`);
  }

  delayMs(): number {
    return this.slowness * this.random.between(this.options.delayMsMin, this.options.delayMsMax);
  }

  /** How long what is on its way in a connection that breaks now is held up. */
  lingerMs(): number {
    return this.random.chance(this.options.lingerChance) ? this.random.between(0, LINGER_MS_MAX) : 0;
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
      lingersUntilMs: 0,
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
    const payload = frame.payloadLength === 0 ? null : this.#payloadOf(buffer, bufferOffsetBytes, frame.payloadLength);
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
    const sent = payload.length === 0 ? null : { bytes: payload.slice(), checksums: null };
    this.#transmit(end, new Frame().copyFrom(frame), sent);
  }

  /** Bytes and table of checksums as the buffer has them now. */
  #payloadOf(buffer: BufferId, offsetBytes: number, lengthBytes: number): Payload {
    const first = this.#slab.checksumIndex(buffer) + offsetBytes / BLOCK_BYTES;
    return {
      bytes: this.#slab.bytes(buffer, offsetBytes, lengthBytes).slice(),
      checksums: this.#slab.checksums.slice(first, first + Math.ceil(lengthBytes / BLOCK_BYTES)),
    };
  }

  #transmit(end: End, frame: Frame, payload: Payload | null): void {
    const { remote } = end;
    if (remote === null) return;
    const now = this.#fabric.clock.nowMs();
    end.arrivesMs = Math.max(end.arrivesMs, now + this.#fabric.delayMs());
    this.#fabric.clock.after(end.arrivesMs - now, () => {
      this.#arrive(end, remote, frame, payload);
    });
  }

  /** Delivers, or waits while the link is cut, the receiver does not read or has no buffer; later frames wait behind. */
  #arrive(end: End, remote: End, frame: Frame, payload: Payload | null): void {
    if (!remote.open || remote.network.#dead) return;
    const waits = this.#backlog(end);
    if (waits.length > 0 || this.#isHeldUp(end, remote) || !remote.network.#deliver(remote, frame, payload)) {
      waits.push(() => remote.network.#deliver(remote, frame, payload));
      if (waits.length === 1) this.#retryLater(end, remote);
    }
  }

  #isHeldUp(end: End, remote: End): boolean {
    if (end.lingersUntilMs > this.#fabric.clock.nowMs()) return true;
    return this.#fabric.isCut(this.address, remote.network.address) || !remote.receiving;
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
      while (waits.length > 0 && !this.#isHeldUp(end, remote) && waits[0]?.() === true) waits.shift();
      if (waits.length > 0) this.#retryLater(end, remote);
    });
  }

  /** False when there is no buffer for the payload now. */
  #deliver(end: End, frame: Frame, payload: Payload | null): boolean {
    if (!end.open || this.#dead) return true;
    const isReply = (frame.opcode & OPCODE.REPLY) !== 0;
    const isReadReply = frame.opcode === (OPCODE.READ | OPCODE.REPLY);
    let buffer = NO_BUFFER;
    const announced = isReadReply ? end.expected.get(frame.tag) : undefined;
    if (payload !== null) {
      const { bytes, checksums } = payload;
      buffer = announced ?? this.#slab.alloc(bytes.length, isReply ? POOL_INTERNAL : POOL_PEER);
      if (buffer === NO_BUFFER) return false;
      this.#slab.bytes(buffer, 0, bytes.length).set(bytes);
      this.#slab.computeChecksums(buffer, 0, bytes.length);
      const first = this.#slab.checksumIndex(buffer);
      checksums?.forEach((checksum, block) => {
        assert(this.#slab.checksums[first + block] === checksum, 'a payload is sent with its checksums');
      });
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
    if (remote !== null) this.#hangUp(end, remote);
  }

  /** Breaks every connection of this node, as a reset of its links would. */
  resetAll(): void {
    for (const end of [...this.#ends.values()]) {
      const { remote } = end;
      this.#drop(end, 'ECONNRESET');
      if (remote !== null) this.#hangUp(end, remote);
    }
  }

  /** The other side hears of the end when the link lets it, after what was sent before. */
  #hangUp(end: End, remote: End): void {
    const lingerMs = this.#fabric.lingerMs();
    end.lingersUntilMs = this.#fabric.clock.nowMs() + lingerMs;
    this.#endRemote(remote, lingerMs > 0 ? lingerMs + 2 * RETRY_MS : this.#fabric.delayMs());
  }

  #endRemote(remote: End, delayMs: number): void {
    this.#fabric.clock.after(delayMs, () => {
      if (this.#fabric.isCut(this.address, remote.network.address)) this.#endRemote(remote, this.#fabric.delayMs());
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
      if (!silently && end.remote !== null) this.#hangUp(end, end.remote);
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

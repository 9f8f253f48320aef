/**
 * The data plane's devices over the native engine: slab, drives, framed connections and NBD connections, in one io_uring of the
 * calling thread (main or worker).
 *
 * Each turn of the loop delivers a batch of events to the handlers, synchronously; the commands that they give are
 * written into shared memory and submitted together when the batch is over. An exception that a handler throws is
 * uncaught: it ends the process, because what followed in the batch would be lost.
 */
import { abi, loadAddon, nativeError, type Addon, type EngineStats } from '../../native/index.js';
import { assert } from '../base/assert.js';
import { BraidError } from '../base/errors.js';
import { limits } from '../base/limits.js';
import type { DiskOpener } from '../ports/disk.js';
import type { NbdTransport, NbdTransportHandler } from '../ports/nbd-transport.js';
import type { Network, NetworkHandler } from '../ports/network.js';
import { POOL_FRONTEND, POOL_INTERNAL, POOL_PEER, type Pool, type Slab } from '../ports/slab.js';
import { closeReason } from './uring/close-reason.js';
import { UringDisks } from './uring/disks.js';
import { UringNbd } from './uring/nbd.js';
import { UringNetwork } from './uring/network.js';
import { Shared } from './uring/shared.js';
import { UringSlab } from './uring/slab.js';

assert(limits.payloadBytesMax === abi.BUFFER_BYTES_MAX, 'the largest payload is the largest buffer');
assert(
  POOL_FRONTEND === abi.POOL_FRONTEND && POOL_PEER === abi.POOL_PEER && POOL_INTERNAL === abi.POOL_INTERNAL,
  'pools have the same numbers on both sides',
);

export interface UringOptions {
  /** A multiple of 128 KiB, at least 1 MiB. */
  slabBytes: number;
}

export interface UringStats extends EngineStats {
  slabBytes: number;
  slabUsedFrontendBytes: number;
  slabUsedPeerBytes: number;
  slabUsedInternalBytes: number;
}

export class UringEngine {
  /** Called before the first event of a batch is delivered. */
  onBatchStart: () => void = () => {};
  /** Called after each batch of events has been delivered, before its commands are submitted. */
  onBatchEnd: () => void = () => {};
  /** CLOCK_MONOTONIC at the start of the batch under way in milliseconds, 0 between batches. A typed array keeps the number from being boxed. */
  readonly batchMs: Float64Array;
  readonly slab: Slab;
  readonly disks: DiskOpener;
  readonly network: Network;
  readonly nbd: NbdTransport;
  readonly #shared: Shared;
  readonly #slab: UringSlab;
  readonly #disks: UringDisks;
  readonly #network: UringNetwork;
  readonly #nbd: UringNbd;
  readonly #stopped: Promise<void>;
  #resolveStopped: () => void = () => {};

  static start(options: UringOptions): UringEngine {
    return new UringEngine(loadAddon(), options);
  }

  private constructor(addon: Addon, { slabBytes }: UringOptions) {
    const created = addon.create(
      {
        slabBytes,
        connectionsMax: limits.connectionsPerShardMax,
        framesQueuedMax: limits.framesQueuedPerConnectionMax,
        nbdRequestsMax: limits.nbdRequestsPerConnectionMax,
        nbdWriteBytesMax: limits.nbdRequestBytesMax,
        nbdUnsentBytesMax: limits.nbdUnsentBytesPerConnectionMax,
        sendStallMs: limits.sendStallMs,
      },
      (count) => this.#deliver(count),
      () => this.#resolveStopped(),
    );
    if (typeof created === 'number') throw startError(created, slabBytes);
    this.#shared = new Shared(addon, created.handle, created.memory, created.layout);
    this.batchMs = this.#shared.batchMs;
    this.slab = this.#slab = new UringSlab(this.#shared);
    this.disks = this.#disks = new UringDisks(this.#shared, this.#slab);
    this.network = this.#network = new UringNetwork(this.#shared, this.#slab);
    this.nbd = this.#nbd = new UringNbd(this.#shared, this.#slab);
    this.#stopped = new Promise((resolve) => {
      this.#resolveStopped = resolve;
    });
  }

  setNetworkHandler(handler: NetworkHandler): void {
    this.#network.handler = handler;
  }

  setNbdHandler(handler: NbdTransportHandler): void {
    this.#nbd.handler = handler;
  }

  /** Listens for other agents; returns the bound port (`port` 0: any). */
  listenFrames(host: string, port: number): number {
    return this.#listenTcp(abi.PROTOCOL_FRAMES, host, port).port;
  }

  listenNbdTcp(host: string, port: number): { listener: number; port: number } {
    return this.#listenTcp(abi.PROTOCOL_NBD, host, port);
  }

  /** A socket file that nobody listens on any more is replaced. */
  listenNbdUnix(path: string): number {
    const { addon, handle } = this.#shared;
    const listener = addon.listenUnix(handle, abi.PROTOCOL_NBD, path);
    if (listener < 0) throw nativeError('UNAVAILABLE', `cannot listen on ${path}`, listener, 'choose another path');
    return listener;
  }

  closeListener(listener: number): void {
    if (!this.#shared.isStopping) this.#shared.addon.closeListener(this.#shared.handle, listener);
  }

  /** Counters for metrics; zeros once the engine has stopped. */
  stats(): UringStats {
    const { addon, handle, layout } = this.#shared;
    return {
      ...NO_STATS,
      ...addon.stats(handle),
      slabBytes: layout.slabBytes,
      slabUsedFrontendBytes: this.#slab.usedBytes(POOL_FRONTEND),
      slabUsedPeerBytes: this.#slab.usedBytes(POOL_PEER),
      slabUsedInternalBytes: this.#slab.usedBytes(POOL_INTERNAL),
    };
  }

  /**
   * Ends: closes everything, with `onClosed` for each connection; what is queued but not sent is dropped. Resolves when no I/O is
   * in flight and the loop hooks are gone.
   */
  stop(): Promise<void> {
    if (!this.#shared.isStopping) {
      this.#shared.addon.stop(this.#shared.handle);
      this.#shared.isStopping = true;
    }
    return this.#stopped;
  }

  #listenTcp(protocol: number, host: string, port: number): { listener: number; port: number } {
    const { addon, handle } = this.#shared;
    const [listener, boundPort] = addon.listenTcp(handle, protocol, host, port);
    if (listener < 0) {
      const advice = 'choose another address or port, or stop what uses it';
      throw nativeError('UNAVAILABLE', `cannot listen on ${host}:${port}`, listener, advice);
    }
    return { listener, port: boundPort };
  }

  #deliver(count: number): void {
    const words = this.#shared.events;
    this.onBatchStart();
    for (let index = 0; index < count; index++) this.#dispatch(words, index * abi.RECORD_WORDS);
    this.onBatchEnd();
    this.batchMs[0] = 0;
  }

  #dispatch(words: Uint32Array, at: number): void {
    const target = words[at + abi.WORD_TARGET] as number;
    switch ((words[at + abi.WORD_KIND] as number) & 0xff) {
      case abi.EVENT_FRAME:
        return this.#network.onFrame(words, at);
      case abi.EVENT_DISK:
        return this.#disks.onCompletion(words, at);
      case abi.EVENT_NBD_REQUEST:
        return this.#nbd.onRequest(words, at);
      case abi.EVENT_ACCEPTED:
        if (words[at + abi.WORD_PROTOCOL] === abi.PROTOCOL_FRAMES)
          return this.#network.mustHandler().onAccepted(target);
        return this.#nbd.mustHandler().onAccepted(target, words[at + abi.WORD_LISTENER] as number);
      case abi.EVENT_CONNECTED:
        return this.#network.mustHandler().onConnected(target);
      case abi.EVENT_CLOSED:
        return this.#onClosed(words, at);
      case abi.EVENT_BYTES:
        return this.#nbd.onBytes(target);
      case abi.EVENT_AVAILABLE:
        return this.#slab.onAvailable(target as Pool);
      case abi.EVENT_DRAINED:
        return this.#nbd.mustHandler().onDrained(target);
      case abi.EVENT_DISK_CLOSED:
        return this.#disks.onClosed(target);
      default:
        assert(false, 'an event is one of these');
    }
  }

  #onClosed(words: Uint32Array, at: number): void {
    const isNbd = words[at + abi.WORD_PROTOCOL] === abi.PROTOCOL_NBD;
    const handler = isNbd ? this.#nbd.mustHandler() : this.#network.mustHandler();
    const reason = closeReason(words[at + abi.WORD_STATUS] as number, words[at + abi.WORD_ERRNO] as number);
    handler.onClosed(words[at + abi.WORD_TARGET] as number, reason);
  }
}

function startError(errno: number, slabBytes: number): BraidError {
  switch (-errno) {
    case 22: // EINVAL
      return new BraidError(
        'INVALID_ARGUMENT',
        `a slab of ${slabBytes} bytes is not possible; it is a multiple of 128 KiB and at least 1 MiB`,
      );
    case 12: // ENOMEM
      return nativeError(
        'UNAVAILABLE',
        'cannot start the engine',
        errno,
        'make the slab smaller, free memory, or raise the limit of locked memory (ulimit -l, LimitMEMLOCK) to 8 MiB or more',
      );
    default: {
      const advice =
        'Linux 5.19 or newer is needed, with sysctl kernel.io_uring_disabled=0 and io_uring allowed by seccomp';
      return nativeError('UNSUPPORTED', 'io_uring is not available', errno, advice);
    }
  }
}

const NO_STATS: EngineStats = {
  framesIn: 0,
  framesOut: 0,
  nbdRequests: 0,
  nbdReplies: 0,
  bytesIn: 0,
  bytesOut: 0,
  receives: 0,
  sends: 0,
  driveReads: 0,
  driveReadBytes: 0,
  driveWrites: 0,
  driveWriteBytes: 0,
  driveOthers: 0,
  driveOperationsInFlight: 0,
  batches: 0,
  events: 0,
  commands: 0,
  enters: 0,
  poolWaits: 0,
  connections: 0,
  connectionsRefused: 0,
};

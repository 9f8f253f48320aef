/**
 * The NBD server of a shard: every attached volume is an export, reachable through every listener.
 *
 * Invariants, executed by `assertConsistent`:
 * - A connection is known from `onAccepted` to `onClosed`, and belongs to an export while it is in transmission or draining.
 * - An export has at most `limits.nbdConnectionsPerVolumeMax` connections.
 * - A connection that is over has no requests but those with pieces under way, which end without replies.
 */
import { assert, must } from '../../base/assert.js';
import { BraidError } from '../../base/errors.js';
import { limits } from '../../base/limits.js';
import { EXTENT_BYTES } from '../../base/units.js';
import type { BlockVolume } from '../../ports/block-volume.js';
import type { Clock, Timer } from '../../ports/clock.js';
import type { Log } from '../../ports/log.js';
import type { NbdRequest, NbdTransport, NbdTransportHandler } from '../../ports/nbd-transport.js';
import type { ConnectionId } from '../../ports/network.js';
import { NO_BUFFER, POOL_INTERNAL, type BufferId, type Pool, type Slab } from '../../ports/slab.js';
import { STRING_BYTES_MAX, decodeString, encodeString } from './bytes.js';
import { NbdConnection } from './connection.js';
import { Handshake, type ExportDirectory, type ExportInfo, type HandshakeOutcome } from './handshake.js';
import { CMD } from './protocol.js';
import { ExportRequests } from './requests.js';
import type { ExportStats } from './stats.js';

export interface NbdServerOptions {
  readonly transport: NbdTransport;
  readonly slab: Slab;
  /** Size of the slab's front-end pool. */
  readonly frontendBytes: number;
  readonly clock: Clock;
  readonly log: Log;
}

export interface ExportOptions {
  readonly readOnly: boolean;
  /** For people, shown by NBD_OPT_LIST and NBD_INFO_DESCRIPTION. */
  readonly description: string;
  /** Of the volume; for statistics and the log. */
  readonly uuid: string;
}

interface Export {
  readonly info: ExportInfo;
  readonly uuid: string;
  readonly requests: ExportRequests;
  readonly connections: Set<NbdConnection>;
  isRemoving: boolean;
}

export class NbdServer implements NbdTransportHandler, ExportDirectory {
  readonly #transport: NbdTransport;
  readonly #slab: Slab;
  readonly #frontendBytes: number;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #zeroes: BufferId;
  readonly #exports = new Map<string, Export>();
  readonly #connections = new Map<ConnectionId, NbdConnection>();
  readonly #handshakeTimers = new Map<ConnectionId, Timer>();

  constructor(options: NbdServerOptions) {
    this.#transport = options.transport;
    this.#slab = options.slab;
    this.#frontendBytes = options.frontendBytes;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#zeroes = options.slab.alloc(EXTENT_BYTES, POOL_INTERNAL);
    if (this.#zeroes === NO_BUFFER) {
      throw new BraidError('LIMIT_EXCEEDED', 'The slab has no buffer for the NBD server; enlarge slabBytes.');
    }
    this.#slab.zero(this.#zeroes, 0, EXTENT_BYTES);
  }

  /** Serves a volume from now on. */
  addExport(name: string, volume: BlockVolume, options: ExportOptions): void {
    if (name === '' || decodeString(encodeString(name)) !== name) {
      const rule = `1 to ${STRING_BYTES_MAX} bytes of UTF-8 without NUL`;
      throw new BraidError(
        'INVALID_ARGUMENT',
        `An export name is ${rule}; choose another than ${JSON.stringify(name)}.`,
      );
    }
    if (this.#exports.has(name)) {
      throw new BraidError('ALREADY_EXISTS', `Export ${JSON.stringify(name)} is being served; remove it first.`);
    }
    const requests = new ExportRequests({
      volume,
      readOnly: options.readOnly,
      transport: this.#transport,
      slab: this.#slab,
      frontendBytes: this.#frontendBytes,
      clock: this.#clock,
      zeroes: this.#zeroes,
      closer: { close: (connection, reason) => this.#close(connection, reason) },
    });
    const info: ExportInfo = {
      name,
      get sizeBytes() {
        return volume.sizeBytes;
      },
      readOnly: options.readOnly,
      description: options.description.slice(0, STRING_BYTES_MAX / 4),
    };
    this.#exports.set(name, { info, uuid: options.uuid, requests, connections: new Set(), isRemoving: false });
    this.#log.info({ export: name, uuid: options.uuid, sizeBytes: volume.sizeBytes }, 'NBD export added');
  }

  /**
   * Ends an export: what has not started and what comes is refused with ESHUTDOWN; when nothing is under way in the volume any more, its
   * connections are closed behind the replies that are queued. The caller may then let go of the volume.
   */
  async removeExport(name: string): Promise<void> {
    const found = this.#exports.get(name);
    if (found === undefined || found.isRemoving) {
      throw new BraidError('NOT_FOUND', `No export ${JSON.stringify(name)} is being served.`);
    }
    found.isRemoving = true;
    await found.requests.stop();
    for (const connection of [...found.connections]) this.#close(connection, 'the export was removed');
    assert(found.requests.requestsInUse === 0, 'a removed export has no requests');
    this.#exports.delete(name);
    this.#log.info({ export: name, uuid: found.uuid }, 'NBD export removed');
  }

  /** A slab pool has room again, and so may the volumes. */
  onSlabAvailable(_pool: Pool): void {
    for (const each of this.#exports.values()) each.requests.pump();
  }

  /** Closes what is left and gives back the slab buffer. The exports must have been removed. */
  stop(): void {
    assert(this.#exports.size === 0, 'exports are removed before the server stops');
    for (const connection of [...this.#connections.values()]) this.#close(connection, 'the server stops');
    this.#slab.release(this.#zeroes);
  }

  stats(): ExportStats[] {
    return [...this.#exports.values()].map(({ info, uuid, requests, connections }) => ({
      name: info.name,
      uuid,
      connections: connections.size,
      inFlight: requests.stats.inFlight,
      read: requests.stats.counters(CMD.READ),
      write: requests.stats.counters(CMD.WRITE),
      flush: requests.stats.counters(CMD.FLUSH),
      trim: requests.stats.counters(CMD.TRIM),
      writeZeroes: requests.stats.counters(CMD.WRITE_ZEROES),
      blockStatus: requests.stats.counters(CMD.BLOCK_STATUS),
    }));
  }

  list(): Iterable<ExportInfo> {
    return [...this.#exports.values()].filter(({ isRemoving }) => !isRemoving).map(({ info }) => info);
  }

  find(name: string): ExportInfo | null {
    if (name === '') {
      const all = [...this.list()];
      return all.length === 1 ? must(all[0], 'the only export') : null;
    }
    const found = this.#exports.get(name);
    return found === undefined || found.isRemoving ? null : found.info;
  }

  admits(name: string): boolean {
    const found = this.#exports.get(name);
    return found !== undefined && found.connections.size < limits.nbdConnectionsPerVolumeMax;
  }

  onAccepted(id: ConnectionId, _listener: number): void {
    assert(!this.#connections.has(id), 'a connection is accepted once');
    const connection = new NbdConnection(id, new Handshake(this));
    this.#connections.set(id, connection);
    const timer = this.#clock.after(limits.nbdHandshakeTimeoutMs, () =>
      this.#close(connection, 'no export chosen in time'),
    );
    this.#handshakeTimers.set(id, timer);
    this.#transport.sendBytes(id, connection.handshake.greeting(), false);
  }

  onBytes(id: ConnectionId, bytes: Uint8Array): void {
    const connection = this.#connections.get(id);
    if (connection === undefined || connection.state === 'over') return;
    if (connection.state !== 'handshake') {
      this.#close(connection, 'bytes between the handshake and the first request');
      return;
    }
    const { reply, outcome } = connection.handshake.receive(bytes);
    if (reply.length > 0) this.#transport.sendBytes(id, reply, false);
    if (outcome.kind === 'close') this.#close(connection, outcome.reason);
    if (outcome.kind === 'transmission') this.#startTransmission(connection, outcome);
  }

  onRequest(id: ConnectionId, request: NbdRequest, buffer: BufferId): void {
    const connection = this.#connections.get(id);
    if (connection === undefined || connection.state !== 'transmission') {
      if (buffer !== NO_BUFFER) this.#slab.release(buffer);
      return;
    }
    if (request.type === CMD.DISC) {
      connection.state = 'draining';
      if (connection.requestCount === 0) this.#close(connection, 'the client disconnected');
      return;
    }
    must(connection.sink, 'sink of a connection in transmission').accept(connection, request, buffer);
  }

  onDrained(id: ConnectionId): void {
    const connection = this.#connections.get(id);
    if (connection?.isOpen === true) must(connection.sink, 'sink of an open connection').onDrained(connection);
  }

  onClosed(id: ConnectionId, reason: string): void {
    const connection = this.#connections.get(id);
    if (connection === undefined) return;
    this.#end(connection, reason);
    this.#connections.delete(id);
  }

  assertConsistent(): void {
    for (const [id, connection] of this.#connections) {
      assert(connection.id === id, 'connections are known by their id');
      const found = this.#exports.get(connection.exportName);
      assert(connection.isOpen === (found?.connections.has(connection) ?? false), 'open connections have an export');
      assert(this.#handshakeTimers.has(id) === (connection.state === 'handshake'), 'a handshake has a deadline');
    }
    for (const { connections, requests } of this.#exports.values()) {
      assert(connections.size <= limits.nbdConnectionsPerVolumeMax, 'connections of an export are bounded');
      requests.assertConsistent();
    }
  }

  #startTransmission(
    connection: NbdConnection,
    outcome: Extract<HandshakeOutcome, { readonly kind: 'transmission' }>,
  ): void {
    const found = must(this.#exports.get(outcome.exportName), 'the negotiated export');
    this.#stopTimer(connection.id);
    connection.state = 'transmission';
    connection.exportName = outcome.exportName;
    connection.sink = found.requests;
    connection.structured = outcome.structured;
    connection.hasContext = outcome.hasContext;
    found.connections.add(connection);
    this.#log.debug({ connection: connection.id, export: outcome.exportName }, 'NBD client attached');
    this.#transport.startTransmission(connection.id, outcome.leftover);
  }

  #close(connection: NbdConnection, reason: string): void {
    if (connection.state === 'over') return;
    this.#end(connection, reason);
    this.#transport.close(connection.id);
  }

  /** What is under way in the volume ends without replies; everything else of the connection ends now. */
  #end(connection: NbdConnection, reason: string): void {
    if (connection.state === 'over') return;
    this.#stopTimer(connection.id);
    connection.state = 'over';
    connection.sink?.abandon(connection);
    this.#exports.get(connection.exportName)?.connections.delete(connection);
    this.#log.debug({ connection: connection.id, export: connection.exportName, reason }, 'NBD connection over');
  }

  #stopTimer(id: ConnectionId): void {
    this.#handshakeTimers.get(id)?.cancel();
    this.#handshakeTimers.delete(id);
  }
}

/** The NBD transport port: handshake bytes and requests of NBD clients. */
import { abi } from '../../../native/index.js';
import { assert } from '../../base/assert.js';
import { NbdRequest, type NbdTransport, type NbdTransportHandler } from '../../ports/nbd-transport.js';
import type { ConnectionId } from '../../ports/network.js';
import type { BufferId } from '../../ports/slab.js';
import type { Shared } from './shared.js';
import type { UringSlab } from './slab.js';

const { WORD_KIND, WORD_TARGET, WORD_BUFFER, WORD_BUFFER_OFFSET, WORD_OFFSET_LOW, WORD_OFFSET_HIGH, WORD_LENGTH } = abi;
const { WORD_STATUS, WORD_NBD_FLAGS, WORD_COOKIE_HIGH, WORD_COOKIE_LOW, WORD_FINAL, WORD_PAYLOAD_LENGTH } = abi;
const TWO_32 = 2 ** 32;
const SLOT_MASK = (1 << abi.CONNECTION_SLOT_BITS) - 1;
const FIRST = 1 << 16;
const LAST = 1 << 17;

export class UringNbd implements NbdTransport {
  handler: NbdTransportHandler | undefined;
  readonly #shared: Shared;
  readonly #slab: UringSlab;
  readonly #received = new NbdRequest();

  constructor(shared: Shared, slab: UringSlab) {
    this.#shared = shared;
    this.#slab = slab;
  }

  sendBytes(connection: ConnectionId, bytes: Uint8Array, final: boolean): void {
    if (this.#shared.isStopping) return;
    this.#shared.addon.sendBytes(this.#shared.handle, connection, bytes, final);
  }

  startTransmission(connection: ConnectionId, leftover: Uint8Array): void {
    if (this.#shared.isStopping) return;
    this.#shared.addon.startTransmission(this.#shared.handle, connection, leftover);
  }

  sendSimpleReply(
    connection: ConnectionId,
    cookieHigh: number,
    cookieLow: number,
    error: number,
    totalLength: number,
  ): void {
    const at = this.#reply(abi.COMMAND_NBD_SIMPLE, connection, cookieHigh, cookieLow, error !== 0 || totalLength === 0);
    if (at >= 0) this.#shared.commands[at + WORD_STATUS] = error;
  }

  sendData(
    connection: ConnectionId,
    buffer: BufferId,
    bufferOffsetBytes: number,
    lengthBytes: number,
    final: boolean,
  ): void {
    const at = this.#reply(abi.COMMAND_NBD_DATA, connection, 0, 0, final);
    if (at >= 0) this.#payload(connection, at, buffer, bufferOffsetBytes, lengthBytes);
  }

  sendDataChunk(
    connection: ConnectionId,
    cookieHigh: number,
    cookieLow: number,
    offset: number,
    buffer: BufferId,
    bufferOffsetBytes: number,
    lengthBytes: number,
    done: boolean,
  ): void {
    const at = this.#reply(abi.COMMAND_NBD_DATA_CHUNK, connection, cookieHigh, cookieLow, done);
    if (at < 0) return;
    this.#shared.commands[at + WORD_OFFSET_LOW] = offset;
    this.#shared.commands[at + WORD_OFFSET_HIGH] = offset / TWO_32;
    this.#payload(connection, at, buffer, bufferOffsetBytes, lengthBytes);
  }

  sendHoleChunk(
    connection: ConnectionId,
    cookieHigh: number,
    cookieLow: number,
    offset: number,
    lengthBytes: number,
    done: boolean,
  ): void {
    const at = this.#reply(abi.COMMAND_NBD_HOLE_CHUNK, connection, cookieHigh, cookieLow, done);
    if (at < 0) return;
    this.#shared.commands[at + WORD_OFFSET_LOW] = offset;
    this.#shared.commands[at + WORD_OFFSET_HIGH] = offset / TWO_32;
    this.#shared.commands[at + WORD_LENGTH] = lengthBytes;
  }

  sendStatusChunk(connection: ConnectionId, cookieHigh: number, cookieLow: number, error: number): void {
    const at = this.#reply(abi.COMMAND_NBD_STATUS_CHUNK, connection, cookieHigh, cookieLow, true);
    if (at >= 0) this.#shared.commands[at + WORD_STATUS] = error;
  }

  unsentBytes(connection: ConnectionId): number {
    return this.#shared.unsent[connection & SLOT_MASK] as number;
  }

  close(connection: ConnectionId): void {
    if (!this.#shared.isStopping) this.#shared.command(abi.COMMAND_CLOSE, connection);
  }

  onBytes(connection: ConnectionId): void {
    const bytes = this.#shared.addon.takeBytes(this.#shared.handle, connection);
    if (bytes.byteLength > 0) this.mustHandler().onBytes(connection, new Uint8Array(bytes));
  }

  onRequest(words: Uint32Array, at: number): void {
    const request = this.#received;
    const flags = words[at + WORD_NBD_FLAGS] as number;
    request.type = (words[at + WORD_KIND] as number) >>> 16;
    request.flags = flags & 0xffff;
    request.cookieHigh = words[at + WORD_COOKIE_HIGH] as number;
    request.cookieLow = words[at + WORD_COOKIE_LOW] as number;
    request.offset = (words[at + WORD_OFFSET_HIGH] as number) * TWO_32 + (words[at + WORD_OFFSET_LOW] as number);
    request.length = words[at + WORD_LENGTH] as number;
    request.totalLength = words[at + WORD_PAYLOAD_LENGTH] as number;
    request.first = (flags & FIRST) !== 0;
    request.last = (flags & LAST) !== 0;
    const connection = words[at + WORD_TARGET] as number;
    this.mustHandler().onRequest(connection, request, words[at + WORD_BUFFER] as number);
  }

  mustHandler(): NbdTransportHandler {
    assert(this.handler !== undefined, 'NBD has a handler before it has connections');
    return this.handler;
  }

  /** The command's first word, or -1 when the engine is stopping. */
  #reply(kind: number, connection: ConnectionId, cookieHigh: number, cookieLow: number, final: boolean): number {
    if (this.#shared.isStopping) return -1;
    const at = this.#shared.command(kind, connection);
    const words = this.#shared.commands;
    words[at + WORD_COOKIE_HIGH] = cookieHigh;
    words[at + WORD_COOKIE_LOW] = cookieLow;
    words[at + WORD_FINAL] = final ? 1 : 0;
    return at;
  }

  #payload(
    connection: ConnectionId,
    at: number,
    buffer: BufferId,
    bufferOffsetBytes: number,
    lengthBytes: number,
  ): void {
    assert(lengthBytes > 0, 'a chunk of data is not empty');
    this.#slab.check(buffer, bufferOffsetBytes, lengthBytes);
    this.#slab.retain(buffer);
    const { commands: words, unsent } = this.#shared;
    words[at + WORD_BUFFER] = buffer;
    words[at + WORD_BUFFER_OFFSET] = bufferOffsetBytes;
    words[at + WORD_LENGTH] = lengthBytes;
    const slot = connection & SLOT_MASK;
    unsent[slot] = (unsent[slot] as number) + lengthBytes;
  }
}

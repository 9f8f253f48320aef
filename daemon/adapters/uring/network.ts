/** The network port: frames to and from other agents. */
import { lookup } from 'node:dns';
import { isIP } from 'node:net';
import { abi } from '../../../native/index.js';
import { assert } from '../../base/assert.js';
import { BraidError } from '../../base/errors.js';
import { limits } from '../../base/limits.js';
import { BLOCK_BYTES } from '../../base/units.js';
import type { ConnectionId, Network, NetworkHandler } from '../../ports/network.js';
import { NO_BUFFER, type BufferId } from '../../ports/slab.js';
import { Frame } from '../../protocol/frame.js';
import type { Shared } from './shared.js';
import type { UringSlab } from './slab.js';

const { WORD_KIND, WORD_TARGET, WORD_BUFFER, WORD_TAG, WORD_SESSION, WORD_SEGMENT, WORD_GENERATION, WORD_EPOCH } = abi;
const { WORD_OFFSET_LOW, WORD_OFFSET_HIGH, WORD_LENGTH, WORD_PAYLOAD_LENGTH, WORD_STATUS } = abi;
const { WORD_BUFFER_OFFSET, WORD_REPLY_BUFFER, RECORD_WORDS } = abi;
const TWO_32 = 2 ** 32;

export class UringNetwork implements Network {
  handler: NetworkHandler | undefined;
  readonly #shared: Shared;
  readonly #slab: UringSlab;
  /** By block: the connection on which the buffer is announced for a READ reply. The engine clears it. */
  readonly #announced: Uint32Array;
  readonly #received = new Frame();
  readonly #controlRecord = new Uint32Array(RECORD_WORDS);

  constructor(shared: Shared, slab: UringSlab) {
    this.#shared = shared;
    this.#slab = slab;
    this.#announced = new Uint32Array(shared.memory, shared.layout.announced, shared.layout.slabBytes / BLOCK_BYTES);
  }

  connect(address: string): ConnectionId {
    const { addon, handle } = this.#shared;
    const { host, port } = parseAddress(address);
    const connection = addon.reserve(handle);
    if (connection === 0) throw new BraidError('LIMIT_EXCEEDED', `too many connections to connect to ${address}`);
    if (isIP(host) !== 0) {
      addon.connect(handle, connection, host, port);
    } else {
      lookup(host, (error, ip) => {
        if (error) addon.failConnect(handle, connection);
        else addon.connect(handle, connection, ip, port);
      });
    }
    return connection;
  }

  send(
    connection: ConnectionId,
    frame: Frame,
    buffer: BufferId,
    bufferOffsetBytes: number,
    replyBuffer: BufferId,
  ): void {
    const shared = this.#shared;
    if (shared.isStopping) return;
    assert((buffer !== NO_BUFFER) === frame.payloadLength > 0, 'payload has a buffer');
    if (buffer !== NO_BUFFER) {
      assert(bufferOffsetBytes % BLOCK_BYTES === 0, 'payload is block-aligned');
      this.#slab.check(buffer, bufferOffsetBytes, frame.payloadLength);
      this.#slab.retain(buffer);
    }
    if (replyBuffer !== NO_BUFFER) {
      this.#slab.check(replyBuffer, 0, frame.length);
      assert(this.#announced[replyBuffer - 1] === 0, 'a reply buffer waits for one reply at a time');
      this.#announced[replyBuffer - 1] = connection;
      this.#slab.retain(replyBuffer);
    }
    const at = shared.command(abi.COMMAND_SEND_FRAME, connection);
    writeFrame(shared.commands, at, frame);
    shared.commands[at + WORD_BUFFER] = buffer;
    shared.commands[at + WORD_BUFFER_OFFSET] = bufferOffsetBytes;
    shared.commands[at + WORD_REPLY_BUFFER] = replyBuffer;
  }

  sendControl(connection: ConnectionId, frame: Frame, payload: Uint8Array): void {
    if (this.#shared.isStopping) return;
    assert(payload.length <= limits.controlPayloadBytesMax, 'a control message fits one frame');
    const record = this.#controlRecord;
    record[WORD_KIND] = abi.COMMAND_SEND_FRAME;
    record[WORD_TARGET] = connection;
    writeFrame(record, 0, frame);
    this.#shared.addon.sendControl(this.#shared.handle, record, payload);
  }

  setReceiving(connection: ConnectionId, receiving: boolean): void {
    if (this.#shared.isStopping) return;
    const at = this.#shared.command(abi.COMMAND_RECEIVING, connection);
    this.#shared.commands[at + WORD_STATUS] = receiving ? 1 : 0;
  }

  close(connection: ConnectionId): void {
    if (this.#shared.isStopping) return;
    this.#shared.command(abi.COMMAND_CLOSE, connection);
  }

  onFrame(words: Uint32Array, at: number): void {
    const frame = this.#received;
    const kind = words[at + WORD_KIND] as number;
    frame.opcode = (kind >>> 8) & 0xff;
    frame.flags = kind >>> 16;
    frame.tag = words[at + WORD_TAG] as number;
    frame.session = words[at + WORD_SESSION] as number;
    frame.segment = words[at + WORD_SEGMENT] as number;
    frame.generation = words[at + WORD_GENERATION] as number;
    frame.epoch = words[at + WORD_EPOCH] as number;
    frame.offset = (words[at + WORD_OFFSET_HIGH] as number) * TWO_32 + (words[at + WORD_OFFSET_LOW] as number);
    frame.length = words[at + WORD_LENGTH] as number;
    frame.payloadLength = words[at + WORD_PAYLOAD_LENGTH] as number;
    frame.status = words[at + WORD_STATUS] as number;
    const connection = words[at + WORD_TARGET] as number;
    this.mustHandler().onFrame(connection, frame, words[at + WORD_BUFFER] as number);
  }

  mustHandler(): NetworkHandler {
    assert(this.handler !== undefined, 'the network has a handler before it has connections');
    return this.handler;
  }
}

function writeFrame(words: Uint32Array, at: number, frame: Frame): void {
  words[at + WORD_KIND] = abi.COMMAND_SEND_FRAME | (frame.opcode << 8) | (frame.flags << 16);
  words[at + WORD_TAG] = frame.tag;
  words[at + WORD_SESSION] = frame.session;
  words[at + WORD_SEGMENT] = frame.segment;
  words[at + WORD_GENERATION] = frame.generation;
  words[at + WORD_EPOCH] = frame.epoch;
  words[at + WORD_OFFSET_LOW] = frame.offset;
  words[at + WORD_OFFSET_HIGH] = frame.offset / TWO_32;
  words[at + WORD_LENGTH] = frame.length;
  words[at + WORD_PAYLOAD_LENGTH] = frame.payloadLength;
  words[at + WORD_STATUS] = frame.status;
}

/** `host:port`, `[v6]:port`. */
export function parseAddress(address: string): { host: string; port: number } {
  const colon = address.lastIndexOf(':');
  const host = address.slice(0, colon).replace(/^\[(.*)\]$/, '$1');
  const port = Number(address.slice(colon + 1));
  if (colon <= 0 || host === '' || !Number.isInteger(port) || port <= 0 || port > 65_535) {
    throw new BraidError('INVALID_ARGUMENT', `"${address}" is no address; write host:port`);
  }
  return { host, port };
}

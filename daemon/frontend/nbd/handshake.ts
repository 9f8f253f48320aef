/**
 * Fixed newstyle negotiation ("Newstyle negotiation", "Fixed newstyle negotiation", "Option types"): bytes in, bytes and an outcome out.
 *
 * Invariants:
 * - At most one option header and its payload are kept between calls; a payload beyond `limits.nbdOptionBytesMax` ends the session before any of it is kept.
 * - What one session can make the server do is bounded: `limits.nbdOptionsMax` options, `limits.nbdHandshakeReplyBytesMax` bytes of replies.
 * - The outcome is final once it is not `more`: no byte is read after it, and those not read are handed over as `leftover`.
 * - An allocation context is only selected while structured replies are.
 */
import { assert } from '../../base/assert.js';
import { limits } from '../../base/limits.js';
import { BLOCK_BYTES, SECTOR_BYTES } from '../../base/units.js';
import { ByteReader, ByteWriter, decodeString, encodeString } from './bytes.js';
import { ALLOCATION_CONTEXT, ALLOCATION_CONTEXT_ID, HANDSHAKE_FLAG, INFO, OPT, REP, exportFlags } from './protocol.js';

const INIT_PASSWD = 0x4e42444d41474943n;
const IHAVEOPT = 0x49484156454f5054n;
const REPLY_MAGIC = 0x0003e889045565a9n;
const CLIENT_FLAGS_BYTES = 4;
/** Magic, option, length. */
const OPTION_HEADER_BYTES = 16;
/** Reserved bytes behind the reply to NBD_OPT_EXPORT_NAME. */
const EXPORT_NAME_ZEROES = 124;

export interface ExportInfo {
  readonly name: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly description: string;
}

export interface ExportDirectory {
  /** The exports that are served now. */
  list(): Iterable<ExportInfo>;
  /** The export of that name; of the empty name, the only export when there is exactly one. */
  find(name: string): ExportInfo | null;
  /** Whether the export takes one more connection. */
  admits(name: string): boolean;
}

export type HandshakeOutcome =
  | { readonly kind: 'more' }
  | {
      readonly kind: 'transmission';
      readonly exportName: string;
      readonly structured: boolean;
      /** NBD_CMD_BLOCK_STATUS is allowed. */
      readonly hasContext: boolean;
      readonly leftover: Uint8Array;
    }
  | { readonly kind: 'close'; readonly reason: string };

export interface HandshakeStep {
  readonly reply: Uint8Array;
  readonly outcome: HandshakeOutcome;
}

type Stage = 'clientFlags' | 'optionHeader' | 'optionData' | 'over';

const MORE: HandshakeOutcome = { kind: 'more' };

function close(reason: string): HandshakeOutcome {
  return { kind: 'close', reason };
}

export class Handshake {
  readonly #exports: ExportDirectory;
  readonly #reply = new ByteWriter();
  #stage: Stage = 'clientFlags';
  /** Bytes received and not consumed yet; less than the current stage needs. */
  readonly #pending = new ByteWriter();
  #noZeroes = false;
  #fixed = false;
  #structured = false;
  /** The export whose allocation context is selected, by its canonical name. */
  #contextOf: string | null = null;
  #option = 0;
  #optionBytes = 0;
  #optionCount = 0;
  #replyBytes = 0;

  constructor(exports: ExportDirectory) {
    this.#exports = exports;
  }

  /** What the server says first. */
  greeting(): Uint8Array {
    const flags = HANDSHAKE_FLAG.FIXED_NEWSTYLE | HANDSHAKE_FLAG.NO_ZEROES;
    return new ByteWriter().u64(INIT_PASSWD).u64(IHAVEOPT).u16(flags).take();
  }

  /** Takes what the client said next, in any fragmentation. */
  receive(bytes: Uint8Array): HandshakeStep {
    assert(this.#stage !== 'over', 'no bytes after the outcome');
    let unread = bytes;
    let outcome = MORE;
    while (outcome.kind === 'more') {
      const need = this.#need();
      const part = unread.subarray(0, need - this.#pending.length);
      unread = unread.subarray(part.length);
      let message = part;
      if (part.length < need) {
        this.#pending.bytes(part);
        if (this.#pending.length < need) break;
        message = this.#pending.take();
      }
      outcome = this.#advance(message, unread);
    }
    if (outcome.kind !== 'more') this.#stage = 'over';
    this.assertConsistent();
    return { reply: this.#reply.take(), outcome };
  }

  assertConsistent(): void {
    assert(this.#pending.length <= limits.nbdOptionBytesMax, 'the handshake keeps at most one option');
    assert(this.#optionCount <= limits.nbdOptionsMax, 'the options of a session are counted');
    assert(this.#contextOf === null || this.#structured, 'contexts need structured replies');
  }

  #need(): number {
    if (this.#stage === 'clientFlags') return CLIENT_FLAGS_BYTES;
    return this.#stage === 'optionHeader' ? OPTION_HEADER_BYTES : this.#optionBytes;
  }

  /** The transition function: `message` is exactly what the stage needs. */
  #advance(message: Uint8Array, unread: Uint8Array): HandshakeOutcome {
    switch (this.#stage) {
      case 'clientFlags':
        return this.#onClientFlags(message);
      case 'optionHeader':
        return this.#onOptionHeader(message);
      case 'optionData': {
        this.#stage = 'optionHeader';
        const lengthBefore = this.#reply.length;
        const outcome = this.#onOption(message, unread);
        this.#replyBytes += this.#reply.length - lengthBefore;
        if (outcome.kind === 'more' && this.#replyBytes > limits.nbdHandshakeReplyBytesMax)
          return close('too many replies were asked for');
        return outcome;
      }
      case 'over':
        return close('the handshake is over');
    }
  }

  #onClientFlags(message: Uint8Array): HandshakeOutcome {
    const flags = new ByteReader(message).u32() ?? 0;
    const known = HANDSHAKE_FLAG.FIXED_NEWSTYLE | HANDSHAKE_FLAG.NO_ZEROES;
    if ((flags & ~known) !== 0) return close(`unknown client flags 0x${flags.toString(16)}`);
    this.#fixed = (flags & HANDSHAKE_FLAG.FIXED_NEWSTYLE) !== 0;
    this.#noZeroes = (flags & HANDSHAKE_FLAG.NO_ZEROES) !== 0;
    this.#stage = 'optionHeader';
    return MORE;
  }

  #onOptionHeader(message: Uint8Array): HandshakeOutcome {
    const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
    if (view.getBigUint64(0) !== IHAVEOPT) return close('an option without its magic number');
    this.#option = view.getUint32(8);
    this.#optionBytes = view.getUint32(12);
    if (this.#optionCount === limits.nbdOptionsMax) return close('too many options');
    this.#optionCount++;
    if (!this.#fixed && this.#option !== OPT.EXPORT_NAME) return close('an option that only fixed newstyle has');
    if (this.#optionBytes > limits.nbdOptionBytesMax) {
      if (this.#option !== OPT.EXPORT_NAME) this.#answer(REP.ERR_TOO_BIG);
      return close(`an option of ${this.#optionBytes} bytes`);
    }
    this.#stage = 'optionData';
    return MORE;
  }

  #onOption(data: Uint8Array, unread: Uint8Array): HandshakeOutcome {
    switch (this.#option) {
      case OPT.EXPORT_NAME:
        return this.#onExportName(data, unread);
      case OPT.ABORT:
        this.#answer(REP.ACK);
        return close('the client ended the negotiation');
      case OPT.LIST:
        return this.#onList(data);
      case OPT.STARTTLS:
        return this.#answer(data.length === 0 ? REP.ERR_UNSUP : REP.ERR_INVALID);
      case OPT.INFO:
      case OPT.GO:
        return this.#onInfoOrGo(data, unread);
      case OPT.STRUCTURED_REPLY:
        if (data.length > 0) return this.#answer(REP.ERR_INVALID);
        this.#structured = true;
        return this.#answer(REP.ACK);
      case OPT.LIST_META_CONTEXT:
      case OPT.SET_META_CONTEXT:
        return this.#onMetaContext(data);
      default:
        return this.#answer(REP.ERR_UNSUP);
    }
  }

  /** NBD_OPT_EXPORT_NAME cannot be refused but by closing. */
  #onExportName(data: Uint8Array, unread: Uint8Array): HandshakeOutcome {
    const name = decodeString(data);
    if (name === null) return close('an export name that is not a string');
    const found = this.#exports.find(name);
    if (found === null) return close(`no export ${JSON.stringify(name)}`);
    if (!this.#exports.admits(found.name)) return close(`too many connections to ${JSON.stringify(found.name)}`);
    this.#reply.u64(BigInt(found.sizeBytes)).u16(exportFlags(found.readOnly, this.#structured));
    if (!this.#noZeroes) this.#reply.zeros(EXPORT_NAME_ZEROES);
    return this.#enter(found, unread);
  }

  #onList(data: Uint8Array): HandshakeOutcome {
    if (data.length > 0) return this.#answer(REP.ERR_INVALID);
    for (const each of this.#exports.list()) {
      const name = encodeString(each.name);
      const description = encodeString(each.description);
      this.#answer(REP.SERVER, new ByteWriter().u32(name.length).bytes(name).bytes(description).take());
    }
    return this.#answer(REP.ACK);
  }

  /** NBD_OPT_INFO and NBD_OPT_GO: name, count, information requests, and nothing else. */
  #onInfoOrGo(data: Uint8Array, unread: Uint8Array): HandshakeOutcome {
    const reader = new ByteReader(data);
    const name = reader.countedString();
    const count = name === null ? null : reader.u16();
    if (name === null || count === null || reader.left !== 2 * count) return this.#answer(REP.ERR_INVALID);
    const wanted = new Set<number>();
    for (let i = 0; i < count; i++) wanted.add(reader.u16() ?? 0);
    const found = this.#exports.find(name);
    if (found === null) return this.#answer(REP.ERR_UNKNOWN);
    if (this.#option === OPT.GO && !this.#exports.admits(found.name)) return this.#answer(REP.ERR_POLICY);
    this.#answerInfo(found, wanted);
    this.#answer(REP.ACK);
    return this.#option === OPT.GO ? this.#enter(found, unread) : MORE;
  }

  /** Size constraints are always told, because they are enforced; names and descriptions where they were asked for. */
  #answerInfo(found: ExportInfo, wanted: ReadonlySet<number>): void {
    const info = new ByteWriter();
    info.u16(INFO.EXPORT).u64(BigInt(found.sizeBytes)).u16(exportFlags(found.readOnly, this.#structured));
    this.#answer(REP.INFO, info.take());
    info.u16(INFO.BLOCK_SIZE).u32(SECTOR_BYTES).u32(BLOCK_BYTES).u32(limits.nbdRequestBytesMax);
    this.#answer(REP.INFO, info.take());
    if (wanted.has(INFO.NAME)) {
      this.#answer(REP.INFO, info.u16(INFO.NAME).bytes(encodeString(found.name)).take());
    }
    if (wanted.has(INFO.DESCRIPTION) && found.description !== '') {
      this.#answer(REP.INFO, info.u16(INFO.DESCRIPTION).bytes(encodeString(found.description)).take());
    }
  }

  /** NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT: name, count, queries. SET replaces what was selected, even when it fails. */
  #onMetaContext(data: Uint8Array): HandshakeOutcome {
    const isSet = this.#option === OPT.SET_META_CONTEXT;
    if (isSet) this.#contextOf = null;
    if (!this.#structured) return this.#answer(REP.ERR_INVALID);
    const reader = new ByteReader(data);
    const name = reader.countedString();
    const count = name === null ? null : reader.u32();
    if (name === null || count === null) return this.#answer(REP.ERR_INVALID);
    let isSelected = count === 0 && !isSet;
    for (let i = 0; i < count; i++) {
      const query = reader.countedString();
      if (query === null) return this.#answer(REP.ERR_INVALID);
      // Wildcards select nothing in SET, and queries that are not understood are ignored ("Metadata querying").
      if (query === ALLOCATION_CONTEXT || (query === 'base:' && !isSet)) isSelected = true;
    }
    if (reader.left > 0) return this.#answer(REP.ERR_INVALID);
    const found = this.#exports.find(name);
    if (found === null) return this.#answer(REP.ERR_UNKNOWN);
    if (isSelected) {
      if (isSet) this.#contextOf = found.name;
      const id = isSet ? ALLOCATION_CONTEXT_ID : 0;
      this.#answer(REP.META_CONTEXT, new ByteWriter().u32(id).bytes(encodeString(ALLOCATION_CONTEXT)).take());
    }
    return this.#answer(REP.ACK);
  }

  #enter(found: ExportInfo, unread: Uint8Array): HandshakeOutcome {
    const hasContext = this.#contextOf === found.name;
    return {
      kind: 'transmission',
      exportName: found.name,
      structured: this.#structured,
      hasContext,
      leftover: unread.slice(),
    };
  }

  /** One option reply; the session goes on. */
  #answer(type: number, data: Uint8Array = NO_BYTES): HandshakeOutcome {
    this.#reply.u64(REPLY_MAGIC).u32(this.#option).u32(type).u32(data.length).bytes(data);
    return MORE;
  }
}

const NO_BYTES = new Uint8Array(0);

/**
 * The numbers of the NBD protocol (github.com/NetworkBlockDevice/nbd, doc/proto.md), by the names of its section "Values",
 * and what a request must look like to be served. Everything here is pure.
 */
import { limits } from '../../base/limits.js';
import { EXTENT_BYTES, SECTOR_BYTES } from '../../base/units.js';
import type { NbdRequest } from '../../ports/nbd-transport.js';
import { STATUS, type Status } from '../../protocol/frame.js';

/** "Option types". */
export const OPT = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
} as const;

/** "Option reply types". */
export const REP = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  ERR_UNSUP: 0x80000001,
  ERR_POLICY: 0x80000002,
  ERR_INVALID: 0x80000003,
  ERR_UNKNOWN: 0x80000006,
  ERR_TOO_BIG: 0x80000009,
} as const;

/** Information types of NBD_OPT_INFO and NBD_OPT_GO. */
export const INFO = { EXPORT: 0, NAME: 1, DESCRIPTION: 2, BLOCK_SIZE: 3 } as const;

/** "Handshake flags" and "Client flags", which mirror each other. */
export const HANDSHAKE_FLAG = { FIXED_NEWSTYLE: 1, NO_ZEROES: 2 } as const;

/** "Transmission flags". */
export const EXPORT_FLAG = {
  HAS_FLAGS: 1,
  READ_ONLY: 2,
  SEND_FLUSH: 4,
  SEND_FUA: 8,
  SEND_TRIM: 32,
  SEND_WRITE_ZEROES: 64,
  SEND_DF: 128,
  CAN_MULTI_CONN: 256,
} as const;

/** "Request types". */
export const CMD = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
} as const;

/** "Command flags". */
export const CMD_FLAG = { FUA: 1, NO_HOLE: 2, DF: 4, REQ_ONE: 8, FAST_ZERO: 16 } as const;

/** "Structured reply flags" and "Structured reply types", as far as the transport does not pack them. */
export const REPLY_FLAG_DONE = 1;
export const REPLY_TYPE = { OFFSET_DATA: 1, BLOCK_STATUS: 5 } as const;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;

/** The one metadata context, and its flags ("The base: metadata namespace"). */
export const ALLOCATION_CONTEXT = 'base:allocation';
export const ALLOCATION_CONTEXT_ID = 1;
export const STATE_HOLE_AND_ZERO = 3;

/** "Error values". */
export const ERRNO = {
  OK: 0,
  EPERM: 1,
  EIO: 5,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ESHUTDOWN: 108,
} as const;
export type Errno = (typeof ERRNO)[keyof typeof ERRNO];

/** A READ with the DF flag is refused above this. The protocol asks for 64 KiB; an extent is what fits two pieces. */
export const UNFRAGMENTED_BYTES_MAX = EXTENT_BYTES;

/** How the result of a piece is told to the client. What clients cannot act upon is EIO. */
export function errnoOfStatus(status: Status): Errno {
  switch (status) {
    case STATUS.OK:
      return ERRNO.OK;
    case STATUS.NO_SPACE:
      return ERRNO.ENOSPC;
    case STATUS.FENCED:
      return ERRNO.ESHUTDOWN;
    case STATUS.BAD_REQUEST:
      return ERRNO.EINVAL;
    default:
      return ERRNO.EIO;
  }
}

/** The command flags that a request type may carry. FUA is valid on all of them ("Command flags"), and ignored where nothing is written. */
function allowedFlags(type: number, structured: boolean): number {
  switch (type) {
    case CMD.READ:
      return structured ? CMD_FLAG.FUA | CMD_FLAG.DF : CMD_FLAG.FUA;
    case CMD.WRITE_ZEROES:
      return CMD_FLAG.FUA | CMD_FLAG.NO_HOLE;
    case CMD.BLOCK_STATUS:
      return CMD_FLAG.FUA | CMD_FLAG.REQ_ONE;
    default:
      return CMD_FLAG.FUA;
  }
}

function changesData(type: number): boolean {
  return type === CMD.WRITE || type === CMD.TRIM || type === CMD.WRITE_ZEROES;
}

function isKnown(type: number): boolean {
  return (
    type === CMD.READ ||
    type === CMD.WRITE ||
    type === CMD.FLUSH ||
    type === CMD.TRIM ||
    type === CMD.WRITE_ZEROES ||
    type === CMD.BLOCK_STATUS
  );
}

function checkRange(type: number, offset: number, length: number, sizeBytes: number): Errno {
  if (length === 0) return ERRNO.EINVAL;
  if (offset > sizeBytes || length > sizeBytes - offset) {
    return type === CMD.WRITE || type === CMD.WRITE_ZEROES ? ERRNO.ENOSPC : ERRNO.EINVAL;
  }
  // The state of blocks may be asked for at any granularity; it is answered in whole sectors from the offset.
  if (type !== CMD.BLOCK_STATUS && (offset % SECTOR_BYTES !== 0 || length % SECTOR_BYTES !== 0)) return ERRNO.EINVAL;
  return ERRNO.OK;
}

/**
 * The error with which a request (for a WRITE: its first piece) is refused ("Error values", "Request types", "Size constraints");
 * 0 when it is valid. `structured` and `hasContext` are what was negotiated.
 */
export function checkRequest(
  request: NbdRequest,
  sizeBytes: number,
  readOnly: boolean,
  structured: boolean,
  hasContext: boolean,
): Errno {
  const { type, flags, offset, totalLength: length } = request;
  if (!isKnown(type)) return ERRNO.EINVAL;
  if ((flags & ~allowedFlags(type, structured)) !== 0) return ERRNO.EINVAL;
  if (type === CMD.FLUSH) return offset === 0 && length === 0 ? ERRNO.OK : ERRNO.EINVAL;
  if (readOnly && changesData(type)) return ERRNO.EPERM;
  const rangeError = checkRange(type, offset, length, sizeBytes);
  if (rangeError !== ERRNO.OK) return rangeError;
  if (type === CMD.BLOCK_STATUS && !hasContext) return ERRNO.EINVAL;
  if (type === CMD.WRITE && length > limits.nbdRequestBytesMax) return ERRNO.EINVAL;
  if (type === CMD.READ) {
    if (length > limits.nbdRequestBytesMax) return structured ? ERRNO.EOVERFLOW : ERRNO.EINVAL;
    if ((flags & CMD_FLAG.DF) !== 0 && length > UNFRAGMENTED_BYTES_MAX) return ERRNO.EOVERFLOW;
  }
  return ERRNO.OK;
}

/** The transmission flags of an export. */
export function exportFlags(readOnly: boolean, structured: boolean): number {
  const { HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES, SEND_DF, CAN_MULTI_CONN } =
    EXPORT_FLAG;
  const common = HAS_FLAGS | SEND_FLUSH | SEND_FUA | CAN_MULTI_CONN | (structured ? SEND_DF : 0);
  return common | (readOnly ? READ_ONLY : SEND_TRIM | SEND_WRITE_ZEROES);
}

/** How many pieces the range touches: slices of one extent of the volume. */
export function pieceCount(offsetBytes: number, lengthBytes: number): number {
  return Math.ceil((offsetBytes + lengthBytes) / EXTENT_BYTES) - Math.floor(offsetBytes / EXTENT_BYTES);
}

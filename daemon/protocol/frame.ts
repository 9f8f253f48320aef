/**
 * The Braid frame: the only thing that agents say to each other on the data plane. Grammar, byte layout and a worked example: `WIRE.md`.
 * The bytes themselves are packed and parsed by `native/core/frame.h`; this is the same header as an object.
 */
import { limits } from '../base/limits.js';

export const OPCODE = {
  /** Control messages: the payload is the protobuf message named here. */
  HELLO: 1, // Hello -> Hello
  OPEN: 2, // OpenRequest -> OpenReply
  COOL: 3, // RegionList -> empty
  LIST_EXTENTS: 4, // ListExtentsRequest -> ListExtentsReply
  PURGE_TOMBSTONES: 5, // empty; of `segment`, with stamps up to `generation`
  CLOSE: 6, // empty: ends the session cleanly
  PING: 7, // empty
  /** Replica to coordinator, no reply: the activity log of a drive is filling up, cool what is idle. */
  PRESSURE: 8,
  DELETE: 9, // DeleteRequest -> empty
  LEARN: 10, // LearnRequest -> empty; of `segment`
  /** Replica to coordinator, no reply: the extent at `offset` of `segment` does not match its checksums, or cannot be read. */
  DAMAGED: 11,

  /** Data operations on `segment` of `session`: `offset` and `length` are block-aligned and inside one extent. */
  WRITE: 16, // payload: the data
  READ: 17, // reply payload: the data, or none with FLAG.ZEROES
  TRIM: 18,
  ZERO: 19,
  /** All writes of the session acknowledged before are durable on its drives when it is acknowledged. */
  FLUSH: 20,
  /** Reply payload: stamp, mask of the known checksums, and the 32 checksums of the extent as read from the drive (136 bytes); none with FLAG.ZEROES. */
  CHECKSUM: 21,

  REPLY: 0x80,
} as const;

export const FLAG = {
  /** On WRITE, TRIM, ZERO: durable before acknowledged. */
  FUA: 1,
  /** On TRIM and ZERO: leave a stamped tombstone, some replica is stale (invariant 8). */
  TOMBSTONE: 2,
  /** On a READ or CHECKSUM reply: the range is all zeros and there is no payload. */
  ZEROES: 4,
  /** On READ: this repairs or copies; do not count it as client load. */
  INTERNAL: 8,
  /** On a READ reply: nobody here knows the checksum of some block, so it may have rotted. */
  UNVERIFIED: 16,
  /** On CHECKSUM: as kept, without reading the drive, where all are known. */
  STORED: 32,
} as const;

/** Result of a request, in the reply's `status`. Closed list. */
export const STATUS = {
  OK: 0,
  /** The drive failed the operation; the replica is unusable. */
  IO_ERROR: 1,
  /** The drive has no free extent; nothing was changed. */
  NO_SPACE: 2,
  /** A higher epoch is known for this volume (invariant 2). */
  FENCED: 3,
  /** The stored data does not match its checksum (invariant 13). */
  CHECKSUM_MISMATCH: 4,
  /** The message is malformed or out of range, or the session or segment unknown. */
  BAD_REQUEST: 5,
  WRONG_CLUSTER: 6,
  UNSUPPORTED_VERSION: 7,
  /** The drive or the replica is not here. */
  NOT_FOUND: 8,
  /** Too many requests in flight; the sender broke the limit. */
  OVERLOADED: 9,
} as const;
export type Status = (typeof STATUS)[keyof typeof STATUS];

export function statusName(status: number): string {
  return Object.entries(STATUS).find(([, value]) => value === status)?.[0] ?? `STATUS_${status}`;
}

export const PROTOCOL_VERSION = 1;

/** One header. Instances are reused; all fields are unsigned integers (32 bits, `offset` 48 bits, opcode 8, flags 16). */
export class Frame {
  opcode = 0;
  flags = 0;
  /** Chosen by the requester, echoed in the reply. */
  tag = 0;
  /** Session handle from OPEN; 0 before. */
  session = 0;
  /** `segmentNumber` of the copy in its session. */
  segment = 0;
  generation = 0;
  epoch = 0;
  /** Bytes from the start of the segment. */
  offset = 0;
  /** Bytes that the operation covers. */
  length = 0;
  /** Bytes of payload behind the header; 0 or up to `limits.payloadBytesMax`. */
  payloadLength = 0;
  /** In replies: a STATUS. */
  status = 0;

  /** Makes this a request without payload; returns itself. */
  request(opcode: number, tag: number, session: number, segment: number): this {
    this.opcode = opcode;
    this.flags = 0;
    this.tag = tag;
    this.session = session;
    this.segment = segment;
    this.generation = 0;
    this.epoch = 0;
    this.offset = 0;
    this.length = 0;
    this.payloadLength = 0;
    this.status = 0;
    return this;
  }

  /** Turns this received request into its reply without payload; returns itself. */
  toReply(status: number): this {
    this.opcode |= OPCODE.REPLY;
    this.flags = 0;
    this.payloadLength = 0;
    this.status = status;
    return this;
  }

  copyFrom(other: Frame): this {
    this.opcode = other.opcode;
    this.flags = other.flags;
    this.tag = other.tag;
    this.session = other.session;
    this.segment = other.segment;
    this.generation = other.generation;
    this.epoch = other.epoch;
    this.offset = other.offset;
    this.length = other.length;
    this.payloadLength = other.payloadLength;
    this.status = other.status;
    return this;
  }
}

/** What the frames of a session call a copy of a segment; `copy` tells two of one segment apart, while one replaces the other. */
export function segmentNumber(index: number, copy: number): number {
  return index + limits.segmentsPerVolumeMax * copy;
}

/** The segment's index in its volume. */
export function segmentIndexOf(number: number): number {
  return number % limits.segmentsPerVolumeMax;
}

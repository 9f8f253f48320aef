/** NBD_CMD_BLOCK_STATUS for `base:allocation`: which range is looked up, and the reply chunk that describes it. Pure. */
import { limits } from '../../base/limits.js';
import { EXTENT_BYTES } from '../../base/units.js';
import { ByteWriter } from './bytes.js';
import {
  ALLOCATION_CONTEXT_ID,
  REPLY_FLAG_DONE,
  REPLY_TYPE,
  STATE_HOLE_AND_ZERO,
  STRUCTURED_REPLY_MAGIC,
} from './protocol.js';

export interface LookupRange {
  readonly startBytes: number;
  readonly lengthBytes: number;
}

/** The whole extents that cover a request, as far as one reply describes it. */
export function lookupRange(offsetBytes: number, lengthBytes: number, sizeBytes: number): LookupRange {
  const startBytes = Math.floor(offsetBytes / EXTENT_BYTES) * EXTENT_BYTES;
  const endBytes = Math.min(offsetBytes + lengthBytes, startBytes + limits.nbdBlockStatusBytesMax);
  const extents = Math.ceil((endBytes - startBytes) / EXTENT_BYTES);
  return { startBytes, lengthBytes: Math.min(extents * EXTENT_BYTES, sizeBytes - startBytes) };
}

/**
 * The descriptors of a request: lengths of alternating state, merged, from its offset and never beyond its end. Unallocated extents read as zeros.
 */
export function describeExtents(
  allocated: readonly boolean[],
  offsetBytes: number,
  lengthBytes: number,
  onlyFirst: boolean,
): { lengthBytes: number; flags: number }[] {
  const startBytes = Math.floor(offsetBytes / EXTENT_BYTES) * EXTENT_BYTES;
  const endBytes = Math.min(offsetBytes + lengthBytes, startBytes + allocated.length * EXTENT_BYTES);
  const descriptors: { lengthBytes: number; flags: number }[] = [];
  for (let index = 0; index < allocated.length; index++) {
    const from = Math.max(startBytes + index * EXTENT_BYTES, offsetBytes);
    const to = Math.min(startBytes + (index + 1) * EXTENT_BYTES, endBytes);
    if (from >= to) break;
    const flags = allocated[index] === true ? 0 : STATE_HOLE_AND_ZERO;
    const last = descriptors.at(-1);
    if (last !== undefined && last.flags === flags) last.lengthBytes += to - from;
    else if (onlyFirst && last !== undefined) break;
    else descriptors.push({ lengthBytes: to - from, flags });
  }
  return descriptors;
}

/** The reply: one chunk of NBD_REPLY_TYPE_BLOCK_STATUS. */
export function blockStatusReply(
  cookieHigh: number,
  cookieLow: number,
  descriptors: readonly { lengthBytes: number; flags: number }[],
): Uint8Array {
  const reply = new ByteWriter().u32(STRUCTURED_REPLY_MAGIC).u16(REPLY_FLAG_DONE).u16(REPLY_TYPE.BLOCK_STATUS);
  reply.u32(cookieHigh).u32(cookieLow);
  reply.u32(4 + 8 * descriptors.length).u32(ALLOCATION_CONTEXT_ID);
  for (const { lengthBytes, flags } of descriptors) reply.u32(lengthBytes).u32(flags);
  return reply.take();
}

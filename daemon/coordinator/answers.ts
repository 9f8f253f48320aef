/** What replica servers answer to control requests, checked: a peer that is at fault must not take its coordinators with it. */
import { BraidError } from '../base/errors.js';
import { EXTENTS_PER_REGION } from '../base/units.js';
import { braid } from '../protocol/generated/messages.js';

/** @throws BraidError PROTOCOL: the bytes are no answer of that kind. */
function decoded<T>(what: string, decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    throw malformed(what, error);
  }
}

function malformed(what: string, cause?: unknown): BraidError {
  return new BraidError('PROTOCOL', `the answer to ${what} is malformed; do all agents run the same version?`, {
    cause,
  });
}

export function readHello(payload: Uint8Array): braid.Hello {
  return decoded('HELLO', () => braid.Hello.decode(payload));
}

export function readOpened(payload: Uint8Array, regionsPerSegment: number): braid.OpenReply {
  const reply = decoded('OPEN', () => braid.OpenReply.decode(payload));
  const areInside = reply.segments.every(({ hotRegions }) =>
    (hotRegions ?? []).every((region) => region < regionsPerSegment),
  );
  if (!areInside) throw malformed('OPEN');
  return reply;
}

/** One page of a list that was asked for from extent `from` on: ascending, inside the segment, and the next page is further on. */
export function readExtents(payload: Uint8Array, from: number, regionsPerSegment: number): braid.ListExtentsReply {
  const page = decoded('LIST_EXTENTS', () => braid.ListExtentsReply.decode(payload));
  let least = from;
  for (const extent of page.extents) {
    if (extent < least) throw malformed('LIST_EXTENTS');
    least = extent + 1;
  }
  const isInside = Math.max(least, page.next) <= regionsPerSegment * EXTENTS_PER_REGION;
  if (!isInside || (page.next !== 0 && page.next < Math.max(least, from + 1))) throw malformed('LIST_EXTENTS');
  return page;
}

/**
 * Makes the in-sync copies of an extent equal, moving only what differs, and has those that do not know a checksum learn it: those of blocks that
 * were written shortly before a crash are lost with it (replica/checksums.ts). The caller holds the extent lock.
 *
 * Which copy is right: of those that surely have everything (invariant 10), one that knows the block's checksum, else any.
 */
import { BLOCK_BYTES, BLOCKS_PER_EXTENT, EXTENT_BYTES } from '../base/units.js';
import { OPCODE, STATUS } from '../protocol/frame.js';
import { ALL_KNOWN } from '../protocol/extent-sums.js';
import { braid } from '../protocol/generated/messages.js';
import { compareCopies, judge, type CopySums, type Verdict } from './comparison.js';
import type { Replica, Segment } from './segment.js';
import type { LostBlock, Range, Transfer } from './transfer.js';

export class Equalizer {
  readonly #transfer: Transfer;

  constructor(transfer: Transfer) {
    this.#transfer = transfer;
  }

  /**
   * Resolves to the blocks that no copy can give. While a copy is stale everything is rewritten everywhere: what an old owner left here without
   * acknowledging it needs a stamp that the stale copy's resync will find.
   */
  async equalize(segment: Segment, offsetBytes: number): Promise<readonly LostBlock[]> {
    const inSync = segment.replicas.filter(({ state }) => state === 'in-sync');
    const copies = await compareCopies(inSync, offsetBytes / EXTENT_BYTES, false);
    const verdict = judge(copies);
    if (verdict.isEqual && segment.whole) {
      await this.teach(offsetBytes, copies, verdict);
      return [];
    }
    const lost: LostBlock[] = [];
    for (const range of rangesToCopy(copies, offsetBytes, segment.whole, verdict.isEqual)) {
      const sources = this.#ranked(segment, copies, range);
      const targetsOf = (source: Replica): readonly Replica[] =>
        inSync.filter((replica) => replica !== source || !segment.whole);
      const outcome = await this.#transfer.copyFromAny(segment, range, sources, targetsOf, false);
      if (typeof outcome !== 'object') continue;
      if (range.lengthBytes === BLOCK_BYTES) lost.push(outcome);
      else lost.push(...(await this.#copyBlocks(segment, copies, offsetBytes, targetsOf)));
    }
    if (lost.length === 0) await this.#teachAfter(segment, offsetBytes);
    return lost;
  }

  /** All copies are equal: those that lack checksums keep them from now on. What fails is done by the next scrub. */
  async teach(offsetBytes: number, copies: readonly CopySums[], { unsure }: Verdict): Promise<void> {
    if (unsure.length === 0) return;
    const checksums = [...(copies[0]?.sums ?? [])];
    const request = braid.LearnRequest.encode({ extent: offsetBytes / EXTENT_BYTES, checksums }).finish();
    await Promise.allSettled(
      unsure.map(({ session, number }) => session.peer.call(OPCODE.LEARN, session.handle, number, request)),
    );
  }

  /**
   * Compares the copies that are connected. Where all are equal they learn what they do not know; a copy that differs in blocks whose
   * checksums it does not know gets them from one that does. What differs otherwise, or is damaged, is the caller's to deal with.
   */
  async settle(segment: Segment, offsetBytes: number, stored: boolean): Promise<Verdict> {
    const replicas = segment.replicas.filter(({ bit }) => (segment.readableMask & bit) !== 0);
    const copies = await compareCopies(replicas, offsetBytes / EXTENT_BYTES, stored);
    const verdict = judge(copies);
    if (verdict.isEqual) await this.teach(offsetBytes, copies, verdict);
    if (verdict.mendable.length === 0) return verdict;
    for (const { block, holder, strays } of verdict.mendable) {
      const range = { offsetBytes: offsetBytes + block * BLOCK_BYTES, lengthBytes: BLOCK_BYTES };
      await this.#transfer.copyRange(segment, holder, strays, range, true);
    }
    await this.#teachAfter(segment, offsetBytes);
    return verdict;
  }

  /** Some blocks were made equal: if all are now, the copies learn the checksums of the others. */
  async #teachAfter(segment: Segment, offsetBytes: number): Promise<void> {
    const replicas = segment.replicas.filter(({ bit }) => (segment.readableMask & bit) !== 0);
    const copies = await compareCopies(replicas, offsetBytes / EXTENT_BYTES, true);
    const verdict = judge(copies);
    if (verdict.isEqual) await this.teach(offsetBytes, copies, verdict);
  }

  async #copyBlocks(
    segment: Segment,
    copies: readonly CopySums[],
    offsetBytes: number,
    targetsOf: (source: Replica) => readonly Replica[],
  ): Promise<LostBlock[]> {
    const lost: LostBlock[] = [];
    for (const range of blocksOf(offsetBytes, () => true)) {
      const sources = this.#ranked(segment, copies, range);
      const outcome = await this.#transfer.copyFromAny(segment, range, sources, targetsOf, false);
      if (typeof outcome === 'object') lost.push(outcome);
    }
    return lost;
  }

  /** Sources of the range, best first. */
  #ranked(segment: Segment, copies: readonly CopySums[], { offsetBytes, lengthBytes }: Range): Replica[] {
    const blocks = blockMask(offsetBytes, lengthBytes);
    const knows = (replica: Replica): boolean =>
      copies.some((copy) => copy.replica === replica && (copy.known & blocks) >>> 0 === blocks);
    return this.#transfer
      .sources(segment, 0)
      .sort((a, b) => Number(a.uncertain) - Number(b.uncertain) || Number(knows(b)) - Number(knows(a)));
  }
}

/** The whole extent where one of the best copies knows all of it, or all of it has to be written; else the blocks that differ. */
function rangesToCopy(
  copies: readonly CopySums[],
  offsetBytes: number,
  isWhole: boolean,
  isEqual: boolean,
): readonly Range[] {
  const sound = copies.filter(({ status }) => status === STATUS.OK);
  const isCertain = sound.some(({ replica }) => !replica.uncertain);
  const best = sound.filter(({ replica }) => !isCertain || !replica.uncertain);
  const isAllKnown = best.some(({ known }) => known === ALL_KNOWN);
  if (isAllKnown || isEqual || sound.length === 0) return [{ offsetBytes, lengthBytes: EXTENT_BYTES }];
  const isEverywhere = sound.length < copies.length || !isWhole;
  return blocksOf(
    offsetBytes,
    (block) => isEverywhere || sound.some(({ sums }) => sums[block] !== sound[0]?.sums[block]),
  );
}

function blocksOf(offsetBytes: number, isWanted: (block: number) => boolean): Range[] {
  const blocks = Array.from({ length: BLOCKS_PER_EXTENT }, (_, block) => block).filter(isWanted);
  return blocks.map((block) => ({ offsetBytes: offsetBytes + block * BLOCK_BYTES, lengthBytes: BLOCK_BYTES }));
}

function blockMask(offsetBytes: number, lengthBytes: number): number {
  if (lengthBytes === EXTENT_BYTES) return ALL_KNOWN;
  return (1 << ((offsetBytes % EXTENT_BYTES) / BLOCK_BYTES)) >>> 0;
}

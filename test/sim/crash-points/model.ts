/** What a crash at some point of a recording must leave, by what clients had asked and been told until then. */
import { BLOCK_BYTES, EXTENT_BYTES } from '../../../daemon/base/units.js';
import { STATUS } from '../../../daemon/protocol/frame.js';
import type { Entry } from './recorder.js';
import type { ChangeRequest, CoolRequest, FlushRequest, Request } from './requests.js';

const BLOCKS_PER_EXTENT = EXTENT_BYTES / BLOCK_BYTES;

/** What the first four bytes of a block say; 0: zeros. */
export function contentOf(value: number, index: number): number {
  return value === 0 ? 0 : value * 2 * BLOCKS_PER_EXTENT + index;
}

export interface BlockModel {
  /** What it may hold, oldest first. */
  versions: number[];
  /** What was acknowledged last. */
  acknowledged: number;
  /** Refused or never answered: they may be there or not. */
  readonly undecided: Set<number>;
}

export interface Stamp {
  readonly generation: number;
  readonly isTombstone: boolean;
}

export class SegmentModel {
  readonly blocks = new Map<number, BlockModel>();
  /** By extent: what its stamp is at least. */
  readonly stamps = new Map<number, Stamp>();
  state: 'there' | 'deleting' | 'gone' = 'there';
  /** Of its layout, as acknowledged. */
  generation = 0;

  block(block: number): BlockModel {
    const found = this.blocks.get(block) ?? { versions: [0], acknowledged: 0, undecided: new Set() };
    this.blocks.set(block, found);
    return found;
  }
}

export class Model {
  readonly segments = new Map<number, SegmentModel>();
  readonly epochs = new Map<string, { acknowledged: number; asked: number }>();
  /** What a client should not have been told. */
  readonly errors: string[] = [];
  /** By FLUSH or COOL under way: what was acknowledged when it was sent. */
  readonly #covered = new Map<Request, (readonly [BlockModel, number])[]>();

  constructor(entries: readonly Entry[], point: number) {
    for (const entry of entries.slice(0, point)) {
      if (entry.type === 'request') this.#onRequest(entry.request);
      else if (entry.type === 'answer') this.#onAnswer(entry.request, entry.status);
    }
  }

  segment(index: number): SegmentModel {
    const found = this.segments.get(index) ?? new SegmentModel();
    this.segments.set(index, found);
    return found;
  }

  #onRequest(request: Request): void {
    if (request.kind === 'open') {
      const epochs = this.epochs.get(request.volumeId) ?? { acknowledged: 0, asked: 0 };
      this.epochs.set(request.volumeId, { ...epochs, asked: Math.max(epochs.asked, request.epoch) });
      for (const { index } of request.segments) this.segment(index).state = 'there';
    } else if (request.kind === 'change') {
      for (const [block, content] of this.#blocksOf(request)) block.versions.push(content);
      if (!request.isWrite && !request.hasTombstone) this.segment(request.segment).stamps.delete(extentOf(request));
    } else if (request.kind === 'delete') this.#startDelete(this.segment(request.segment));
    else if (request.kind === 'purge') this.#purge(this.segment(request.segment), request.generation);
    else this.#covered.set(request, this.#acknowledged(request));
  }

  #onAnswer(request: Request, status: number): void {
    if (request.kind === 'change') this.#onChanged(request, status);
    else if (status !== STATUS.OK && status !== STATUS.FENCED)
      this.errors.push(`${request.kind} is answered ${status}`);
    else if (status === STATUS.OK) this.#onDone(request);
  }

  #onDone(request: Exclude<Request, ChangeRequest>): void {
    if (request.kind === 'open') {
      const epochs = this.epochs.get(request.volumeId) ?? { acknowledged: 0, asked: 0 };
      this.epochs.set(request.volumeId, { ...epochs, acknowledged: Math.max(epochs.acknowledged, request.epoch) });
      for (const { index, generation } of request.segments) this.segment(index).generation = generation;
    } else if (request.kind === 'delete') {
      const segment = this.segment(request.segment);
      segment.blocks.clear();
      segment.state = 'gone';
      segment.generation = 0;
    } else for (const [block, content] of this.#covered.get(request) ?? []) settle(block, content);
  }

  #onChanged(request: ChangeRequest, status: number): void {
    if (status !== STATUS.OK && status !== STATUS.FENCED && !(status === STATUS.NO_SPACE && request.isWrite)) {
      this.errors.push(`a change is answered ${status}`);
    }
    for (const [block, content] of this.#blocksOf(request)) {
      if (status === STATUS.OK) {
        block.acknowledged = content;
        if (request.isDurable) settle(block, content);
      } else if (status === STATUS.FENCED) block.undecided.add(content);
      else block.versions = block.versions.filter((version) => version !== content);
    }
    if (status !== STATUS.OK || (!request.isWrite && !request.hasTombstone)) return;
    const { generation } = request;
    this.segment(request.segment).stamps.set(extentOf(request), { generation, isTombstone: !request.isWrite });
  }

  #startDelete(segment: SegmentModel): void {
    segment.state = 'deleting';
    segment.stamps.clear();
    for (const block of segment.blocks.values()) block.versions.push(0);
  }

  #purge(segment: SegmentModel, generation: number): void {
    for (const [extent, stamp] of segment.stamps) {
      if (stamp.isTombstone && stamp.generation <= generation) segment.stamps.delete(extent);
    }
  }

  #acknowledged(request: FlushRequest | CoolRequest): (readonly [BlockModel, number])[] {
    const segments = request.kind === 'cool' ? [this.segment(request.segment)] : [...this.segments.values()];
    const blocksPerRegion = 32 * BLOCKS_PER_EXTENT;
    return segments.flatMap((segment) =>
      [...segment.blocks]
        .filter(([block]) => request.kind === 'flush' || request.regions.includes(Math.floor(block / blocksPerRegion)))
        .map(([, block]) => [block, block.acknowledged] as const),
    );
  }

  #blocksOf({ segment, firstBlock, count, value }: ChangeRequest): (readonly [BlockModel, number])[] {
    return Array.from({ length: count }, (_, index) => [
      this.segment(segment).block(firstBlock + index),
      contentOf(value, index),
    ]);
  }
}

function extentOf({ firstBlock }: ChangeRequest): number {
  return Math.floor(firstBlock / BLOCKS_PER_EXTENT);
}

/** The content is on stable media: nothing older may be found any more. */
function settle(block: BlockModel, content: number): void {
  block.versions = block.versions.slice(block.versions.lastIndexOf(content));
}

/**
 * Where a volume's bytes live: striping of its address space over segments (ARCHITECTURE.md, "segment" and "stripe").
 *
 * A stripe group is `stripeWidth` consecutive segments; consecutive 1 MiB units of the group's address space rotate over them.
 * The mapping is a bijection between extents of the volume and extents of segments, so locks and copies may use either.
 */
import { assert } from '../base/assert.js';
import { EXTENT_BYTES, REGION_BYTES, STRIPE_UNIT_BYTES } from '../base/units.js';

export class VolumeLayout {
  readonly sizeBytes: number;
  readonly segmentBytes: number;
  readonly stripeWidth: number;
  readonly segmentCount: number;
  readonly extentsPerSegment: number;
  readonly regionsPerSegment: number;
  readonly #groupBytes: number;

  constructor(sizeBytes: number, segmentBytes: number, stripeWidth: number) {
    assert(segmentBytes % REGION_BYTES === 0 && stripeWidth >= 1, 'segments are whole regions');
    this.sizeBytes = sizeBytes;
    this.segmentBytes = segmentBytes;
    this.stripeWidth = stripeWidth;
    this.#groupBytes = segmentBytes * stripeWidth;
    this.segmentCount = segmentCountOf(sizeBytes, segmentBytes, stripeWidth);
    this.extentsPerSegment = segmentBytes / EXTENT_BYTES;
    this.regionsPerSegment = segmentBytes / REGION_BYTES;
  }

  /** Segment that holds the byte at `offsetBytes` of the volume. */
  segmentOf(offsetBytes: number): number {
    const group = Math.floor(offsetBytes / this.#groupBytes);
    const unit = Math.floor((offsetBytes - group * this.#groupBytes) / STRIPE_UNIT_BYTES);
    return group * this.stripeWidth + (unit % this.stripeWidth);
  }

  /** Byte offset inside that segment. */
  offsetInSegment(offsetBytes: number): number {
    const inGroup = offsetBytes % this.#groupBytes;
    const unit = Math.floor(inGroup / STRIPE_UNIT_BYTES);
    return Math.floor(unit / this.stripeWidth) * STRIPE_UNIT_BYTES + (inGroup % STRIPE_UNIT_BYTES);
  }

  /** The byte of the volume that is at `offsetBytes` of `segment`. */
  offsetInVolume(segment: number, offsetBytes: number): number {
    const group = Math.floor(segment / this.stripeWidth);
    const unit = Math.floor(offsetBytes / STRIPE_UNIT_BYTES) * this.stripeWidth + (segment % this.stripeWidth);
    return group * this.#groupBytes + unit * STRIPE_UNIT_BYTES + (offsetBytes % STRIPE_UNIT_BYTES);
  }
}

/** Number of segments of a volume: whole stripe groups, so that every unit of the address space has a segment. */
export function segmentCountOf(sizeBytes: number, segmentBytes: number, stripeWidth: number): number {
  return Math.ceil(sizeBytes / (segmentBytes * stripeWidth)) * stripeWidth;
}

/** Sizes, in bytes, that the formats are built on. See `format/DISK.md` and `protocol/WIRE.md`. */

export const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;
export const TIB = 1024 * GIB;

/** Unit of checksums and of drive I/O. */
export const BLOCK_BYTES = 4 * KIB;
/** Unit of client I/O: offsets and lengths of volumes are multiples of it. */
export const SECTOR_BYTES = 512;
/** Unit of allocation, copy and repair inside a replica. */
export const EXTENT_BYTES = 128 * KIB;
export const BLOCKS_PER_EXTENT = EXTENT_BYTES / BLOCK_BYTES;
/** Unit of the activity log. */
export const EXTENTS_PER_REGION = 32;
export const REGION_BYTES = EXTENTS_PER_REGION * EXTENT_BYTES;
/** Unit in which consecutive data rotates over the segments of a stripe group. */
export const STRIPE_UNIT_BYTES = MIB;

const SUFFIXES: ReadonlyArray<readonly [string, number]> = [
  ['Ki', KIB],
  ['Mi', MIB],
  ['Gi', GIB],
  ['Ti', TIB],
];

/** Parses `"20Gi"`, `"512Mi"`, `"1048576"` (bytes; binary suffixes Ki, Mi, Gi, Ti, optional trailing B). Returns bytes, or null if malformed. */
export function parseSize(text: string): number | null {
  const match = /^(\d+(?:\.\d+)?)\s*(?:(Ki|Mi|Gi|Ti)B?)?$/.exec(text.trim());
  if (match === null) return null;
  const unit = SUFFIXES.find(([suffix]) => suffix === match[2])?.[1] ?? 1;
  const bytes = Number(match[1]) * unit;
  return Number.isSafeInteger(bytes) ? bytes : null;
}

/** Formats bytes for people, `"1.5 GiB"`; exact multiples have no fraction. */
export function formatSize(bytes: number): string {
  for (const [suffix, unit] of [...SUFFIXES].reverse()) {
    if (bytes >= unit) {
      const value = bytes / unit;
      return `${Number.isInteger(value) ? value : value.toFixed(1)} ${suffix}B`;
    }
  }
  return `${bytes} B`;
}

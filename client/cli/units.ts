/** Numbers for people: sizes, rates, durations; and the sizes that people type. */

const SUFFIXES = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const;
const FACTOR: Record<string, number> = { '': 1, Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30, Ti: 2 ** 40 };

/** Bytes of `20Gi`, `512MiB`, `1048576`; null when it is no size. Decimal units (`20G`) are refused: they mean two things. */
export function parseSize(text: string): number | null {
  const match = /^(\d+(?:\.\d+)?)\s*(?:(Ki|Mi|Gi|Ti)B?)?$/.exec(text.trim());
  if (match === null) return null;
  const bytes = Number(match[1]) * (FACTOR[match[2] ?? ''] ?? 1);
  return Number.isSafeInteger(bytes) && bytes > 0 ? bytes : null;
}

/** `1.5 GiB`; whole numbers have no fraction. */
export function formatSize(bytes: number): string {
  let [value, index] = [bytes, 0];
  while (value >= 1024 && index < SUFFIXES.length - 1) [value, index] = [value / 1024, index + 1];
  return `${Number.isInteger(value) || value >= 100 ? Math.round(value) : value.toFixed(1)} ${SUFFIXES[index]}`;
}

/** `850 µs`, `1.2 ms`, `3.4 s`. */
export function formatMicroseconds(value: number): string {
  if (value < 1_000) return `${Math.round(value)} µs`;
  return value < 1_000_000 ? `${(value / 1_000).toFixed(1)} ms` : `${(value / 1_000_000).toFixed(1)} s`;
}

/** `45 s`, `12 min`, `3 h`, `5 d`: how long ago. */
export function formatAge(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1_000));
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7_200) return `${Math.floor(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.floor(seconds / 3_600)} h` : `${Math.floor(seconds / 86_400)} d`;
}

export function formatCount(count: number, noun: string, plural = `${noun}s`): string {
  return `${count.toLocaleString('en-US')} ${count === 1 ? noun : plural}`;
}

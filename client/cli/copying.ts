/** What is being copied in a volume, in words. */
import type { CopyProgress, Resync } from '../sdk/types.js';
import { formatAge, formatSize } from './units.js';

type Figures = Pick<Resync, 'bytesDone' | 'bytesTotal' | 'bytesPerSecond' | 'etaSeconds'>;

/** `1.5 GiB of 4 GiB (37 %), 210 MiB/s, 12 s left`; what is not known is left out. */
export function formatCopying({ bytesDone, bytesTotal, bytesPerSecond, etaSeconds }: Figures): string {
  const percent = bytesTotal === 0 ? 0 : Math.floor((100 * bytesDone) / bytesTotal);
  const rate = bytesPerSecond === 0 ? '' : `, ${formatSize(bytesPerSecond)}/s`;
  const left = etaSeconds === null ? '' : `, ${formatAge(etaSeconds * 1_000)} left`;
  return `${formatSize(bytesDone)} of ${formatSize(bytesTotal)} (${percent} %)${rate}${left}`;
}

/** One line for each kind and drive. */
export function copyingLines({ copies }: Resync): string[] {
  return copies.map((copy) => `${copy.kind}${targetOf(copy)}: ${formatCopying(copy)}`);
}

function targetOf({ driveId, node, path }: CopyProgress): string {
  if (driveId === undefined) return '';
  return node === undefined || path === undefined ? ` to drive ${driveId}` : ` to ${path} on ${node}`;
}

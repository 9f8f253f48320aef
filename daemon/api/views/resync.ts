/** What is being copied in a volume, with names and the time that is left. */
import type { ClusterSnapshot } from '../../control/cluster-state.js';
import type { CopyProgress, Resync } from '../schemas/index.js';

interface Copy {
  readonly kind: string;
  readonly driveId: string | null;
  readonly bytesDone: number;
  readonly bytesTotal: number;
  readonly bytesPerSecond: number;
}

export interface Copying {
  /** Bytes copied since the owner took the volume. */
  readonly resyncBytesDone: number;
  readonly copies: readonly Copy[];
}

/** Names of nodes and directories are told where there is a snapshot. */
export function resyncView(copying: Copying | null, snapshot?: ClusterSnapshot): Resync {
  const copies = copying?.copies ?? [];
  const sum = (figure: (copy: Copy) => number): number => copies.reduce((total, copy) => total + figure(copy), 0);
  const all = {
    bytesDone: sum(({ bytesDone }) => bytesDone),
    bytesTotal: sum(({ bytesTotal }) => bytesTotal),
    bytesPerSecond: sum(({ bytesPerSecond }) => bytesPerSecond),
  };
  return {
    ...withEta(all),
    copies: copies.map((copy) => copyView(copy, snapshot)),
    bytesCopied: copying?.resyncBytesDone ?? 0,
  };
}

function copyView({ kind, driveId, ...figures }: Copy, snapshot: ClusterSnapshot | undefined): CopyProgress {
  const { bytesDone, bytesTotal, bytesPerSecond } = figures;
  const drive = snapshot?.drives.get(driveId ?? '');
  const node = snapshot?.nodes.get(drive?.nodeId ?? '');
  return {
    kind: kind as CopyProgress['kind'],
    ...(driveId === null || driveId === '' ? {} : { driveId }),
    ...(node === undefined ? {} : { node: node.name }),
    ...(drive === undefined ? {} : { path: drive.path }),
    ...withEta({ bytesDone, bytesTotal, bytesPerSecond }),
  };
}

type Figures = Pick<Copy, 'bytesDone' | 'bytesTotal' | 'bytesPerSecond'>;

function withEta(figures: Figures): Figures & { etaSeconds: number | null } {
  const { bytesDone, bytesTotal, bytesPerSecond } = figures;
  const left = bytesTotal - bytesDone;
  return { ...figures, etaSeconds: bytesPerSecond === 0 ? null : Math.ceil(left / bytesPerSecond) };
}

/** Compares all in-sync replicas of a volume, extent by extent, each under its extent lock. */
import { BraidError } from '../base/errors.js';
import { EXTENT_BYTES } from '../base/units.js';
import type { VerifyReport } from '../ports/shard.js';
import { STATUS } from '../protocol/frame.js';
import { compareCopies, judge, type CopySums } from './comparison.js';
import type { Copier } from './copier.js';
import type { VolumeIo } from './io.js';
import type { VolumeLayout } from './layout.js';
import type { Replica, Segment } from './segment.js';
import { inWindow } from './window.js';

type Difference = VerifyReport['differences'][number];
type Damaged = VerifyReport['damaged'][number];

/** Of each kind; the rest is counted. */
const REPORTED_MAX = 1_000;

/**
 * Rejects with UNAVAILABLE when an in-sync replica is not connected. What differs or is damaged is reported, at most 1,000 of each; what is
 * damaged is rewritten from another copy as after any read that finds it.
 */
export async function verifyReplicas(
  segments: readonly Segment[],
  layout: VolumeLayout,
  io: VolumeIo,
  copier: Copier,
): Promise<VerifyReport> {
  const differences: Difference[] = [];
  const damaged: Damaged[] = [];
  let extentsCompared = 0;
  let copiesMin = Number.POSITIVE_INFINITY;
  for (const segment of segments) {
    const replicas = segment.replicas.filter((replica) => replica.state === 'in-sync');
    copiesMin = Math.min(copiesMin, replicas.length);
    await inWindow(await allocatedExtents(replicas, copier), async (extent) => {
      const copies = await lockedCopies(segment, replicas, extent, io);
      const place = { segment: segment.index, extent };
      const offsetBytes = layout.offsetInVolume(segment.index, extent * EXTENT_BYTES);
      const verdict = judge(copies);
      const driveIds = differing(copies);
      if (driveIds.length > 0 && differences.length < REPORTED_MAX)
        differences.push({ ...place, offsetBytes, driveIds });
      for (const { replica, status } of verdict.damaged) {
        const problem = status === STATUS.CHECKSUM_MISMATCH ? 'checksum' : 'unreadable';
        if (damaged.length < REPORTED_MAX) damaged.push({ ...place, offsetBytes, driveId: replica.driveId, problem });
        copier.repair(segment, extent * EXTENT_BYTES, replica.bit);
      }
      extentsCompared++;
    });
  }
  return {
    extentsCompared,
    bytesCompared: extentsCompared * EXTENT_BYTES,
    copiesMin: Number.isFinite(copiesMin) ? copiesMin : 0,
    differences,
    damaged,
  };
}

/** Every extent that some replica has allocated. */
export async function allocatedExtents(replicas: readonly Replica[], copier: Copier): Promise<number[]> {
  const lists = await Promise.all(replicas.map((replica) => copier.listExtents(replica, 0, true)));
  return [...new Set(lists.flat())].sort((a, b) => a - b);
}

async function lockedCopies(segment: Segment, replicas: readonly Replica[], extent: number, io: VolumeIo) {
  const row = await io.lockExtent(segment.index, extent * EXTENT_BYTES);
  if (row === null) throw new BraidError('FENCED', 'the volume is not owned here any more');
  try {
    return await compareCopies(replicas, extent, false);
  } finally {
    io.unlockExtent(row);
  }
}

/** Drives of the copies that differ from the first one that could be read; none when all are equal. */
function differing(copies: readonly CopySums[]): Difference['driveIds'] {
  const sound = copies.filter(({ status }) => status === STATUS.OK);
  const first = sound[0]?.sums;
  return sound
    .filter(({ sums }) => sums.some((sum, block) => sum !== first?.[block]))
    .map((copy) => copy.replica.driveId);
}

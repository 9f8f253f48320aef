/** Compares all in-sync replicas of a volume, extent by extent, each under its extent lock. */
import { BraidError } from '../base/errors.js';
import { EXTENT_BYTES } from '../base/units.js';
import type { VerifyReport } from '../ports/shard.js';
import { FLAG, STATUS, statusName } from '../protocol/frame.js';
import type { Copier } from './copier.js';
import type { VolumeIo } from './io.js';
import type { Replica, Segment } from './segment.js';
import { inWindow } from './window.js';

type Difference = VerifyReport['differences'][number];

/** Rejects with UNAVAILABLE when an in-sync replica is not connected. Differences are reported, at most 1,000. */
export async function verifyReplicas(
  segments: readonly Segment[],
  io: VolumeIo,
  copier: Copier,
): Promise<VerifyReport> {
  const differences: Difference[] = [];
  let extentsCompared = 0;
  let bytesCompared = 0;
  let copiesMin = Number.POSITIVE_INFINITY;
  for (const segment of segments) {
    const replicas = segment.replicas.filter((replica) => replica.state === 'in-sync');
    copiesMin = Math.min(copiesMin, replicas.length);
    const extents = await allocatedExtents(replicas, copier);
    await inWindow(extents, async (extent) => {
      const driveIds = await differingDrives(segment, replicas, extent, io);
      if (driveIds.length > 0 && differences.length < 1000)
        differences.push({ segment: segment.index, extent, driveIds });
      extentsCompared++;
      bytesCompared += EXTENT_BYTES;
    });
  }
  return { extentsCompared, bytesCompared, copiesMin: Number.isFinite(copiesMin) ? copiesMin : 0, differences };
}

/** Every extent that some replica has allocated. */
async function allocatedExtents(replicas: readonly Replica[], copier: Copier): Promise<number[]> {
  const lists = await Promise.all(replicas.map((replica) => copier.listExtents(replica, 0, true)));
  return [...new Set(lists.flat())].sort((a, b) => a - b);
}

/** Drives whose copy of the extent differs from the first replica's; empty when all are equal. */
async function differingDrives(segment: Segment, replicas: readonly Replica[], extent: number, io: VolumeIo) {
  const row = await io.lockExtent(segment.index, extent * EXTENT_BYTES);
  if (row === null) throw new BraidError('FENCED', 'the volume is not owned here any more');
  try {
    const sums = await Promise.all(replicas.map((replica) => extentChecksums(replica, extent)));
    return replicas.filter((_, index) => sums[index] !== sums[0]).map((replica) => replica.driveId);
  } finally {
    io.unlockExtent(row);
  }
}

const CRC_OF_ZERO_BLOCK = 0x98f94189;

/** The extent's 32 checksums as text, zeros where nothing is allocated. */
async function extentChecksums(replica: Replica, extent: number): Promise<string> {
  const { session } = replica;
  const reply = await session.peer.checksums(session.handle, replica.number, extent * EXTENT_BYTES);
  if (reply.status !== STATUS.OK)
    throw new BraidError(
      'DRIVE',
      `reading extent ${extent} on drive ${replica.driveId} failed with ${statusName(reply.status)}`,
    );
  if ((reply.flags & FLAG.ZEROES) !== 0) return new Uint32Array(EXTENT_BYTES / 4096).fill(CRC_OF_ZERO_BLOCK).join();
  const { buffer, byteOffset, byteLength } = reply.payload;
  const view = new DataView(buffer, byteOffset, byteLength);
  return Array.from({ length: byteLength / 4 }, (_, index) => view.getUint32(index * 4, true)).join();
}

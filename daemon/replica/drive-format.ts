/** Makes the metadata of a new drive: its superblock (DISK.md). */
import { BraidError } from '../base/errors.js';
import { EXTENT_BYTES } from '../base/units.js';
import { isUuid, SUPERBLOCK_KEY } from '../format/keys.js';
import { encodeSuperblock, FORMAT_VERSION } from '../format/records.js';
import type { MetaStoreOpener } from '../ports/meta-store.js';

export interface DriveFormat {
  readonly directory: string;
  readonly metas: MetaStoreOpener;
  readonly clusterId: string;
  readonly driveId: string;
  readonly slotCount: number;
  readonly nowMs: number;
}

export async function formatDrive({
  directory,
  metas,
  clusterId,
  driveId,
  slotCount,
  nowMs,
}: DriveFormat): Promise<void> {
  if (!isUuid(driveId) || !isUuid(clusterId)) {
    throw new BraidError('INVALID_ARGUMENT', 'drives and clusters are named by UUIDs');
  }
  if (slotCount < 2) {
    throw new BraidError('INVALID_ARGUMENT', `a drive needs room for at least 2 extents of ${EXTENT_BYTES} bytes`);
  }
  const meta = await metas.open(`${directory}/meta`, { create: true });
  try {
    if (meta.get(SUPERBLOCK_KEY) !== null) {
      throw new BraidError('DRIVE', `${directory} holds a drive already; empty it to use it again`);
    }
    const superblock = { formatVersion: FORMAT_VERSION, slotCount, driveId, clusterId, createdMs: nowMs };
    await new Promise<void>((resolve, reject) => {
      const operations = [{ key: SUPERBLOCK_KEY, value: encodeSuperblock(superblock) }];
      meta.commit(operations, (error) => (error === null ? resolve() : reject(error)));
    });
  } finally {
    await meta.close();
  }
}

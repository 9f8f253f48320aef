/** Records by the names that people use. Unknown names are NOT_FOUND, with what they may have been meant to be. */
import { BraidError } from '../base/errors.js';
import { didYouMean } from '../base/nearest.js';
import { parseSize } from '../base/units.js';
import type { ClusterState } from '../control/cluster-state.js';
import type { StoredRecord } from '../ports/stored-records.js';
import type { NodeRecord, VolumeRecord } from '../protocol/records.js';
import type { Size } from './schemas/index.js';

export async function findVolume(state: ClusterState, name: string): Promise<StoredRecord<VolumeRecord>> {
  const found = await state.volumeByName(name);
  if (found !== null) return found;
  const names = (await state.volumes()).filter(({ value }) => !value.deleting).map(({ value }) => value.name);
  const advice =
    didYouMean(name, names) || (names.length === 0 ? '; there are no volumes yet' : '; GET /v1/volumes lists them all');
  throw new BraidError('NOT_FOUND', `there is no volume "${name}"${advice}`);
}

export async function findNode(state: ClusterState, name: string): Promise<NodeRecord> {
  const nodes = await state.nodes();
  const found = nodes.find(({ value }) => value.name === name);
  if (found !== undefined) return found.value;
  const names = nodes.map(({ value }) => value.name);
  throw new BraidError(
    'NOT_FOUND',
    `there is no node "${name}"${didYouMean(name, names) || `; the nodes are ${names.join(', ')}`}`,
  );
}

export function bytesOf(field: string, size: Size): number {
  const bytes = typeof size === 'number' ? size : parseSize(size);
  if (bytes !== null && bytes > 0) return bytes;
  throw new BraidError(
    'INVALID_ARGUMENT',
    `${field} "${size}" is not a whole number of bytes; write for example "20Gi"`,
  );
}

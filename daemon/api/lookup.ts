/** Records by the names that people use. Unknown names are NOT_FOUND, with what they may have been meant to be. */
import { BraidError } from '../base/errors.js';
import { didYouMean } from '../base/nearest.js';
import { parseSize } from '../base/units.js';
import type { ClusterSnapshot, ClusterState } from '../control/cluster-state.js';
import type { StoredRecord } from '../ports/stored-records.js';
import type { DriveRecord, NodeRecord, VolumeRecord } from '../protocol/records.js';
import type { Size } from './schemas/index.js';

/** Fewer say nothing. */
const DRIVE_PREFIX_CHARS_MIN = 4;

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

/** By id, the beginning of one, `node:/directory` or `/directory`. */
export function findDrive({ drives, nodes }: ClusterSnapshot, text: string): DriveRecord {
  const all = [...drives.values()];
  const nameOf = ({ nodeId, path }: DriveRecord): string => `${nodes.get(nodeId)?.name ?? nodeId}:${path}`;
  const exact = all.filter((drive) => drive.id === text || drive.path === text || nameOf(drive) === text);
  const isPrefix = text.length >= DRIVE_PREFIX_CHARS_MIN;
  const found = exact.length > 0 || !isPrefix ? exact : all.filter(({ id }) => id.startsWith(text));
  if (found[0] !== undefined && found.length === 1) return found[0];
  if (found.length === 0)
    throw new BraidError('NOT_FOUND', `there is no drive "${text}"; GET /v1/drives lists them all`);
  throw new BraidError('INVALID_ARGUMENT', `"${text}" may be ${found.map(nameOf).join(' or ')}: give the drive's id`);
}

export function bytesOf(field: string, size: Size): number {
  const bytes = typeof size === 'number' ? size : parseSize(size);
  if (bytes !== null && bytes > 0) return bytes;
  throw new BraidError(
    'INVALID_ARGUMENT',
    `${field} "${size}" is not a whole number of bytes; write for example "20Gi"`,
  );
}

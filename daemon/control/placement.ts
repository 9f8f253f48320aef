/**
 * Where the copies of a segment go: weighted rendezvous hashing, a pure function of the drives and the segment's key.
 *
 * Every drive gets a score from a hash of (segment, drive) and its weight; the best drives win, at most one per node. A drive that joins
 * or leaves changes only the segments that it wins or held. Invariants, asserted at the end: as many drives as asked, all on different nodes.
 */
import { assert } from '../base/assert.js';
import { BraidError } from '../base/errors.js';
import type { DriveId, NodeId } from '../base/ids.js';
import { EXTENT_BYTES, formatSize } from '../base/units.js';

export interface PlacementDrive {
  readonly id: DriveId;
  readonly nodeId: NodeId;
  readonly driveClass: string;
  readonly capacityBytes: number;
  /** Labels of its node. */
  readonly labels: Readonly<Record<string, string>>;
  /** Its node is alive. */
  readonly alive: boolean;
}

export interface PlacementRequest {
  /** Names the segment, for ever: `<volumeId>/<index>`. */
  readonly key: string;
  readonly replicas: number;
  /** Absent: any. */
  readonly driveClass?: string;
  /** Labels that a drive's node must have. */
  readonly nodeLabels?: Readonly<Record<string, string>>;
  /** A node that should hold one copy if it has a suitable drive. */
  readonly preferredNode?: NodeId;
  /** How many segments of the same stripe group a drive holds already: the least used come first. */
  readonly usesInGroup?: ReadonlyMap<DriveId, number>;
}

/** Chooses drives on distinct nodes. Throws `BraidError` NO_SPACE naming the constraint that cannot be met. */
export function placeSegment(drives: readonly PlacementDrive[], request: PlacementRequest): DriveId[] {
  const eligible = eligibleDrives(drives, request);
  const scored = eligible
    .map((drive) => ({ drive, uses: request.usesInGroup?.get(drive.id) ?? 0, score: score(drive, request.key) }))
    .sort((a, b) => a.uses - b.uses || b.score - a.score || (a.drive.id < b.drive.id ? -1 : 1));
  const preferred = scored.find(({ drive }) => drive.nodeId === request.preferredNode);
  const ordered = preferred === undefined ? scored : [preferred, ...scored];
  const chosen = new Map<NodeId, DriveId>();
  for (const { drive } of ordered) {
    if (chosen.size === request.replicas) break;
    if (!chosen.has(drive.nodeId)) chosen.set(drive.nodeId, drive.id);
  }
  assert(chosen.size === request.replicas, 'enough nodes were checked before');
  assert(new Set(chosen.values()).size === request.replicas, 'copies are on different drives');
  return [...chosen.values()];
}

/** The drives that may hold a copy, on enough nodes; NO_SPACE otherwise. */
export function eligibleDrives(
  drives: readonly PlacementDrive[],
  request: Pick<PlacementRequest, 'replicas' | 'driveClass' | 'nodeLabels'>,
): PlacementDrive[] {
  const steps: readonly { readonly what: string; readonly holds: (drive: PlacementDrive) => boolean }[] = [
    { what: 'drives', holds: (drive) => drive.capacityBytes >= EXTENT_BYTES },
    {
      what: `drives of class ${request.driveClass}`,
      holds: (drive) => request.driveClass === undefined || drive.driveClass === request.driveClass,
    },
    {
      what: `drives on nodes labelled ${labelText(request.nodeLabels)}`,
      holds: (drive) => Object.entries(request.nodeLabels ?? {}).every(([name, value]) => drive.labels[name] === value),
    },
    { what: 'drives on nodes that are alive', holds: (drive) => drive.alive },
  ];
  let left = [...drives];
  for (const { what, holds } of steps) {
    left = left.filter(holds);
    const nodeCount = new Set(left.map(({ nodeId }) => nodeId)).size;
    if (nodeCount < request.replicas) throw noSpace(request.replicas, what, nodeCount, left);
  }
  return left;
}

function noSpace(replicas: number, what: string, nodeCount: number, left: readonly PlacementDrive[]): BraidError {
  const copies =
    replicas === 1 ? '1 copy needs a drive' : `${replicas} copies need drives on ${replicas} different nodes`;
  const bytes = left.reduce((sum, { capacityBytes }) => sum + capacityBytes, 0);
  const found = nodeCount === 0 ? `there are no ${what}` : `${what} exist on ${nodeCount} only (${formatSize(bytes)})`;
  const advice =
    replicas === 1 ? 'add a drive' : 'add drives on other nodes, start their agents, or ask for fewer replicas';
  return new BraidError('NO_SPACE', `${copies}, but ${found}: ${advice}`);
}

function labelText(labels: Readonly<Record<string, string>> | undefined): string {
  return Object.entries(labels ?? {})
    .map(([name, value]) => `${name}=${value}`)
    .join(',');
}

/** Weighted rendezvous: the drive with the largest -weight / ln(u) wins with probability proportional to its weight. */
function score({ id, capacityBytes }: PlacementDrive, key: string): number {
  return -capacityBytes / Math.log(uniform(`${key}/${id}`));
}

/** A number in (0, 1) that is a fixed function of `text` and looks random (52 bits). */
export function uniform(text: string): number {
  let a = 0xdeadbeef;
  let b = 0x41c6ce57;
  for (let index = 0; index < text.length; index++) {
    const code = text.charCodeAt(index);
    a = Math.imul(a ^ code, 0x9e3779b1);
    b = Math.imul(b ^ code, 0x5f356495);
  }
  a = mix(a ^ (b >>> 15));
  b = mix(b ^ a);
  const bits = (b & 0xfffff) * 2 ** 32 + (a >>> 0);
  return (bits + 0.5) / 2 ** 52;
}

/** Which of `count` shards something with this id belongs to: a fixed function of both. */
export function shardOf(id: string, count: number): number {
  assert(count > 0, 'a node has a shard');
  return Math.min(count - 1, Math.floor(uniform(id) * count));
}

/** murmur3's finaliser: every bit of the result depends on every bit of the input. */
function mix(value: number): number {
  let hash = value;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return hash ^ (hash >>> 16);
}

import { Type, type Static } from 'typebox';
import { bytes, count } from './common.js';
import { Resync } from './volume.js';

export const Operations = Type.Object(
  {
    operations: count('Operations that have ended'),
    bytes: bytes('Bytes moved'),
    errors: count('Operations that failed'),
    latencyBuckets: Type.Array(Type.Integer(), {
      description: 'Entry i counts operations that took less than 2^i microseconds and not less than 2^(i-1)',
    }),
    latencySumUs: Type.Number({ description: 'Microseconds of all operations together' }),
  },
  {
    description:
      'Counters since the agent started; of a drive, all its I/O (copies and repairs included) since it was opened',
  },
);
export type Operations = Static<typeof Operations>;

export const ScrubStats = Type.Object(
  {
    isRunning: Type.Boolean({ description: 'A pass is under way' }),
    startedMs: Type.Integer({ description: 'When the last pass began, in milliseconds since 1970; 0: never' }),
    completedMs: Type.Integer({ description: 'When a pass came to its end last; 0: never' }),
    passBytesDone: bytes('Of the pass that is under way; 0 when there is none'),
    passBytesTotal: bytes('Of the same, as far as it is known'),
    bytes: bytes('Read or compared since the drive was opened or the volume taken'),
    errors: count('Damaged or differing extents that were found in that time'),
    repaired: count('Those of them that are right again'),
    unresolved: count('Found, and not right yet'),
  },
  { description: 'Of a drive: its data against its checksums; of a volume: its copies against each other' },
);
export type ScrubStats = Static<typeof ScrubStats>;

export const VolumeStats = Type.Object({
  id: Type.String(),
  name: Type.String(),
  state: Type.String({ description: 'opening, reconciling, serving, suspended, fenced or releasing' }),
  inFlight: count('Operations under way'),
  connections: count('NBD connections'),
  degradedReplicas: count('Copies that are not in sync'),
  repairs: count('Damaged extents that were rewritten from another copy'),
  scrub: ScrubStats,
  resyncBytesDone: bytes('Copied since this node took the volume'),
  resyncBytesTotal: bytes('The same, and what the copying under way has still to do'),
  resync: Resync,
  read: Operations,
  write: Operations,
  flush: Operations,
  trim: Operations,
});
export type VolumeStats = Static<typeof VolumeStats>;

export const DriveStats = Type.Object({
  id: Type.String(),
  path: Type.String(),
  state: Type.Enum(['open', 'opening', 'failed'], { type: 'string' }),
  reason: Type.String(),
  capacityBytes: bytes('Size of the data area'),
  usedBytes: bytes('Allocated'),
  hotRegions: count('Regions in the activity log'),
  inFlight: count('Operations under way'),
  failures: count('How often it failed, or could not be opened, since the agent started'),
  checksumMismatches: count('Bad blocks found since start'),
  metadataBytes: bytes("Size of the drive's LMDB environment"),
  scrub: ScrubStats,
  read: Operations,
  write: Operations,
  flush: Operations,
  trim: Operations,
});
export type DriveStats = Static<typeof DriveStats>;

export const ShardUsage = Type.Object({
  index: count('Shard of this node'),
  slabBytes: bytes('Buffers'),
  slabUsedBytes: Type.Object({
    frontend: bytes('For NBD'),
    peer: bytes('For other nodes'),
    internal: bytes('For resync and metadata'),
  }),
  eventLoopDelayMsP99: Type.Number(),
});
export type ShardUsage = Static<typeof ShardUsage>;

export const Stats = Type.Object(
  {
    node: Type.String({ description: 'Name of the node that answers; the numbers are its own' }),
    timeMs: Type.Number({ description: 'Monotonic milliseconds of the sample, to compute rates from two answers' }),
    volumes: Type.Array(VolumeStats),
    drives: Type.Array(DriveStats),
    shards: Type.Array(ShardUsage),
  },
  { $id: 'Stats' },
);
export type Stats = Static<typeof Stats>;

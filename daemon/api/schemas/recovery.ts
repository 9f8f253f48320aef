import { Type, type Static } from 'typebox';
import { bytes, closed, count, Labels, Name } from './common.js';

const PATH = { minLength: 2, maxLength: 3_000, pattern: '^/' };
const Word = Type.String({ minLength: 1, maxLength: 64 });
const NAMED_MAX = 1_024;

const DriveOfRecord = Type.Object({
  id: Type.String({ description: 'Empty where it is not known' }),
  nodeId: Type.String(),
  path: Type.String(),
  driveClass: Type.String(),
  capacityBytes: bytes('Size of the data area'),
  shard: count('The shard of its node that serves it'),
  createdMs: Type.Integer(),
});

const VolumeOfRecord = Type.Object({
  id: Type.String(),
  name: Type.String(),
  sizeBytes: bytes('Size of the device'),
  replicas: count('Copies wanted'),
  minInSync: count('Copies that a write needs'),
  stripeWidth: count('Segments of a stripe group'),
  segmentBytes: bytes('Size of a segment'),
  failWhenDegraded: Type.Boolean(),
  createdMs: Type.Integer(),
  deleting: Type.Boolean(),
  labels: Labels,
});

const SegmentOfRecord = Type.Object({
  index: count('Position in the volume'),
  generation: count('Changes of its in-sync set, plus 1'),
  replicas: Type.Array(
    Type.Object({
      driveId: Type.String(),
      inSync: Type.Boolean(),
      syncedGeneration: count('When it is not in sync: up to which generation it was'),
      staleSinceMs: Type.Integer(),
    }),
  ),
});

const KeptState = Type.Object({
  clusterId: Type.String(),
  driveId: Type.String(),
  slotCount: count('Extents that it has room for'),
  createdMs: Type.Integer(),
  volumes: Type.Array(
    Type.Object({
      id: Type.String(),
      epoch: count('The highest that it has seen'),
      record: Type.Union([VolumeOfRecord, Type.Null()], { description: 'Null where only older agents have used it' }),
    }),
  ),
  copies: Type.Array(
    Type.Object({
      volumeId: Type.String(),
      layout: SegmentOfRecord,
      highestStamp: count('The highest generation under which something in it was written'),
    }),
  ),
});

export const ReadDrives = Type.Object(
  {
    paths: Type.Optional(
      Type.Array(Type.String(PATH), {
        maxItems: 64,
        description: 'Directories of drives that the node does not remember itself',
      }),
    ),
  },
  { ...closed, $id: 'ReadDrives' },
);
export type ReadDrives = Static<typeof ReadDrives>;

export const KeptDrives = Type.Object(
  {
    drives: Type.Array(
      Type.Object({
        record: DriveOfRecord,
        kept: Type.Union([KeptState, Type.Null()], { description: 'Null when it cannot be read' }),
        reason: Type.String({ description: 'Why it cannot be read; empty when it can' }),
      }),
    ),
  },
  { $id: 'KeptDrives' },
);
export type KeptDrives = Static<typeof KeptDrives>;

export const Recover = Type.Object(
  {
    dryRun: Type.Optional(Type.Boolean({ default: false, description: 'Change nothing, say what would be restored' })),
    accept: Type.Optional(
      Type.Array(Word, { maxItems: NAMED_MAX, description: 'Names or ids of volumes to restore with their doubts' }),
    ),
    skip: Type.Optional(Type.Array(Word, { maxItems: NAMED_MAX, description: 'Of volumes not to restore' })),
    clusterId: Type.Optional(Type.String({ maxLength: 64, description: 'When the drives are of different clusters' })),
    drives: Type.Optional(
      Type.Array(
        Type.Object(
          { node: Name, path: Type.String({ ...PATH, description: 'Directory of the drive on that node' }) },
          closed,
        ),
        { maxItems: NAMED_MAX, description: 'Drives that their nodes do not remember themselves' },
      ),
    ),
  },
  { ...closed, $id: 'Recover' },
);
export type Recover = Static<typeof Recover>;

export const RecoveredVolume = Type.Object({
  id: Type.String(),
  name: Type.String({ description: 'Empty when no drive keeps it' }),
  sizeBytes: bytes('Size of the device; 0 when no drive keeps it'),
  decision: Type.Enum(['restore', 'accepted', 'skipped', 'ambiguous', 'impossible'], {
    type: 'string',
    description:
      'restore: nothing is doubtful; accepted, skipped: as the request says; ambiguous: to be accepted or skipped; impossible: to be skipped',
  }),
  doubts: Type.Array(Type.String()),
});
export type RecoveredVolume = Static<typeof RecoveredVolume>;

export const Recovery = Type.Object(
  {
    done: Type.Boolean({ description: 'False: this is what would be restored' }),
    clusterId: Type.String({ description: 'Of the drives; empty when they do not say' }),
    mustRestart: Type.Boolean({ description: 'The agents run under another cluster id and have to be restarted' }),
    problems: Type.Array(Type.String(), { description: 'Nothing is restored while there is one' }),
    drives: Type.Array(
      Type.Object({
        id: Type.String(),
        node: Type.String({ description: 'Name of its node; empty when nobody has it' }),
        path: Type.String(),
        state: Type.Enum(['found', 'unreadable', 'missing', 'foreign'], {
          type: 'string',
          description: 'missing: a volume names it and no agent has it; foreign: of another cluster',
        }),
        reason: Type.String(),
      }),
    ),
    volumes: Type.Array(RecoveredVolume),
  },
  { $id: 'Recovery' },
);
export type Recovery = Static<typeof Recovery>;

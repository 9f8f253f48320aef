import { Type, type Static } from 'typebox';
import { bytes, closed, count, Labels, Name, Size } from './common.js';

export const WhenDegraded = Type.Enum(['suspend', 'fail'], {
  type: 'string',
  description: 'Writes with fewer than minInSync copies wait, or fail with an I/O error',
});
export type WhenDegraded = Static<typeof WhenDegraded>;

export const VolumeHealth = Type.Enum(['ok', 'degraded', 'syncing', 'suspended', 'unavailable', 'deleting'], {
  type: 'string',
  description:
    'ok: all copies are in sync; syncing: missing copies are being made; suspended: too few copies for writes; unavailable: not served',
});
export type VolumeHealth = Static<typeof VolumeHealth>;

export const CreateVolume = Type.Object(
  {
    name: Name,
    size: Size,
    replicas: Type.Optional(
      Type.Integer({ minimum: 1, maximum: 3, default: 2, description: 'Copies of the data, each on another node' }),
    ),
    minInSync: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: 3,
        description: 'Copies that a write needs; by default one less than replicas, at least 1',
      }),
    ),
    stripeWidth: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: 16,
        description: 'Segments that consecutive MiBs rotate over; by default as many as there are drives for',
      }),
    ),
    segmentSize: Type.Optional(Size),
    whenDegraded: Type.Optional(WhenDegraded),
    labels: Type.Optional(Labels),
  },
  { ...closed, $id: 'CreateVolume' },
);
export type CreateVolume = Static<typeof CreateVolume>;

const EtaSeconds = Type.Union([Type.Integer({ minimum: 0 }), Type.Null()], {
  description: 'Seconds left at this rate; null while that is not known',
});
const copyFigures = {
  bytesDone: bytes('Copied'),
  bytesTotal: bytes('To copy, done included'),
  bytesPerSecond: bytes('Smoothed rate; 0 while it is not known, or while nothing moves'),
  etaSeconds: EtaSeconds,
};

export const CopyProgress = Type.Object({
  kind: Type.Enum(['resync', 'rebuild', 'reconcile'], {
    type: 'string',
    description: 'A copy catches up; a new copy is made; copies are made equal after their owner died',
  }),
  driveId: Type.Optional(Type.String({ description: 'To which drive; absent: all copies' })),
  node: Type.Optional(Type.String({ description: 'Name of the node of that drive' })),
  path: Type.Optional(Type.String({ description: 'Directory of that drive' })),
  ...copyFigures,
});
export type CopyProgress = Static<typeof CopyProgress>;

export const Resync = Type.Object(
  {
    ...copyFigures,
    copies: Type.Array(CopyProgress),
    bytesCopied: bytes('Copied since the owner took the volume'),
  },
  { description: 'What is being copied now, all together and each; all 0 when nothing is' },
);
export type Resync = Static<typeof Resync>;

export const VolumeSummary = Type.Object(
  {
    id: Type.String(),
    name: Type.String(),
    sizeBytes: bytes('Size of the device'),
    replicas: count('Copies wanted'),
    health: VolumeHealth,
    reason: Type.String({ description: 'Why the health is not ok; empty when it is' }),
    node: Type.Optional(Type.String({ description: 'Name of the node that it is attached to' })),
    device: Type.Optional(Type.String({ description: 'Block device on that node' })),
    resync: Resync,
    createdMs: Type.Integer({ description: 'Milliseconds since 1970' }),
  },
  { $id: 'VolumeSummary' },
);
export type VolumeSummary = Static<typeof VolumeSummary>;

export const VolumeList = Type.Object({ volumes: Type.Array(VolumeSummary) }, { $id: 'VolumeList' });
export type VolumeList = Static<typeof VolumeList>;

export const ReplicaState = Type.Enum(['in-sync', 'syncing', 'stale'], { type: 'string' });
export type ReplicaState = Static<typeof ReplicaState>;

export const Replica = Type.Object({
  driveId: Type.String(),
  node: Type.String({ description: 'Name of the node of its drive' }),
  path: Type.String({ description: 'Directory of its drive' }),
  state: ReplicaState,
  alive: Type.Boolean({ description: 'Its node is alive' }),
  replaces: Type.Optional(Type.String({ description: 'Id of the drive whose copy it takes over when it is in sync' })),
});
export type Replica = Static<typeof Replica>;

export const Segment = Type.Object({
  index: count('Position in the volume'),
  generation: count('Changes of its in-sync set, plus 1'),
  replicas: Type.Array(Replica),
});
export type Segment = Static<typeof Segment>;

const NbdUri = Type.String({ description: "Where NBD clients on the owner's node find it: a unix socket" });
const NbdTcpUri = Type.String({
  description:
    'Where NBD clients anywhere find it; absent when its node does not serve NBD over TCP (braidd --nbd-tcp)',
});

export const Volume = Type.Object(
  {
    ...VolumeSummary.properties,
    minInSync: count('Copies that a write needs'),
    stripeWidth: count('Segments of a stripe group'),
    segmentBytes: bytes('Size of a segment'),
    whenDegraded: WhenDegraded,
    labels: Labels,
    owner: Type.Optional(Type.String({ description: 'Name of the node that orders its I/O now' })),
    epoch: count('Number of the ownership'),
    attachment: Type.Optional(
      Type.Object({
        node: Type.String({ description: 'Where it is wanted' }),
        device: Type.Boolean({ description: 'As a block device, not just over NBD' }),
        state: Type.String({ description: 'waiting, opening, reconciling, serving, suspended, fenced or releasing' }),
        error: Type.String({ description: 'What stands in the way; empty when nothing does' }),
      }),
    ),
    nbdUri: Type.Optional(NbdUri),
    nbdTcpUri: Type.Optional(NbdTcpUri),
    segments: Type.Array(Segment),
  },
  { $id: 'Volume' },
);
export type Volume = Static<typeof Volume>;

const TIMEOUT_MS_MAX = 300_000;
export const ATTACH_TIMEOUT_MS_DEFAULT = 30_000;
export const DETACH_TIMEOUT_MS_DEFAULT = 30_000;

export const AttachVolume = Type.Object(
  {
    node: Type.Optional(Name),
    device: Type.Optional(Type.Boolean({ default: false, description: 'Make a block device of it' })),
    timeoutMs: Type.Optional(
      Type.Integer({
        minimum: 0,
        maximum: TIMEOUT_MS_MAX,
        default: ATTACH_TIMEOUT_MS_DEFAULT,
        description: 'How long to wait until it is served',
      }),
    ),
  },
  { ...closed, $id: 'AttachVolume' },
);
export type AttachVolume = Static<typeof AttachVolume>;

export const AttachedVolume = Type.Object(
  {
    node: Type.String({ description: 'Name of the node' }),
    nbdUri: NbdUri,
    nbdTcpUri: Type.Optional(NbdTcpUri),
    device: Type.Optional(Type.String({ description: 'Block device on the node' })),
  },
  { $id: 'AttachedVolume' },
);
export type AttachedVolume = Static<typeof AttachedVolume>;

export const DetachVolume = Type.Object(
  {
    force: Type.Optional(
      Type.Boolean({
        default: false,
        description: 'Even while the device is in use, or its node cannot be asked: users of it get I/O errors',
      }),
    ),
    timeoutMs: Type.Optional(Type.Integer({ minimum: 0, maximum: TIMEOUT_MS_MAX, default: DETACH_TIMEOUT_MS_DEFAULT })),
  },
  { ...closed, $id: 'DetachVolume' },
);
export type DetachVolume = Static<typeof DetachVolume>;

export const DetachedVolume = Type.Object(
  {
    released: Type.Boolean({ description: 'The owner has let go of it; false when its node is dead' }),
  },
  { $id: 'DetachedVolume' },
);
export type DetachedVolume = Static<typeof DetachedVolume>;

export const DeletedVolume = Type.Object({ name: Type.String(), id: Type.String() }, { $id: 'DeletedVolume' });
export type DeletedVolume = Static<typeof DeletedVolume>;

const DriveRef = Type.String({
  minLength: 1,
  maxLength: 4_096,
  description:
    'Id of a drive, or the beginning of one; or its directory, with the name of its node if need be: host-a:/srv/braid',
});

export const MoveReplica = Type.Object(
  {
    from: DriveRef,
    to: DriveRef,
    segment: Type.Optional(count('Only the copy of this segment; absent: of all segments that have one there')),
  },
  { ...closed, $id: 'MoveReplica' },
);
export type MoveReplica = Static<typeof MoveReplica>;

export const CancelMove = Type.Object(
  { to: Type.Optional(DriveRef) },
  { ...closed, $id: 'CancelMove', description: 'Absent: all moves of the volume' },
);
export type CancelMove = Static<typeof CancelMove>;

export const MovedReplicas = Type.Object(
  { segments: count('Segments concerned; 0 when there was nothing left to do') },
  { $id: 'MovedReplicas' },
);
export type MovedReplicas = Static<typeof MovedReplicas>;

export const VerifyReport = Type.Object(
  {
    extentsCompared: count('Extents of 128 KiB'),
    bytesCompared: bytes('Bytes of one copy'),
    copiesMin: count('Copies compared per segment, least over all segments'),
    differences: Type.Array(
      Type.Object({
        segment: count('Segment index'),
        extent: count('Extent in the segment'),
        offsetBytes: bytes('Where the extent is in the volume'),
        driveIds: Type.Array(Type.String()),
      }),
      { description: 'Extents whose copies differ, at most 1,000; each copy passes its own checksums' },
    ),
    damaged: Type.Array(
      Type.Object({
        segment: count('Segment index'),
        extent: count('Extent in the segment'),
        offsetBytes: bytes('Where the extent is in the volume'),
        driveId: Type.String({ description: 'The drive with the damaged copy' }),
        problem: Type.Enum(['checksum', 'unreadable'], { type: 'string' }),
      }),
      {
        description:
          'Damaged copies of extents, at most 1,000; they are rewritten from another copy if one can be read',
      },
    ),
  },
  { $id: 'VerifyReport' },
);
export type VerifyReport = Static<typeof VerifyReport>;

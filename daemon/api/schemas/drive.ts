import { Type, type Static } from 'typebox';
import { bytes, closed, count, DriveClass, Name, Size } from './common.js';

export const DriveState = Type.Enum(['open', 'opening', 'failed', 'unknown'], {
  type: 'string',
  description: 'unknown: its node does not answer',
});
export type DriveState = Static<typeof DriveState>;

export const Drive = Type.Object(
  {
    id: Type.String(),
    node: Type.String({ description: 'Name of its node' }),
    path: Type.String({ description: 'Directory on its node' }),
    driveClass: DriveClass,
    capacityBytes: bytes('Size of the data area'),
    usedBytes: bytes('Allocated to volumes; 0 while the state is not open'),
    replicaCount: count('Segment copies placed on it'),
    state: DriveState,
    reason: Type.String({ description: 'Why it is not open and what to do; empty when it is open' }),
    createdMs: Type.Integer({ description: 'Milliseconds since 1970' }),
  },
  { $id: 'Drive' },
);
export type Drive = Static<typeof Drive>;

export const DriveList = Type.Object({ drives: Type.Array(Drive) }, { $id: 'DriveList' });
export type DriveList = Static<typeof DriveList>;

export const AddDrive = Type.Object(
  {
    path: Type.String({
      minLength: 2,
      maxLength: 3_000,
      pattern: '^/',
      description: 'Absolute path of a directory on the node; created if need be',
    }),
    capacity: Size,
    driveClass: Type.Optional(DriveClass),
    node: Type.Optional(Name),
  },
  { ...closed, $id: 'AddDrive' },
);
export type AddDrive = Static<typeof AddDrive>;

import { Type, type Static } from 'typebox';
import { closed, count } from './common.js';

export const ForcePrimary = Type.Object(
  {
    drive: Type.String({ minLength: 1, maxLength: 64, description: 'Id of the drive whose copies become primary' }),
    segment: Type.Optional(
      Type.Integer({
        minimum: 0,
        description: 'Only this segment; by default all that have no good copy left and one on the drive',
      }),
    ),
    acceptLoss: Type.Optional(
      Type.Boolean({
        default: false,
        description: 'Do it. Without this nothing is changed, and the answer says what would be given up',
      }),
    ),
  },
  { ...closed, $id: 'ForcePrimary' },
);
export type ForcePrimary = Static<typeof ForcePrimary>;

export const ForcedSegment = Type.Object({
  index: count('Position in the volume'),
  generation: count('Of the segment: changes of its in-sync set, plus 1'),
  copyGeneration: count('Up to which the copy on the drive has everything; what was written later may be lost'),
  staleSinceMs: Type.Optional(
    Type.Integer({ description: 'Since when the copy lacks something, milliseconds since 1970; absent: not known' }),
  ),
  missingDrives: Type.Array(Type.String(), { description: 'Drives with copies in sync that cannot be reached' }),
});
export type ForcedSegment = Static<typeof ForcedSegment>;

export const ForcedPrimary = Type.Object(
  {
    done: Type.Boolean({ description: 'False: this is what would be done' }),
    segments: Type.Array(ForcedSegment),
  },
  { $id: 'ForcedPrimary' },
);
export type ForcedPrimary = Static<typeof ForcedPrimary>;

export const VolumeCopies = Type.Object(
  {
    drives: Type.Array(
      Type.Object({
        id: Type.String(),
        uncertainSegments: Type.Array(Type.Integer(), {
          description: 'Segments whose copy there may lack writes that were not flushed when the node lost power',
        }),
      }),
      { description: 'Every open drive of the node that answers, whether it has copies of the volume or not' },
    ),
  },
  { $id: 'VolumeCopies' },
);
export type VolumeCopies = Static<typeof VolumeCopies>;

/** Building blocks of the API's schemas. Files in this folder import nothing but typebox: the SDK is made from them. */
import { Type, type Static } from 'typebox';

/** The closed list of error codes; a test compares it with `base/errors.ts`. */
export const ERROR_CODES = [
  'INVALID_ARGUMENT',
  'NOT_FOUND',
  'ALREADY_EXISTS',
  'CONFLICT',
  'NO_SPACE',
  'LIMIT_EXCEEDED',
  'ABORTED',
  'UNAVAILABLE',
  'TIMEOUT',
  'FENCED',
  'PROTOCOL',
  'DRIVE',
  'CORRUPT',
  'UNSUPPORTED',
  'INTERNAL',
] as const;

export const ErrorCodeSchema = Type.Enum([...ERROR_CODES], {
  type: 'string',
  description: 'What kind of error it is, for programs',
});
export type ApiErrorCode = (typeof ERROR_CODES)[number];

/** Body of every answer that is not 2xx. */
export const ErrorBody = Type.Object(
  {
    error: Type.Object({
      code: ErrorCodeSchema,
      message: Type.String({ description: 'What happened and what to do next, for people' }),
      retryable: Type.Boolean({ description: 'The same request may succeed later' }),
    }),
  },
  { $id: 'Error' },
);
export type ErrorBody = Static<typeof ErrorBody>;

/** Volumes and nodes. */
export const NAME_PATTERN = '^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$';
export const Name = Type.String({
  pattern: NAME_PATTERN,
  description:
    'Lower-case letters, digits, ".", "_" and "-"; at most 63 characters; begins and ends with a letter or digit',
});

export const Size = Type.Union(
  [Type.Integer({ minimum: 1 }), Type.String({ pattern: '^\\d+(\\.\\d+)?\\s*((Ki|Mi|Gi|Ti)B?)?$' })],
  {
    description: 'Bytes, or a number with a unit: Ki, Mi, Gi, Ti',
    examples: ['20Gi', 21_474_836_480],
  },
);
export type Size = Static<typeof Size>;

export const LABELS_MAX = 32;
export const Labels = Type.Record(Type.String(), Type.String({ maxLength: 63 }), {
  maxProperties: LABELS_MAX,
  propertyNames: { pattern: '^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$' },
  description: 'Free key-value pairs',
});
export type Labels = Static<typeof Labels>;

export const DriveClass = Type.Enum(['nvme', 'ssd', 'hdd'], {
  type: 'string',
  description: 'What the drive is made of',
});
export type DriveClass = Static<typeof DriveClass>;

export const bytes = (description: string) => Type.Integer({ minimum: 0, description });
export const count = (description: string) => Type.Integer({ minimum: 0, description });
export const closed = { additionalProperties: false } as const;

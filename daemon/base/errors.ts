/**
 * The closed list of operating errors. Every boundary (HTTP, gRPC, CLI) converts from this table and nothing else.
 * The message of an error says what happened and what to do next.
 */

interface ErrorKind {
  readonly http: number;
  /** gRPC canonical status code number. */
  readonly grpc: number;
  readonly retryable: boolean;
}

export const errorKinds = {
  INVALID_ARGUMENT: { http: 400, grpc: 3, retryable: false },
  NOT_FOUND: { http: 404, grpc: 5, retryable: false },
  ALREADY_EXISTS: { http: 409, grpc: 6, retryable: false },
  /** The object is in a state that forbids the operation (volume attached elsewhere, drive in use). */
  CONFLICT: { http: 409, grpc: 9, retryable: false },
  /** Placement or capacity cannot be satisfied. */
  NO_SPACE: { http: 507, grpc: 8, retryable: true },
  LIMIT_EXCEEDED: { http: 429, grpc: 8, retryable: true },
  /** Another writer changed the record first; read again and retry. */
  ABORTED: { http: 409, grpc: 10, retryable: true },
  /** The other side cannot be reached or is not ready. */
  UNAVAILABLE: { http: 503, grpc: 14, retryable: true },
  TIMEOUT: { http: 504, grpc: 4, retryable: true },
  /** A higher epoch owns the volume now. */
  FENCED: { http: 409, grpc: 9, retryable: false },
  /** Wrong cluster, unsupported version, malformed message. */
  PROTOCOL: { http: 502, grpc: 13, retryable: false },
  /** A drive or its metadata failed, is corrupt, or belongs to something else. */
  DRIVE: { http: 500, grpc: 15, retryable: false },
  CORRUPT: { http: 500, grpc: 15, retryable: false },
  UNSUPPORTED: { http: 501, grpc: 12, retryable: false },
  INTERNAL: { http: 500, grpc: 13, retryable: false },
} as const satisfies Record<string, ErrorKind>;

export type ErrorCode = keyof typeof errorKinds;

/** For codes that come from elsewhere: another thread, another agent. */
export function isErrorCode(code: unknown): code is ErrorCode {
  return typeof code === 'string' && Object.hasOwn(errorKinds, code);
}

export class BraidError extends Error {
  override readonly name = 'BraidError';
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
  }

  get retryable(): boolean {
    return errorKinds[this.code].retryable;
  }
}

/** Whatever was thrown, as an Error (for logs and `cause`). */
export function asError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown));
}

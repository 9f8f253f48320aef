import type { ApiErrorCode } from './types.js';

/**
 * A request failed: the server refused it (`status` is the HTTP status), or no usable answer came (`status` 0, code UNAVAILABLE,
 * TIMEOUT or PROTOCOL). The message says what happened and what to do.
 */
export class BraidApiError extends Error {
  override readonly name = 'BraidApiError';
  readonly code: ApiErrorCode;
  readonly status: number;
  /** The same request may succeed later. After TIMEOUT or UNAVAILABLE a change may have been made all the same. */
  readonly retryable: boolean;

  constructor(
    code: ApiErrorCode,
    message: string,
    details: { readonly status?: number; readonly retryable?: boolean; readonly cause?: unknown } = {},
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.status = details.status ?? 0;
    this.retryable = details.retryable ?? false;
  }
}

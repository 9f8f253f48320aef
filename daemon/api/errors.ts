/** The HTTP boundary's one error converter. */
import { asError, BraidError, errorKinds } from '../base/errors.js';
import type { ErrorBody } from './schemas/index.js';

export interface HttpError {
  readonly status: number;
  readonly body: ErrorBody;
}

export function toHttpError(thrown: unknown): HttpError {
  const error = thrown instanceof BraidError ? thrown : fromFramework(asError(thrown));
  const { http, retryable } = errorKinds[error.code];
  return { status: http, body: { error: { code: error.code, message: error.message, retryable } } };
}

/** Errors of fastify itself (malformed JSON, body too large, unknown content type) carry a status; anything else is ours. */
function fromFramework(error: Error & { statusCode?: number }): BraidError {
  const isClients = error.statusCode !== undefined && error.statusCode >= 400 && error.statusCode < 500;
  if (isClients) return new BraidError('INVALID_ARGUMENT', error.message, { cause: error });
  return new BraidError('INTERNAL', 'the agent failed to answer; its log has the details', { cause: error });
}

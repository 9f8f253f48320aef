/**
 * Assertions stay on in production: a violated invariant must stop the process before it can damage data.
 * Use them for programmer errors only; operating faults are `BraidError`s that the caller handles.
 */

export class AssertionFailed extends Error {
  override readonly name = 'AssertionFailed';
}

/** Throws `AssertionFailed` unless `condition` holds. `message` names the invariant that was violated. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new AssertionFailed(message);
}

/** The value of something that cannot be absent here; throws `AssertionFailed` naming `what` if it is. */
export function must<T>(value: T | null | undefined, what: string): T {
  if (value === null || value === undefined) throw new AssertionFailed(`${what} must exist`);
  return value;
}

/** Makes a switch over a closed union total: reaching it is a programmer error. */
export function unreachable(value: never): never {
  throw new AssertionFailed(`unreachable: ${String(value)}`);
}

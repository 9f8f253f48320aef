/** Copies are made a window at a time: bounded, and never more than one window for each kind of copying. */
import { asError } from '../base/errors.js';
import { limits } from '../base/limits.js';

/**
 * Runs `work` for every item, `limits.copyWindowExtents` at once. After the first failure nothing more is started; it rejects with that
 * failure when all that was under way has ended, so that whoever tries again does not pile up work behind what hangs.
 */
export async function inWindow<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const queue = items.values();
  const failures: unknown[] = [];
  const lane = async (): Promise<void> => {
    for (const item of queue) {
      if (failures.length > 0) return;
      try {
        await work(item);
      } catch (error) {
        failures.push(error);
      }
    }
  };
  await Promise.all(Array.from({ length: limits.copyWindowExtents }, lane));
  if (failures.length > 0) throw asError(failures[0]);
}

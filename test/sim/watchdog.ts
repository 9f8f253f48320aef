/**
 * Liveness: while a majority of the copies has been reachable for long enough, with one among them that has everything, and the owner's node
 * as well, clients get on. What the operator does between two owners is part of the time that is allowed.
 */
import type { Faults } from './faults.js';
import { records } from '../../daemon/protocol/records.js';
import { storeKeys } from '../../daemon/protocol/store.js';
import type { SimNode } from './world/sim-node.js';
import type { SimWorld } from './world/sim-world.js';

/**
 * A takeover waits for a lease (5 s), then for copies that do not answer (up to 10 s, and again after what the attempt had to give up);
 * a stalled drive is given up after 12 s, and a copy that comes back is made equal in between.
 */
export const PROGRESS_MS_MAX = 45_000;

export class LivenessViolation extends Error {
  override readonly name = 'LivenessViolation';
}

export class Watchdog {
  readonly #world: SimWorld;
  readonly #faults: Faults;
  /** Since when the volume has all it needs; null: it lacks something. */
  #sinceMs: number | null = null;
  /** Where it should be then. */
  #owner = -1;

  constructor(world: SimWorld, faults: Faults) {
    this.#world = world;
    this.#faults = faults;
  }

  /** To be called often. Throws `LivenessViolation`. */
  look(wanted: SimNode | undefined, progressMs: number): void {
    const nowMs = this.#world.clock.nowMs();
    const owner = this.#world.nodes.findIndex((node) => node === wanted);
    if (owner !== this.#owner) this.#sinceMs = null;
    this.#owner = owner;
    if (!this.#hasAll(owner, nowMs)) {
      this.#sinceMs = null;
      return;
    }
    this.#sinceMs ??= nowMs;
    const waitedMs = nowMs - Math.max(this.#sinceMs, progressMs);
    if (waitedMs <= PROGRESS_MS_MAX) return;
    const state = this.#segments()
      .map(
        ({ index, replicas }) => `${index}: ${replicas.map(({ inSync }) => (inSync ? 'in sync' : 'stale')).join(', ')}`,
      )
      .join('; ');
    throw new LivenessViolation(
      `nothing the client asked for succeeded for ${Math.round(waitedMs)} simulated ms, although node-${owner}, which should own the volume, ` +
        `and a majority of the copies were well (segments: ${state})`,
    );
  }

  #segments() {
    const { storeState, volumeId } = this.#world;
    const { entries } = storeState.list(storeKeys.segments(volumeId));
    return entries.map(({ key, value }) => records.segment.decode(key, value));
  }

  #hasAll(owner: number, nowMs: number): boolean {
    const isWell = (index: number): boolean => this.#faults.wellSinceMs(index) <= nowMs;
    if (!isWell(owner) || this.#faults.isUncertain) return false;
    const { replicas: count, minInSync } = this.#world.options;
    const needed = Math.max(minInSync, Math.floor(count / 2) + 1);
    const nodeOf = this.#world.nodesOfDrives();
    return this.#segments().every(({ replicas }) => {
      const copies = replicas.filter(({ driveId }) => isWell(nodeOf.get(driveId) ?? -1));
      return copies.length >= needed && copies.some(({ inSync }) => inSync);
    });
  }
}

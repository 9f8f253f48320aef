/**
 * Copies that move from one drive to another, at an operator's word: checks that they may, and adds the new copies to their segments. From then
 * on the records of the segments say what is to be done, whoever owns the volume: `Healer` makes the copies, `Membership.join` puts each in the place of
 * the one that it replaces.
 */
import { BraidError } from '../base/errors.js';
import type { DriveId, NodeId, VolumeId } from '../base/ids.js';
import { EXTENT_BYTES, formatSize } from '../base/units.js';
import type { MoveReplicas } from '../ports/shard.js';
import { readRecord } from '../ports/stored-records.js';
import { records } from '../protocol/records.js';
import { storeKeys } from '../protocol/store.js';
import type { CoordinatorContext } from './context.js';
import type { Copier } from './copier.js';
import type { Membership } from './membership.js';
import type { Copy } from './segment-changes.js';
import type { Replica, Segment } from './segment.js';

export interface MovesOptions {
  readonly context: CoordinatorContext;
  readonly volumeId: VolumeId;
  readonly volumeName: string;
  readonly segments: readonly Segment[];
  readonly membership: Membership;
  readonly copier: Copier;
  /** There is something to copy. */
  readonly wake: () => void;
}

export class Moves {
  readonly #options: MovesOptions;

  constructor(options: MovesOptions) {
    this.#options = options;
  }

  /**
   * Resolves to the number of segments whose copies are moved from now on; those for which that was asked before are not counted again.
   * Rejects, with nothing changed, when one of them may not move.
   */
  async start(request: MoveReplicas): Promise<number> {
    const { context, membership, volumeName, wake } = this.#options;
    const { from, to } = request;
    const drive = await this.#driveOf(to);
    const targets = this.#targets(request).filter((segment) => !isMoving(segment, request));
    for (const segment of targets) this.#check(segment, request, drive.nodeId as NodeId);
    await this.#checkRoom(targets, request);
    if (targets.length === 0) return 0;
    await membership.add(async () => {
      // Others may have been faster, while this waited for its turn.
      for (const segment of targets) this.#check(segment, request, drive.nodeId as NodeId);
      await this.#checkLeft(targets, to);
      const session = membership.sessionOf(drive);
      const nowMs = Math.floor(context.clock.wallMs());
      return targets.map((segment) => ({ segment, replica: segment.newcomer(to, session, from, nowMs) }));
    });
    wake();
    const message = `${targets.length} segment(s): the copy on drive ${from} moves to drive ${to}`;
    context.report('info', `volume/${volumeName}`, message);
    return targets.length;
  }

  /** Gives up the moves to a drive, or all; resolves to their number. */
  async cancel(to: DriveId | null): Promise<number> {
    const { context, membership, segments, volumeName } = this.#options;
    const copies: Copy[] = [];
    for (const segment of segments) {
      for (const replica of segment.replicas)
        if (replica.replaces !== null && (to === null || replica.driveId === to)) copies.push({ segment, replica });
    }
    const count = await membership.giveUp(copies);
    if (count > 0)
      context.report(
        'info',
        `volume/${volumeName}`,
        `${count} segment(s): the move of a copy was cancelled; the old copies stay`,
      );
    return count;
  }

  async #driveOf(to: DriveId) {
    const { store } = this.#options.context;
    const drive = await readRecord(store, storeKeys.drive(to), records.drive);
    if (drive === null)
      throw new BraidError('NOT_FOUND', `there is no drive ${to} in the pool; braid drive ls lists them`);
    const nodeId = drive.value.nodeId as NodeId;
    if ((await store.get(storeKeys.alive(nodeId))) === null)
      throw new BraidError(
        'UNAVAILABLE',
        `the node of drive ${to} is not alive: start its agent, or choose another drive`,
      );
    return drive.value;
  }

  /** Segments with a copy on the drive; none when they have all been moved already. */
  #targets({ from, to, segment: index }: MoveReplicas): Segment[] {
    const { segments, volumeName } = this.#options;
    if (from === to)
      throw new BraidError('INVALID_ARGUMENT', 'a copy moves to another drive: from and to are the same');
    const asked = segments.filter((segment) => index === undefined || segment.index === index);
    if (asked.length === 0)
      throw new BraidError(
        'NOT_FOUND',
        `volume ${volumeName} has no segment ${index}: it has 0 to ${segments.length - 1}`,
      );
    const targets = asked.filter((segment) => copyOn(segment, from) !== undefined);
    if (targets.length > 0 || asked.some((segment) => copyOn(segment, to) !== undefined)) return targets;
    throw new BraidError(
      'NOT_FOUND',
      `drive ${from} holds no such copy of volume ${volumeName}; braid volume show tells where its copies are`,
    );
  }

  #check(segment: Segment, { from, to }: MoveReplicas, toNode: NodeId): void {
    const where = `segment ${segment.index} of volume ${this.#options.volumeName}`;
    const conflict = (why: string): BraidError => new BraidError('CONFLICT', `${where} ${why}`);
    if (copyOn(segment, from) === undefined) throw conflict(`has no copy on drive ${from} any more; try again`);
    if (copyOn(segment, to) !== undefined) throw conflict(`has a copy on drive ${to} already; choose another drive`);
    const newcomer = segment.replicas.find(({ replaces }) => replaces !== null);
    if (newcomer !== undefined)
      throw conflict(`has a copy on its way to drive ${newcomer.driveId}: wait until it is there, or cancel that move`);
    // Never two copies in one failure domain, the one that leaves aside.
    const neighbour = segment.replicas.find(
      ({ driveId, session }) => driveId !== from && session.peer.nodeId === toNode,
    );
    if (neighbour !== undefined)
      throw conflict(
        `has another copy on the node of that drive (drive ${neighbour.driveId}); choose a drive of another node`,
      );
  }

  async #checkRoom(targets: readonly Segment[], { to, freeBytes }: MoveReplicas): Promise<void> {
    let neededBytes = 0;
    for (const segment of targets) {
      const source = segment.readSource(0, () => false);
      if (source === null)
        throw new BraidError(
          'UNAVAILABLE',
          `segment ${segment.index} has no copy in sync to copy from: start the agents that hold one`,
        );
      neededBytes += (await this.#options.copier.listExtents(source, 0, true)).length * EXTENT_BYTES;
    }
    if (neededBytes <= freeBytes) return;
    const message = `the copies take ${formatSize(neededBytes)}, and drive ${to} has ${formatSize(freeBytes)} free: choose another drive`;
    throw new BraidError('NO_SPACE', message);
  }

  /** What an earlier copy has left there is removed first, by the drive's node: nothing else tells the one from the other. */
  async #checkLeft(targets: readonly Segment[], to: DriveId): Promise<void> {
    const { context, volumeId } = this.#options;
    for (const { index } of targets) {
      if ((await context.store.get(storeKeys.left(to, volumeId, index))) === null) continue;
      const message = `drive ${to} still holds an earlier copy of segment ${index}, which its node is removing; try again soon`;
      throw new BraidError('CONFLICT', message);
    }
  }
}

function copyOn(segment: Segment, drive: DriveId): Replica | undefined {
  return segment.replicas.find(({ driveId }) => driveId === drive);
}

function isMoving(segment: Segment, { from, to }: MoveReplicas): boolean {
  return copyOn(segment, to)?.replaces === from;
}

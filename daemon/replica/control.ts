/**
 * Control requests of a replica server: sessions, activity log, lists, deletion. Slow paths, bounded in number by the operation table.
 *
 * OPEN and DELETE of one volume take turns. An OPEN is refused as soon as a later one has arrived from elsewhere, so the last one wins.
 */
import type { VolumeId } from '../base/ids.js';
import { limits } from '../base/limits.js';
import { BLOCK_BYTES, BLOCKS_PER_EXTENT } from '../base/units.js';
import { isUuid } from '../format/keys.js';
import { OPCODE, segmentNumber, STATUS, type Status } from '../protocol/frame.js';
import { braid } from '../protocol/generated/messages.js';
import type { ReplicaDrive } from './drive.js';
import type { RegionsToCool, VolumeToOpen } from './drive-maintenance.js';
import type { OperationTable } from './operations.js';
import type { Replica } from './replica.js';
import {
  OpenSegment,
  type Opening,
  type Peer,
  type Session,
  type SessionRegistry,
  type VolumeState,
} from './sessions.js';

/** Five bytes per varint, and room for the message's own fields: what fits `limits.controlPayloadBytesMax`. */
const EXTENTS_PER_LIST = Math.floor(limits.controlPayloadBytesMax / 5) - 16;
/** Segment numbers of a session fit 32 bits. */
const COPIES_MAX = 2 ** 32 / limits.segmentsPerVolumeMax;
const NOTHING = new Uint8Array(0);

export interface ControlHost {
  readonly operations: OperationTable;
  readonly registry: SessionRegistry;
  drive(id: string): ReplicaDrive | undefined;
  drives(): Iterable<ReplicaDrive>;
  endSession(session: Session): void;
  /** Ends a control request. */
  answer(op: number, status: Status, payload: Uint8Array): void;
}

/** Thrown by decoding: answered with BAD_REQUEST. */
class Malformed extends Error {}

export class ControlRequests {
  readonly #host: ControlHost;

  constructor(host: ControlHost) {
    this.#host = host;
  }

  /** `session` is the request's, current and the peer's own, or null. */
  start(op: number, peer: Peer, session: Session | null, payload: Uint8Array): void {
    try {
      this.#dispatch(op, peer, session, payload);
    } catch (error) {
      if (!(error instanceof Malformed)) throw error;
      this.#host.answer(op, STATUS.BAD_REQUEST, NOTHING);
    }
  }

  #dispatch(op: number, peer: Peer, session: Session | null, payload: Uint8Array): void {
    const opcode = this.#host.operations.opcode[op];
    if (opcode === OPCODE.OPEN)
      return void this.#open(
        op,
        peer,
        decode(() => braid.OpenRequest.decode(payload)),
      );
    if (opcode === OPCODE.DELETE) {
      return void this.#delete(
        op,
        peer,
        session,
        decode(() => braid.DeleteRequest.decode(payload)),
      );
    }
    if (session === null) return this.#host.answer(op, STATUS.FENCED, NOTHING);
    if (opcode === OPCODE.COOL)
      return void this.#cool(
        op,
        session,
        decode(() => braid.RegionList.decode(payload)),
      );
    if (opcode === OPCODE.CLOSE) return void this.#close(op, session);
    const segment = session.segments.get(this.#host.operations.segment[op] as number);
    if (segment === undefined) throw new Malformed();
    if (opcode === OPCODE.LIST_EXTENTS) {
      const request = decode(() => braid.ListExtentsRequest.decode(payload));
      return this.#host.answer(op, STATUS.OK, listExtents(segment.replica, request));
    }
    if (opcode === OPCODE.PURGE_TOMBSTONES) return void this.#purge(op, segment);
    if (opcode === OPCODE.LEARN)
      return void this.#learn(
        op,
        segment,
        decode(() => learnRequest(segment.replica, payload)),
      );
    throw new Malformed();
  }

  async #open(op: number, peer: Peer, request: braid.OpenRequest): Promise<void> {
    const { volumeId, epoch } = request;
    const segments = request.segments.map((segment) => new braid.OpenSegment(segment));
    if (!isUuid(volumeId) || epoch === 0 || !areValid(segments))
      return this.#host.answer(op, STATUS.BAD_REQUEST, NOTHING);
    const volume = this.#host.registry.volume(volumeId as VolumeId);
    const opening = { peer, epoch };
    const highest = Math.max(epoch, this.#highestEpoch(volume));
    if (epoch === highest) volume.opening = opening;
    this.#raise(volume, highest, opening);
    if (epoch < highest) {
      this.#host.registry.forgetIfIdle(volume);
      return this.#host.answer(op, STATUS.FENCED, NOTHING);
    }
    const { volume: record } = request;
    await volume.inTurn(() => this.#openInTurn(op, volume, opening, segments, record));
    this.#host.registry.forgetIfIdle(volume);
  }

  async #openInTurn(
    op: number,
    volume: VolumeState,
    opening: Opening,
    segments: braid.OpenSegment[],
    record: Uint8Array,
  ): Promise<void> {
    const { registry } = this.#host;
    const isBeaten = () =>
      volume.opening === null ||
      !isSame(volume.opening, opening) ||
      opening.epoch !== volume.epoch ||
      opening.peer.isClosed;
    // Every operation of older sessions has ended before anything is opened (invariant 6).
    await registry.drain(volume);
    this.#raise(volume, this.#highestEpoch(volume), opening);
    if (isBeaten()) return this.#host.answer(op, STATUS.FENCED, NOTHING);
    const { id, bytes } = volume;
    const opened = await this.#openOnDrives({ id, bytes, epoch: opening.epoch, record }, segments);
    // A CLOSE may have come meanwhile, and may come while this goes on after the wait: looked at again before a session starts.
    while (volume.ending.size > 0) await registry.drain(volume);
    if (isBeaten()) return this.#host.answer(op, STATUS.FENCED, NOTHING);

    // A session of another owner would have been ended when this opening arrived, and none could start since.
    const session = volume.session ?? registry.start(volume, opening.epoch, opening.peer);
    const reply = new braid.OpenReply({ session: session.handle });
    for (const segment of segments) {
      const number = numberOf(segment);
      const result = opened.get(number) ?? STATUS.NOT_FOUND;
      // What could not be opened is in the session no more: its drive must not fail the FLUSHes of the others.
      const isOpen = result instanceof OpenSegment;
      if (isOpen) result.generation = Math.max(result.generation, session.segments.get(number)?.generation ?? 0);
      session.setSegment(number, isOpen ? result : null);
      reply.segments.push(describe(number, result));
    }
    const payload = braid.OpenReply.encode(reply).finish();
    if (payload.length > limits.controlPayloadBytesMax) return this.#host.answer(op, STATUS.OVERLOADED, NOTHING);
    // Durable now, on every drive of a segment that is answered OK: the epoch, the segment's layout, the replica's existence.
    this.#host.answer(op, STATUS.OK, payload);
  }

  /** Per segment that has its drive here: itself, or why not. One commit per drive. */
  async #openOnDrives(volume: VolumeToOpen, segments: readonly braid.OpenSegment[]) {
    const opened = new Map<number, OpenSegment | Status>();
    const byDrive = new Map<ReplicaDrive, braid.OpenSegment[]>();
    for (const segment of segments) {
      const drive = this.#host.drive(segment.driveId);
      if (drive === undefined) continue;
      byDrive.set(drive, [...(byDrive.get(drive) ?? []), segment]);
    }
    await Promise.all(
      [...byDrive].map(async ([drive, mine]) => {
        const replicas = drive.isServing ? await drive.openReplicas(volume, mine) : null;
        for (const [index, segment] of mine.entries()) {
          const replica = replicas === null ? STATUS.IO_ERROR : (replicas[index] ?? STATUS.BAD_REQUEST);
          opened.set(
            numberOf(segment),
            typeof replica === 'number' ? replica : new OpenSegment(drive, replica, segment.generation),
          );
        }
      }),
    );
    return opened;
  }

  async #cool(op: number, session: Session, request: braid.RegionList): Promise<void> {
    const byDrive = new Map<ReplicaDrive, RegionsToCool[]>();
    for (const set of request.sets) {
      const segment = session.segments.get(set.segment ?? 0);
      if (segment === undefined) return this.#host.answer(op, STATUS.BAD_REQUEST, NOTHING);
      const wanted = byDrive.get(segment.drive) ?? [];
      byDrive.set(segment.drive, [...wanted, { replica: segment.replica, regions: set.regions ?? [] }]);
    }
    const replicas = [...byDrive.values()].flat().map(({ replica }) => replica);
    for (const replica of replicas) replica.operations++;
    const statuses = await Promise.all([...byDrive].map(([drive, wanted]) => drive.cool(wanted)));
    for (const replica of replicas) replica.operations--;
    // Durable now: all data of the regions, their checksums, and their absence from the activity log.
    this.#host.answer(op, statuses.find((status) => status !== STATUS.OK) ?? STATUS.OK, NOTHING);
  }

  async #purge(op: number, { drive, replica }: OpenSegment): Promise<void> {
    replica.operations++;
    const status = await drive.purgeTombstones(replica, this.#host.operations.generation[op] as number);
    replica.operations--;
    this.#host.answer(op, status, NOTHING);
  }

  async #learn(op: number, { drive, replica }: OpenSegment, { extent, sums }: Learned): Promise<void> {
    replica.operations++;
    const status = await drive.learn(replica, extent, sums);
    replica.operations--;
    // Durable now, in a cold region: the extent's checksums.
    this.#host.answer(op, status, NOTHING);
  }

  async #close(op: number, session: Session): Promise<void> {
    this.#host.endSession(session);
    await session.drained();
    // Nothing of the session is in flight any more.
    this.#host.answer(op, STATUS.OK, NOTHING);
  }

  async #delete(op: number, peer: Peer, session: Session | null, request: braid.DeleteRequest): Promise<void> {
    const { volumeId, epoch } = request;
    if (!isUuid(volumeId) || epoch === 0) return this.#host.answer(op, STATUS.BAD_REQUEST, NOTHING);
    const volume = this.#host.registry.volume(volumeId as VolumeId);
    const highest = this.#highestEpoch(volume);
    if (epoch > highest) this.#raise(volume, epoch, { peer, epoch });
    if (epoch < highest) {
      this.#host.registry.forgetIfIdle(volume);
      return this.#host.answer(op, STATUS.FENCED, NOTHING);
    }
    await volume.inTurn(async () => {
      await this.#host.registry.drain(volume);
      let status: Status = STATUS.OK;
      for (const { driveId, index } of request.segments) {
        const one = await this.#deleteOne(volume, session, driveId ?? '', index ?? 0, epoch);
        if (status === STATUS.OK) status = one;
      }
      // Durable now: the epoch, and the replicas are gone; their slots become free as they are zeroed.
      this.#host.answer(op, status, NOTHING);
    });
    this.#host.registry.forgetIfIdle(volume);
  }

  /** Deletes one replica, unless a session uses it; the session that asks gives it up. */
  async #deleteOne(
    volume: VolumeState,
    session: Session | null,
    driveId: string,
    index: number,
    epoch: number,
  ): Promise<Status> {
    const drive = this.#host.drive(driveId);
    if (drive === undefined) return STATUS.NOT_FOUND;
    // Even if there is nothing to delete: a late OPEN must not create it.
    if (!drive.isServing || !(await drive.raiseEpoch(volume.bytes, epoch))) return STATUS.IO_ERROR;
    const replica = drive.replicaOf(volume.id, index);
    if (replica === null) return STATUS.OK;
    const user = volume.session;
    for (const [number, segment] of user?.segments ?? []) {
      if (segment.replica !== replica) continue;
      if (user !== session) return STATUS.BAD_REQUEST;
      user?.setSegment(number, null);
    }
    if (replica.operations > 0) return STATUS.BAD_REQUEST;
    return drive.deleteReplica(replica);
  }

  /** Of those that arrived here and those that a drive here has seen (it may have come from another node). */
  #highestEpoch(volume: VolumeState): number {
    let epoch = volume.epoch;
    for (const drive of this.#host.drives()) if (drive.isServing) epoch = Math.max(epoch, drive.epochOf(volume.bytes));
    return epoch;
  }

  /** From now on lower epochs are refused, and so is the session of anyone but the opener. */
  #raise(volume: VolumeState, epoch: number, opening: Opening): void {
    volume.epoch = epoch;
    const { session } = volume;
    if (session !== null && (session.epoch < epoch || (opening.epoch === epoch && !isBy(session, opening)))) {
      this.#host.endSession(session);
    }
  }
}

interface Learned {
  readonly extent: number;
  readonly sums: Uint32Array;
}

function learnRequest(replica: Replica, payload: Uint8Array): Learned {
  const { extent, checksums } = braid.LearnRequest.decode(payload);
  if (extent >= replica.extentCount || checksums.length !== BLOCKS_PER_EXTENT) throw new Malformed();
  return { extent, sums: Uint32Array.from(checksums) };
}

function decode<T>(read: () => T): T {
  try {
    return read();
  } catch {
    throw new Malformed();
  }
}

function isSame(left: Opening, right: Opening): boolean {
  return left.peer === right.peer && left.epoch === right.epoch;
}

function isBy(session: Session, opening: Opening): boolean {
  return session.peer === opening.peer && session.epoch === opening.epoch;
}

function areValid(segments: readonly braid.OpenSegment[]): boolean {
  const numbers = new Set(segments.map(numberOf));
  const replicas = new Set(segments.map(({ index, driveId }) => `${index}/${driveId}`));
  return (
    segments.length > 0 &&
    numbers.size === segments.length &&
    replicas.size === segments.length &&
    segments.every(
      ({ index, copy, generation, sizeBytes }) =>
        index < limits.segmentsPerVolumeMax &&
        copy < COPIES_MAX &&
        generation >= 1 &&
        sizeBytes > 0 &&
        sizeBytes <= limits.segmentBytesMax &&
        sizeBytes % BLOCK_BYTES === 0,
    )
  );
}

function numberOf({ index, copy }: braid.OpenSegment): number {
  return segmentNumber(index, copy);
}

function describe(index: number, result: OpenSegment | Status): braid.OpenedSegment {
  if (!(result instanceof OpenSegment)) return new braid.OpenedSegment({ index, status: result });
  const { replica } = result;
  const [hotRegions, extents] = [replica.hotRegions(), replica.allocated - replica.aheadCount];
  return new braid.OpenedSegment({
    index,
    status: STATUS.OK,
    hotRegions,
    extents,
    uncertain: replica.isUncertain,
  });
}

function listExtents(replica: Replica, request: braid.ListExtentsRequest): Uint8Array {
  const reply = new braid.ListExtentsReply();
  let extent = replica.isUntouched ? replica.extentCount : request.from;
  for (; extent < replica.extentCount && reply.extents.length < EXTENTS_PER_LIST; extent++) {
    const isListed = replica.slotOf(extent) !== 0 || !request.allocatedOnly;
    // A stamp of 0 means that nothing was ever there, and so does a slot ahead of a stream.
    if (isListed && !replica.isAhead(extent) && replica.stampOf(extent) > request.afterGeneration)
      reply.extents.push(extent);
  }
  reply.next = extent < replica.extentCount ? extent : 0;
  return braid.ListExtentsReply.encode(reply).finish();
}

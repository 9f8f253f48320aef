/**
 * Creation and deletion of volumes, as transactions on the cluster store.
 *
 * Creation: `creating/<id>` under this node's lease, then the segments in batches, then, in one transaction that needs the name to be free
 * and `creating/` to be still there, the volume record and its name. A crash before that leaves segments without a volume, which `sweep`
 * (here, at every agent's start) removes. Deletion marks the volume and frees its name; `deletions.ts` does the rest.
 */
import { BraidError } from '../base/errors.js';
import type { DriveId, VolumeId } from '../base/ids.js';
import { limits } from '../base/limits.js';
import { formatSize, GIB, SECTOR_BYTES, STRIPE_UNIT_BYTES } from '../base/units.js';
import { segmentCountOf } from '../coordinator/layout.js';
import type { LeaseId } from '../ports/cluster-store.js';
import { type StoredRecord } from '../ports/stored-records.js';
import { records, type SegmentRecord, type VolumeRecord } from '../protocol/records.js';
import { storeKeys } from '../protocol/store.js';
import {
  absent,
  batches,
  CREATING_PREFIX,
  creatingKey,
  deleteKey,
  idOf,
  putRecord,
  retryRaces,
  unchanged,
  type ClusterSnapshot,
} from './cluster-state.js';
import type { ControlContext } from './context.js';
import { controlLimits } from './limits.js';
import { eligibleDrives, placeSegment, type PlacementDrive } from './placement.js';

export interface CreateVolumeRequest {
  readonly name: string;
  readonly sizeBytes: number;
  readonly replicas: number;
  readonly minInSync?: number;
  readonly stripeWidth?: number;
  readonly segmentBytes?: number;
  readonly failWhenDegraded?: boolean;
  readonly labels?: Readonly<Record<string, string>>;
}

export class Volumes {
  readonly #context: ControlContext;
  readonly #lease: () => LeaseId | null;

  constructor(context: ControlContext, lease: () => LeaseId | null) {
    this.#context = context;
    this.#lease = lease;
  }

  /** Rejects with ALREADY_EXISTS, INVALID_ARGUMENT, NO_SPACE or UNAVAILABLE; then nothing of the volume remains. */
  async create(request: CreateVolumeRequest): Promise<VolumeRecord> {
    const { state, random, clock } = this.#context;
    if ((await state.volumeByName(request.name)) !== null) throw nameTaken(request.name);
    const drives = placementDrives(await state.snapshot());
    const geometry = planGeometry(request, eligibleDrives(drives, { replicas: request.replicas }).length);
    const volume: VolumeRecord = {
      id: random.uuid(),
      name: request.name,
      sizeBytes: request.sizeBytes,
      replicas: request.replicas,
      minInSync: checkMinInSync(request),
      stripeWidth: geometry.stripeWidth,
      segmentBytes: geometry.segmentBytes,
      failWhenDegraded: request.failWhenDegraded ?? false,
      createdMs: Math.floor(clock.wallMs()),
      deleting: false,
      labels: { ...request.labels },
    };
    const segments = planSegments(volume, drives);
    try {
      await this.#store(volume, segments);
    } catch (error) {
      // When it is there, only the answer was lost.
      if (await this.#discard(volume, segments.length).catch(() => true)) throw error;
    }
    const message = `created: ${formatSize(volume.sizeBytes)}, ${volume.replicas} copies, ${segments.length} segments`;
    this.#context.events.report({ severity: 'info', subject: `volume/${volume.name}`, message });
    return volume;
  }

  /** Marks the volume as being deleted and frees its name. CONFLICT while it is attached, unless forced. */
  async delete(name: string, found: StoredRecord<VolumeRecord>, force: boolean): Promise<void> {
    const id = found.value.id as VolumeId;
    await retryRaces(`volume "${name}"`, async () => {
      const { state } = this.#context;
      const [volume, attachment] = await Promise.all([state.volume(id), state.attachment(id)]);
      if (volume === null || volume.value.deleting) return true;
      if (attachment !== null && !force) {
        const node = await state.node(attachment.value.nodeId as never);
        const where = node?.value.name ?? attachment.value.nodeId;
        throw new BraidError(
          'CONFLICT',
          `volume "${name}" is attached to ${where}: detach it first, or delete it with force`,
        );
      }
      const operations = [
        putRecord(volume.key, records.volume, { ...volume.value, deleting: true }),
        deleteKey(storeKeys.name(volume.value.name)),
        ...(attachment === null ? [] : [deleteKey(attachment.key)]),
      ];
      const attachmentKey = storeKeys.attachment(id);
      const compares = [unchanged(volume), attachment === null ? absent(attachmentKey) : unchanged(attachment)];
      return (await state.commit(compares, operations)) || undefined;
    });
    this.#context.events.report({ severity: 'info', subject: `volume/${name}`, message: 'is being deleted' });
  }

  /**
   * Removes the segments of creations that did not end. The order of the reads makes it safe beside creations that are under way: one
   * whose segments were seen first still has its `creating/` key, or its volume record by then, or never will.
   */
  async sweep(): Promise<void> {
    const { state } = this.#context;
    const { entries } = await state.store.list(storeKeys.segmentsAll);
    const creating = await state.store.list(CREATING_PREFIX);
    // One that rebuilds the store has put its segments first, too.
    if ((await state.store.get(storeKeys.recovering)) !== null) return;
    const volumes = await state.volumes();
    const known = new Set([...creating.entries.map(({ key }) => idOf(key)), ...volumes.map(({ value }) => value.id)]);
    const garbage = entries.map(({ key }) => key).filter((key) => !known.has(volumeIdOf(key)));
    if (garbage.length === 0) return;
    this.#context.log.info({ segments: garbage.length }, 'removing segments of volumes whose creation did not end');
    await state.deleteKeys(garbage);
  }

  async #store(volume: VolumeRecord, segments: readonly SegmentRecord[]): Promise<void> {
    const { state } = this.#context;
    const id = volume.id as VolumeId;
    const lease = this.#lease();
    if (lease === null) throw new BraidError('UNAVAILABLE', 'this node has no lease: try again, or ask another node');
    const creating = creatingKey(id);
    const begun = await state.store.txn(
      [absent(creating)],
      [putRecord(creating, records.name, this.#context.node.id, lease)],
    );
    for (const batch of batches(segments, controlLimits.txnOperationsMax)) {
      await state.commit(
        [],
        batch.map((segment) => putRecord(storeKeys.segment(id, segment.index), records.segment, segment)),
      );
    }
    const nameKey = storeKeys.name(volume.name);
    const isCommitted = await state.commit(
      [{ key: creating, revision: begun.revision }, absent(nameKey)],
      [
        deleteKey(creating),
        putRecord(storeKeys.volume(id), records.volume, volume),
        putRecord(nameKey, records.name, volume.id),
      ],
    );
    // From this commit on the volume exists.
    if (isCommitted) return;
    if ((await state.volumeByName(volume.name)) !== null) throw nameTaken(volume.name);
    throw new BraidError(
      'ABORTED',
      `volume "${volume.name}" was not created: this node lost its lease meanwhile; try again`,
    );
  }

  /** After a failure whose outcome may be unknown: the segments go only if the volume did not come into being. False when it did. */
  async #discard(volume: VolumeRecord, segmentCount: number): Promise<boolean> {
    const { state } = this.#context;
    const id = volume.id as VolumeId;
    const key = storeKeys.volume(id);
    const keys = Array.from({ length: segmentCount }, (_, index) => storeKeys.segment(id, index));
    for (const batch of batches([...keys, creatingKey(id)], controlLimits.txnOperationsMax)) {
      if (!(await state.commit([absent(key)], batch.map(deleteKey)))) return false;
    }
    return true;
  }
}

/** `segments/<volumeId>/<index>`. */
function volumeIdOf(segmentKey: string): string {
  return segmentKey.slice(storeKeys.segmentsAll.length, segmentKey.lastIndexOf('/'));
}

function nameTaken(name: string): BraidError {
  return new BraidError('ALREADY_EXISTS', `a volume named "${name}" exists already: choose another name`);
}

export function placementDrives(snapshot: ClusterSnapshot): PlacementDrive[] {
  return [...snapshot.drives.values()].map((drive) => ({
    id: drive.id as DriveId,
    nodeId: drive.nodeId as PlacementDrive['nodeId'],
    driveClass: drive.driveClass,
    capacityBytes: drive.capacityBytes,
    labels: snapshot.nodes.get(drive.nodeId)?.labels ?? {},
    alive: snapshot.alive.has(drive.nodeId),
  }));
}

/** Default: one less than the copies, so that one may fail; never none. */
function checkMinInSync({ replicas, minInSync = Math.max(1, replicas - 1) }: CreateVolumeRequest): number {
  if (minInSync <= replicas) return minInSync;
  throw new BraidError(
    'INVALID_ARGUMENT',
    `minInSync ${minInSync} is more than the ${replicas} copies: it can be 1 to ${replicas}`,
  );
}

export interface Geometry {
  readonly stripeWidth: number;
  readonly segmentBytes: number;
}

/** Stripe width and segment size. `driveCount`: drives that may hold a copy. Throws INVALID_ARGUMENT. */
export function planGeometry(request: CreateVolumeRequest, driveCount: number): Geometry {
  const { sizeBytes, replicas } = request;
  if (sizeBytes < limits.volumeBytesMin || sizeBytes > limits.volumeBytesMax) {
    const range = `${formatSize(limits.volumeBytesMin)} to ${formatSize(limits.volumeBytesMax)}`;
    throw new BraidError('INVALID_ARGUMENT', `a volume has ${range}, not ${formatSize(sizeBytes)}`);
  }
  if (sizeBytes % SECTOR_BYTES !== 0) {
    throw new BraidError(
      'INVALID_ARGUMENT',
      `the size of a volume is a multiple of ${SECTOR_BYTES} bytes; ${sizeBytes} is not`,
    );
  }
  const spread = Math.max(1, Math.min(controlLimits.stripeWidthDefaultMax, Math.floor(driveCount / replicas)));
  // A volume of few stripe units has nothing to rotate.
  const stripeWidth = Math.min(request.stripeWidth ?? spread, Math.ceil(sizeBytes / STRIPE_UNIT_BYTES));
  const segmentBytes = request.segmentBytes ?? segmentBytesFor(sizeBytes, stripeWidth);
  checkSegmentBytes(segmentBytes);
  if (segmentCountOf(sizeBytes, segmentBytes, stripeWidth) > limits.segmentsPerVolumeMax) {
    throw new BraidError(
      'INVALID_ARGUMENT',
      `a volume has at most ${limits.segmentsPerVolumeMax} segments: use a larger segmentSize`,
    );
  }
  return { stripeWidth, segmentBytes };
}

/** 1 GiB; less for a volume that has not that much per stripe; more for one that would have too many segments. */
function segmentBytesFor(sizeBytes: number, stripeWidth: number): number {
  let segmentBytes: number = GIB;
  const share = sizeBytes / stripeWidth;
  while (segmentBytes / 2 >= share && segmentBytes > limits.segmentBytesMin) segmentBytes /= 2;
  while (segmentCountOf(sizeBytes, segmentBytes, stripeWidth) > limits.segmentsPerVolumeMax) segmentBytes *= 2;
  return segmentBytes;
}

function checkSegmentBytes(segmentBytes: number): void {
  const isPowerOfTwo = Number.isInteger(Math.log2(segmentBytes));
  if (isPowerOfTwo && segmentBytes >= limits.segmentBytesMin && segmentBytes <= limits.segmentBytesMax) return;
  const range = `${formatSize(limits.segmentBytesMin)} to ${formatSize(limits.segmentBytesMax)}`;
  throw new BraidError(
    'INVALID_ARGUMENT',
    `segmentSize is a power of two from ${range}, not ${formatSize(segmentBytes)}`,
  );
}

/** The first layout of a volume: every copy of every segment is in sync, because all of it reads as zeros. */
export function planSegments(volume: VolumeRecord, drives: readonly PlacementDrive[]): SegmentRecord[] {
  const segmentCount = segmentCountOf(volume.sizeBytes, volume.segmentBytes, volume.stripeWidth);
  let usesInGroup = new Map<DriveId, number>();
  return Array.from({ length: segmentCount }, (_, index) => {
    if (index % volume.stripeWidth === 0) usesInGroup = new Map();
    const key = `${volume.id}/${index}`;
    const chosen = placeSegment(drives, { key, replicas: volume.replicas, usesInGroup });
    for (const id of chosen) usesInGroup.set(id, (usesInGroup.get(id) ?? 0) + 1);
    return {
      index,
      generation: 1,
      replicas: chosen.map((driveId) => ({
        driveId,
        inSync: true,
        syncedGeneration: 0,
        replaces: '',
        staleSinceMs: 0,
      })),
    };
  });
}

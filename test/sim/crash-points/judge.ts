/**
 * Opens a drive as a crash has left it, with the production code, and compares what it finds with the model: see the checks at `judge`.
 * Then it lets the drive recover, and for some states cools all regions and opens it once more.
 */
import { crc32c } from '../../../daemon/base/crc32c.js';
import { asError } from '../../../daemon/base/errors.js';
import { BLOCK_BYTES, BLOCKS_PER_EXTENT, EXTENT_BYTES } from '../../../daemon/base/units.js';
import type { VolumeId } from '../../../daemon/base/ids.js';
import { extentKey, slotOfFreedKey, TABLE, tablePrefix, uuidToBytes } from '../../../daemon/format/keys.js';
import { encodeTombstone, extentChecksum, extentKnown, extentSlot } from '../../../daemon/format/records.js';
import { STATUS } from '../../../daemon/protocol/frame.js';
import { type DriveHost, ReplicaDrive } from '../../../daemon/replica/drive.js';
import { OperationTable } from '../../../daemon/replica/operations.js';
import { REGION, type Replica } from '../../../daemon/replica/replica.js';
import { SimClock } from '../world/sim-clock.js';
import { SimDiskOpener } from '../world/sim-disk.js';
import { SimMetaStoreOpener } from '../world/sim-meta-store.js';
import { SimRandom } from '../world/sim-random.js';
import { SimSlab } from '../world/sim-slab.js';
import { CLUSTER, OTHER_VOLUME, TestLog, VOLUME } from '../../unit/replica/harness.js';
import { SEGMENT_BYTES } from './client.js';
import type { CrashState } from './crash-states.js';
import type { Model, SegmentModel } from './model.js';

const DIRECTORY = '/drive';
const HOT_REGIONS_MAX = 8;
const STEPS_MAX = 1_000;
const NO_RECORD = encodeTombstone(0);
const [volume, otherVolume] = [uuidToBytes(VOLUME), uuidToBytes(OTHER_VOLUME)];

const clock = new SimClock();
const slab = new SimSlab({ clock: clock.nodeClock(1, 0), quotaBytes: [0, 2 ** 20, 2 ** 20] });

/** Serves nobody: the drive only recovers. */
class IdleHost implements DriveHost {
  readonly operations = new OperationTable(1);
  failure = '';
  onDone(): void {
    this.failure = 'an operation that nobody asked for ended';
  }
  onFlushed(): void {
    this.failure = 'a flush that nobody asked for ended';
  }
  onPressure(): void {}
  onFailed(_drive: ReplicaDrive, reason: string): void {
    this.failure = reason;
  }
}

/** What is wrong with the state; empty: nothing. */
export async function judge(state: CrashState, model: Model, isThorough: boolean): Promise<string[]> {
  const errors = [...model.errors];
  const look = new Look(state, errors);
  const drive = await look.open();
  if (drive === null) return errors;
  look.freeSlots();
  look.epochs(drive, model);
  look.unstable(drive);
  for (const [index, segment] of model.segments) look.segment(drive, index, segment);
  look.checksums(drive);
  const contents = look.contents(drive);
  await look.recover(drive);
  if (isThorough && errors.length === 0) await look.coolAll(drive, model);
  await run(drive.close());
  if (isThorough && errors.length === 0) {
    const again = await look.open();
    if (again === null) return errors;
    if (look.contents(again) !== contents) errors.push('recovery or cooling changed the contents');
    for (const replica of again.replicas()) {
      if (replica.hotRegions().length > 0) errors.push('regions are hot that were cooled');
    }
    look.checksums(again);
    look.freeSlots();
    await run(again.close());
  }
  return errors;
}

class Look {
  readonly #state: CrashState;
  readonly #errors: string[];
  readonly #nodeClock = clock.nodeClock(1, 0);
  #host = new IdleHost();

  constructor(state: CrashState, errors: string[]) {
    this.#state = state;
    this.#errors = errors;
  }

  async open(): Promise<ReplicaDrive | null> {
    const random = new SimRandom(1);
    const disks = new SimDiskOpener(slab, this.#nodeClock, random, { delayMsMin: 0, delayMsMax: 0 });
    const metas = new SimMetaStoreOpener(this.#nodeClock, random, { commitDelayMsMin: 0, commitDelayMsMax: 0 });
    disks.attach(`${DIRECTORY}/data`, this.#state.disk);
    metas.attach(`${DIRECTORY}/meta`, this.#state.meta);
    const ports = { disks, metas, slab, clock: this.#nodeClock, log: new TestLog() };
    const bootId = random.uuid();
    try {
      const options = { directory: DIRECTORY, clusterId: CLUSTER, bootId, hotRegionsMax: HOT_REGIONS_MAX, ...ports };
      const drive = await ReplicaDrive.open(options);
      // It starts to recover; nothing of that ends before the clock goes on.
      this.#host = new IdleHost();
      drive.attach(this.#host);
      return drive;
    } catch (error) {
      this.#errors.push(`it does not open: ${asError(error).message}`);
      return null;
    }
  }

  /** A slot that nothing names reads as zeros. */
  freeSlots(): void {
    const { disk, meta } = this.#state;
    const used = new Set([0]);
    meta.scan(tablePrefix(TABLE.EXTENT), (_key, value) => void used.add(extentSlot(value)));
    meta.scan(tablePrefix(TABLE.FREED), (key) => void used.add(slotOfFreedKey(key)));
    for (let slot = 1; slot < disk.sizeBytes / EXTENT_BYTES; slot++) {
      if (used.has(slot)) continue;
      for (let block = 0; block < BLOCKS_PER_EXTENT; block++) {
        if (this.#contentAt(slot, block) !== 0) this.#errors.push(`free slot ${slot} is not zero in block ${block}`);
      }
    }
  }

  /** Epochs never go back (invariant 2). */
  epochs(drive: ReplicaDrive, { epochs }: Model): void {
    for (const [volumeId, { acknowledged, asked }] of epochs) {
      const found = drive.epochOf(uuidToBytes(volumeId));
      if (found < acknowledged || found > asked) {
        this.#errors.push(`the epoch is ${found}: ${acknowledged} was acknowledged, ${asked} asked for`);
      }
    }
  }

  /** What a power cut may take is in a region that the activity log names, or in a slot that nothing names (invariant 7). */
  unstable(drive: ReplicaDrive): void {
    const slots = new Set(this.#state.unstable.map((block) => Math.floor(block / BLOCKS_PER_EXTENT)));
    for (const replica of drive.replicas()) {
      for (let extent = 0; extent < replica.extentCount; extent++) {
        if (!slots.has(replica.slotOf(extent)) || isHot(replica, extent)) continue;
        this.#errors.push(`extent ${extent} of a cold region has data that is not on stable media`);
      }
    }
  }

  segment(drive: ReplicaDrive, index: number, model: SegmentModel): void {
    const replica = drive.replicaOf(VOLUME as VolumeId, index);
    if (model.state === 'gone' && replica !== null) this.#errors.push(`segment ${index} is there, and was deleted`);
    if (model.state === 'deleting' && replica === null) return;
    if (replica === null) {
      if (model.state === 'there' && model.generation > 0) this.#errors.push(`segment ${index} is missing`);
      return;
    }
    if (model.state === 'there' && (drive.layoutOf(replica)?.generation ?? 0) < model.generation) {
      this.#errors.push(`the layout of segment ${index} is older than ${model.generation}`);
    }
    this.#blocks(replica, model);
    for (const [extent, { generation }] of model.stamps) {
      if (replica.stampOf(extent) < generation) {
        this.#errors.push(`extent ${extent} is stamped ${replica.stampOf(extent)}, below ${generation} (invariant 8)`);
      }
    }
  }

  /** Old or new per block; exactly what was acknowledged where a region is cold, for nobody will look there. */
  #blocks(replica: Replica, model: SegmentModel): void {
    for (let extent = 0; extent < replica.extentCount; extent++) {
      if (replica.slotOf(extent) === 0 || model.blocks.has(extent * BLOCKS_PER_EXTENT)) continue;
      for (let block = 0; block < BLOCKS_PER_EXTENT; block++) model.block(extent * BLOCKS_PER_EXTENT + block);
    }
    for (const [block, { versions, acknowledged, undecided }] of model.blocks) {
      const found = this.#contentOf(replica, block);
      const where = `segment ${replica.segment} extent ${Math.floor(block / BLOCKS_PER_EXTENT)} block ${block % BLOCKS_PER_EXTENT}`;
      if (!versions.includes(found)) this.#errors.push(`${where} holds ${found}, which is none of ${versions.join()}`);
      const isExact = model.state === 'there' && !isHot(replica, Math.floor(block / BLOCKS_PER_EXTENT));
      if (isExact && found !== acknowledged && !undecided.has(found)) {
        this.#errors.push(`${where} is cold and holds ${found}, not ${acknowledged}`);
      }
    }
  }

  /** What is stored about blocks of cold regions is true. */
  checksums(drive: ReplicaDrive): void {
    for (const replica of drive.replicas()) {
      for (let extent = 0; extent < replica.extentCount; extent++) {
        if (replica.slotOf(extent) === 0 || isHot(replica, extent)) continue;
        const record = this.#state.meta.get(extentKey(replica.volume, replica.segment, extent)) ?? NO_RECORD;
        const bytes = this.#state.disk.peek(replica.slotOf(extent) * EXTENT_BYTES, EXTENT_BYTES);
        for (let block = 0; block < BLOCKS_PER_EXTENT; block++) {
          if (((extentKnown(record) >>> block) & 1) === 0) continue;
          if (
            checksumOf(bytes.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES)) !== extentChecksum(record, block)
          ) {
            this.#errors.push(`the checksum of extent ${extent} block ${block} is not that of its data`);
          }
        }
      }
    }
  }

  /** Everything that can be read, as a text. */
  contents(drive: ReplicaDrive): string {
    const found: string[] = [];
    for (const replica of drive.replicas()) {
      for (let block = 0; block < replica.extentCount * BLOCKS_PER_EXTENT; block++) {
        const content = this.#contentOf(replica, block);
        if (content !== 0) found.push(`${replica.volumeId}/${replica.segment}/${block}=${content}`);
      }
    }
    return found.sort().join('\n');
  }

  /** Every slot is mapped or becomes free again, and is zero then. */
  async recover(drive: ReplicaDrive): Promise<void> {
    let mapped = 0;
    for (const replica of drive.replicas()) mapped += replica.allocated;
    const free = drive.slotCount - 1 - mapped;
    for (let step = 0; step < STEPS_MAX && drive.stats().freeSlots !== free; step++) await next();
    if (drive.stats().freeSlots !== free) this.#errors.push(`${drive.stats().freeSlots} slots are free, not ${free}`);
    if (this.#host.failure !== '') this.#errors.push(this.#host.failure);
    drive.assertConsistent();
    this.freeSlots();
  }

  /** As the next owner would. */
  async coolAll(drive: ReplicaDrive, { epochs }: Model): Promise<void> {
    for (const [id, bytes] of [[VOLUME, volume] as const, [OTHER_VOLUME, otherVolume] as const]) {
      const replicas = [...drive.replicas()].filter(({ volumeId }) => volumeId === id);
      if (replicas.length === 0) continue;
      const segments = replicas.map(({ segment }) => ({
        ...{ index: segment, sizeBytes: SEGMENT_BYTES, generation: 1, layout: new Uint8Array(0), certain: false },
      }));
      const epoch = (epochs.get(id)?.asked ?? 0) + 1;
      await run(drive.openReplicas({ id: id as VolumeId, bytes, epoch, record: new Uint8Array(0) }, segments));
      const status = await run(drive.cool(replicas.map((replica) => ({ replica, regions: replica.hotRegions() }))));
      if (status !== STATUS.OK) this.#errors.push(`cooling ends with ${status}`);
    }
    drive.assertConsistent();
  }

  #contentOf(replica: Replica, block: number): number {
    const slot = replica.slotOf(Math.floor(block / BLOCKS_PER_EXTENT));
    return slot === 0 ? 0 : this.#contentAt(slot, block % BLOCKS_PER_EXTENT);
  }

  /** A block is zeros, or starts with something else. */
  #contentAt(slot: number, block: number): number {
    const bytes = this.#state.disk.peek(slot * EXTENT_BYTES + block * BLOCK_BYTES, 4);
    return new DataView(bytes.buffer).getUint32(0, true);
  }
}

function isHot(replica: Replica, extent: number): boolean {
  return replica.stateOf(extent) !== REGION.COLD;
}

/** Contents come again in many states. */
const checksums = new Map<number, number>();

function checksumOf(block: Uint8Array): number {
  const content = new DataView(block.buffer, block.byteOffset).getUint32(0, true);
  const found = checksums.get(content) ?? crc32c(block);
  checksums.set(content, found);
  return found;
}

async function next(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
  clock.step();
}

async function run<T>(promise: Promise<T>): Promise<T> {
  let isDone = false;
  const done = () => void (isDone = true);
  promise.then(done, done);
  for (let step = 0; step < STEPS_MAX && !isDone; step++) await next();
  return promise;
}

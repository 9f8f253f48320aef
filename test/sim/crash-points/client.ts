/** A coordinator that records what it asks and what it is told. */
import { BLOCK_BYTES, BLOCKS_PER_EXTENT, EXTENT_BYTES, REGION_BYTES } from '../../../daemon/base/units.js';
import { FLAG, OPCODE } from '../../../daemon/protocol/frame.js';
import { braid } from '../../../daemon/protocol/generated/messages.js';
import { type Coordinator, type Fields, VOLUME, World, type WorldOptions } from '../../unit/replica/harness.js';
import type { MetaOperation } from '../../../daemon/ports/meta-store.js';
import type { Base } from './crash-states.js';
import { contentOf } from './model.js';
import { Recorder } from './recorder.js';
import type { ChangeRequest, Request } from './requests.js';

/** Three regions. */
export const SEGMENT_BYTES = 3 * REGION_BYTES;

export interface ChangeOptions {
  readonly segment?: number;
  /** First block in the extent, and how many; the whole extent unless given. */
  readonly block?: number;
  readonly count?: number;
  readonly fua?: boolean;
  readonly tombstone?: boolean;
}

/** A request under way. */
export interface Pending {
  readonly coordinator: Coordinator;
  readonly tag: number;
}

export class Client {
  readonly world: World;
  readonly recorder: Recorder;
  #coordinator!: Coordinator;
  epoch = 0;
  generation = 1;
  #value = 0;
  readonly #sent = new Map<string, Request>();

  /** With a drive that holds nothing, and whose first owner has opened the volume. */
  static async create(seed: string, options: WorldOptions): Promise<{ readonly client: Client; readonly base: Base }> {
    const recorder = new Recorder();
    const world = await World.create({ slotCount: 16, hotRegionsMax: 8, ...options, seed, recorder });
    const { disk, meta } = world.media();
    const operations: MetaOperation[] = [];
    meta.scan(new Uint8Array(0), (key, value) => void operations.push({ key, value }));
    const client = new Client(world, recorder);
    await client.open();
    return { client, base: { sizeBytes: disk.sizeBytes, meta: operations } };
  }

  private constructor(world: World, recorder: Recorder) {
    this.world = world;
    this.recorder = recorder;
    world.network.onSent = ({ connection, frame }) => {
      if (frame.opcode < OPCODE.REPLY) return;
      const request = this.#sent.get(`${connection}/${frame.tag}`);
      if (request !== undefined) recorder.answer(request, frame.status);
    };
  }

  /** A new owner opens the volume, under the next epoch. */
  async open(segments: readonly number[] = [0], fields: { volumeId?: string; certain?: boolean } = {}): Promise<void> {
    const { volumeId = VOLUME, certain = false } = fields;
    const isMine = volumeId === VOLUME;
    const coordinator = await this.world.coordinator();
    const epoch = isMine ? ++this.epoch : 1;
    const { generation } = this;
    const opened = segments.map((index) => ({ index, generation, sizeBytes: SEGMENT_BYTES, certain }));
    if (isMine) this.#coordinator = coordinator;
    const payload = coordinator.openPayload(epoch, opened, volumeId);
    const request = { kind: 'open', volumeId, epoch, segments: isMine ? opened : [] } as const;
    const { tag } = this.#send(request, OPCODE.OPEN, { payload }, coordinator);
    const reply = await coordinator.reply(tag);
    coordinator.session = braid.OpenReply.decode(reply.payload).session;
    coordinator.epoch = epoch;
  }

  async write(extent: number, options: ChangeOptions = {}): Promise<number> {
    return this.settled(this.startWrite(extent, options));
  }

  /** Sends it; `settled` waits for its answer. */
  startWrite(extent: number, options: ChangeOptions = {}): Pending {
    return this.#change(OPCODE.WRITE, extent, options);
  }

  async trim(extent: number, options: ChangeOptions = {}): Promise<number> {
    return this.settled(this.startTrim(extent, options));
  }

  startTrim(extent: number, options: ChangeOptions = {}): Pending {
    return this.#change(OPCODE.TRIM, extent, options);
  }

  async zero(extent: number, options: ChangeOptions = {}): Promise<number> {
    return this.settled(this.#change(OPCODE.ZERO, extent, options));
  }

  async flush(): Promise<void> {
    await this.settled(this.#send({ kind: 'flush' }, OPCODE.FLUSH, {}));
  }

  startCool(regions: readonly number[], segment = 0): Pending {
    const payload = braid.RegionList.encode({ sets: [{ segment, regions: [...regions] }] }).finish();
    return this.#send({ kind: 'cool', segment, regions }, OPCODE.COOL, { payload });
  }

  async cool(regions: readonly number[], segment = 0): Promise<void> {
    await this.settled(this.startCool(regions, segment));
  }

  async purge(segment = 0): Promise<void> {
    const { generation } = this;
    await this.settled(
      this.#send({ kind: 'purge', segment, generation }, OPCODE.PURGE_TOMBSTONES, { segment, generation }),
    );
  }

  async delete(segment: number): Promise<void> {
    const payload = this.#coordinator.deletePayload([segment], VOLUME, this.epoch);
    await this.settled(this.#send({ kind: 'delete', segment }, OPCODE.DELETE, { payload }));
  }

  /** The agent ends in order and starts again; the drive keeps its cache. */
  async reopenDrive(): Promise<void> {
    const { world } = this;
    await world.run(world.server.removeDrive(world.driveId));
    world.server.addDrive(await world.run(world.openDrive(world.driveId)));
    await this.open();
  }

  async settled({ coordinator, tag }: Pending): Promise<number> {
    return (await coordinator.reply(tag)).frame.status;
  }

  #change(opcode: number, extent: number, options: ChangeOptions): Pending {
    const { segment = 0, block = 0, count = BLOCKS_PER_EXTENT - block, fua = false, tombstone = false } = options;
    const { generation } = this;
    const isWrite = opcode === OPCODE.WRITE;
    const value = isWrite ? ++this.#value : 0;
    const firstBlock = extent * BLOCKS_PER_EXTENT + block;
    const request: ChangeRequest = {
      ...{ kind: 'change', segment, firstBlock, count, value, generation, isWrite },
      ...{ isDurable: fua, hasTombstone: tombstone },
    };
    const flags = (fua ? FLAG.FUA : 0) | (tombstone ? FLAG.TOMBSTONE : 0);
    const range = {
      segment,
      generation,
      flags,
      offset: extent * EXTENT_BYTES + block * BLOCK_BYTES,
      length: count * BLOCK_BYTES,
    };
    return this.#send(request, opcode, isWrite ? { ...range, payload: payloadOf(value, count) } : range);
  }

  #send(request: Request, opcode: number, fields: Fields, coordinator: Coordinator = this.#coordinator): Pending {
    this.recorder.request(request);
    // What is answered at once is answered inside `send`.
    const tag = coordinator.nextTag;
    this.#sent.set(`${coordinator.connection}/${tag}`, request);
    coordinator.send(opcode, fields);
    return { coordinator, tag };
  }
}

function payloadOf(value: number, count: number): Uint8Array {
  const words = new Uint32Array((count * BLOCK_BYTES) / 4);
  const wordsPerBlock = BLOCK_BYTES / 4;
  for (let block = 0; block < count; block++)
    words.fill(contentOf(value, block), block * wordsPerBlock, (block + 1) * wordsPerBlock);
  return new Uint8Array(words.buffer);
}

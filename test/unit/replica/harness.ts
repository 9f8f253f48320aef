/**
 * A node with drives, a replica server, and coordinators that talk to it by hand, on the simulator's disk, metadata, slab and clock.
 *
 * Two oracles watch every run: data is submitted to a slot only when a durable extent record names it and its region is in the durable
 * activity log (invariant 7); and `assertConsistent` of the server holds after every answer.
 */
import { assert, must } from '../../../daemon/base/assert.js';
import type { DriveId } from '../../../daemon/base/ids.js';
import { BLOCK_BYTES, EXTENT_BYTES, EXTENTS_PER_REGION, GIB } from '../../../daemon/base/units.js';
import {
  activityKey,
  itemOfKey,
  segmentOfKey,
  TABLE,
  tablePrefix,
  uuidToBytes,
  volumeOfKey,
} from '../../../daemon/format/keys.js';
import { extentSlot } from '../../../daemon/format/records.js';
import type { Disk, DiskHandler, DiskOpener } from '../../../daemon/ports/disk.js';
import type { Log } from '../../../daemon/ports/log.js';
import type { MetaStoreOpener } from '../../../daemon/ports/meta-store.js';
import type { ConnectionId, Network } from '../../../daemon/ports/network.js';
import { NO_BUFFER, POOL_FRONTEND, POOL_PEER, type BufferId, type Pool } from '../../../daemon/ports/slab.js';
import { Frame, OPCODE, STATUS } from '../../../daemon/protocol/frame.js';
import { braid } from '../../../daemon/protocol/generated/messages.js';
import { ReplicaDrive } from '../../../daemon/replica/drive.js';
import { ReplicaServer } from '../../../daemon/replica/server.js';
import { SimClock, type SimNodeClock } from '../../sim/world/sim-clock.js';
import { SimDiskOpener } from '../../sim/world/sim-disk.js';
import { type SimMetaMedia, SimMetaStoreOpener } from '../../sim/world/sim-meta-store.js';
import { SimRandom } from '../../sim/world/sim-random.js';
import { SimSlab } from '../../sim/world/sim-slab.js';

export const CLUSTER = '11111111-1111-4111-8111-111111111111';
export const VOLUME = 'aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa';
export const OTHER_VOLUME = 'bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb';
const PATIENCE_MS = 60_000;

export class TestLog implements Log {
  readonly lines: string[] = [];
  debug(fields: object, message: string): void {
    this.lines.push(`debug ${message} ${JSON.stringify(fields)}`);
  }
  info(fields: object, message: string): void {
    this.lines.push(`info ${message} ${JSON.stringify(fields)}`);
  }
  warn(fields: object, message: string): void {
    this.lines.push(`warn ${message} ${JSON.stringify(fields)}`);
  }
  error(fields: object, message: string): void {
    this.lines.push(`error ${message} ${JSON.stringify(fields)}`);
  }
  child(): Log {
    return this;
  }
}

export interface Sent {
  readonly connection: ConnectionId;
  readonly frame: Frame;
  readonly payload: Uint8Array;
}

/** Records what is sent. */
export class TestNetwork implements Network {
  readonly #slab: SimSlab;
  readonly sent: Sent[] = [];
  /** Replies by connection and tag. */
  readonly replies = new Map<string, Sent>();
  readonly closed = new Set<ConnectionId>();
  readonly paused = new Set<ConnectionId>();
  /** Told of every frame as it leaves. */
  onSent: (sent: Sent) => void = () => undefined;

  constructor(slab: SimSlab) {
    this.#slab = slab;
  }

  connect(): ConnectionId {
    throw new Error('a replica server connects to nobody');
  }

  send(connection: ConnectionId, frame: Frame, buffer: BufferId, bufferOffsetBytes: number): void {
    const length = frame.payloadLength;
    const payload =
      buffer === NO_BUFFER ? new Uint8Array(0) : this.#slab.bytes(buffer, bufferOffsetBytes, length).slice();
    assert(payload.length === length, 'a frame has the payload that it announces');
    this.#keep({ connection, frame: new Frame().copyFrom(frame), payload });
  }

  sendControl(connection: ConnectionId, frame: Frame, payload: Uint8Array): void {
    this.#keep({ connection, frame: new Frame().copyFrom(frame), payload: payload.slice() });
  }

  setReceiving(connection: ConnectionId, receiving: boolean): void {
    if (receiving) this.paused.delete(connection);
    else this.paused.add(connection);
  }

  close(connection: ConnectionId): void {
    this.closed.add(connection);
  }

  #keep(sent: Sent): void {
    this.onSent(sent);
    this.sent.push(sent);
    if (sent.frame.opcode < OPCODE.REPLY) return;
    const name = `${sent.connection}/${sent.frame.tag}`;
    assert(!this.replies.has(name), 'a request is answered once');
    this.replies.set(name, sent);
  }
}

/** Refuses data writes that are not covered by durable metadata. */
class WatchedDisks implements DiskOpener {
  readonly #disks: DiskOpener;
  readonly #metaOf: (path: string) => SimMetaMedia;
  writes = 0;

  constructor(disks: DiskOpener, metaOf: (path: string) => SimMetaMedia) {
    this.#disks = disks;
    this.#metaOf = metaOf;
  }

  async open(path: string, handler: DiskHandler): Promise<Disk> {
    const disk = await this.#disks.open(path, handler);
    const check = (offsetBytes: number) => {
      this.writes++;
      assertActivated(this.#metaOf(path), Math.floor(offsetBytes / EXTENT_BYTES));
    };
    return {
      sizeBytes: disk.sizeBytes,
      read: (tag, offset, length, buffer, at) => disk.read(tag, offset, length, buffer, at),
      write: (tag, offset, length, buffer, at, durable) => {
        check(offset);
        disk.write(tag, offset, length, buffer, at, durable);
      },
      flush: (tag) => disk.flush(tag),
      punch: (tag, offset, length) => disk.punch(tag, offset, length),
      zero: (tag, offset, length) => {
        check(offset);
        disk.zero(tag, offset, length);
      },
      check: () => disk.check(),
      close: () => disk.close(),
    };
  }
}

function assertActivated(meta: SimMetaMedia, slot: number): void {
  let isCovered = false;
  meta.scan(tablePrefix(TABLE.EXTENT), (key, value) => {
    if (extentSlot(value) !== slot) return;
    const region = Math.floor(itemOfKey(key) / EXTENTS_PER_REGION);
    isCovered = meta.get(activityKey(uuidToBytes(volumeOfKey(key)), segmentOfKey(key), region)) !== null;
  });
  assert(isCovered, `data goes to slot ${slot} after its record and its activity log entry are durable (invariant 7)`);
}

export interface WorldOptions {
  readonly seed?: number | string;
  readonly drives?: number;
  readonly slotCount?: number;
  readonly hotRegionsMax?: number;
  readonly peerPoolBytes?: number;
  readonly diskDelayMsMax?: number;
  /** Sees everything that a drive asks of its disk and its metadata. */
  readonly recorder?: PortRecorder | null;
}

export interface PortRecorder {
  disks(disks: DiskOpener, slab: SimSlab): DiskOpener;
  metas(metas: MetaStoreOpener): MetaStoreOpener;
}

export class World {
  readonly clock = new SimClock();
  readonly random: SimRandom;
  /** What changes counts from the next start on. */
  readonly options: { -readonly [Name in keyof WorldOptions]-?: Required<WorldOptions>[Name] };
  readonly driveIds: DriveId[] = [];
  readonly log = new TestLog();
  readonly failures: string[] = [];
  slab!: SimSlab;
  network!: TestNetwork;
  server!: ReplicaServer;
  disks!: SimDiskOpener;
  metas!: SimMetaStoreOpener;
  watched!: WatchedDisks;
  #nodeClock!: SimNodeClock;
  #lastConnection = 0;
  #bootId = CLUSTER;

  static async create(options: WorldOptions = {}): Promise<World> {
    const world = new World(options);
    world.#boot();
    for (let index = 0; index < world.options.drives; index++) {
      const driveId = world.random.uuid() as DriveId;
      world.driveIds.push(driveId);
      const directory = directoryOf(driveId);
      const { slotCount } = world.options;
      world.disks.create(`${directory}/data`, slotCount * EXTENT_BYTES);
      const format = {
        directory,
        metas: world.metas,
        clusterId: CLUSTER,
        driveId,
        slotCount,
        nowMs: 1_700_000_000_000,
      };
      await world.run(ReplicaDrive.format(format));
    }
    await world.#openDrives();
    return world;
  }

  private constructor(options: WorldOptions) {
    const defaults = {
      seed: 1,
      drives: 1,
      slotCount: 257,
      hotRegionsMax: 64,
      peerPoolBytes: 4 * 2 ** 20,
      diskDelayMsMax: 1,
      recorder: null,
    };
    this.options = { ...defaults, ...options };
    this.random = new SimRandom(this.options.seed);
  }

  #boot(): void {
    this.#nodeClock = this.clock.nodeClock(1, 0);
    const clock = this.#nodeClock;
    const { peerPoolBytes, diskDelayMsMax } = this.options;
    this.slab = new SimSlab({ clock, quotaBytes: [8 * 2 ** 20, peerPoolBytes, 2 ** 18] });
    this.network = new TestNetwork(this.slab);
    const [oldDisks, oldMetas] = [this.disks, this.metas] as [
      SimDiskOpener | undefined,
      SimMetaStoreOpener | undefined,
    ];
    this.disks = new SimDiskOpener(this.slab, clock, this.random.fork('disks'), {
      delayMsMin: 0.02,
      delayMsMax: diskDelayMsMax,
    });
    this.metas = new SimMetaStoreOpener(clock, this.random.fork('metas'));
    for (const id of this.driveIds) {
      this.disks.attach(`${directoryOf(id)}/data`, must(oldDisks?.media(`${directoryOf(id)}/data`), 'media'));
      this.metas.attach(`${directoryOf(id)}/meta`, must(oldMetas?.media(`${directoryOf(id)}/meta`), 'media'));
    }
    this.watched = new WatchedDisks(this.disks, (path) =>
      must(this.metas.media(path.replace(/data$/, 'meta')), 'media'),
    );
    const names = { clusterId: CLUSTER, nodeId: 'node-1', incarnation: 'one' };
    this.server = new ReplicaServer({ slab: this.slab, network: this.network, clock, log: this.log, ...names });
    this.slab.onAvailable = (pool) => this.server.onSlabAvailable(pool);
  }

  openDrive(driveId: DriveId): Promise<ReplicaDrive> {
    const { hotRegionsMax } = this.options;
    const onFailed = (reason: string) => void this.failures.push(reason);
    const { recorder } = this.options;
    const disks = recorder?.disks(this.watched, this.slab) ?? this.watched;
    const metas = recorder?.metas(this.metas) ?? this.metas;
    const ports = { disks, metas, slab: this.slab, clock: this.#nodeClock, log: this.log };
    const directory = directoryOf(driveId);
    return ReplicaDrive.open({
      directory,
      driveId,
      clusterId: CLUSTER,
      bootId: this.#bootId,
      hotRegionsMax,
      onFailed,
      ...ports,
    });
  }

  async #openDrives(): Promise<void> {
    for (const driveId of this.driveIds) this.server.addDrive(await this.run(this.openDrive(driveId)));
  }

  get driveId(): DriveId {
    return must(this.driveIds[0], 'a drive');
  }

  drive(index = 0): ReplicaDrive {
    return must(this.server.drive(must(this.driveIds[index], 'a drive')), 'a drive');
  }

  media(index = 0) {
    const directory = directoryOf(must(this.driveIds[index], 'a drive'));
    return {
      disk: must(this.disks.media(`${directory}/data`), 'disk'),
      meta: must(this.metas.media(`${directory}/meta`), 'meta'),
    };
  }

  /** Power is lost, then the node comes back. */
  async crash(): Promise<void> {
    this.#bootId = this.random.uuid();
    await this.#restart((index) => this.media(index).disk.user?.crash());
  }

  /** The process is killed, then started again; the drives keep their caches. */
  async kill(): Promise<void> {
    await this.#restart((index) => this.media(index).disk.user?.kill());
  }

  async #restart(end: (index: number) => void): Promise<void> {
    for (const index of this.driveIds.keys()) {
      end(index);
      this.media(index).meta.user?.crash();
    }
    this.#nodeClock.stop();
    this.#boot();
    await this.#openDrives();
  }

  /** Lets promises go on, then runs the next event. */
  async step(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
    this.clock.step();
  }

  async until(condition: () => boolean, what = 'a condition'): Promise<void> {
    const deadlineMs = this.clock.nowMs() + PATIENCE_MS;
    while (!condition()) {
      assert(
        this.clock.nowMs() < deadlineMs,
        `${what} comes true within ${PATIENCE_MS} ms (seed ${this.options.seed})`,
      );
      await this.step();
    }
  }

  async run<T>(promise: Promise<T>): Promise<T> {
    let isDone = false;
    const done = () => void (isDone = true);
    promise.then(done, done);
    await this.until(() => isDone, 'a promise');
    return promise;
  }

  async forMs(durationMs: number): Promise<void> {
    const endMs = this.clock.nowMs() + durationMs;
    while (this.clock.nowMs() < endMs) await this.step();
  }

  async idle(): Promise<void> {
    await this.until(
      () =>
        this.server.load().operations === 0 &&
        this.driveIds.every((_, index) => this.drive(index).stats().inFlight === 0),
    );
  }

  async coordinator(): Promise<Coordinator> {
    this.#lastConnection++;
    const coordinator = new Coordinator(this, this.#lastConnection);
    this.server.onAccepted(coordinator.connection);
    const hello = { clusterId: CLUSTER, nodeId: 'node-2', incarnation: 'one', versionMin: 1, versionMax: 1 };
    const reply = await coordinator.call(OPCODE.HELLO, { payload: braid.Hello.encode(hello).finish() });
    assert(reply.frame.status === STATUS.OK, 'HELLO is accepted');
    return coordinator;
  }

  /** A coordinator with a session that has one segment, of 1 GiB unless said otherwise. */
  async opened(segment: Partial<braid.OpenSegment.$Properties> = {}): Promise<Coordinator> {
    const coordinator = await this.coordinator();
    await coordinator.open(1, [segment]);
    return coordinator;
  }

  /** Ends the world: nothing may be left in use. */
  async close(): Promise<void> {
    await this.idle();
    this.server.assertConsistent();
    await this.run(this.server.stop());
    this.slab.assertEmpty();
  }
}

export function directoryOf(driveId: string): string {
  return `/drives/${driveId}`;
}

export interface Fields {
  readonly flags?: number;
  readonly segment?: number;
  readonly generation?: number;
  readonly offset?: number;
  readonly length?: number;
  readonly payload?: Uint8Array;
  readonly session?: number;
  readonly epoch?: number;
  /** A destination for READ, as local coordinators give. */
  readonly buffer?: BufferId;
  readonly payloadLength?: number;
}

/** The other end of a connection. */
export class Coordinator {
  readonly world: World;
  readonly connection: ConnectionId;
  session = 0;
  epoch = 0;
  #lastTag = 0;

  constructor(world: World, connection: ConnectionId) {
    this.world = world;
    this.connection = connection;
  }

  /** Of the next request. */
  get nextTag(): number {
    return this.#lastTag + 1;
  }

  /** Sends a request; returns its tag. */
  send(opcode: number, fields: Fields = {}): number {
    const tag = ++this.#lastTag;
    const frame = new Frame().request(opcode, tag, fields.session ?? this.session, fields.segment ?? 0);
    frame.flags = fields.flags ?? 0;
    frame.generation = fields.generation ?? 1;
    frame.epoch = fields.epoch ?? this.epoch;
    frame.offset = fields.offset ?? 0;
    frame.length = fields.length ?? fields.payload?.length ?? 0;
    frame.payloadLength = fields.payloadLength ?? fields.payload?.length ?? 0;
    this.world.server.onFrame(this.connection, frame, this.#bufferOf(fields));
    return tag;
  }

  replyTo(tag: number): Sent | undefined {
    return this.world.network.replies.get(`${this.connection}/${tag}`);
  }

  async reply(tag: number): Promise<Sent> {
    await this.world.until(() => this.replyTo(tag) !== undefined, `a reply to ${tag}`);
    this.world.server.assertConsistent();
    return must(this.replyTo(tag), 'a reply');
  }

  call(opcode: number, fields: Fields = {}): Promise<Sent> {
    return this.reply(this.send(opcode, fields));
  }

  async status(opcode: number, fields: Fields = {}): Promise<number> {
    return (await this.call(opcode, fields)).frame.status;
  }

  openPayload(epoch: number, segments: Partial<braid.OpenSegment.$Properties>[], volumeId = VOLUME): Uint8Array {
    const defaults = {
      index: 0,
      driveId: this.world.driveId,
      generation: 1,
      sizeBytes: GIB,
      layout: Uint8Array.of(1, 2, 3),
    };
    return braid.OpenRequest.encode({
      volumeId,
      epoch,
      segments: segments.map((segment) => ({ ...defaults, ...segment })),
    }).finish();
  }

  async open(
    epoch: number,
    segments: Partial<braid.OpenSegment.$Properties>[] = [{}],
    volumeId = VOLUME,
  ): Promise<braid.OpenReply> {
    const { frame, payload } = await this.call(OPCODE.OPEN, { payload: this.openPayload(epoch, segments, volumeId) });
    assert(frame.status === STATUS.OK, `OPEN is answered OK, not ${frame.status}`);
    const reply = braid.OpenReply.decode(payload);
    this.session = reply.session;
    this.epoch = epoch;
    return reply;
  }

  write(offset: number, payload: Uint8Array, fields: Fields = {}): Promise<number> {
    return this.status(OPCODE.WRITE, { ...fields, offset, payload });
  }

  /** The bytes; zeros where the reply says so. */
  async read(offset: number, length: number, fields: Fields = {}): Promise<Uint8Array> {
    const { frame, payload } = await this.call(OPCODE.READ, { ...fields, offset, length });
    assert(frame.status === STATUS.OK, `READ is answered OK, not ${frame.status}`);
    return frame.payloadLength === 0 ? new Uint8Array(length) : payload;
  }

  trim(extent: number, fields: Fields = {}): Promise<number> {
    return this.status(OPCODE.TRIM, { offset: extent * EXTENT_BYTES, length: EXTENT_BYTES, ...fields });
  }

  cool(regions: number[], segment = 0): Promise<number> {
    return this.status(OPCODE.COOL, { payload: braid.RegionList.encode({ sets: [{ segment, regions }] }).finish() });
  }

  async list(afterGeneration = 0, allocatedOnly = false, segment = 0): Promise<number[]> {
    const payload = braid.ListExtentsRequest.encode({ afterGeneration, from: 0, allocatedOnly }).finish();
    const reply = await this.call(OPCODE.LIST_EXTENTS, { segment, payload });
    assert(reply.frame.status === STATUS.OK, 'LIST_EXTENTS is answered OK');
    return braid.ListExtentsReply.decode(reply.payload).extents;
  }

  deletePayload(indexes: number[], volumeId = VOLUME, epoch = 5): Uint8Array {
    const segments = indexes.map((index) => ({ index, driveId: this.world.driveId }));
    return braid.DeleteRequest.encode({ volumeId, segments, epoch }).finish();
  }

  /** The connection breaks. */
  disconnect(): void {
    this.world.server.onClosed(this.connection, 'broken by the test');
  }

  #bufferOf({ buffer, payload }: Fields): BufferId {
    if (buffer !== undefined || payload === undefined) return buffer ?? NO_BUFFER;
    return payload.length === 0 ? NO_BUFFER : this.#fill(payload, POOL_PEER);
  }

  /** Control messages arrive in buffers of another pool than data. */
  controlBuffer(payload: Uint8Array): BufferId {
    return this.#fill(payload, POOL_FRONTEND);
  }

  #fill(payload: Uint8Array, pool: Pool): BufferId {
    const { slab } = this.world;
    const filled = slab.alloc(payload.length, pool);
    assert(filled !== NO_BUFFER, 'the test has room for a payload');
    slab.bytes(filled, 0, payload.length).set(payload);
    slab.computeChecksums(filled, 0, payload.length);
    return filled;
  }
}

/** Blocks that name themselves. */
export function blocks(count: number, fill: number): Uint8Array {
  const bytes = new Uint8Array(count * BLOCK_BYTES);
  for (let block = 0; block < count; block++)
    bytes.fill((fill + block) % 251 || 251, block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
  return bytes;
}

/** Compares at once: tap would walk through every byte. */
export function isSame(found: Uint8Array | undefined, wanted: Uint8Array): boolean {
  return found !== undefined && Buffer.compare(found, wanted) === 0;
}

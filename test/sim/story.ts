/** What directed stories share: a small world with one served volume, single client operations, and looks at the copies. */
import type { Test } from 'tap';
import { must } from '../../daemon/base/assert.js';
import { EXTENT_BYTES, KIB } from '../../daemon/base/units.js';
import type { ServedVolume } from '../../daemon/ports/shard.js';
import { STATUS } from '../../daemon/protocol/frame.js';
import { records, type SegmentRecord } from '../../daemon/protocol/records.js';
import { storeKeys } from '../../daemon/protocol/store.js';
import type { SimNode } from './world/sim-node.js';
import { SimWorld, type WorldOptions } from './world/sim-world.js';
import { VolumeClient, type Outcome } from './world/volume-client.js';

const SEED = 1;
/** Simulated time after which something that has to happen counts as never happening. */
export const LONG_MS = 60_000;
/** Longer than a lease: its owner is gone for good. */
export const LEASE_OVER_MS = 6_000;
/** Long enough for every idle region to leave the activity logs. */
export const ALL_COLD_MS = 20_000;
export const BLOCK = 4 * KIB;

export interface Story {
  readonly world: SimWorld;
  readonly client: VolumeClient;
}

/** All nodes run, and the volume is served by the node `owner`. */
export async function begin(options: Partial<WorldOptions> = {}, owner = 0): Promise<Story> {
  const world = new SimWorld(SEED, { loseStoreReply: 0, ...options });
  for (let index = 0; index < world.options.nodes; index++) await world.wait(world.startNode(index), LONG_MS);
  world.createVolume();
  await pass(world, 1_000);
  return { world, client: await serve(world, owner) };
}

export function nodeOf(world: SimWorld, index: number): SimNode {
  return must(world.nodes[index], `node ${index}`);
}

/** The node takes the volume; the client that reaches it there. */
export async function serve(world: SimWorld, index: number): Promise<VolumeClient> {
  const node = nodeOf(world, index);
  await world.wait(node.takeVolume(world.volumeId), LONG_MS);
  return new VolumeClient(must(world.served, 'the served volume').volume, node);
}

/** Starts the nodes again, one after the other. */
export async function restart(world: SimWorld, indexes: readonly number[]): Promise<void> {
  for (const index of indexes) await world.wait(world.startNode(index), LONG_MS);
}

/** Every node loses power at once and comes back; the lease of the old owner ends. */
export async function blackout(world: SimWorld): Promise<void> {
  const all = world.nodes.map((_, index) => index);
  for (const index of all) world.crashNode(index, true);
  await pass(world, LEASE_OVER_MS);
  await restart(world, all);
}

export async function pass(world: SimWorld, ms: number): Promise<void> {
  await world.runUntil(() => false, ms);
}

/** The outcome if there is one within the time, else null. */
export async function within(world: SimWorld, outcome: Promise<Outcome>, ms: number): Promise<Outcome | null> {
  let result: Outcome | null = null;
  void outcome.then((value) => (result = value));
  await world.runUntil(() => result !== null, ms);
  return result;
}

/** The operation succeeds; with `fill`, every byte that it read is that. */
export async function ok(t: Test, world: SimWorld, outcome: Promise<Outcome>, fill?: number): Promise<void> {
  const { status, bytes } = await world.wait(outcome, LONG_MS);
  t.equal(status, STATUS.OK);
  if (fill === undefined) return;
  t.ok(
    bytes.every((byte) => byte === fill),
    `all bytes read as ${fill}`,
  );
}

export async function served(world: SimWorld, index: number): Promise<ServedVolume> {
  const volumes = await nodeOf(world, index).shard.servedVolumes();
  return must(volumes[0], 'the served volume');
}

/** Of a segment's replicas, as the owner on node `index` sees them. */
export async function states(world: SimWorld, index: number, segment = 0): Promise<string[]> {
  const segments = await nodeOf(world, index).shard.servedSegments(world.volumeId);
  return must(segments[segment], 'the segment').replicas.map(({ state }) => state);
}

/** Segment 0 as the cluster store has it. */
export function recordedSegment(world: SimWorld): SegmentRecord {
  const key = storeKeys.segment(world.volumeId, 0);
  const { value } = must(world.storeState.get(key), 'the segment record');
  return records.segment.decode(key, value);
}

export function recordedInSync(world: SimWorld): number {
  return recordedSegment(world).replicas.filter(({ inSync }) => inSync).length;
}

/** Copies that wait to be removed, as keys. */
export function leftCopies(world: SimWorld): string[] {
  return world.storeState.list(storeKeys.leftAll).entries.map(({ key }) => key);
}

/** Until every copy that has left its segment is off its drive. */
export function untilRid(world: SimWorld): Promise<boolean> {
  return world.runUntil(() => leftCopies(world).length === 0, LONG_MS);
}

/** The drives that hold a copy of segment 0, as node numbers, by the cluster store. */
export function holders(world: SimWorld): number[] {
  return recordedSegment(world).replicas.map(({ driveId }) =>
    world.nodes.findIndex((_, index) => world.driveOf(index) === driveId),
  );
}

/** Moves the copies on the drive of one node to that of another. */
export function moveReplicas(world: SimWorld, owner: number, from: number, to: number): Promise<number> {
  const drives = { from: world.driveOf(from), to: world.driveOf(to) };
  const request = { ...drives, freeBytes: Number.MAX_SAFE_INTEGER };
  return world.wait(nodeOf(world, owner).shard.moveReplicas(world.volumeId, request), LONG_MS);
}

/** Until no copy is on its way any more, by the cluster store. */
export async function untilMoved(world: SimWorld): Promise<boolean> {
  const isOver = (): boolean =>
    world.storeState
      .list(storeKeys.segments(world.volumeId))
      .entries.every(({ key, value }) =>
        records.segment.decode(key, value).replicas.every(({ replaces }) => replaces === ''),
      );
  return world.runUntil(isOver, LONG_MS);
}

export async function untilInSync(world: SimWorld, index: number, count: number): Promise<boolean> {
  for (let waitedMs = 0; waitedMs < LONG_MS; waitedMs += 200) {
    const inSync = (await states(world, index)).filter((state) => state === 'in-sync');
    if (inSync.length === count) return true;
    await pass(world, 200);
  }
  return false;
}

/** The owner's comparison of all in-sync copies finds nothing. */
export async function identical(t: Test, world: SimWorld, index: number): Promise<void> {
  const report = await world.wait(nodeOf(world, index).shard.verifyVolume(world.volumeId), LONG_MS);
  t.same(report.differences, [], 'all replicas are identical');
  t.same(report.damaged, [], 'and none is damaged');
  t.ok(report.extentsCompared > 0, 'something was compared');
}

/** Where a node's drive has what begins with the byte `fill`. */
export function slotOf(world: SimWorld, index: number, fill: number): number {
  const media = world.media(index);
  const slots = Array.from({ length: world.options.slotCount }, (_, slot) => slot * EXTENT_BYTES);
  return must(
    slots.find((slot) => media.peek(slot, 1)[0] === fill),
    'the slot',
  );
}

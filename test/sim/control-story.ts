/** What stories of the control plane share: a volume that operators create and attach by requests to the agents, and a client that never rests. */
import { must } from '../../daemon/base/assert.js';
import { BraidError } from '../../daemon/base/errors.js';
import type { VolumeId } from '../../daemon/base/ids.js';
import type { ClusterStore, StoreOperation } from '../../daemon/ports/cluster-store.js';
import { STATUS } from '../../daemon/protocol/frame.js';
import { records, type OwnerRecord } from '../../daemon/protocol/records.js';
import { storeKeys } from '../../daemon/protocol/store.js';
import { BLOCK, LONG_MS, nodeOf, pass, type Story } from './story.js';
import { SimWorld, VOLUME_NAME, WORLD_DEFAULTS, type WorldOptions } from './world/sim-world.js';
import { VolumeClient } from './world/volume-client.js';

/** How soon an operator asks again. */
const ASK_AGAIN_MS = 100;
const ATTACH_TIMEOUT_MS = 500;

/** All nodes run, and the volume was created and attached to the node `owner` by requests. */
export async function beginAttached(options: Partial<WorldOptions> = {}, owner = 0, seed = 1): Promise<Story> {
  const world = new SimWorld(seed, { loseStoreReply: 0, ...options });
  for (let index = 0; index < world.options.nodes; index++) await world.wait(world.startNode(index), LONG_MS);
  const { volumeBytes: sizeBytes, segmentBytes, stripeWidth, replicas, minInSync } = { ...WORLD_DEFAULTS, ...options };
  const request = { name: VOLUME_NAME, sizeBytes, segmentBytes, stripeWidth, replicas, minInSync };
  const volume = await world.wait(
    nodeOf(world, owner).api(({ volumes }) => volumes.create(request)),
    LONG_MS,
  );
  world.volumeId = volume.id as VolumeId;
  return { world, client: await attach(world, owner) };
}

/** Asks node `via` until the volume is served on the node `index`; the client that reaches it there. */
export async function attach(world: SimWorld, index: number, via = index): Promise<VolumeClient> {
  const target = nodeOf(world, index);
  const endMs = world.clock.nowMs() + LONG_MS;
  for (;;) {
    const isAttached = await want(world, index, via);
    const { served } = world;
    if (isAttached && served?.node === target) return new VolumeClient(served.volume, target);
    if (world.clock.nowMs() > endMs) throw new Error(`the volume was never served on node ${index}`);
    await pass(world, ASK_AGAIN_MS);
  }
}

/** Asks node `via`, once, to attach the volume to the node `index`. False when it refuses, or is not done soon. */
export function want(world: SimWorld, index: number, via = index): Promise<boolean> {
  return asked(world, via, async ({ attachRequests, context: { state } }) => {
    const volume = must(await state.volumeByName(VOLUME_NAME), 'the volume').value;
    const node = must(await state.node(nodeOf(world, index).setup.id), 'the node').value;
    await attachRequests.attach({ volume, node, device: false, timeoutMs: ATTACH_TIMEOUT_MS });
  });
}

/** Asks its node to detach the volume, once. False when it cannot. */
export function detach(world: SimWorld, index: number): Promise<boolean> {
  return asked(world, index, ({ attachments }) => attachments.detach(world.volumeId, true));
}

/** Takes the wish away at the word of node `via`, without its node. */
export function abandon(world: SimWorld, via: number): Promise<boolean> {
  return asked(world, via, async ({ attachRequests, context: { state } }) => {
    await attachRequests.abandon(must(await state.volumeByName(VOLUME_NAME), 'the volume').value, 0);
  });
}

/** Deletes the volume by force, at the word of node `via`. */
export function remove(world: SimWorld, via: number): Promise<boolean> {
  return asked(world, via, async ({ volumes, context: { state } }) => {
    const found = must(await state.volumeByName(VOLUME_NAME), 'the volume');
    await volumes.delete(VOLUME_NAME, found, true);
  });
}

/** False when the request was refused. */
async function asked(
  world: SimWorld,
  index: number,
  request: Parameters<ReturnType<typeof nodeOf>['api']>[0],
): Promise<boolean> {
  try {
    await world.wait(nodeOf(world, index).api(request), LONG_MS);
    return true;
  } catch (error) {
    if (error instanceof BraidError) return false;
    throw error;
  }
}

export function recordedOwner(world: SimWorld): OwnerRecord | null {
  const key = storeKeys.owner(world.volumeId);
  const entry = world.storeState.get(key);
  return entry === null ? null : records.owner.decode(key, entry.value);
}

type Txn = ClusterStore['txn'];

/** Has `instead` carry out the node's transactions that change a key with this prefix; returns how to end that. */
export function intercept(world: SimWorld, index: number, prefix: string, instead: (txn: Txn) => Txn): () => void {
  const { store } = nodeOf(world, index);
  const txn = store.txn.bind(store);
  const other = instead(txn);
  const isConcerned = (operations: readonly StoreOperation[]): boolean =>
    operations.some(({ key }) => key.startsWith(prefix));
  store.txn = (compares, operations) => (isConcerned(operations) ? other : txn)(compares, operations);
  return () => {
    store.txn = txn;
  };
}

export const unanswered = (): BraidError => new BraidError('UNAVAILABLE', 'the cluster store did not answer');

/** They happen, and the first `count` answers are lost. */
export function losingReplies(count: number): (txn: Txn) => Txn {
  let left = count;
  return (txn) => async (compares, operations) => {
    const result = await txn(compares, operations);
    if (left-- > 0) throw unanswered();
    return result;
  };
}

/** They do not happen. */
export function losingCalls(): (txn: Txn) => Txn {
  return () => () => Promise.reject(unanswered());
}

export interface Writes {
  /** The last that was acknowledged; 0: none. */
  acknowledged: number;
  /** Simulated time of the last acknowledgement, and of the first refusal since. */
  acknowledgedMs: number;
  refusedMs: number | null;
  stop: () => void;
}

/** Writes 1, 2, 3, ... to the first block, one after the other, whatever becomes of each. */
export function keepWriting(world: SimWorld, client: VolumeClient): Writes {
  let isStopped = false;
  const writes: Writes = {
    acknowledged: 0,
    acknowledgedMs: 0,
    refusedMs: null,
    stop: () => {
      isStopped = true;
    },
  };
  const next = (value: number): void => {
    if (isStopped) return;
    void client.write(0, BLOCK, value).then(({ status }) => {
      if (status === STATUS.OK) [writes.acknowledged, writes.acknowledgedMs] = [value, world.clock.nowMs()];
      else writes.refusedMs ??= world.clock.nowMs();
      world.clock.after(20, () => next((value % 250) + 1));
    });
  };
  next(1);
  return writes;
}

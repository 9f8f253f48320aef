/**
 * What the main thread and a shard's worker thread say to each other (over `rpc.ts`):
 *
 * - The worker is started with `ShardOptions` as `workerData`, opens its sockets, and notifies `ready` with its addresses, once. If it
 *   cannot start, it throws (the worker's `error` event): the agent does not start.
 * - From then on the worker serves the methods of `ShardControl` (`ShardMethods`).
 * - The main thread serves the cluster store (`store-proxy.ts`), `reportEvent` and `log` from the start.
 * - `stop` is the last call: the worker answers, then closes its port and exits.
 *
 * The worker, in `dataplane-worker.ts`:
 * ```
 * const rpc = new RpcEndpoint<MainMethods>(parentPort);
 * const store = new StoreProxy(rpc);
 * rpc.serve(store.methods);
 * const shard = await Shard.start(...);
 * rpc.serve(shardMethods(shard));
 * rpc.notify('ready', addresses);
 * ```
 */
import type { ReportedEvent } from '../ports/event-sink.js';
import type { ShardAddresses, ShardControl } from '../ports/shard.js';
import type { StoreEventMethods, StoreMethods } from './store-proxy.js';

/** Served by the worker. */
export type ShardMethods = { readonly [Name in keyof ShardControl]: ShardControl[Name] };

/** All that the main thread may call in the worker. */
export interface WorkerMethods extends ShardMethods, StoreEventMethods {}

/** All that the worker may call in the main thread. */
export interface MainMethods extends StoreMethods {
  ready(addresses: ShardAddresses): void;
  reportEvent(event: ReportedEvent): void;
}

/** The methods of `shard`, bound, for `rpc.serve`. */
export function shardMethods(shard: ShardControl): ShardMethods {
  return {
    openDrive: (driveId, directory) => shard.openDrive(driveId, directory),
    readDrive: (directory) => shard.readDrive(directory),
    closeDrive: (driveId) => shard.closeDrive(driveId),
    takeVolume: (volumeId) => shard.takeVolume(volumeId),
    releaseVolume: (volumeId) => shard.releaseVolume(volumeId),
    servedVolumes: () => shard.servedVolumes(),
    servedSegments: (volumeId) => shard.servedSegments(volumeId),
    copiesOf: (volumeId) => shard.copiesOf(volumeId),
    verifyVolume: (volumeId) => shard.verifyVolume(volumeId),
    scrubDrive: (driveId, action) => shard.scrubDrive(driveId, action),
    scrubVolume: (volumeId, action) => shard.scrubVolume(volumeId, action),
    moveReplicas: (volumeId, request) => shard.moveReplicas(volumeId, request),
    cancelMoves: (volumeId, to) => shard.cancelMoves(volumeId, to),
    deleteReplicas: (volumeId, epoch, segments) => shard.deleteReplicas(volumeId, epoch, segments),
    setCopyBandwidth: (bytesPerSecond) => shard.setCopyBandwidth(bytesPerSecond),
    setLeaseDeadline: (deadlineMs) => shard.setLeaseDeadline(deadlineMs),
    stats: () => shard.stats(),
    stop: () => shard.stop(),
  };
}

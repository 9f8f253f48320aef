/**
 * A shard in a worker thread, from the main thread's side: starts the thread and turns `ShardControl` into rpc calls.
 * A worker that dies takes the agent with it (`died` resolves): a crash is safe, half an agent is not.
 */
import { Worker } from 'node:worker_threads';
import { BraidError, isErrorCode, type ErrorCode } from '../base/errors.js';
import type { ClusterStore } from '../ports/cluster-store.js';
import type { EventSink } from '../ports/event-sink.js';
import type { ShardAddresses, ShardControl, ShardOptions } from '../ports/shard.js';
import { RpcEndpoint } from './rpc.js';
import type { MainMethods, WorkerMethods } from './shard-rpc.js';
import { serveStore } from './store-proxy.js';

export interface StartedShard {
  readonly control: ShardControl;
  readonly addresses: ShardAddresses;
  /** Resolves, never rejects, when the thread ends without `stop` having been called. */
  readonly died: Promise<Error>;
}

/** Resolves when the worker is ready; rejects when it fails to start. */
export async function startShardWorker(
  options: ShardOptions,
  store: ClusterStore,
  events: EventSink,
): Promise<StartedShard> {
  const worker = new Worker(new URL('../dataplane-worker.js', import.meta.url), {
    workerData: options,
    name: `shard-${options.shardIndex}`,
  });
  const rpc = new RpcEndpoint<WorkerMethods>(worker);
  const served = serveStore(store, rpc);
  const ended = endOf(worker, options.shardIndex);
  let stopping = false;

  const addresses = await new Promise<ShardAddresses>((resolve, reject) => {
    const methods: MainMethods = {
      ...served.methods,
      ready: resolve,
      reportEvent: (event) => events.report(event),
    };
    rpc.serve(methods);
    void ended.then((error) => {
      served.close();
      rpc.close(error.message);
      reject(error);
    });
  });

  const stop = async (): Promise<void> => {
    stopping = true;
    await rpc.call('stop');
    await ended;
  };
  const died = new Promise<Error>((resolve) => {
    void ended.then((error) => {
      if (!stopping) resolve(error);
    });
  });
  return { control: shardControl(rpc, stop), addresses, died };
}

/** Resolves with the reason when the thread has ended, for whatever cause. */
function endOf(worker: Worker, shardIndex: number): Promise<Error> {
  return new Promise((resolve) => {
    let failure: Error | null = null;
    worker.on('error', (error: Error) => (failure = error));
    worker.on('exit', (code) => {
      const why = failure === null ? `with exit code ${code}` : `because of: ${failure.message}`;
      resolve(new BraidError(codeOf(failure), `data-plane shard ${shardIndex} ended ${why}`, { cause: failure }));
    });
  });
}

/** An error that crosses threads keeps its fields and loses its class. */
function codeOf(failure: (Error & { readonly code?: unknown }) | null): ErrorCode {
  const code = failure?.code;
  return isErrorCode(code) ? code : 'UNAVAILABLE';
}

function shardControl(rpc: RpcEndpoint<WorkerMethods>, stop: () => Promise<void>): ShardControl {
  return {
    openDrive: (driveId, directory) => rpc.call('openDrive', driveId, directory),
    readDrive: (directory) => rpc.call('readDrive', directory),
    closeDrive: (driveId) => rpc.call('closeDrive', driveId),
    takeVolume: (volumeId) => rpc.call('takeVolume', volumeId),
    releaseVolume: (volumeId) => rpc.call('releaseVolume', volumeId),
    servedVolumes: () => rpc.call('servedVolumes'),
    servedSegments: (volumeId) => rpc.call('servedSegments', volumeId),
    copiesOf: (volumeId) => rpc.call('copiesOf', volumeId),
    verifyVolume: (volumeId) => rpc.call('verifyVolume', volumeId),
    scrubDrive: (driveId, action) => rpc.call('scrubDrive', driveId, action),
    scrubVolume: (volumeId, action) => rpc.call('scrubVolume', volumeId, action),
    moveReplicas: (volumeId, request) => rpc.call('moveReplicas', volumeId, request),
    cancelMoves: (volumeId, to) => rpc.call('cancelMoves', volumeId, to),
    deleteReplicas: (volumeId, epoch, segments) => rpc.call('deleteReplicas', volumeId, epoch, segments),
    setCopyBandwidth: (bytesPerSecond) => rpc.notify('setCopyBandwidth', bytesPerSecond),
    setLeaseDeadline: (deadlineMs) => rpc.notify('setLeaseDeadline', deadlineMs),
    stats: () => rpc.call('stats'),
    stop,
  };
}

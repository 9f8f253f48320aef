/** Entry point of a data-plane worker thread: gives a `Shard` its real ports and serves it to the main thread. */
import { readFileSync } from 'node:fs';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { parentPort, workerData } from 'node:worker_threads';
import { BatchClock } from './adapters/clock.js';
import { LmdbMetaStoreOpener } from './adapters/lmdb/meta-store.js';
import { createLog } from './adapters/log.js';
import { reachableAddress } from './adapters/reachable-address.js';
import { RpcEndpoint } from './adapters/rpc.js';
import { shardMethods, type MainMethods } from './adapters/shard-rpc.js';
import { StoreProxy } from './adapters/store-proxy.js';
import { UringEngine } from './adapters/uring.js';
import { must } from './base/assert.js';
import { Shard } from './dataplane/shard.js';
import { limits } from './base/limits.js';
import { NbdServer } from './frontend/nbd/server.js';
import type { ShardAddresses, ShardOptions } from './ports/shard.js';

const NS_PER_MS = 1e6;
/** How often the event loop's delay is sampled: each time wakes an idle thread up. */
const LOOP_DELAY_PERIOD_MS = 100;

function start(options: ShardOptions, rpc: RpcEndpoint<MainMethods>): void {
  const store = new StoreProxy(rpc);
  rpc.serve(store.methods);
  const engine = UringEngine.start({ slabBytes: options.slabBytes });
  const clock = new BatchClock(engine.batchMs);
  const log = createLog(options.logLevel).child({ shard: options.shardIndex });
  const loopDelay = monitorEventLoopDelay({ resolution: LOOP_DELAY_PERIOD_MS });
  loopDelay.enable();
  const frontendBytes = options.slabBytes * limits.slabFrontendShare;
  const nbd = new NbdServer({ transport: engine.nbd, slab: engine.slab, frontendBytes, clock, log });
  engine.setNbdHandler(nbd);
  const shard = new Shard({
    ...options,
    bootId: readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim(),
    slab: engine.slab,
    network: engine.network,
    setNetworkHandler: (handler) => {
      engine.setNetworkHandler(handler);
    },
    disks: engine.disks,
    metas: new LmdbMetaStoreOpener(),
    store,
    clock,
    log,
    events: {
      report: (event) => {
        rpc.notify('reportEvent', event);
      },
    },
    frontEnd: nbd,
    // What is sampled is the time since the last sample.
    eventLoopDelayMsP99: () => Math.max(0, loopDelay.percentile(99) / NS_PER_MS - LOOP_DELAY_PERIOD_MS),
  });
  engine.onBatchStart = () => {
    shard.onBatchStart();
  };
  engine.onBatchEnd = () => {
    shard.onBatchEnd();
  };
  const stop = async (): Promise<void> => {
    await shard.stop();
    await engine.stop();
    loopDelay.disable();
    // The answer goes out first; without the port nothing keeps the thread.
    setImmediate(() => parentPort?.close());
  };
  rpc.serve({ ...shardMethods(shard), stop });
  rpc.notify('ready', listen(engine, options));
}

function listen(engine: UringEngine, options: ShardOptions): ShardAddresses {
  const dataPort = engine.listenFrames(options.dataHost, options.dataPort);
  engine.listenNbdUnix(options.nbdSocketPath);
  const addresses = { dataAddress: `${options.dataHost}:${dataPort}`, nbdSocketPath: options.nbdSocketPath };
  if (options.nbdTcp === undefined) return addresses;
  const { port } = engine.listenNbdTcp(options.nbdTcp.host, options.nbdTcp.port);
  return { ...addresses, nbdTcpAddress: reachableAddress(options.nbdTcp.host, port) };
}

start(workerData as ShardOptions, new RpcEndpoint<MainMethods>(must(parentPort, 'the main thread')));

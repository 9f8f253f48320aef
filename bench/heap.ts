/** Whether the data path makes garbage: bytes that JavaScript allocates for one I/O, process by process, over very many I/Os. */
import { readFileSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { MIB } from '../daemon/base/units.js';
import { runFio } from './fio.js';
import type { Scratch } from './scratch.js';
import { BraidCluster } from './subjects/braid.js';
import { COLUMNS, PREFILL } from './workloads.js';

const AGENT = fileURLToPath(new URL('./heap-agent-worker.js', import.meta.url));
const VOLUME_BYTES = 256 * MIB;
/** Compiles the code paths, and makes every region hot. */
const WARM_UP_OPERATIONS = 50_000;
const NODES = 3;
const LINE = /^\[\d+:(0x[0-9a-f]+)\].* allocated=(\d+)/gm;

export interface HeapUse {
  readonly workload: string;
  readonly operations: number;
  readonly seconds: number;
  readonly processes: readonly {
    readonly title: string;
    /** Of the threads that move data, for one I/O of the client. */
    readonly dataBytesPerOperation: number;
    /** Of the main thread (API, cluster state), which has nothing to do with I/O: bytes per second. */
    readonly controlBytesPerSecond: number;
    readonly collections: number;
  }[];
}

/** What one process's heaps have allocated, as far as collections have told. */
interface Allocation {
  dataBytes: number;
  controlBytes: number;
  collections: number;
}

export async function measureHeap(
  scratch: Scratch,
  operations: number,
  onProgress: (text: string) => void,
): Promise<HeapUse[]> {
  onProgress('heap: starting agents that trace garbage collections');
  const cluster = await BraidCluster.start({ scratch, volumeBytes: VOLUME_BYTES }, 'heap', AGENT);
  const { target } = await cluster.hyperconverged();
  await runFio(target, PREFILL, { operations: VOLUME_BYTES / PREFILL.blockBytes }, scratch.signal);
  const uses: HeapUse[] = [];
  for (const column of COLUMNS.filter(({ name }) => name === '4k-write-d32' || name === '4k-read-d32')) {
    const run = (limit: number) => runFio(target, column, { operations: limit }, scratch.signal);
    await run(WARM_UP_OPERATIONS);
    onProgress(`heap: ${operations.toLocaleString('en-US')} x ${column.title}`);
    const logs = Array.from({ length: NODES }, (_, node) => cluster.logPath(node));
    const from = logs.map((path) => statSync(path).size);
    const result = await run(operations);
    const seconds = result.elapsedMs / 1_000;
    const processes = logs.map((path, node) => useOf(path, from[node] ?? 0, node, result.operations, seconds));
    uses.push({ workload: column.title, operations: result.operations, seconds, processes });
  }
  await cluster.stop();
  return uses;
}

function useOf(
  path: string,
  fromByte: number,
  node: number,
  operations: number,
  seconds: number,
): HeapUse['processes'][number] {
  const text = readFileSync(path);
  const main = new RegExp(LINE.source, 'm').exec(text.toString('utf8'))?.[1];
  if (main === undefined) throw new Error(`${path} holds no trace of garbage collections`);
  const { dataBytes, controlBytes, collections } = allocationOf(text.subarray(fromByte).toString('utf8'), main);
  const title = node === 0 ? 'coordinator and its own copy' : `copy on node ${node + 1}`;
  return {
    title,
    dataBytesPerOperation: dataBytes / operations,
    controlBytesPerSecond: controlBytes / seconds,
    collections,
  };
}

function allocationOf(trace: string, mainHeap: string): Allocation {
  const sum: Allocation = { dataBytes: 0, controlBytes: 0, collections: 0 };
  for (const [, heap, bytes] of trace.matchAll(LINE)) {
    if (heap === mainHeap) sum.controlBytes += Number(bytes);
    else {
      sum.dataBytes += Number(bytes);
      sum.collections++;
    }
  }
  return sum;
}

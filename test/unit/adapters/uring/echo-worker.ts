/** An engine in a thread or process of its own, for tests: answers every request, in one of several moods. */
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parentPort, workerData } from 'node:worker_threads';
import { UringEngine } from '../../../../daemon/adapters/uring.js';
import { POOL_PEER } from '../../../../daemon/ports/slab.js';
import { Frame } from '../../../../daemon/protocol/frame.js';

const [mode, folder] = parentPort
  ? [(workerData as { mode: string }).mode, (workerData as { folder: string }).folder]
  : [process.argv[2] ?? 'echo', process.argv[3] ?? ''];

const engine = UringEngine.start({ slabBytes: 8 * 1024 * 1024 });
const reply = new Frame();
engine.setNetworkHandler({
  onAccepted() {},
  onConnected() {},
  onFrame(connection, frame, buffer) {
    if (mode === 'throw') throw new Error('a handler failed');
    if (mode === 'busy' && buffer !== 0) {
      // Back to the sender, so that sends are in flight as well.
      reply.copyFrom(frame).toReply(0).payloadLength = frame.payloadLength;
      engine.network.send(connection, reply, buffer, 0, 0);
    } else {
      engine.network.send(connection, reply.copyFrom(frame).toReply(0), 0, 0, 0);
    }
    if (buffer !== 0) engine.slab.release(buffer);
  },
  onClosed() {},
});

/** Keeps a drive busy for as long as the thread lives. */
async function keepDriveBusy(): Promise<void> {
  const path = join(folder, 'drive');
  writeFileSync(path, '');
  truncateSync(path, 4 * 1024 * 1024);
  const buffer = engine.slab.alloc(131_072, POOL_PEER);
  const disk = await engine.disks.open(path, (tag) => disk.write(tag, tag * 131_072, 131_072, buffer, 0, true));
  for (let tag = 0; tag < 16; tag++) disk.write(tag, tag * 131_072, 131_072, buffer, 0, true);
}

const port = engine.listenFrames('127.0.0.1', 0);
if (mode === 'busy' || mode === 'exit') await keepDriveBusy();
parentPort?.postMessage(port);
parentPort?.once('message', () => {
  parentPort?.close();
  void engine.stop();
});
if (mode === 'exit') setTimeout(() => process.exit(0), 20);
if (mode === 'return') await engine.stop();
if (!parentPort) process.disconnect?.();

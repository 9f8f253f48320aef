/** The checker of the cluster tests must itself notice every way in which a volume can break its promise. */
import t from 'tap';
import { NbdClosedError, type NbdClient } from '../../../client/nbd-client.js';
import { MirrorWriter } from '../../support/mirror-writer.js';

const BLOCK_BYTES = 4_096;
const BLOCKS = 64;

/** A volume in memory; `dropWrites` makes it lose the connection after the write was (not) applied. */
function memoryVolume() {
  const bytes = Buffer.alloc(BLOCKS * BLOCK_BYTES);
  const state = { bytes, fail: 'no' as 'no' | 'applied' | 'lost', acknowledgeOnly: false };
  const client = {
    read: async (at: number, length: number) => Buffer.from(bytes.subarray(at, at + length)),
    write: async (at: number, data: Buffer) => {
      if (state.fail !== 'lost' && !state.acknowledgeOnly) data.copy(bytes, at);
      await new Promise((resolve) => setImmediate(resolve));
      if (state.fail !== 'no') throw new NbdClosedError('gone');
    },
  };
  return { state, client: client as unknown as NbdClient };
}

async function writeSome(mirror: MirrorWriter, client: NbdClient, writes: number): Promise<void> {
  const target = mirror.writesAcknowledged + writes;
  mirror.start(client);
  while (mirror.writesAcknowledged < target) await new Promise((resolve) => setImmediate(resolve));
  await mirror.stop();
}

t.test('a volume that keeps its promise passes', async (t) => {
  const { client } = memoryVolume();
  const mirror = new MirrorWriter({ blocks: BLOCKS, seed: 1, blocksPerWriteMax: 4 });
  await mirror.fill(client);
  await writeSome(mirror, client, 200);
  t.same(await mirror.check(client), []);
});

t.test('a write whose acknowledgement was lost may be there or not', async (t) => {
  for (const fail of ['applied', 'lost'] as const) {
    const { state, client } = memoryVolume();
    const mirror = new MirrorWriter({ blocks: BLOCKS, seed: 2, blocksPerWriteMax: 4 });
    await writeSome(mirror, client, 50);
    state.fail = fail;
    mirror.start(client);
    await mirror.stop();
    t.same(await mirror.check(client), [], fail);
    t.same(mirror.errors, [], 'the end of a connection is no error');
  }
});

t.test('a lost, an old, a torn and a misplaced block are found', async (t) => {
  const { state, client } = memoryVolume();
  const mirror = new MirrorWriter({ blocks: BLOCKS, seed: 3, blocksPerWriteMax: 4 });
  await mirror.fill(client);
  const old = Buffer.from(state.bytes.subarray(0, BLOCK_BYTES));
  await mirror.fill(client);
  const restore = Buffer.from(state.bytes);
  const damages: Record<string, (bytes: Buffer) => unknown> = {
    lost: (bytes) => bytes.fill(0, 0, BLOCK_BYTES),
    old: (bytes) => old.copy(bytes),
    torn: (bytes) => old.copy(bytes, 0, 0, 2_048),
    misplaced: (bytes) => bytes.copyWithin(0, BLOCK_BYTES, 2 * BLOCK_BYTES),
    flipped: (bytes) => bytes.writeUInt8((bytes[4_000] ?? 0) ^ 1, 4_000),
  };
  for (const [name, damage] of Object.entries(damages)) {
    damage(state.bytes);
    t.match(await mirror.check(client), [/^block 0: /], name);
    restore.copy(state.bytes);
  }
  t.same(await mirror.check(client), []);
});

t.test('acknowledged but not written is found', async (t) => {
  const { state, client } = memoryVolume();
  const mirror = new MirrorWriter({ blocks: BLOCKS, seed: 4, blocksPerWriteMax: 4 });
  await mirror.fill(client);
  state.acknowledgeOnly = true;
  await writeSome(mirror, client, 10);
  t.ok((await mirror.check(client)).length > 0);
});

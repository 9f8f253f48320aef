/** Bits flip in a drive's data file under running agents, while clients write: found, repaired, counted and reported. */
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { EXTENT_BYTES, MIB } from '../../daemon/base/units.js';
import { startFio } from '../support/fio.js';
import { startCluster, type TestCluster } from './harness.js';

const VOLUME = { name: 'vol', size: 256 * MIB, replicas: 3 };
const DAMAGED = 4;
const SCRUB_DEADLINE_MS = 120_000;

/**
 * Flips a bit in blocks of the node's data file that begin with `fill`; resolves with how many. The agent has the file open with O_DIRECT, and
 * so do all its reads: what is written here is what it finds.
 */
function rot(cluster: TestCluster, node: number, fill: number): number {
  const file = openSync(join(cluster.agent(node).driveDirectory, 'data'), 'r+');
  const byte = Buffer.alloc(1);
  let count = 0;
  for (let slot = 1; slot < 2_048 && count < DAMAGED; slot++) {
    const at = slot * EXTENT_BYTES;
    if (readSync(file, byte, 0, 1, at) !== 1 || byte[0] !== fill) continue;
    writeSync(file, Buffer.of(fill ^ 4), 0, 1, at);
    count++;
  }
  closeSync(file);
  return count;
}

t.test('rot under fio --verify is found by the scrub, repaired from another copy, counted and reported', async (t) => {
  const cluster = await startCluster(t, { agentArguments: ['--scrub-bytes-per-second', '256Mi'] });
  const uri = await cluster.serve(0, VOLUME);
  const client = await cluster.connect(uri);
  // Beyond what fio writes, so that it is there to rot: 8 MiB, which cool while fio goes on.
  const FILL = 0xa5;
  for (let at = 224 * MIB; at < 232 * MIB; at += MIB) await client.write(at, Buffer.alloc(MIB, FILL));
  const fio = startFio(t, uri, 15, cluster.directory);
  const drives = await cluster.client(0).drives();
  const victim = drives.find(({ node }) => node === cluster.agent(1).name)?.id ?? '';
  const found = async () => (await cluster.client(0).scrubStatus()).drives.find(({ id }) => id === victim)?.scrub;
  t.equal(rot(cluster, 1, FILL), DAMAGED);

  const isRepaired = async () => {
    const scrub = await found();
    // What was hot in one pass is cold in a later one.
    if (scrub?.isRunning === false && scrub.errors < DAMAGED)
      await cluster.client(0).scrub({ action: 'start', drive: victim });
    return scrub?.errors === DAMAGED && scrub.repaired === DAMAGED && scrub.unresolved === 0;
  };
  await cluster.waitFor(isRepaired, SCRUB_DEADLINE_MS, 'all is found and repaired');
  t.equal(rotten(cluster, FILL), 0);
  await fio.expectVerified();

  const events = (await cluster.events(0)).filter(({ message }) => message.includes('was damaged and was rewritten'));
  t.equal(events.length, DAMAGED, 'an event for each extent');
  t.match(events[0]?.subject, 'volume/vol');
  t.match(events[0]?.message, new RegExp(`drive ${victim} of the 131072 bytes at offset \\d+`));
  const metrics = await (await fetch(`${cluster.agent(1).apiUrl}/metrics`)).text();
  t.match(metrics, /braid_drive_scrub_bytes_total\{drive="[^"]+",path="[^"]+"\} [1-9]/);
  t.match(metrics, /braid_drive_scrub_unresolved\{[^}]+\} 0\n/);
  await cluster.expectIdentical(t, 0, 'vol', 3);
  t.same((await cluster.client(0).verifyVolume('vol')).damaged, []);
  t.ok((await client.read(224 * MIB, 8 * MIB)).every((byte) => byte === FILL));

  const told = await cluster.client(2).scrub({ action: 'start' });
  t.same([told.drives.length, told.volumes, told.failures], [3, ['vol'], []], 'everything is told by one agent');
  const areDone = async () => {
    const { drives: all, volumes } = await cluster.client(2).scrubStatus();
    return [...all, ...volumes].every(
      ({ scrub }) => !scrub.isRunning && scrub.completedMs > 0 && scrub.unresolved === 0,
    );
  };
  await cluster.waitFor(areDone, SCRUB_DEADLINE_MS, 'everything is scrubbed');
});

/** Blocks of the victim that still begin as `rot` left them. */
function rotten(cluster: TestCluster, fill: number): number {
  const file = openSync(join(cluster.agent(1).driveDirectory, 'data'), 'r');
  const byte = Buffer.alloc(1);
  let count = 0;
  for (let slot = 1; slot < 2_048; slot++) {
    if (readSync(file, byte, 0, 1, slot * EXTENT_BYTES) === 1 && byte[0] === (fill ^ 4)) count++;
  }
  closeSync(file);
  return count;
}

t.test(
  'rot of a volume that nobody has attached is found by its drive, and repaired when it is attached',
  async (t) => {
    const cluster = await startCluster(t, { agentArguments: ['--scrub-bytes-per-second', '256Mi'] });
    const FILL = 0x5a;
    const writer = await cluster.connect(await cluster.serve(0, { ...VOLUME, size: 64 * MIB }));
    for (let at = 0; at < 4 * MIB; at += MIB) await writer.write(at, Buffer.alloc(MIB, FILL));
    await writer.close();
    await cluster.client(0).detachVolume('vol');
    const scrub = async () => (await cluster.client(1).stats()).drives[0]?.scrub;
    t.equal(rot(cluster, 1, FILL), DAMAGED);
    await cluster.client(1).scrub({ action: 'start', drive: (await cluster.client(1).stats()).drives[0]?.id ?? '' });
    await cluster.waitFor(async () => (await scrub())?.unresolved === DAMAGED, SCRUB_DEADLINE_MS, 'it is found');
    await t.rejects(cluster.client(0).scrub({ action: 'start', volume: 'vol' }), {
      code: 'CONFLICT',
      message: /attach it/,
    });
    const reader = await cluster.connect(await cluster.attach(0, 'vol'));
    await cluster.waitFor(async () => (await scrub())?.unresolved === 0, SCRUB_DEADLINE_MS, 'it is repaired');
    t.match(await scrub(), { errors: DAMAGED, repaired: DAMAGED });
    t.equal(rotten(cluster, FILL), 0);
    t.ok((await reader.read(0, 4 * MIB)).every((byte) => byte === FILL));
    await cluster.expectIdentical(t, 0, 'vol', 3);
  },
);

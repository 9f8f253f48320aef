import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { Disk } from '../../../../daemon/ports/disk.js';
import { POOL_INTERNAL, POOL_PEER } from '../../../../daemon/ports/slab.js';
import { crc32c, scratch, TestEngine } from './support.js';

const FILE_BYTES = 1024 * 1024;

/** An open drive, and a way to wait for its completions. */
async function openDrive(local: TestEngine, path: string) {
  const results = new Map<number, number>();
  const disk = await local.engine.disks.open(path, (tag, result) => results.set(tag, result));
  const run = async (tag: number, start: (disk: Disk) => void): Promise<number> => {
    start(disk);
    await local.until(() => results.has(tag));
    return results.get(tag) as number;
  };
  return { disk, run, results };
}

function makeFile(t: Parameters<typeof scratch>[0]): string {
  const path = join(scratch(t), 'drive');
  writeFileSync(path, '');
  truncateSync(path, FILE_BYTES);
  return path;
}

t.test('data is written, flushed and read back with its checksums', async (t) => {
  const local = new TestEngine();
  const { slab } = local.engine;
  const { disk, run } = await openDrive(local, makeFile(t));
  t.equal(disk.sizeBytes, FILE_BYTES);
  const written = local.fill(131_072, POOL_PEER, 0x5a);
  const read = local.fill(131_072, POOL_INTERNAL, 0);
  t.equal(await run(1, (disk) => disk.write(1, 262_144, 131_072, written, 0, false)), 0);
  t.equal(await run(2, (disk) => disk.flush(2)), 0);
  t.equal(await run(3, (disk) => disk.read(3, 262_144, 131_072, read, 0)), 0);
  t.same(Buffer.compare(slab.bytes(read, 0, 131_072), slab.bytes(written, 0, 131_072)), 0);
  t.equal(slab.checksums[slab.checksumIndex(read) + 31], crc32c(Buffer.alloc(4096, 0x5a)));
  t.equal(await run(4, (disk) => disk.write(4, 4096, 8192, written, 4096, true)), 0, 'a durable write of some blocks');
  slab.release(written);
  slab.release(read);
  await disk.close();
  t.equal(local.usedBytes(), 0);
  await local.engine.stop();
});

t.test('punched and zeroed ranges read as zeros, their neighbours do not', async (t) => {
  const local = new TestEngine();
  const { slab } = local.engine;
  const { disk, run } = await openDrive(local, makeFile(t));
  const buffer = local.fill(131_072, POOL_PEER, 7);
  await run(1, (disk) => disk.write(1, 0, 131_072, buffer, 0, false));
  t.equal(await run(2, (disk) => disk.punch(2, 4096, 8192)), 0);
  t.equal(await run(3, (disk) => disk.zero(3, 65_536, 4096)), 0);
  await run(4, (disk) => disk.read(4, 0, 131_072, buffer, 0));
  const firstBytes = Array.from({ length: 32 }, (_, block) => slab.bytes(buffer, block * 4096, 1)[0]);
  t.same(
    firstBytes,
    Array.from({ length: 32 }, (_, block) => ([1, 2, 16].includes(block) ? 0 : 7)),
  );
  slab.release(buffer);
  await disk.close();
  await local.engine.stop();
});

t.test('a buffer released right after the command stays until its completion', async (t) => {
  const local = new TestEngine();
  const { disk, results } = await openDrive(local, makeFile(t));
  for (let tag = 0; tag < 8; tag++) {
    const buffer = local.fill(131_072, POOL_PEER, tag);
    disk.write(tag, tag * 131_072, 131_072, buffer, 0, false);
    local.engine.slab.release(buffer);
  }
  t.equal(local.engine.slab.usedBytes(POOL_PEER), 8 * 131_072);
  await local.until(() => results.size === 8);
  t.same(
    [...results.values()],
    Array.from({ length: 8 }, () => 0),
  );
  t.equal(local.usedBytes(), 0);
  await disk.close();
  await local.engine.stop();
});

t.test('closing waits for what is in flight', async (t) => {
  const local = new TestEngine();
  const { disk, results } = await openDrive(local, makeFile(t));
  const buffer = local.fill(4096, POOL_PEER, 1);
  for (let tag = 0; tag < 64; tag++) disk.write(tag, tag * 4096, 4096, buffer, 0, true);
  await Promise.all([disk.close(), disk.close()]);
  t.equal(results.size, 64);
  t.throws(() => disk.flush(1), /the drive is open/);
  local.engine.slab.release(buffer);
  await local.engine.stop();
});

t.test('what is no drive is refused with a reason', async (t) => {
  const local = new TestEngine();
  const folder = scratch(t);
  const handler = () => {};
  const small = join(folder, 'small');
  writeFileSync(small, 'x');
  mkdirSync(join(folder, 'folder'));
  const { disks } = local.engine;
  await t.rejects(disks.open(join(folder, 'absent'), handler), { code: 'DRIVE', message: /does not exist/ });
  await t.rejects(disks.open(small, handler), { code: 'DRIVE', message: /too small/ });
  await t.rejects(disks.open(join(folder, 'folder'), handler), { code: 'DRIVE', message: /directory/ });
  await t.rejects(disks.open('/proc/self/status', handler), { code: 'DRIVE' });
  await local.engine.stop();
});

t.test('use of a drive or buffer that makes no sense is a programmer error', async (t) => {
  const local = new TestEngine();
  const { slab } = local.engine;
  const { disk } = await openDrive(local, makeFile(t));
  const buffer = local.fill(8192, POOL_PEER, 1);
  t.throws(() => disk.write(1, 512, 4096, buffer, 0, false), /whole blocks/);
  t.throws(() => disk.write(1, FILE_BYTES, 4096, buffer, 0, false), /whole blocks of the drive/);
  t.throws(() => disk.write(1, 0, 12_288, buffer, 0, false), /inside its buffer/);
  slab.release(buffer);
  t.throws(() => slab.release(buffer), /in use/);
  t.throws(() => slab.retain(buffer), /in use/);
  t.throws(() => slab.bytes(buffer, 0, 1), /in use/);
  await disk.close();
  await local.engine.stop();
});

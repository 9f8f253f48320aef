/**
 * What real NBD clients expect of an export: libnbd's tools, QEMU's tools, nbdkit, fio, and a client that speaks simple replies like the
 * kernel. Runs against any server. The export is overwritten.
 */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import { KIB, MIB } from '../../daemon/base/units.js';
import { PlainClient, type Address } from './nbd-plain-client.js';

export interface ServedExport {
  /** Of the export, for libnbd and QEMU: `nbd+unix:///name?socket=/path` or `nbd://host:port/name`. */
  readonly uri: string;
  /** A multiple of 128 KiB, at least 16 MiB. */
  readonly sizeBytes: number;
  readonly exportName: string;
  /** Where the server listens: the path of its unix socket, or host and port. */
  readonly socket: string | { readonly host: string; readonly port: number };
}

const COMMAND_TIMEOUT_MS = 120_000;
const SEED_BYTES = MIB;

type Ended = { code: number | null; output: string };

async function run(command: string, args: string[], timeoutMs = COMMAND_TIMEOUT_MS): Promise<Ended> {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], timeout: timeoutMs, killSignal: 'SIGKILL' });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (output += text));
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, output }));
  });
}

/** Runs a tool that must succeed; its output is in the report when it does not. */
async function succeed(t: Test, command: string, ...args: string[]): Promise<string> {
  const { code, output } = await run(command, args);
  t.equal(code, 0, `${command} ${args.join(' ').slice(0, 200)}`, code === 0 ? {} : { output: output.slice(-4000) });
  return output;
}

/** A file of the export's size: noise, and holes in between. */
async function makeImage(path: string, sizeBytes: number): Promise<void> {
  const file = await open(path, 'w');
  await file.truncate(sizeBytes);
  const seed = randomBytes(SEED_BYTES);
  for (let at = 0, i = 0; at < sizeBytes; at += MIB, i++) {
    if (i % 4 === 3) continue;
    seed.writeUInt32LE(i, (i * 4096) % SEED_BYTES);
    await file.write(seed, 0, Math.min(i % 4 === 2 ? 100 * KIB : MIB, sizeBytes - at), at);
  }
  await file.close();
}

function addressOf(served: ServedExport): Address {
  return typeof served.socket === 'string' ? { path: served.socket } : served.socket;
}

function rootUri(served: ServedExport): string {
  if (typeof served.socket === 'string') return `nbd+unix:///?socket=${served.socket}`;
  return `nbd://${served.socket.host}:${served.socket.port}/`;
}

async function checkInfo(t: Test, served: ServedExport): Promise<void> {
  t.equal((await succeed(t, 'nbdinfo', '--size', served.uri)).trim(), String(served.sizeBytes));
  const info = JSON.parse(await succeed(t, 'nbdinfo', '--json', served.uri)) as Record<string, unknown>;
  t.match(info, { protocol: 'newstyle-fixed', structured: true });
  const [first] = info['exports'] as Record<string, unknown>[];
  t.match(first, {
    'export-name': served.exportName,
    'export-size': served.sizeBytes,
    contexts: ['base:allocation'],
    is_read_only: false,
    can_df: true,
    can_fast_zero: false,
    can_flush: true,
    can_fua: true,
    can_multi_conn: true,
    can_trim: true,
    can_zero: true,
    block_size_minimum: 512,
    block_size_preferred: 4096,
  });
  const list = JSON.parse(await succeed(t, 'nbdinfo', '--list', '--json', rootUri(served))) as typeof info;
  const names = (list['exports'] as Record<string, unknown>[]).map((each) => each['export-name']);
  t.ok(names.includes(served.exportName), 'listed');
  const unknown = await run('nbdinfo', ['--size', served.uri.replace(served.exportName, 'no-such-export')]);
  t.not(unknown.code, 0, 'a name that is not served is refused');
}

type MapEntry = { offset: number; length: number; type: number };

async function checkMap(t: Test, served: ServedExport): Promise<void> {
  const { uri, sizeBytes } = served;
  await succeed(
    t,
    'qemu-io',
    '-f',
    'raw',
    uri,
    '-c',
    `write -z -u 0 ${sizeBytes}`,
    '-c',
    `write 1M 128k`,
    '-c',
    'flush',
  );
  const map = JSON.parse(await succeed(t, 'nbdinfo', '--map', '--json', uri)) as MapEntry[];
  let at = 0;
  for (const { offset, length } of map) {
    t.equal(offset, at, 'without gap or overlap');
    at += length;
  }
  t.equal(at, sizeBytes, 'all of the export');
  t.ok(map.some(({ offset, length, type }) => type === 0 && offset <= MIB && offset + length >= MIB + 128 * KIB));
  t.ok(
    map.some(({ length, type }) => type === 3 && length >= sizeBytes / 2),
    'the rest is a hole',
  );
}

async function checkCopies(t: Test, served: ServedExport, directory: string): Promise<void> {
  const { uri } = served;
  const image = join(directory, 'image');
  const back = join(directory, 'back');
  await succeed(t, 'nbdcopy', '--flush', image, uri);
  await succeed(t, 'nbdcopy', '--connections=8', '--requests=64', uri, back);
  await succeed(t, 'cmp', image, back);
  await succeed(t, 'nbdcopy', '--synchronous', '--no-extents', '--request-size=65536', uri, back);
  await succeed(t, 'cmp', image, back);
  await succeed(t, 'nbdcopy', '--connections=4', '--request-size=33554432', '--queue-size=67108864', uri, back);
  await succeed(t, 'cmp', image, back);
}

async function checkQemuImg(t: Test, served: ServedExport, directory: string): Promise<void> {
  const { uri, sizeBytes } = served;
  const other = join(directory, 'other');
  const back = join(directory, 'back');
  await makeImage(other, sizeBytes);
  const info = JSON.parse(await succeed(t, 'qemu-img', 'info', '--output=json', uri)) as Record<string, unknown>;
  t.equal(info['virtual-size'], sizeBytes);
  await succeed(t, 'qemu-img', 'convert', '-n', '-m', '16', '-W', '-f', 'raw', '-O', 'raw', other, uri);
  await succeed(t, 'qemu-img', 'compare', '-f', 'raw', '-F', 'raw', other, uri);
  await succeed(t, 'qemu-img', 'convert', '-m', '16', '-f', 'raw', '-O', 'raw', uri, back);
  await succeed(t, 'cmp', other, back);
}

async function checkQemuIo(t: Test, served: ServedExport): Promise<void> {
  const commands = [
    'write -P 0x11 0 1M',
    'read -P 0x11 0 1M',
    'write -P 0x22 512 1536',
    'write -f -P 0x33 130560 1024',
    'read -P 0x11 0 512',
    'read -P 0x22 512 1536',
    'read -P 0x11 2048 512',
    'read -P 0x33 130560 1024',
    'read -P 0x11 131584 512',
    'write -z 65024 1024',
    'read -P 0 65024 1024',
    'read -P 0x11 66048 512',
    'write -z -u 256k 256k',
    'read -P 0 256k 256k',
    'read -P 0x11 512k 512k',
    'discard 600k 4k',
    'discard -q 0 8M',
    'flush',
    'aio_write -P 0x44 8M 3M',
    'aio_write -P 0x55 11M 1536',
    'aio_flush',
    'read -P 0x44 8M 3M',
    'read -P 0x55 11M 1536',
    `read ${served.sizeBytes - 512} 512`,
  ];
  const args = commands.flatMap((command) => ['-c', command]);
  const output = await succeed(t, 'qemu-io', '-f', 'raw', '-d', 'unmap', served.uri, ...args);
  t.notMatch(output, /failed|error/i, 'every pattern is as written');
}

async function checkNbdkit(t: Test, served: ServedExport, directory: string): Promise<void> {
  const image = join(directory, 'image');
  const back = join(directory, 'back');
  const script = `nbdcopy --flush '${image}' "$uri" && nbdcopy "$uri" '${back}' && cmp '${image}' '${back}'`;
  await succeed(t, 'nbdkit', '-U', '-', 'nbd', `uri=${served.uri}`, '--run', script);
}

async function checkFio(t: Test, served: ServedExport): Promise<void> {
  const size = Math.min(served.sizeBytes, 64 * MIB);
  const verify = ['--verify=crc32c', '--verify_fatal=1', '--verify_state_save=0'];
  const common = ['--ioengine=nbd', `--uri=${served.uri}`, `--size=${size}`, ...verify];
  for (const job of [
    ['--name=small', '--rw=randwrite', '--bs=4k', '--iodepth=64', `--io_size=${Math.min(size, 16 * MIB)}`],
    ['--name=mixed', '--rw=randrw', '--bsrange=512-256k', '--blockalign=512', '--iodepth=16'],
    ['--name=large', '--rw=write', '--bs=1M', '--iodepth=8', '--fsync=4'],
  ]) {
    const output = await succeed(t, 'fio', ...job, ...common);
    t.match(output, /err= 0/, `${job[0]} without errors`);
  }
}

/** Each client works on its own MiB of the export, all at once. */
async function checkManyClients(t: Test, served: ServedExport): Promise<void> {
  const count = Math.min(16, served.sizeBytes / MIB);
  const ended = await Promise.all(
    Array.from({ length: count }, (_, i) => {
      const rounds = Array.from({ length: 20 }, (_, round) => [
        `aio_write -P ${(i + round) % 255} ${i}M 900k`,
        'aio_flush',
        `read -P ${(i + round) % 255} ${i}M 900k`,
      ]);
      return run('qemu-io', ['-f', 'raw', served.uri, ...rounds.flat().flatMap((command) => ['-c', command])]);
    }),
  );
  for (const { code, output } of ended) {
    t.equal(code, 0, 'a client among many');
    t.notMatch(output, /failed|error/i);
  }
}

async function checkPlainClient(t: Test, served: ServedExport): Promise<void> {
  const address = addressOf(served);
  const client = await PlainClient.open(address, served.exportName);
  t.equal(client.sizeBytes, served.sizeBytes);
  const data = randomBytes(4 * MIB);
  const at = MIB - 1536;
  await Promise.all([0, 1, 2, 3].map((i) => client.write(at + i * MIB, data.subarray(i * MIB, (i + 1) * MIB))));
  await client.flush();
  const reads: Promise<[Buffer, number, number]>[] = [];
  for (let i = 0; i < 60; i++) {
    const offset = (i * 37_376) % (3 * MIB);
    const length = i % 3 === 0 ? MIB : 512 * ((i % 50) + 1);
    reads.push(client.read(at + offset, length).then((read) => [read, offset, length]));
  }
  for (const [read, offset, length] of await Promise.all(reads)) {
    t.ok(read.equals(data.subarray(offset, offset + length)), `${length} bytes at ${offset}`);
  }
  await t.rejects(client.read(served.sizeBytes, 512), /NBD error 22/);
  await t.rejects(client.write(served.sizeBytes, Buffer.alloc(512)), /NBD error 28/);
  await t.rejects(client.read(1, 512), /NBD error 22/);
  await t.rejects(client.write(0, Buffer.alloc(0)), /NBD error 22/);
  t.ok((await client.read(at, 4 * MIB)).equals(data), 'and it goes on');
  const last = [client.read(at, MIB), client.read(at, 512)];
  await client.close();
  t.equal((await Promise.all(last)).length, 2, 'what was asked before is answered before the end');
  await t.rejects(PlainClient.open(address, 'no-such-export'), /does not serve/);
}

/** Clients that vanish with requests under way, or stop reading, are nobody else's problem. */
async function checkBadClients(t: Test, served: ServedExport): Promise<void> {
  const address = addressOf(served);
  for (let i = 0; i < 20; i++) {
    const gone = await PlainClient.open(address, served.exportName);
    const asked = Array.from({ length: 20 }, (_, n) => [
      gone.read(n * 4096, 300 * KIB),
      gone.write(MIB, Buffer.alloc(MIB)),
    ]);
    if (i % 2 === 0) await gone.flush().catch(() => undefined);
    gone.destroy();
    await Promise.allSettled(asked.flat());
  }
  const deaf = await PlainClient.open(address, served.exportName);
  deaf.setReading(false);
  const unread = Array.from({ length: 16 }, () => deaf.read(0, MIB));
  const client = await PlainClient.open(address, served.exportName);
  const block = randomBytes(4096);
  for (let i = 0; i < 50; i++) {
    await client.write(i * 4096, block);
    t.ok((await client.read(i * 4096, 4096)).equals(block));
  }
  await client.close();
  deaf.setReading(true);
  t.equal((await Promise.all(unread)).length, 16, 'who reads again gets it all');
  await deaf.close();
}

/** Everything, one after the other. */
export async function nbdConformance(t: Test, served: ServedExport): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'braid-nbd-'));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  await makeImage(join(directory, 'image'), served.sizeBytes);
  await t.test('nbdinfo', (t) => checkInfo(t, served));
  await t.test('nbdinfo --map', (t) => checkMap(t, served));
  await t.test('nbdcopy', (t) => checkCopies(t, served, directory));
  await t.test('qemu-img', (t) => checkQemuImg(t, served, directory));
  await t.test('qemu-io', (t) => checkQemuIo(t, served));
  await t.test('nbdkit', (t) => checkNbdkit(t, served, directory));
  await t.test('fio', (t) => checkFio(t, served));
  await t.test('a client with simple replies', (t) => checkPlainClient(t, served));
  await t.test('many clients at once', (t) => checkManyClients(t, served));
  await t.test('clients that vanish or stop reading', (t) => checkBadClients(t, served));
}

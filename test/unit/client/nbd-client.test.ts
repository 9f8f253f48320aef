/** The NBD client against nbdkit, an implementation that is not ours. */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { NbdClient, NbdClosedError, NbdError, parseNbdUri } from '../../../client/nbd-client.js';
import { waitFor } from '../../../client/processes.js';

const MIB = 1_048_576;

async function startServer(t: Test, ...args: string[]) {
  const directory = await mkdtemp(join(tmpdir(), 'braid-nbd-'));
  const socketPath = join(directory, 's');
  const server = spawn('nbdkit', ['-f', '-U', socketPath, ...args], { stdio: 'ignore' });
  t.teardown(async () => {
    server.kill('SIGKILL');
    await rm(directory, { recursive: true });
  });
  await waitFor(() => existsSync(socketPath), 5_000, 'nbdkit listens');
  return { server, socketPath };
}

t.test('reads back what it wrote, many requests at once', async (t) => {
  const { socketPath } = await startServer(t, 'memory', String(16 * MIB));
  const client = await NbdClient.connect({ socketPath }, '');
  t.equal(client.sizeBytes, 16 * MIB);
  const chunks = Array.from({ length: 64 }, () => randomBytes(100_000));
  await Promise.all(chunks.map((chunk, index) => client.write(index * 131_072, chunk, { fua: index % 2 === 0 })));
  await client.flush();
  const read = await Promise.all(chunks.map((chunk, index) => client.read(index * 131_072, chunk.length)));
  t.ok(read.every((data, index) => data.equals(chunks[index] ?? Buffer.alloc(0))));
  await client.trim(0, 131_072);
  t.ok((await client.read(0, 131_072)).equals(Buffer.alloc(131_072)));
  await client.write(0, Buffer.alloc(4_096, 1));
  await client.writeZeroes(512, 512, { noHole: true });
  t.same((await client.read(511, 514)).filter((byte) => byte === 0).length, 512);
  await client.close();
  await t.rejects(client.read(0, 512), NbdClosedError);
});

t.test('an error of the server belongs to its request alone', async (t) => {
  const { socketPath } = await startServer(
    t,
    '--filter=error',
    'memory',
    '1M',
    'error-pwrite=ENOSPC',
    'error-pwrite-rate=100%',
  );
  const client = await NbdClient.connect({ socketPath }, '');
  const error = await client.write(0, Buffer.alloc(512)).catch((thrown: unknown) => thrown);
  t.ok(error instanceof NbdError);
  t.match(error, { errno: 28, message: /ENOSPC/ });
  t.equal((await client.read(0, 512)).length, 512);
  await client.close();
});

t.test('when the server dies, what was in flight rejects', async (t) => {
  const { server, socketPath } = await startServer(t, '--filter=delay', 'memory', '1M', 'rdelay=30');
  const client = await NbdClient.connect({ socketPath }, '');
  const pending = client.read(0, 512);
  server.kill('SIGKILL');
  await t.rejects(pending, NbdClosedError);
  t.ok(client.isClosed);
  await t.rejects(NbdClient.connect({ socketPath }, ''), 'and connecting says so');
});

t.test('a server that refuses the export is quoted, one that speaks something else is left', async (t) => {
  const { socketPath } = await startServer(
    t,
    '--filter=exportname',
    'memory',
    '1M',
    'exportname-strict=true',
    'exportname=a',
  );
  await t.rejects(NbdClient.connect({ socketPath }, 'b'), { message: /refuses export "b"/ });
  const other = createServer((socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'));
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
  t.teardown(() => other.close());
  const address = other.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  await t.rejects(NbdClient.connect({ host: '127.0.0.1', port }, ''), { message: /no newstyle NBD server/ });
});

t.test('URIs', async (t) => {
  t.same(parseNbdUri('nbd+unix:///my%20vol?socket=/run/x.sock'), {
    target: { socketPath: '/run/x.sock' },
    exportName: 'my vol',
  });
  t.same(parseNbdUri('nbd://[::1]:1234/vol'), { target: { host: '::1', port: 1234 }, exportName: 'vol' });
  t.same(parseNbdUri('nbd://host/vol'), { target: { host: 'host', port: 10_809 }, exportName: 'vol' });
  t.throws(() => parseNbdUri('nbd+unix:///vol'), /no socket/);
  t.throws(() => parseNbdUri('http://x/'), /no NBD URI/);
});

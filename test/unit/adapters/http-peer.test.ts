/** Calls to other agents: what they answer comes back, and every way to fail has its code and says which agent it was. */
import { createServer, type IncomingMessage, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import t, { type Test } from 'tap';
import { HttpPeerClient } from '../../../daemon/adapters/http-peer.js';
import { BraidError } from '../../../daemon/base/errors.js';
import { MIB } from '../../../daemon/base/units.js';

const TIMEOUT_MS = 20_000;

/** An agent that answers as `listener` does; resolves with its address. */
async function startPeer(t: Test, listener: RequestListener): Promise<string> {
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

function answering(status: number, body: string): RequestListener {
  return (request, response) => {
    request.resume();
    response.writeHead(status, { 'content-type': 'application/json' }).end(body);
  };
}

const get = (apiAddress: string, path = '/v1/stats', timeoutMs = TIMEOUT_MS): Promise<unknown> =>
  new HttpPeerClient().request({ apiAddress, method: 'GET', path, timeoutMs });

async function textOf(request: IncomingMessage): Promise<string> {
  let text = '';
  for await (const chunk of request) text += String(chunk);
  return text;
}

t.test('a request arrives as it is, marked as one that is not passed on', async (t) => {
  const seen: unknown[] = [];
  const apiAddress = await startPeer(t, (request, response) => {
    void textOf(request).then((body) => {
      const { method, url, headers } = request;
      seen.push({ method, url, type: headers['content-type'], forwarded: headers['x-braid-forwarded'], body });
      response.end('{"released":true}');
    });
  });
  const path = '/v1/volumes/a%20b/detach?x=1';
  const body = { force: true };
  const answer = await new HttpPeerClient().request({ apiAddress, method: 'POST', path, body, timeoutMs: TIMEOUT_MS });
  t.same(answer, { released: true });
  t.same(await get(apiAddress), { released: true });
  t.same(seen, [
    { method: 'POST', url: path, type: 'application/json', forwarded: '1', body: '{"force":true}' },
    { method: 'GET', url: '/v1/stats', type: undefined, forwarded: '1', body: '' },
  ]);
});

t.test("the peer's own errors come back as they are", async (t) => {
  const body = { error: { code: 'CONFLICT', message: 'the device is mounted', retryable: false } };
  const apiAddress = await startPeer(t, answering(409, JSON.stringify(body)));
  const error = await get(apiAddress).catch((thrown: unknown) => thrown);
  t.type(error, BraidError);
  t.match(error, { code: 'CONFLICT', message: 'the device is mounted', retryable: false });
});

t.test('an answer that is not of an agent is PROTOCOL, and names who gave it', async (t) => {
  for (const [status, body] of [
    [200, '<html>it works</html>'],
    [200, ''],
    [502, 'bad gateway'],
    [500, '{"error":{"code":"toString","message":"x"}}'],
    [500, '{"message":"x"}'],
    [404, 'null'],
    [409, '{"error":"x"}'],
  ] as const) {
    const apiAddress = await startPeer(t, answering(status, body));
    await t.rejects(get(apiAddress), { code: 'PROTOCOL', message: apiAddress }, `${status} ${body}`);
  }
});

t.test('an answer without end is given up', async (t) => {
  let sentBytes = 0;
  const chunk = Buffer.alloc(MIB, ' ');
  const apiAddress = await startPeer(t, (_, response) => {
    const send = (): void => {
      while (!response.destroyed && response.write(chunk)) sentBytes += chunk.length;
    };
    response.on('drain', send);
    send();
  });
  await t.rejects(get(apiAddress), { code: 'PROTOCOL', message: apiAddress });
  t.ok(sentBytes < 256 * MIB, `${sentBytes} bytes were sent`);
});

t.test('a redirect is not followed', async (t) => {
  const elsewhere = await startPeer(t, answering(200, '{"secret":1}'));
  const apiAddress = await startPeer(t, (_, response) => {
    response.writeHead(307, { location: elsewhere }).end('{}');
  });
  await t.rejects(get(apiAddress), { code: 'UNAVAILABLE', message: apiAddress });
});

t.test('nobody there is UNAVAILABLE, with the reason', async (t) => {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  await t.rejects(get(`http://127.0.0.1:${port}`), { code: 'UNAVAILABLE', message: /ECONNREFUSED/, retryable: true });
  const hangsUp = await startPeer(t, (request) => void request.socket.destroy());
  await t.rejects(get(hangsUp), { code: 'UNAVAILABLE', message: hangsUp });
  await t.rejects(get('not an address'), { code: 'UNAVAILABLE', message: /not an address/ });
});

t.test('no answer in time is TIMEOUT, before its first byte and in the middle of it', async (t) => {
  const silent = await startPeer(t, () => undefined);
  await t.rejects(get(silent, '/', 50), { code: 'TIMEOUT', message: /did not answer in 50 ms/, retryable: true });
  const slow = await startPeer(t, (_, response) => void response.write('{'));
  await t.rejects(get(slow, '/', 200), { code: 'TIMEOUT' });
});

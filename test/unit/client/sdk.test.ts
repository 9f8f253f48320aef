import t from 'tap';
import { BraidApiError, BraidClient } from '../../../client/index.js';
import { Answer, CLUSTER, refusal, startApi, VOLUME } from './api-stub.js';

t.test('each method asks its endpoint and hands back what is in the answer', async (t) => {
  const api = await startApi(t, {
    'GET /v1/cluster': CLUSTER,
    'GET /v1/nodes': { nodes: [] },
    'GET /v1/drives': { drives: [] },
    'GET /v1/volumes': { volumes: [] },
    'GET /v1/volumes/data': VOLUME,
    'POST /v1/volumes': VOLUME,
    'POST /v1/volumes/data/attach': { node: 'a', nbdUri: 'nbd://x' },
    'POST /v1/volumes/data/detach': { released: true },
    'POST /v1/volumes/data/verify': {
      ...{ extentsCompared: 1, bytesCompared: 131072, copiesMin: 2 },
      ...{ differences: [], damaged: [] },
    },
    'DELETE /v1/volumes/data': { name: 'data', id: 'v-1' },
    'GET /v1/events': { events: [], next: 'e9' },
    'GET /readyz': new Answer(503, { ready: false, reasons: ['no drive'], node: 'a' }),
    'GET /healthz': { status: 'ok' },
  });
  const client = new BraidClient({ baseUrl: `${api.url}/`, token: 'secret', validate: true });
  t.equal((await client.cluster()).name, 'lab');
  t.same(await client.nodes(), []);
  t.same(await client.drives(), []);
  t.same(await client.volumes(), []);
  t.equal((await client.volume('data')).epoch, 3);
  await client.createVolume({ name: 'data', size: '1Gi' });
  t.same(api.asked.at(-1)?.body, { name: 'data', size: '1Gi' });
  await client.attachVolume('data', { node: 'a', device: true });
  t.same(api.asked.at(-1)?.body, { node: 'a', device: true });
  t.ok((await client.detachVolume('data', { force: true })).released);
  t.equal((await client.verifyVolume('data')).copiesMin, 2);
  t.equal((await client.deleteVolume('data')).id, 'v-1');
  t.equal((await client.events({ after: 'e 1', limit: 5 })).next, 'e9');
  t.equal(api.asked.at(-1)?.path, '/v1/events?after=e+1&limit=5');
  t.same(await client.readiness(), { ready: false, reasons: ['no drive'], node: 'a' }, 'not ready is an answer');
  t.equal(await client.isAlive(), true);
  t.equal(api.asked[0]?.headers.authorization, 'Bearer secret');
});

t.test('a refusal keeps code, status and message of the server', async (t) => {
  const api = await startApi(t, {
    'GET /v1/volumes/dat': refusal(404, 'NOT_FOUND', 'there is no volume "dat"; did you mean "data"?'),
    'GET /v1/cluster': new Answer(502, '<html>Bad gateway</html>'),
  });
  const client = new BraidClient({ baseUrl: api.url });
  const error = await client.volume('dat').catch((thrown: unknown) => thrown);
  t.ok(error instanceof BraidApiError);
  t.match(error, { code: 'NOT_FOUND', status: 404, retryable: false, message: /did you mean "data"/ });
  await t.rejects(client.cluster(), { code: 'PROTOCOL', status: 502, message: /not from Braid: <html>/ });
});

t.test('names cannot leave their path', async (t) => {
  const api = await startApi(t, { 'GET /v1/volumes/..%2Fcluster': VOLUME });
  await new BraidClient({ baseUrl: api.url }).volume('../cluster');
  t.equal(api.asked[0]?.path, '/v1/volumes/..%2Fcluster');
});

t.test('no server and no answer are retryable errors', async (t) => {
  await t.rejects(new BraidClient({ baseUrl: 'http://127.0.0.1:2' }).cluster(), {
    ...{
      code: 'UNAVAILABLE',
      status: 0,
      retryable: true,
      message: /cannot reach http:\/\/127\.0\.0\.1:2: .*ECONNREFUSED/,
    },
  });
  const api = await startApi(t, { 'GET /v1/cluster': CLUSTER });
  const interruption = new AbortController();
  interruption.abort();
  const client = new BraidClient({ baseUrl: api.url, signal: interruption.signal });
  await t.rejects(client.cluster(), { code: 'UNAVAILABLE' }, 'interrupted');
});

t.test('an answer of another version is noticed when asked to validate', async (t) => {
  const api = await startApi(t, { 'GET /v1/cluster': { ...CLUSTER, nodes: 3 } });
  await t.rejects(new BraidClient({ baseUrl: api.url, validate: true }).cluster(), { code: 'PROTOCOL' });
  await t.resolves(new BraidClient({ baseUrl: api.url }).cluster());
});

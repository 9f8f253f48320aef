/** An HTTP server that answers what a test tells it to, and keeps what it was asked. */
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Test } from 'tap';

export interface Asked {
  readonly method: string;
  readonly path: string;
  readonly body: unknown;
  readonly headers: IncomingMessage['headers'];
}

export type Answers = Record<string, unknown>;

export interface ApiStub {
  readonly url: string;
  readonly asked: Asked[];
}

/** An answer with a status of its own, or as text. */
export class Answer {
  readonly status: number;
  readonly body: unknown;

  constructor(status: number, body: unknown) {
    this.status = status;
    this.body = body;
  }
}

/** `answers` maps `GET /v1/cluster` (no query) to a body, an `Answer` or a function that makes one. */
export async function startApi(t: Test, answers: Answers): Promise<ApiStub> {
  const asked: Asked[] = [];
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const text = Buffer.concat(chunks).toString();
      const { method = '', url = '', headers } = request;
      const one = { method, path: url, body: text === '' ? undefined : (JSON.parse(text) as unknown), headers };
      asked.push(one);
      const found = answers[`${method} ${url.split('?')[0]}`];
      const made: unknown = typeof found === 'function' ? (found as (asked: Asked) => unknown)(one) : found;
      const { status, body } = made instanceof Answer ? made : new Answer(made === undefined ? 404 : 200, made ?? {});
      response.writeHead(status, { 'content-type': 'application/json' });
      response.end(typeof body === 'string' ? body : JSON.stringify(body));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.closeAllConnections());
  t.teardown(() => server.close());
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, asked };
}

export const refusal = (status: number, code: string, message: string) =>
  new Answer(status, { error: { code, message, retryable: false } });

export const CLUSTER = {
  id: 'c-1',
  name: 'lab',
  health: 'degraded',
  reasons: ['node b is down'],
  nodes: { total: 3, healthy: 2 },
  drives: { total: 3, healthy: 2 },
  volumes: { total: 1, healthy: 0 },
  capacity: { rawBytes: 3_221_225_472, usedBytes: 1_048_576, provisionedBytes: 2_147_483_648 },
  settings: { resyncBandwidthBytes: 209_715_200 },
};

export const DRIVE = {
  ...{
    id: 'd-1',
    node: 'a',
    path: '/srv/drive',
    driveClass: 'ssd',
    capacityBytes: 1_073_741_824,
    usedBytes: 536_870_912,
  },
  ...{ replicaCount: 4, state: 'open', reason: '', createdMs: 1 },
};

const FIGURES = { bytesDone: 1_048_576, bytesTotal: 4_194_304, bytesPerSecond: 1_572_864, etaSeconds: 2 };

export const RESYNC = {
  ...FIGURES,
  copies: [{ kind: 'resync', driveId: 'd-2', node: 'b', path: '/srv/drive', ...FIGURES }],
  bytesCopied: 1_048_576,
};

export const VOLUME = {
  ...{ id: 'v-1', name: 'data', sizeBytes: 1_073_741_824, replicas: 2, health: 'degraded', reason: 'node b is down' },
  ...{ node: 'a', device: '/dev/loop0', createdMs: 1, minInSync: 1, stripeWidth: 1, segmentBytes: 536_870_912 },
  ...{ whenDegraded: 'suspend', labels: { app: 'db' }, owner: 'a', epoch: 3, nbdUri: 'nbd+unix:///data?socket=/x' },
  attachment: { node: 'a', device: true, state: 'serving', error: '' },
  resync: RESYNC,
  segments: [
    {
      index: 0,
      generation: 2,
      replicas: [
        { driveId: 'd-1', node: 'a', path: '/srv/drive', state: 'in-sync', alive: true },
        { driveId: 'd-2', node: 'b', path: '/srv/drive', state: 'stale', alive: false },
      ],
    },
    {
      index: 1,
      generation: 1,
      replicas: [
        { driveId: 'd-1', node: 'a', path: '/srv/drive', state: 'in-sync', alive: true },
        { driveId: 'd-3', node: 'c', path: '/srv/drive', state: 'in-sync', alive: true },
      ],
    },
  ],
};

export const operations = (operations: number, bytes: number, latencyBuckets: number[], latencySumUs: number) => ({
  ...{ operations, bytes, errors: 0, latencyBuckets, latencySumUs },
});

/** REST servers of simulated agents that reach each other as peers do, without sockets. */
import type { InjectOptions, LightMyRequestResponse } from 'fastify';
import type { Api } from '../../../daemon/api/fastify.js';
import { buildServer } from '../../../daemon/api/server.js';
import { BraidError, type ErrorCode } from '../../../daemon/base/errors.js';
import type { PeerClient, PeerRequest } from '../../../daemon/ports/peer.js';
import { silentLog, World, type TestNode } from '../control/fixture.js';

export interface TestApi {
  readonly node: TestNode;
  readonly app: Api;
}

export interface Answer {
  readonly status: number;
  // Tests look into answers of every shape.
  readonly body: Record<string, never>;
}

/** Delivers to the server of the node whose address it is. */
class InjectedPeers implements PeerClient {
  readonly servers = new Map<string, Api>();
  readonly cut = new Set<string>();

  async request({ apiAddress, method, path, body }: PeerRequest): Promise<unknown> {
    const app = this.servers.get(apiAddress);
    if (app === undefined || this.cut.has(apiAddress))
      throw new BraidError('UNAVAILABLE', `${apiAddress} cannot be reached`);
    const headers = { 'x-braid-forwarded': '1' };
    const response = await app.inject({
      method,
      url: path,
      headers,
      ...(body === undefined ? {} : { payload: body as object }),
    });
    const answer = response.json<{ error?: { code: ErrorCode; message: string } }>();
    if (answer.error !== undefined) throw new BraidError(answer.error.code, answer.error.message);
    return answer;
  }
}

export class ApiWorld extends World {
  readonly peers = new InjectedPeers();
  apis: TestApi[] = [];

  async start(count: number): Promise<[TestApi, TestApi, TestApi]> {
    const nodes = await this.cluster(count);
    for (const node of nodes) await this.serve(node);
    return this.apis as [TestApi, TestApi, TestApi];
  }

  async serve(node: TestNode): Promise<TestApi> {
    const app = await buildServer({
      agent: node.agent,
      peers: this.peers,
      log: silentLog,
      storeBytes: async () => 4_096,
    });
    this.peers.servers.set(`http://${node.name}`, app);
    const api = { node, app };
    this.apis.push(api);
    return api;
  }

  inject(app: Api, request: InjectOptions): Promise<LightMyRequestResponse> {
    return this.run(app.inject(request).then((response) => response));
  }

  /** One request, while simulated time passes. */
  async ask(
    { app }: TestApi,
    method: 'GET' | 'POST' | 'PATCH' | 'DELETE',
    url: string,
    payload?: object,
  ): Promise<Answer> {
    const response = await this.inject(app, { method, url, ...(payload === undefined ? {} : { payload }) });
    return { status: response.statusCode, body: response.json() };
  }
}

/** Probes, metrics and the OpenAPI document. */
import { Type } from 'typebox';
import type { ApiDependencies } from '../dependencies.js';
import type { Api } from '../fastify.js';
import { renderMetrics } from '../metrics.js';
import { ErrorBody, Liveness, Readiness } from '../schemas/index.js';
import { answers, ref } from './documented.js';

const tags = ['node'];
const STATUS_NOT_READY = 503;

export function healthRoutes(app: Api, api: ApiDependencies): void {
  app.route({
    method: 'GET',
    url: '/healthz',
    schema: { tags, operationId: 'isAlive', summary: 'The process answers', response: answers(Liveness, 'It does') },
    handler: () => ({ status: 'ok' as const }),
  });

  app.route({
    method: 'GET',
    url: '/readyz',
    schema: {
      tags,
      operationId: 'isReady',
      summary: 'The node can serve: store reachable, lease held, shards up',
      response: { ...answers(Readiness, 'Ready'), 503: ref(Readiness) },
    },
    handler: async (_request, reply) => {
      const reasons = await api.agent.notReady();
      const body = { ready: reasons.length === 0, reasons, node: api.agent.context.node.name };
      return body.ready ? body : reply.status(STATUS_NOT_READY).send(body);
    },
  });

  app.route({
    method: 'GET',
    url: '/metrics',
    schema: {
      tags,
      operationId: 'getMetrics',
      summary: 'Metrics of this node in the Prometheus text format',
      produces: ['text/plain'],
      response: { 200: Type.String(), default: ref(ErrorBody) },
    },
    handler: async (_request, reply) => {
      const { contentType, text } = await renderMetrics(api);
      return reply.type(contentType).send(text);
    },
  });

  app.route({
    method: 'GET',
    url: '/openapi.json',
    schema: { hide: true },
    handler: () => app.swagger(),
  });
}

/** Passes a request on to the node that must do it. */
import type { FastifyRequest } from 'fastify';
import { BraidError } from '../base/errors.js';
import type { NodeRecord } from '../protocol/records.js';
import type { ApiDependencies } from './dependencies.js';
import { FORWARDED_HEADER } from './fastify.js';

export interface Forwarded {
  readonly method: 'GET' | 'POST' | 'DELETE';
  readonly path: string;
  readonly body?: unknown;
  readonly timeoutMs: number;
}

/** Whether another node has passed this request on to us. */
export function isForwarded(request: Pick<FastifyRequest, 'headers'>): boolean {
  return request.headers[FORWARDED_HEADER] !== undefined;
}

/** What `node` answers. UNAVAILABLE when it is not alive; the caller knows the shape of the answer by the path. */
export async function forward(
  { agent, peers }: ApiDependencies,
  request: Pick<FastifyRequest, 'headers'>,
  node: NodeRecord,
  forwarded: Forwarded,
): Promise<unknown> {
  if (isForwarded(request)) {
    throw new BraidError('UNAVAILABLE', `this is for node ${node.name}: the cluster changed meanwhile; try again`);
  }
  if (!(await agent.attachRequests.isAlive(node.id))) {
    throw new BraidError('UNAVAILABLE', `node ${node.name} is not alive: start its agent (braidd) and try again`);
  }
  return peers.request({ apiAddress: node.apiAddress, ...forwarded });
}

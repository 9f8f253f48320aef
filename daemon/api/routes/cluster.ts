/** The cluster as a whole: summary, nodes, events, and this node's counters. */
import type { ApiDependencies } from '../dependencies.js';
import type { Api } from '../fastify.js';
import { bytesOf } from '../lookup.js';
import { ChangeSettings, Cluster, EventList, EventQuery, NodeList, Stats } from '../schemas/index.js';
import { clusterView, nodeViews } from '../views/cluster.js';
import { statsView } from '../views/stats.js';
import { answers, ref } from './documented.js';

const EVENTS_DEFAULT = 100;

export function clusterRoutes(app: Api, api: ApiDependencies): void {
  const { state, events } = api.agent.context;

  app.route({
    method: 'GET',
    url: '/v1/cluster',
    schema: {
      ...{ tags: ['cluster'], operationId: 'getCluster', summary: 'Health, counts and capacity' },
      response: answers(Cluster, 'The cluster'),
    },
    handler: () => clusterView(api),
  });

  app.route({
    method: 'PATCH',
    url: '/v1/cluster',
    schema: {
      ...{ tags: ['cluster'], operationId: 'changeCluster', summary: 'Changes settings of the cluster' },
      description: 'Every node follows within seconds; copying that is under way goes on at the new rate.',
      body: ref(ChangeSettings),
      response: answers(Cluster, 'The cluster'),
    },
    handler: async ({ body: { resyncBandwidth } }) => {
      const bytes = resyncBandwidth === null ? null : bytesOf('resyncBandwidth', resyncBandwidth);
      await api.agent.settings.change({ resyncBandwidthBytes: bytes });
      return clusterView(api);
    },
  });

  app.route({
    method: 'GET',
    url: '/v1/nodes',
    schema: {
      ...{ tags: ['cluster'], operationId: 'listNodes', summary: 'All nodes, dead ones included' },
      response: answers(NodeList, 'By name'),
    },
    handler: async () => ({ nodes: nodeViews(await state.snapshot()) }),
  });

  app.route({
    method: 'GET',
    url: '/v1/events',
    schema: {
      ...{ tags: ['cluster'], operationId: 'listEvents', summary: 'What happened, oldest first' },
      querystring: EventQuery,
      response: answers(EventList, 'A page of events'),
    },
    handler: async ({ query: { after, limit = EVENTS_DEFAULT } }) => {
      const [found, nodes] = await Promise.all([events.list(after, limit), state.nodes()]);
      const names = new Map(nodes.map(({ value }) => [value.id, value.name]));
      const page = found.map(({ nodeId, ...event }) => ({ ...event, node: names.get(nodeId) ?? nodeId }));
      return { events: page, next: page.at(-1)?.id ?? after ?? '' };
    },
  });

  app.route({
    method: 'GET',
    url: '/v1/stats',
    schema: {
      ...{ tags: ['node'], operationId: 'getStats', summary: 'Counters of the node that answers' },
      response: answers(Stats, 'Since the agent started'),
    },
    handler: () => statsView(api.agent),
  });
}

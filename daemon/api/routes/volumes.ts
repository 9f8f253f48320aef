/** Volumes: create, list, show, delete, verify. */
import { Type } from 'typebox';
import { BraidError } from '../../base/errors.js';
import type { VolumeId } from '../../base/ids.js';
import type { CreateVolumeRequest } from '../../control/volumes.js';
import type { ApiDependencies } from '../dependencies.js';
import type { Api } from '../fastify.js';
import { forward } from '../forward.js';
import { bytesOf, findVolume } from '../lookup.js';
import { CreateVolume, DeletedVolume, VerifyReport, Volume, VolumeList } from '../schemas/index.js';
import { volumeSummaries, volumeView } from '../views/volume.js';
import { moveReplicaRoutes } from './move-replica.js';
import { answers, NameParams, ref } from './documented.js';

const tags = ['volumes'];
const REPLICAS_DEFAULT = 2;
/** Reading a large volume several times takes its time. */
const VERIFY_TIMEOUT_MS = 6 * 60 * 60 * 1_000;

const DeleteQuery = Type.Object(
  { force: Type.Optional(Type.Boolean({ default: false, description: 'Even while it is attached' })) },
  { additionalProperties: false },
);

export function volumeRoutes(app: Api, api: ApiDependencies): void {
  const { agent } = api;
  const { state } = agent.context;

  app.route({
    method: 'GET',
    url: '/v1/volumes',
    schema: { tags, operationId: 'listVolumes', summary: 'All volumes', response: answers(VolumeList, 'By name') },
    handler: async () => ({ volumes: await volumeSummaries(agent, await state.snapshot()) }),
  });

  app.route({
    method: 'POST',
    url: '/v1/volumes',
    schema: {
      tags,
      operationId: 'createVolume',
      summary: 'Creates a volume',
      body: ref(CreateVolume),
      response: answers(Volume, 'It can be attached'),
    },
    handler: async ({ body }) => {
      const { id } = await agent.volumes.create(createRequest(body));
      return volumeView(agent, id as VolumeId);
    },
  });

  app.route({
    method: 'GET',
    url: '/v1/volumes/:name',
    schema: {
      tags,
      operationId: 'getVolume',
      summary: 'One volume, with its layout',
      params: NameParams,
      response: answers(Volume, 'The volume'),
    },
    handler: async ({ params: { name } }) => {
      const { value } = await findVolume(state, name);
      return volumeView(agent, value.id as VolumeId);
    },
  });

  app.route({
    method: 'DELETE',
    url: '/v1/volumes/:name',
    schema: {
      ...{ tags, operationId: 'deleteVolume', summary: 'Deletes a volume and its data' },
      description: 'Its name is free at once; its space comes back when every node that holds a copy has removed it.',
      params: NameParams,
      querystring: DeleteQuery,
      response: answers(DeletedVolume, 'It is being deleted'),
    },
    handler: async ({ params: { name }, query: { force = false } }) => {
      const volume = await findVolume(state, name);
      await agent.volumes.delete(name, volume, force);
      return { name, id: volume.value.id };
    },
  });

  verifyRoute(app, api);
  moveReplicaRoutes(app, api);
}

function verifyRoute(app: Api, api: ApiDependencies): void {
  const { agent } = api;
  const { state, node } = agent.context;
  app.route({
    method: 'POST',
    url: '/v1/volumes/:name/verify',
    schema: {
      ...{ tags, operationId: 'verifyVolume', summary: 'Compares all in-sync copies, extent by extent' },
      description:
        'The owner does it, beside its other work. A volume that nobody serves is taken by the node that is asked, for that time.',
      params: NameParams,
      response: answers(VerifyReport, 'What was compared, and what differs'),
    },
    handler: async (request) => {
      const { name } = request.params;
      const volume = await findVolume(state, name);
      const id = volume.value.id as VolumeId;
      // Where it is wanted, it will be served soon; else whoever has it now.
      const holder = (await state.attachment(id))?.value.nodeId ?? (await state.owner(id))?.value.nodeId ?? '';
      const isElsewhere = holder !== '' && holder !== node.id && (await agent.attachRequests.isAlive(holder));
      if (isElsewhere) {
        const other = await state.node(holder as never);
        if (other === null)
          throw new BraidError('UNAVAILABLE', `the node of volume "${name}" is leaving the cluster; try again`);
        const path = `/v1/volumes/${encodeURIComponent(name)}/verify`;
        const answer = await forward(api, request, other.value, { method: 'POST', path, timeoutMs: VERIFY_TIMEOUT_MS });
        return answer as VerifyReport;
      }
      const report = await agent.verify(id);
      const differences = report.differences.map((difference) => ({
        ...difference,
        driveIds: [...difference.driveIds],
      }));
      return { ...report, differences, damaged: [...report.damaged] };
    },
  });
}

function createRequest(body: CreateVolume): CreateVolumeRequest {
  const { name, size, replicas = REPLICAS_DEFAULT, minInSync, stripeWidth, segmentSize, whenDegraded, labels } = body;
  return {
    name,
    sizeBytes: bytesOf('size', size),
    replicas,
    ...(minInSync === undefined ? {} : { minInSync }),
    ...(stripeWidth === undefined ? {} : { stripeWidth }),
    ...(segmentSize === undefined ? {} : { segmentBytes: bytesOf('segmentSize', segmentSize) }),
    failWhenDegraded: whenDegraded === 'fail',
    ...(labels === undefined ? {} : { labels }),
  };
}

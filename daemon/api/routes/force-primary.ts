/** The last resort of a volume that has no good copy left. */
import type { VolumeId } from '../../base/ids.js';
import { asError, BraidError } from '../../base/errors.js';
import type { ForcedSegment, ReachableDrives } from '../../control/force-primary.js';
import type { VolumeRecord } from '../../protocol/records.js';
import type { ApiDependencies } from '../dependencies.js';
import type { Api } from '../fastify.js';
import { findVolume } from '../lookup.js';
import { ForcedPrimary, ForcePrimary, VolumeCopies } from '../schemas/index.js';
import { answers, NameParams, ref } from './documented.js';

const tags = ['volumes'];
const PEER_TIMEOUT_MS = 5_000;

export function forcePrimaryRoutes(app: Api, api: ApiDependencies): void {
  const { agent } = api;
  const { state } = agent.context;

  app.route({
    method: 'GET',
    url: '/v1/volumes/:name/copies',
    schema: {
      ...{
        tags,
        operationId: 'getVolumeCopies',
        summary: 'What the drives of the node that answers say of the volume',
      },
      params: NameParams,
      response: answers(VolumeCopies, 'Its open drives'),
    },
    handler: async ({ params: { name } }) => {
      const { value } = await findVolume(state, name);
      return ownCopies(api, value.id as VolumeId);
    },
  });

  app.route({
    method: 'POST',
    url: '/v1/volumes/:name/force-primary',
    schema: {
      ...{
        tags,
        operationId: 'forcePrimary',
        summary: 'Makes an older copy the primary one, when no good one is left',
      },
      description:
        'Gives up what only copies that cannot be reached have: when they come back they are made equal to this one. CONFLICT while a copy ' +
        'in sync can be reached, or the volume is attached.',
      params: NameParams,
      body: ref(ForcePrimary),
      response: answers(ForcedPrimary, 'What was given up, or would be'),
    },
    handler: async ({ params: { name }, body: { drive, segment, acceptLoss = false } }) => {
      const { value } = await findVolume(state, name);
      const request = { driveId: drive, ...(segment === undefined ? {} : { segment }) };
      const reachable = await reachableDrives(api, value);
      const id = value.id as VolumeId;
      const segments = await (acceptLoss
        ? agent.forcer.force(id, request, reachable)
        : agent.forcer.plan(id, request, reachable));
      return { done: acceptLoss, segments: segments.map(forcedView) };
    },
  });
}

function forcedView({ index, generation, copyGeneration, staleSinceMs, missing }: ForcedSegment) {
  const since = staleSinceMs === 0 ? {} : { staleSinceMs };
  return { index, generation, copyGeneration, ...since, missingDrives: [...missing] };
}

async function ownCopies({ agent }: ApiDependencies, id: VolumeId): Promise<VolumeCopies> {
  const copies = await Promise.all(agent.context.shards.map(({ control }) => control.copiesOf(id)));
  const drives = copies.flat().map(({ driveId, uncertainSegments }) => {
    return { id: driveId, uncertainSegments: [...uncertainSegments] };
  });
  return { drives };
}

/** Every open drive of the cluster. Rejects when a node is alive and does not say: it may have better copies. */
async function reachableDrives(api: ApiDependencies, volume: VolumeRecord): Promise<ReachableDrives> {
  const { state, node } = api.agent.context;
  const { nodes, alive } = await state.snapshot();
  const path = `/v1/volumes/${encodeURIComponent(volume.name)}/copies`;
  const answered = [...nodes.values()]
    .filter(({ id }) => alive.has(id))
    .map(async ({ id, name, apiAddress }) => {
      if (id === node.id) return ownCopies(api, volume.id as VolumeId);
      try {
        return (await api.peers.request({
          ...{ apiAddress, method: 'GET', path, timeoutMs: PEER_TIMEOUT_MS },
        })) as VolumeCopies;
      } catch (thrown) {
        const advice = 'it may have better copies; try again, or stop its agent for good';
        const message = `node ${name} is alive and does not say what it has: ${asError(thrown).message}; ${advice}`;
        throw new BraidError('UNAVAILABLE', message, { cause: thrown });
      }
    });
  const drives = (await Promise.all(answered)).flatMap((answer) => answer.drives);
  return new Map(drives.map(({ id, uncertainSegments }) => [id, new Set(uncertainSegments)]));
}

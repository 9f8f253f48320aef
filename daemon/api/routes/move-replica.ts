/** Moving copies of a volume from one drive to another. */
import { BraidError } from '../../base/errors.js';
import type { DriveId, NodeId, VolumeId } from '../../base/ids.js';
import type { DriveRecord, VolumeRecord } from '../../protocol/records.js';
import type { ApiDependencies } from '../dependencies.js';
import type { Api } from '../fastify.js';
import { forward } from '../forward.js';
import { findDrive, findVolume } from '../lookup.js';
import { CancelMove, MovedReplicas, MoveReplica } from '../schemas/index.js';
import { driveUsage } from '../views/usage.js';
import { answers, NameParams, ref } from './documented.js';

const tags = ['volumes'];
/** The owner lists what there is to copy before it answers. */
const TIMEOUT_MS = 120_000;

export function moveReplicaRoutes(app: Api, api: ApiDependencies): void {
  const { agent } = api;
  const { state } = agent.context;

  app.route({
    method: 'POST',
    url: '/v1/volumes/:name/move-replica',
    schema: {
      ...{ tags, operationId: 'moveReplica', summary: 'Moves the copies on one drive to another, while clients go on' },
      description:
        'Answers when it has begun; the volume shows how far it is. The old copies stay until the new ones are in sync. Works as well when the old drive ' +
        'is lost, goes on after a change of owner, and may be repeated. CONFLICT when two copies of a segment would be on one node.',
      params: NameParams,
      body: ref(MoveReplica),
      response: answers(MovedReplicas, 'It has begun'),
    },
    handler: async (request) => {
      const { body } = request;
      const { value: volume } = await findVolume(state, request.params.name);
      const snapshot = await state.snapshot();
      const from = findDrive(snapshot, body.from);
      const to = findDrive(snapshot, body.to);
      const freeBytes = roomOn(to, await driveUsage(api, snapshot));
      const owner = await otherOwner(api, volume);
      if (owner !== null) {
        const path = `/v1/volumes/${encodeURIComponent(volume.name)}/move-replica`;
        return (await forward(api, request, owner, {
          method: 'POST',
          path,
          body,
          timeoutMs: TIMEOUT_MS,
        })) as MovedReplicas;
      }
      const segment = body.segment === undefined ? {} : { segment: body.segment };
      const drives = { from: from.id as DriveId, to: to.id as DriveId };
      return { segments: await agent.moveReplicas(volume.id as VolumeId, { ...drives, ...segment, freeBytes }) };
    },
  });

  app.route({
    method: 'POST',
    url: '/v1/volumes/:name/cancel-move',
    schema: {
      ...{ tags, operationId: 'cancelMove', summary: 'Gives up moves of copies; the old copies stay' },
      description: 'Copies that have been moved already stay where they are.',
      params: NameParams,
      body: ref(CancelMove),
      response: answers(MovedReplicas, 'They are given up'),
    },
    handler: async (request) => {
      const body = request.body ?? {};
      const { value: volume } = await findVolume(state, request.params.name);
      const to = body.to === undefined ? null : findDrive(await state.snapshot(), body.to);
      const owner = await otherOwner(api, volume);
      if (owner !== null) {
        const path = `/v1/volumes/${encodeURIComponent(volume.name)}/cancel-move`;
        return (await forward(api, request, owner, {
          method: 'POST',
          path,
          body,
          timeoutMs: TIMEOUT_MS,
        })) as MovedReplicas;
      }
      return { segments: await agent.cancelMoves(volume.id as VolumeId, (to?.id ?? null) as DriveId | null) };
    },
  });
}

/** The node that the volume is attached to, when it is not this one. */
async function otherOwner({ agent }: ApiDependencies, volume: VolumeRecord) {
  const { state, node } = agent.context;
  const attachment = await state.attachment(volume.id as VolumeId);
  if (attachment === null) {
    const message = `volume ${volume.name} is not attached: attach it first, as its copies are made by the node that serves it`;
    throw new BraidError('CONFLICT', message);
  }
  const { nodeId } = attachment.value;
  if (nodeId === node.id) return null;
  const other = await state.node(nodeId as NodeId);
  if (other !== null) return other.value;
  throw new BraidError('UNAVAILABLE', `the node of volume "${volume.name}" is leaving the cluster; try again`);
}

function roomOn({ id, capacityBytes }: DriveRecord, usage: Awaited<ReturnType<typeof driveUsage>>): number {
  const found = usage.get(id);
  if (found?.state === 'open') return capacityBytes - found.usedBytes;
  const message = `drive ${id} is not open (${found?.reason || 'it is being opened'}): choose another drive, or try again when it is`;
  throw new BraidError('UNAVAILABLE', message);
}

/** Attach and detach. */
import type { FastifyRequest } from 'fastify';
import { BraidError } from '../../base/errors.js';
import type { NodeId, VolumeId } from '../../base/ids.js';
import type { NodeRecord, VolumeRecord } from '../../protocol/records.js';
import type { ApiDependencies } from '../dependencies.js';
import type { Api } from '../fastify.js';
import { forward, isForwarded } from '../forward.js';
import { findNode, findVolume } from '../lookup.js';
import {
  ATTACH_TIMEOUT_MS_DEFAULT,
  AttachedVolume,
  AttachVolume,
  DETACH_TIMEOUT_MS_DEFAULT,
  DetachedVolume,
  DetachVolume,
} from '../schemas/index.js';
import { nbdUrisView } from '../views/volume.js';
import { answers, NameParams, ref } from './documented.js';

const tags = ['volumes'];
/** Beyond the time that the other node may use itself. */
const FORWARD_MARGIN_MS = 5_000;
/** By force, a node that hangs is not waited for. */
const FORCED_WAIT_MS = 3_000;

export function attachRoutes(app: Api, api: ApiDependencies): void {
  const { agent } = api;
  const { state, node } = agent.context;

  app.route({
    method: 'POST',
    url: '/v1/volumes/:name/attach',
    schema: {
      ...{ tags, operationId: 'attachVolume', summary: 'Serves the volume on a node, as NBD export or block device' },
      description:
        'On the node that is asked, unless `node` names another. Waits until it is served. Idempotent on one node; CONFLICT while it is attached to ' +
        'another one that is alive; takes the volume over from a node whose lease has ended.',
      params: NameParams,
      body: ref(AttachVolume),
      response: answers(AttachedVolume, 'It is served'),
    },
    handler: async (request) => {
      const {
        device = false,
        timeoutMs = ATTACH_TIMEOUT_MS_DEFAULT,
        node: target = node.name,
      } = bodyOf<AttachVolume>(request);
      const { value: volume } = await findVolume(state, request.params.name);
      const record = await findNode(state, target);
      const attached = await agent.attachRequests.attach({ volume, node: record, device, timeoutMs });
      return {
        node: record.name,
        ...nbdUrisView(attached),
        ...(attached.device === '' ? {} : { device: attached.device }),
      };
    },
  });

  app.route({
    method: 'POST',
    url: '/v1/volumes/:name/detach',
    schema: {
      ...{ tags, operationId: 'detachVolume', summary: 'Ends the attachment and waits until the owner has let go' },
      description:
        'CONFLICT while its block device is in use, unless forced. A volume that is not attached is success.',
      params: NameParams,
      body: ref(DetachVolume),
      response: answers(DetachedVolume, 'It is not attached any more'),
    },
    handler: async (request) => {
      const body = bodyOf<DetachVolume>(request);
      const { value: volume } = await findVolume(state, request.params.name);
      return detach(api, request, volume, body);
    },
  });
}

/** The node that has it detaches the device first; a dead one is not asked. */
async function detach(
  api: ApiDependencies,
  request: Pick<FastifyRequest, 'headers'>,
  volume: VolumeRecord,
  { force = false, timeoutMs = DETACH_TIMEOUT_MS_DEFAULT }: DetachVolume,
): Promise<DetachedVolume> {
  const { agent } = api;
  const { state, node } = agent.context;
  const attachment = await state.attachment(volume.id as VolumeId);
  if (attachment === null) return { released: await agent.attachRequests.waitReleased(volume, timeoutMs) };
  const holder = attachment.value.nodeId;
  if (holder !== node.id && isForwarded(request)) {
    // Meant for this node as the holder, and late: the volume has gone to another node since, and stays there.
    throw new BraidError(
      'ABORTED',
      `volume ${volume.name} is attached to another node by now; try again if it is to be detached there`,
    );
  }
  if (holder === node.id) {
    await agent.attachments.detach(volume.id as VolumeId, force);
    return { released: await agent.attachRequests.waitReleased(volume, timeoutMs) };
  }
  const other = (await agent.attachRequests.isAlive(holder)) ? await state.node(holder as NodeId) : null;
  if (other !== null) {
    const answer = await askHolder(api, request, other.value, volume.name, { force, timeoutMs });
    if (answer !== null) return answer;
  }
  return { released: await agent.attachRequests.abandon(volume, other === null ? 0 : timeoutMs) };
}

/** What the other node answers; null when it cannot be reached and the caller goes on without it by force. */
async function askHolder(
  api: ApiDependencies,
  request: Pick<FastifyRequest, 'headers'>,
  holder: NodeRecord,
  name: string,
  body: { readonly force: boolean; readonly timeoutMs: number },
): Promise<DetachedVolume | null> {
  const path = `/v1/volumes/${encodeURIComponent(name)}/detach`;
  const timeoutMs = body.force ? FORCED_WAIT_MS : body.timeoutMs + FORWARD_MARGIN_MS;
  try {
    return (await forward(api, request, holder, { method: 'POST', path, body, timeoutMs })) as DetachedVolume;
  } catch (thrown) {
    const isUnreachable = thrown instanceof BraidError && (thrown.code === 'UNAVAILABLE' || thrown.code === 'TIMEOUT');
    if (!isUnreachable) throw thrown;
    if (body.force) return null;
    const advice =
      'try again, or detach with force: then its node follows when it can, and users of the device get I/O errors';
    throw new BraidError(thrown.code, `${thrown.message}; ${advice}`, { cause: thrown });
  }
}

/** A request without a body asks for the defaults. */
function bodyOf<T>(request: { readonly body: unknown }): T {
  return (request.body ?? {}) as T;
}

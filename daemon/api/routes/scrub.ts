/** Scrub: each drive's data against its checksums, each volume's copies against each other. */
import type { FastifyRequest } from 'fastify';
import { asError, BraidError } from '../../base/errors.js';
import type { NodeId, VolumeId } from '../../base/ids.js';
import type { NodeRecord } from '../../protocol/records.js';
import type { ApiDependencies } from '../dependencies.js';
import type { Api } from '../fastify.js';
import { forward, isForwarded } from '../forward.js';
import { findVolume } from '../lookup.js';
import { ScrubAnswer, ScrubRequest, ScrubStatus } from '../schemas/index.js';
import { askNode } from '../views/usage.js';
import { answers, ref } from './documented.js';

const tags = ['scrub'];
const FORWARD_TIMEOUT_MS = 10_000;
type Asked = FastifyRequest<{ Body: ScrubRequest }>;

export function scrubRoutes(app: Api, api: ApiDependencies): void {
  app.route({
    method: 'GET',
    url: '/v1/scrub',
    schema: {
      ...{ tags, operationId: 'getScrub', summary: 'How far the scrubs are, and what they have found' },
      response: answers(ScrubStatus, 'Of all drives, and of the volumes that are served'),
    },
    handler: () => scrubStatus(api),
  });

  app.route({
    method: 'POST',
    url: '/v1/scrub',
    schema: {
      ...{ tags, operationId: 'scrub', summary: 'Starts or stops scrubs' },
      description:
        'Of one drive, of one volume that is attached, or without either of all. Answers at once; GET tells how far it is.',
      body: ref(ScrubRequest),
      response: answers(ScrubAnswer, 'What was told to start or stop'),
    },
    handler: async (request) => {
      const { drive, volume } = request.body;
      if (drive !== undefined && volume !== undefined)
        throw new BraidError('INVALID_ARGUMENT', 'name a drive or a volume, not both; without either all are meant');
      if (drive !== undefined) return scrubOneDrive(api, request, drive);
      if (volume !== undefined) return scrubOneVolume(api, request, volume);
      return scrubAll(api, request);
    },
  });
}

async function scrubOneDrive(api: ApiDependencies, request: Asked, id: string): Promise<ScrubAnswer> {
  const { agent } = api;
  const { state, node } = agent.context;
  const drive = (await state.drives()).find(({ value }) => value.id === id)?.value;
  if (drive === undefined)
    throw new BraidError('NOT_FOUND', `there is no drive "${id}"; GET /v1/drives lists them all`);
  if (drive.nodeId !== node.id) return passOn(api, request, drive.nodeId);
  await agent.scrubDrive(id, request.body.action);
  return { drives: [id], volumes: [], failures: [] };
}

async function scrubOneVolume(api: ApiDependencies, request: Asked, name: string): Promise<ScrubAnswer> {
  const { agent } = api;
  const { state, node } = agent.context;
  const { value: volume } = await findVolume(state, name);
  const attachment = await state.attachment(volume.id as VolumeId);
  if (attachment === null) {
    const advice =
      'attach it, or scrub the drives that hold its copies: what they find is repaired when it is attached';
    throw new BraidError('CONFLICT', `volume "${name}" is not attached, so nobody can compare its copies: ${advice}`);
  }
  if (attachment.value.nodeId !== node.id) return passOn(api, request, attachment.value.nodeId);
  await agent.scrubVolume(volume, request.body.action);
  return { drives: [], volumes: [name], failures: [] };
}

async function scrubAll(api: ApiDependencies, request: Asked): Promise<ScrubAnswer> {
  const own = await scrubOwn(api, request.body.action);
  if (isForwarded(request)) return own;
  const { state, node } = api.agent.context;
  const others = (await state.nodes()).map(({ value }) => value).filter(({ id }) => id !== node.id);
  const all = [own, ...(await Promise.all(others.map((other) => askOther(api, request, other))))];
  return {
    drives: all.flatMap(({ drives }) => drives),
    volumes: all.flatMap(({ volumes }) => volumes),
    failures: all.flatMap(({ failures }) => failures),
  };
}

/** Everything of this node. */
async function scrubOwn({ agent }: ApiDependencies, action: ScrubRequest['action']): Promise<ScrubAnswer> {
  const answer: ScrubAnswer = { drives: [], volumes: [], failures: [] };
  const attempt = async (told: string[], name: string, tell: () => Promise<void>): Promise<void> => {
    try {
      await tell();
      told.push(name);
    } catch (thrown) {
      if (!(thrown instanceof BraidError)) throw thrown;
      answer.failures.push(thrown.message);
    }
  };
  for (const { record } of agent.drives.list())
    await attempt(answer.drives, record.id, () => agent.scrubDrive(record.id, action));
  for (const { volumeId } of agent.attachments.served()) {
    const volume = (await agent.context.state.volume(volumeId))?.value;
    if (volume !== undefined) await attempt(answer.volumes, volume.name, () => agent.scrubVolume(volume, action));
  }
  return answer;
}

async function askOther(api: ApiDependencies, request: Asked, node: NodeRecord): Promise<ScrubAnswer> {
  try {
    return await ask(api, request, node);
  } catch (thrown) {
    if (!(thrown instanceof BraidError)) throw thrown;
    return { drives: [], volumes: [], failures: [`node ${node.name}: ${asError(thrown).message}`] };
  }
}

async function passOn(api: ApiDependencies, request: Asked, nodeId: string): Promise<ScrubAnswer> {
  const node = await api.agent.context.state.node(nodeId as NodeId);
  if (node === null) throw new BraidError('UNAVAILABLE', 'its node is not in the cluster any more');
  return ask(api, request, node.value);
}

async function ask(api: ApiDependencies, request: Asked, node: NodeRecord): Promise<ScrubAnswer> {
  const forwarded = { method: 'POST', path: '/v1/scrub', body: request.body, timeoutMs: FORWARD_TIMEOUT_MS } as const;
  return (await forward(api, request, node, forwarded)) as ScrubAnswer;
}

async function scrubStatus(api: ApiDependencies): Promise<ScrubStatus> {
  const snapshot = await api.agent.context.state.snapshot();
  const status: ScrubStatus = { drives: [], volumes: [], unknown: [] };
  const nodes = [...snapshot.nodes.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  const found = await Promise.all(nodes.map(({ id }) => askNode(api, snapshot, id)));
  for (const stats of found) {
    if (typeof stats === 'string') {
      status.unknown.push(stats);
      continue;
    }
    for (const { id, path, scrub } of stats.drives) status.drives.push({ id, node: stats.node, path, scrub });
    for (const { name, scrub } of stats.volumes) status.volumes.push({ name, node: stats.node, scrub });
  }
  return status;
}

import { BraidError } from '../../base/errors.js';
import type { DriveId, NodeId } from '../../base/ids.js';
import type { ApiDependencies } from '../dependencies.js';
import type { Api } from '../fastify.js';
import { forward } from '../forward.js';
import { bytesOf, findNode } from '../lookup.js';
import { AddDrive, Drive, DriveList } from '../schemas/index.js';
import { driveView, driveViews } from '../views/cluster.js';
import { answers, ref } from './documented.js';
import { Type } from 'typebox';

const tags = ['drives'];
/** Preallocating a large drive takes its time on file systems that must write zeros. */
const ADD_TIMEOUT_MS = 300_000;
/** A large drive is scanned when it is opened. */
const REOPEN_TIMEOUT_MS = 30_000;
const DriveParams = Type.Object({ id: Type.String({ maxLength: 64 }) });

export function driveRoutes(app: Api, api: ApiDependencies): void {
  const { agent } = api;
  const { state, node } = agent.context;

  app.route({
    method: 'GET',
    url: '/v1/drives',
    schema: {
      tags,
      operationId: 'listDrives',
      summary: 'All drives of the pool',
      response: answers(DriveList, 'By node and path'),
    },
    handler: async () => ({ drives: await driveViews(api) }),
  });

  app.route({
    method: 'GET',
    url: '/v1/drives/:id',
    schema: {
      tags,
      operationId: 'getDrive',
      summary: 'One drive',
      params: DriveParams,
      response: answers(Drive, 'The drive'),
    },
    handler: async ({ params: { id } }) => getDrive(api, id),
  });

  app.route({
    method: 'POST',
    url: '/v1/drives',
    schema: {
      ...{ tags, operationId: 'addDrive', summary: 'Gives a directory of a node to the pool' },
      description:
        'Creates the directory if need be, preallocates its data file and opens it. On another node when `node` says so.',
      body: ref(AddDrive),
      response: answers(Drive, 'It is open'),
    },
    handler: async (request) => {
      const { path, capacity, driveClass = 'ssd', node: target = node.name } = request.body;
      const capacityBytes = bytesOf('capacity', capacity);
      if (target !== node.name) {
        const other = await findNode(state, target);
        const forwarded = {
          method: 'POST',
          path: '/v1/drives',
          body: request.body,
          timeoutMs: ADD_TIMEOUT_MS,
        } as const;
        return (await forward(api, request, other, forwarded)) as Drive;
      }
      const { record } = await agent.drives.add({ path, capacityBytes, driveClass });
      const nodes = new Map([[node.id, { name: node.name }]]);
      return driveView(record, nodes, { state: 'open', reason: '', usedBytes: 0 }, 0);
    },
  });

  app.route({
    method: 'POST',
    url: '/v1/drives/:id/reopen',
    schema: {
      ...{ tags, operationId: 'reopenDrive', summary: 'Opens a drive that has failed, once it was repaired' },
      description:
        'A drive that failed is tried again by itself, ever more rarely: this does it now. Its copies then catch up with what they missed. ' +
        'A drive that is open stays as it is. DRIVE when it still cannot be opened, with why; UNAVAILABLE while it does not answer.',
      params: DriveParams,
      response: answers(Drive, 'It is open'),
    },
    handler: async (request) => {
      const { id } = request.params;
      const record = await state.drive(id as DriveId);
      if (record === null) throw unknownDrive(id);
      if (record.value.nodeId === node.id) {
        await agent.drives.reopen(id);
        return getDrive(api, id);
      }
      const other = await state.node(record.value.nodeId as NodeId);
      if (other === null) throw unknownDrive(id);
      const path = `/v1/drives/${encodeURIComponent(id)}/reopen`;
      return (await forward(api, request, other.value, {
        method: 'POST',
        path,
        timeoutMs: REOPEN_TIMEOUT_MS,
      })) as Drive;
    },
  });
}

async function getDrive(api: ApiDependencies, id: string): Promise<Drive> {
  const drive = (await driveViews(api)).find((each) => each.id === id);
  if (drive === undefined) throw unknownDrive(id);
  return drive;
}

function unknownDrive(id: string): BraidError {
  return new BraidError('NOT_FOUND', `there is no drive "${id}"; GET /v1/drives lists them all`);
}

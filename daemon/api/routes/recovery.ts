/** Rebuilding a lost cluster store from the drives. */
import { BraidError } from '../../base/errors.js';
import type { ReadDrive } from '../../control/drives.js';
import type { Recovered } from '../../control/recovery.js';
import type { NodeRecord } from '../../protocol/records.js';
import type { ApiDependencies } from '../dependencies.js';
import type { Api } from '../fastify.js';
import { findNode } from '../lookup.js';
import { KeptDrives, ReadDrives, Recover, Recovery } from '../schemas/index.js';
import { answers, ref } from './documented.js';

const tags = ['recovery'];
/** A drive's metadata is read once, all of it. */
const READ_TIMEOUT_MS = 600_000;
const READ_PATH = '/v1/recovery/drives';

export function recoveryRoutes(app: Api, api: ApiDependencies): void {
  const { agent } = api;

  app.route({
    method: 'POST',
    url: READ_PATH,
    schema: {
      ...{ tags, operationId: 'readDrives', summary: 'What the drives of the node that answers keep of the cluster' },
      description: 'Those that the node remembers, and those in `paths`. CONFLICT unless the cluster store is empty.',
      body: ref(ReadDrives),
      response: answers(KeptDrives, 'As read'),
    },
    handler: async ({ body }) => keptView(await agent.recovery.readOwn(body?.paths ?? [])),
  });

  app.route({
    method: 'POST',
    url: '/v1/recovery',
    schema: {
      ...{ tags, operationId: 'recover', summary: 'Rebuilds an empty cluster store from what the drives keep' },
      description:
        'Asks every node that is alive. CONFLICT, with all that is doubtful, unless every volume with doubts is accepted or skipped; CONFLICT ' +
        'when the store is in use.',
      body: ref(Recover),
      response: answers(Recovery, 'What was restored, or would be'),
    },
    handler: async ({ body }) => {
      const { dryRun = false, accept = [], skip = [], clusterId, drives = [] } = body ?? {};
      const choice = { accept, skip, ...(clusterId === undefined ? {} : { clusterId }) };
      const read = await readAll(api, drives);
      const recovered = await (dryRun ? agent.recovery.plan(read, choice) : agent.recovery.restore(read, choice));
      return recoveryView(
        recovered,
        !dryRun,
        await agent.context.state.nodes().then((nodes) => nodes.map(({ value }) => value)),
      );
    },
  });
}

/** Of every node that is alive. Rejects when one does not answer: it may have the newest copies. */
async function readAll(
  api: ApiDependencies,
  named: readonly { readonly node: string; readonly path: string }[],
): Promise<readonly ReadDrive[]> {
  const { state, node } = api.agent.context;
  for (const name of new Set(named.map((drive) => drive.node))) await findNode(state, name);
  const { nodes, alive } = await state.snapshot();
  const silent = named.find((drive) =>
    [...nodes.values()].some(({ id, name }) => name === drive.node && !alive.has(id)),
  );
  if (silent !== undefined)
    throw new BraidError(
      'UNAVAILABLE',
      `node ${silent.node} is not alive: start its agent, or name its drives elsewhere`,
    );
  const read = [...nodes.values()]
    .filter(({ id }) => alive.has(id))
    .map(async (record) => {
      const paths = named.filter((drive) => drive.node === record.name).map(({ path }) => path);
      return record.id === node.id ? api.agent.recovery.readOwn(paths) : askNode(api, record, paths);
    });
  return (await Promise.all(read)).flat();
}

async function askNode(
  { peers }: ApiDependencies,
  { apiAddress }: NodeRecord,
  paths: string[],
): Promise<readonly ReadDrive[]> {
  const request = { apiAddress, method: 'POST', path: READ_PATH, body: { paths }, timeoutMs: READ_TIMEOUT_MS } as const;
  return ((await peers.request(request)) as KeptDrives).drives as readonly ReadDrive[];
}

function keptView(drives: readonly ReadDrive[]): KeptDrives {
  return { drives: structuredClone(drives) as KeptDrives['drives'] };
}

function recoveryView({ plan, mustRestart }: Recovered, done: boolean, nodes: readonly NodeRecord[]): Recovery {
  const nameOf = (nodeId: string): string => nodes.find(({ id }) => id === nodeId)?.name ?? nodeId;
  return {
    ...{ done, mustRestart, clusterId: plan.clusterId, problems: [...plan.problems] },
    drives: plan.drives.map(({ record: { id, nodeId, path }, state, reason }) => {
      return { id, node: nameOf(nodeId), path, state, reason };
    }),
    volumes: plan.volumes.map(({ id, name, decision, doubts, restored }) => {
      return { id, name, sizeBytes: restored?.volume.sizeBytes ?? 0, decision, doubts: [...doubts] };
    }),
  };
}

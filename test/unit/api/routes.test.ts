import t from 'tap';
import type { DriveId, VolumeId } from '../../../daemon/base/ids.js';
import { limits } from '../../../daemon/base/limits.js';
import { putRecord } from '../../../daemon/control/cluster-state.js';
import { records, type ReplicaRecord } from '../../../daemon/protocol/records.js';
import { storeKeys } from '../../../daemon/protocol/store.js';
import { ApiWorld, type TestApi } from './fixture.js';

const GIB = 2 ** 30;
const v1 = { name: 'v1', size: '64Mi' };

t.test('probes: alive at once, ready when started, not ready without a lease', async (t) => {
  const world = new ApiWorld('probes');
  const cold = await world.serve(world.node('cold'));
  t.match(await world.ask(cold, 'GET', '/healthz'), { status: 200, body: { status: 'ok' } });
  t.match(await world.ask(cold, 'GET', '/readyz'), {
    status: 503,
    body: { ready: false, node: 'cold', reasons: [/starting/, /lease/] },
  });
  const warm = await new ApiWorld('ready').start(1);
  t.ok(warm);
  const other = new ApiWorld('ready 2');
  const [api] = await other.start(1);
  t.match(await other.ask(api, 'GET', '/readyz'), { status: 200, body: { ready: true, reasons: [] } });
});

t.test('cluster and nodes: health, counts, capacity, reasons', async (t) => {
  const world = new ApiWorld('cluster');
  const [a, b] = await world.start(3);
  await world.ask(a, 'POST', '/v1/volumes', { ...v1, replicas: 3 });
  t.match(await world.ask(b, 'GET', '/v1/cluster'), {
    status: 200,
    body: {
      ...{ name: 'test', health: 'ok', reasons: [], nodes: { total: 3, healthy: 3 }, drives: { total: 3, healthy: 3 } },
      ...{
        volumes: { total: 1, healthy: 1 },
        capacity: { rawBytes: 3 * GIB, usedBytes: 3 * 2 * 131_072, provisionedBytes: 192 * 2 ** 20 },
      },
    },
  });
  world.crash(b.node);
  await world.sleep(limits.leaseTtlMs + 100);
  const sick = await world.ask(a, 'GET', '/v1/cluster');
  t.match(sick.body, {
    health: 'degraded',
    nodes: { total: 3, healthy: 2 },
    drives: { healthy: 2 },
    volumes: { healthy: 0 },
  });
  t.match(sick.body['reasons'], ['node node-b is not alive', /^volume v1 is degraded/]);
  const nodes = await world.ask(a, 'GET', '/v1/nodes');
  t.match(nodes.body['nodes'], [
    { name: 'node-a', alive: true, driveCount: 1, apiAddress: 'http://node-a', labels: { rack: 'a' } },
    { name: 'node-b', alive: false },
    { name: 'node-c', alive: true },
  ]);
});

t.test('drives: listed with what their nodes say, added here and elsewhere', async (t) => {
  const world = new ApiWorld('drives');
  const [a, b] = await world.start(2);
  await world.ask(a, 'POST', '/v1/volumes', v1);
  world.peers.cut.add('http://node-b');
  const listed = await world.ask(a, 'GET', '/v1/drives');
  t.match(listed.body['drives'], [
    {
      node: 'node-a',
      path: '/drives/node-a',
      driveClass: 'ssd',
      capacityBytes: GIB,
      usedBytes: 2 * 131_072,
      state: 'open',
      replicaCount: 1,
    },
    { node: 'node-b', state: 'unknown', reason: /node-b does not answer/, replicaCount: 1 },
  ]);
  world.peers.cut.clear();
  const added = await world.ask(a, 'POST', '/v1/drives', {
    path: '/drives/more',
    capacity: '20Gi',
    driveClass: 'nvme',
    node: 'node-b',
  });
  t.match(added, {
    status: 200,
    body: { node: 'node-b', path: '/drives/more', driveClass: 'nvme', capacityBytes: 20 * GIB, state: 'open' },
  });
  t.equal(b.node.agent.drives.list().length, 2);
  const id = String(added.body['id']);
  t.match(await world.ask(a, 'GET', `/v1/drives/${id}`), { status: 200, body: { id, state: 'open' } });
  const again = await world.ask(a, 'POST', '/v1/drives', { path: '/drives/more', capacity: '20Gi', node: 'node-b' });
  t.match(again, { status: 409, body: { error: { code: 'ALREADY_EXISTS', retryable: false } } });
});

t.test('drives: opened again, here and elsewhere', async (t) => {
  const world = new ApiWorld('reopen');
  const [a, b] = await world.start(2);
  for (const { node } of [a, b]) {
    const id = node.agent.drives.list()[0]?.record.id as DriveId;
    node.shard.failedDrives.set(id, 'an I/O error');
    t.match(await world.ask(a, 'GET', `/v1/drives/${id}`), { body: { state: 'failed', reason: 'an I/O error' } });
    node.shard.fail('openDrive', 'DRIVE', 'the data file has vanished');
    t.match(await world.ask(a, 'POST', `/v1/drives/${id}/reopen`), {
      status: 500,
      body: { error: { code: 'DRIVE', message: /the data file has vanished/ } },
    });
    t.match(await world.ask(a, 'POST', `/v1/drives/${id}/reopen`), {
      status: 200,
      body: { id, node: node.name, state: 'open', reason: '' },
    });
    const { body } = await world.inject((node === a.node ? a : b).app, { method: 'GET', url: '/metrics' });
    t.match(body, new RegExp(`braid_drive_failures_total\\{drive="${id}",path="[^"]*"\\} 2`));
  }
  t.match(await world.ask(a, 'POST', '/v1/drives/none/reopen'), {
    status: 404,
    body: { error: { code: 'NOT_FOUND' } },
  });
});

t.test('drives: errors', async (t) => {
  const world = new ApiWorld('drive errors');
  const [a, b] = await world.start(2);
  const add = (body: object) => world.ask(a, 'POST', '/v1/drives', body);
  t.match(await add({ path: '/x' }), {
    status: 400,
    body: { error: { code: 'INVALID_ARGUMENT', message: /needs "capacity"/ } },
  });
  t.match(await add({ path: 'relative', capacity: 1 }), {
    status: 400,
    body: { error: { message: /path is malformed/ } },
  });
  t.match(await add({ path: '/x', capacity: 'lots' }), {
    status: 400,
    body: { error: { message: /capacity is malformed.*Ki, Mi/ } },
  });
  t.match(await add({ path: '/x', capacity: '1Gi', driveClass: 'tape' }), {
    status: 400,
    body: { error: { message: /one of nvme, ssd, hdd/ } },
  });
  t.match(await add({ path: '/x', capacity: '1Gi', node: 'node-d' }), {
    status: 404,
    body: { error: { message: /did you mean "node-a"/ } },
  });
  t.match(await world.ask(a, 'GET', '/v1/drives/none'), { status: 404, body: { error: { code: 'NOT_FOUND' } } });
  world.crash(b.node);
  await world.sleep(limits.leaseTtlMs + 100);
  t.match(await add({ path: '/x', capacity: '1Gi', node: 'node-b' }), {
    status: 503,
    body: { error: { code: 'UNAVAILABLE', retryable: true } },
  });
});

t.test('volumes: created, listed, shown', async (t) => {
  const world = new ApiWorld('volumes');
  const [a, b] = await world.start(3);
  const created = await world.ask(a, 'POST', '/v1/volumes', {
    ...v1,
    replicas: 3,
    whenDegraded: 'fail',
    labels: { app: 'db' },
    segmentSize: '32Mi',
  });
  t.match(created, {
    status: 200,
    body: {
      ...{
        name: 'v1',
        sizeBytes: 64 * 2 ** 20,
        replicas: 3,
        minInSync: 2,
        whenDegraded: 'fail',
        health: 'ok',
        reason: '',
      },
      ...{
        segmentBytes: 32 * 2 ** 20,
        labels: { app: 'db' },
        epoch: 0,
        resync: { bytesDone: 0, bytesTotal: 0, etaSeconds: null },
      },
    },
  });
  const shown = await world.ask(b, 'GET', '/v1/volumes/v1');
  const segments = shown.body['segments'] as unknown as { replicas: { node: string }[] }[];
  t.equal(segments.length, 2);
  t.same(segments[0]?.replicas.map(({ node }) => node).sort(), ['node-a', 'node-b', 'node-c']);
  t.match(segments[0]?.replicas[0], { state: 'in-sync', alive: true });
  await world.ask(a, 'POST', '/v1/volumes', { name: 'another', size: 2 * GIB });
  const listed = await world.ask(b, 'GET', '/v1/volumes');
  t.match(listed.body['volumes'], [
    { name: 'another', replicas: 2, sizeBytes: 2 * GIB },
    { name: 'v1', health: 'ok' },
  ]);
});

t.test('volumes: errors say what to do', async (t) => {
  const world = new ApiWorld('volume errors');
  const [a] = await world.start(2);
  const create = (body: object) => world.ask(a, 'POST', '/v1/volumes', body);
  await create(v1);
  const cases: [object, number, string, RegExp][] = [
    [v1, 409, 'ALREADY_EXISTS', /choose another name/],
    [{ ...v1, name: 'Big One' }, 400, 'INVALID_ARGUMENT', /name is malformed; expected: Lower-case/],
    [{ ...v1, name: 'v2', size: '1Ki' }, 400, 'INVALID_ARGUMENT', /1 MiB to 64 TiB/],
    [{ ...v1, name: 'v2', replicas: 4 }, 400, 'INVALID_ARGUMENT', /replicas must be <= 3/],
    [{ ...v1, name: 'v2', replicas: 3 }, 507, 'NO_SPACE', /3 copies need drives on 3 different nodes/],
    [{ ...v1, name: 'v2', minInSync: 3 }, 400, 'INVALID_ARGUMENT', /minInSync 3 is more than/],
    [{ ...v1, name: 'v2', replica: 2 }, 400, 'INVALID_ARGUMENT', /no field "replica"; did you mean "replicas"/],
    [{ ...v1, name: 'v2', labels: { '-bad-': 'x' } }, 400, 'INVALID_ARGUMENT', /labels/],
    [{}, 400, 'INVALID_ARGUMENT', /needs "name"/],
  ];
  for (const [body, status, code, message] of cases)
    t.match(await create(body), { status, body: { error: { code, message } } });
  t.match(await world.ask(a, 'GET', '/v1/volumes/v11'), {
    status: 404,
    body: { error: { message: /no volume "v11"; did you mean "v1"/ } },
  });
  t.match(await world.ask(a, 'DELETE', '/v1/volumes/nothing-like-it'), {
    status: 404,
    body: { error: { code: 'NOT_FOUND' } },
  });
  t.match(await world.ask(a, 'GET', '/v1/volumes/BAD'), { status: 400, body: { error: { code: 'INVALID_ARGUMENT' } } });
});

t.test('volumes: deletion is refused while attached, unless forced', async (t) => {
  const world = new ApiWorld('delete');
  const [a, b] = await world.start(2);
  const { body } = await world.ask(a, 'POST', '/v1/volumes', v1);
  await world.ask(a, 'POST', '/v1/volumes/v1/attach', { node: 'node-b' });
  t.match(await world.ask(a, 'DELETE', '/v1/volumes/v1'), {
    status: 409,
    body: { error: { code: 'CONFLICT', message: /node-b/ } },
  });
  t.match(await world.ask(a, 'DELETE', '/v1/volumes/v1?force=true'), { status: 200, body: { name: 'v1' } });
  t.match(await world.ask(b, 'GET', '/v1/volumes'), { body: { volumes: [] } });
  await world.until(
    'its records are gone',
    async () => (await world.state.volume(String(body['id']) as VolumeId)) === null,
  );
  t.match(await world.ask(a, 'DELETE', '/v1/volumes/v1?forse=true'), {
    status: 400,
    body: { error: { message: /did you mean "force"/ } },
  });
});

t.test('attach and detach through any node', async (t) => {
  const world = new ApiWorld('attach');
  const [a, b] = await world.start(2);
  await world.ask(a, 'POST', '/v1/volumes', v1);
  const attached = await world.ask(a, 'POST', '/v1/volumes/v1/attach', { node: 'node-b', device: true });
  t.match(attached, {
    status: 200,
    body: {
      ...{ node: 'node-b', device: '/dev/loop0' },
      ...{ nbdUri: 'nbd+unix:///v1?socket=%2Frun%2Fnode-b.sock', nbdTcpUri: 'nbd://host-b:10809/v1' },
    },
  });
  const shown = await world.ask(a, 'GET', '/v1/volumes/v1');
  t.match(shown.body, {
    ...{ owner: 'node-b', epoch: 1, node: 'node-b', device: '/dev/loop0', health: 'ok' },
    ...{ nbdUri: /^nbd\+unix/, nbdTcpUri: 'nbd://host-b:10809/v1' },
    attachment: { node: 'node-b', device: true, state: 'serving', error: '' },
  });
  t.match(await world.ask(a, 'POST', '/v1/volumes/v1/attach'), { status: 409, body: { error: { code: 'CONFLICT' } } });
  b.node.devices.busy.add('v1');
  t.match(await world.ask(a, 'POST', '/v1/volumes/v1/detach'), {
    status: 409,
    body: { error: { code: 'CONFLICT', message: /mounted/ } },
  });
  t.match(await world.ask(a, 'POST', '/v1/volumes/v1/detach', { force: true }), {
    status: 200,
    body: { released: true },
  });
  t.equal(b.node.devices.attached.size, 0);
  t.match(await world.ask(a, 'POST', '/v1/volumes/v1/detach'), { status: 200, body: { released: true } }, 'idempotent');
  t.match(await world.ask(a, 'POST', '/v1/volumes/v1/attach'), { status: 200, body: { node: 'node-a' } });
});

t.test('attach: errors', async (t) => {
  const world = new ApiWorld('attach errors');
  const [a, b] = await world.start(2);
  await world.ask(a, 'POST', '/v1/volumes', v1);
  const attach = (body: object, name = 'v1') => world.ask(a, 'POST', `/v1/volumes/${name}/attach`, body);
  t.match(await attach({}, 'v2'), { status: 404, body: { error: { message: /did you mean "v1"/ } } });
  t.match(await attach({ node: 'node-x' }), { status: 404, body: { error: { message: /no node "node-x"/ } } });
  t.match(await attach({ devise: true }), { status: 400, body: { error: { message: /did you mean "device"/ } } });
  for (let i = 0; i < 20; i++) b.node.shard.fail('takeVolume', 'UNAVAILABLE', 'no copy answers');
  t.match(await attach({ node: 'node-b', timeoutMs: 500 }), {
    status: 504,
    body: { error: { code: 'TIMEOUT', message: /no copy answers/, retryable: true } },
  });
  world.crash(b.node);
  await world.sleep(limits.leaseTtlMs + 100);
  t.match(await attach({ node: 'node-b' }), {
    status: 503,
    body: { error: { code: 'UNAVAILABLE', message: /node-b is not alive/ } },
  });
  t.match(await attach({}), { status: 200, body: { node: 'node-a' } }, 'taken over from the dead node');
});

t.test('detach when the node does not answer or is dead', async (t) => {
  const world = new ApiWorld('detach');
  const [a, b] = await world.start(2);
  await world.ask(a, 'POST', '/v1/volumes', v1);
  await world.ask(a, 'POST', '/v1/volumes/v1/attach', { node: 'node-b' });
  world.peers.cut.add('http://node-b');
  const refused = await world.ask(a, 'POST', '/v1/volumes/v1/detach');
  t.match(refused, { status: 503, body: { error: { code: 'UNAVAILABLE', message: /cannot be reached.*with force/ } } });
  t.match(await world.ask(a, 'POST', '/v1/volumes/v1/detach', { force: true }), {
    status: 200,
    body: { released: true },
  });
  t.equal(b.node.shard.volumes.size, 0, 'the node follows through the store');
  world.peers.cut.clear();
  await world.ask(a, 'POST', '/v1/volumes/v1/attach', { node: 'node-b' });
  world.crash(b.node);
  await world.sleep(limits.leaseTtlMs + 100);
  t.match(await world.ask(a, 'POST', '/v1/volumes/v1/detach'), { status: 200, body: { released: false } });
});

t.test('verify: by the owner, or here when there is none', async (t) => {
  const world = new ApiWorld('verify');
  const [a, b] = await world.start(2);
  await world.ask(a, 'POST', '/v1/volumes', v1);
  const report = {
    extentsCompared: 4,
    bytesCompared: 524_288,
    copiesMin: 2,
    differences: [{ segment: 0, extent: 3, offsetBytes: 393_216, driveIds: ['d1'] }],
    damaged: [{ segment: 0, extent: 4, offsetBytes: 524_288, driveId: 'd1', problem: 'checksum' }],
  };
  t.same(await world.ask(a, 'POST', '/v1/volumes/v1/verify'), { status: 200, body: report });
  await world.ask(a, 'POST', '/v1/volumes/v1/attach', { node: 'node-b' });
  t.same(await world.ask(a, 'POST', '/v1/volumes/v1/verify'), { status: 200, body: report });
  t.ok(b.node.shard.calls.includes('verifyVolume'));
  t.match(await world.ask(a, 'POST', '/v1/volumes/nope/verify'), { status: 404 });
});

t.test('the owner shows what its shard knows of copies that are not in sync', async (t) => {
  const world = new ApiWorld('degraded');
  const [a] = await world.start(2);
  const { body } = await world.ask(a, 'POST', '/v1/volumes', v1);
  await world.ask(a, 'POST', '/v1/volumes/v1/attach');
  const { shard, agent } = a.node;
  const [{ replicas }] = body['segments'] as unknown as [{ replicas: [{ driveId: DriveId }] }];
  const copy = { driveId: replicas[0].driveId, state: 'syncing' as const, connected: true };
  shard.segments = [{ index: 0, generation: 2, replicas: [copy] }];
  shard.set(body['id'] as unknown as VolumeId, { segmentsDegraded: 1 });
  await world.until('the status is known', () => agent.attachments.served()[0]?.segmentsDegraded === 1);
  const shown = await world.ask(a, 'GET', '/v1/volumes/v1');
  t.match(shown.body['segments'], [{ index: 0, replicas: [{ state: 'syncing' }, { state: 'in-sync' }] }]);
});

t.test('events and stats, with names', async (t) => {
  const world = new ApiWorld('events');
  const [a, b] = await world.start(2);
  await world.ask(a, 'POST', '/v1/volumes', v1);
  await world.ask(b, 'POST', '/v1/volumes/v1/attach');
  await world.run(a.node.agent.context.events.flush());
  const { body } = await world.ask(b, 'GET', '/v1/events?limit=2');
  t.match(body['events'], [
    {},
    { severity: 'info', node: 'node-a', subject: 'volume/v1', message: /^created: 64 MiB, 2 copies/ },
  ]);
  t.match(await world.ask(b, 'GET', `/v1/events?after=${String(body['next'])}`), {
    body: { events: [], next: body['next'] },
  });
  t.match(await world.ask(b, 'GET', '/v1/events?limit=0'), { status: 400, body: { error: { message: /limit/ } } });
  t.match(await world.ask(b, 'GET', '/v1/events?limit=x'), { status: 400 });
  await world.until('the status is known', () => b.node.agent.attachments.served().length > 0);
  t.match(await world.ask(b, 'GET', '/v1/stats'), {
    body: {
      node: 'node-b',
      volumes: [
        {
          name: 'v1',
          state: 'serving',
          inFlight: 1,
          connections: 2,
          write: { operations: 3, latencyBuckets: [0, 1, 2] },
        },
      ],
      drives: [
        {
          path: '/drives/node-b',
          state: 'open',
          usedBytes: 2 * 131_072,
          flush: { operations: 2, errors: 1, latencyBuckets: [0, 0, 1, 1], latencySumUs: 8 },
        },
      ],
      shards: [{ index: 0, slabUsedBytes: { frontend: 1, peer: 2, internal: 3 } }],
    },
  });
});

t.test('metrics in the Prometheus format', async (t) => {
  const world = new ApiWorld('metrics');
  const [a] = await world.start(2);
  await world.ask(a, 'POST', '/v1/volumes', v1);
  await world.ask(a, 'POST', '/v1/volumes/v1/attach');
  const response = await world.inject(a.app, { url: '/metrics' });
  t.match(response.headers, { 'content-type': /^text\/plain; version=0\.0\.4/ });
  for (const line of [
    '# TYPE braid_volume_latency_seconds histogram',
    'braid_volume_operations_total{volume="v1",operation="write"} 3',
    'braid_volume_bytes_total{volume="v1",operation="write"} 12288',
    'braid_volume_latency_seconds_bucket{volume="v1",operation="write",le="0.000002"} 1',
    'braid_volume_latency_seconds_bucket{volume="v1",operation="write",le="0.000004"} 3',
    'braid_volume_latency_seconds_bucket{volume="v1",operation="write",le="+Inf"} 3',
    'braid_volume_latency_seconds_count{volume="v1",operation="write"} 3',
    'braid_volume_in_flight{volume="v1"} 1',
    'braid_volume_degraded_replicas{volume="v1"} 0',
    'braid_slab_used_bytes{shard="0",pool="peer"} 2',
    'braid_store_bytes 4096',
  ]) {
    t.ok(response.body.includes(`${line}\n`), line);
  }
  const ofDrive = response.body.replaceAll(/\{drive="[^"]+",path="\/drives\/node-a"/g, '{');
  for (const line of [
    'braid_drive_metadata_bytes{} 4096',
    'braid_drive_errors_total{,operation="flush"} 1',
    'braid_drive_latency_seconds_bucket{,operation="flush",le="0.000004"} 1',
    'braid_drive_latency_seconds_bucket{,operation="flush",le="0.000008"} 2',
    'braid_drive_latency_seconds_sum{,operation="flush"} 0.000008',
    'braid_drive_latency_seconds_count{,operation="flush"} 2',
  ]) {
    t.ok(ofDrive.includes(`${line}\n`), line);
  }
});

t.test('what is not a request of ours', async (t) => {
  const world = new ApiWorld('foreign');
  const [a] = await world.start(1);
  t.match(await world.ask(a, 'GET', '/v1/volums'), {
    status: 404,
    body: { error: { code: 'NOT_FOUND', message: /did you mean "\/v1\/volumes"/ } },
  });
  const post = (payload: string, headers: Record<string, string>) =>
    world.inject(a.app, { method: 'POST', url: '/v1/volumes', payload, headers });
  const json = { 'content-type': 'application/json' };
  for (const [payload, headers] of [
    ['{"name":', json],
    ['{"__proto__":{}}', json],
    ['name=v1', { 'content-type': 'application/x-www-form-urlencoded' }],
    [JSON.stringify({ ...v1, name: 'x'.repeat(2 ** 20) }), json],
    [JSON.stringify(v1), { ...json, 'sec-fetch-site': 'cross-site' }],
    ['', json],
  ] as const) {
    const response = await post(payload, headers);
    t.equal(response.statusCode, 400);
    t.match(response.json(), { error: { code: 'INVALID_ARGUMENT', retryable: false } });
  }
  a.node.shard.fail('stats', 'INTERNAL', 'x');
  Object.assign(a.node.shard, { stats: () => Promise.reject(new TypeError('a secret')) });
  const broken = await world.ask(a, 'GET', '/v1/stats');
  t.match(broken, { status: 500, body: { error: { code: 'INTERNAL', message: /its log has the details/ } } });
});

t.test('scrub: a drive, a volume, or everything, wherever it is', async (t) => {
  const world = new ApiWorld('scrub');
  const [a, b] = await world.start(2);
  await world.ask(a, 'POST', '/v1/volumes', v1);
  const { body } = await world.ask(a, 'GET', '/v1/drives');
  const drives = body['drives'] as unknown as { id: string; node: string }[];
  const ofB = drives.find(({ node }) => node === 'node-b')?.id ?? '';
  const scrub = (request: object) => world.ask(a, 'POST', '/v1/scrub', request);
  t.same(await scrub({ action: 'start', drive: ofB }), {
    status: 200,
    body: { drives: [ofB], volumes: [], failures: [] },
  });
  t.same(b.node.shard.scrubbed, [`start ${ofB}`]);
  t.match(await scrub({ action: 'start', drive: 'nope' }), { status: 404 });
  t.match(await scrub({ action: 'start', drive: ofB, volume: 'v1' }), { status: 400 });
  t.match(await scrub({ action: 'pause' }), { status: 400 });
  t.match(await scrub({ action: 'start', volume: 'v1' }), { status: 409, body: { error: { message: /attach it/ } } });
  await world.ask(a, 'POST', '/v1/volumes/v1/attach', { node: 'node-b' });
  t.match(await scrub({ action: 'stop', volume: 'v1' }), { status: 200, body: { volumes: ['v1'] } });
  const all = await scrub({ action: 'start' });
  t.match(all, { status: 200, body: { volumes: ['v1'], failures: [] } });
  t.equal((all.body['drives'] as unknown as string[]).length, drives.length);

  const status = await world.ask(a, 'GET', '/v1/scrub');
  t.match(status.body, {
    drives: [{ scrub: { isRunning: true, errors: 2 } }, { node: 'node-b' }],
    volumes: [{ name: 'v1', node: 'node-b', scrub: { completedMs: 1_700_000_000_000 } }],
    unknown: [],
  });
  world.peers.cut.add('http://node-b');
  t.match((await scrub({ action: 'stop' })).body, { failures: [/node-b/] });
  t.match((await world.ask(a, 'GET', '/v1/scrub')).body, { unknown: [/node-b/] });
});
t.test(
  'force-primary: says what would be given up, does it when that is accepted, never beside a better copy',
  async (t) => {
    const world = new ApiWorld('force primary');
    const [a, b] = await world.start(2);
    const { body: volume } = await world.ask(a, 'POST', '/v1/volumes', v1);
    const drive = (node: TestApi) => node.node.agent.drives.list()[0]?.record.id ?? '';
    const id = String(volume['id']) as VolumeId;
    const copy = (driveId: string, inSync: boolean) => ({
      driveId,
      inSync,
      syncedGeneration: 1,
      replaces: '',
      staleSinceMs: 1_234,
    });
    const record = { index: 0, generation: 2, replicas: [copy(drive(a), false), copy(drive(b), true)] };
    await world.run(world.state.commit([], [putRecord(storeKeys.segment(id, 0), records.segment, record)]));
    const force = (body: object) => world.ask(a, 'POST', '/v1/volumes/v1/force-primary', body);
    const copies = await world.ask(b, 'GET', '/v1/volumes/v1/copies');
    t.same(copies.body, { drives: [{ id: drive(b), uncertainSegments: [] }] });
    t.match(await force({ drive: drive(a) }), { status: 409, body: { error: { message: /can be reached/ } } });
    world.peers.cut.add('http://node-b');
    t.match(await force({ drive: drive(a) }), {
      status: 503,
      body: { error: { message: /node-b is alive and does not/ } },
    });
    world.crash(b.node);
    await world.sleep(limits.leaseTtlMs + 100);
    const wanted = { index: 0, generation: 2, copyGeneration: 1, staleSinceMs: 1_234, missingDrives: [drive(b)] };
    t.match(await force({ drive: drive(a) }), { status: 200, body: { done: false, segments: [wanted] } });
    t.match(await force({ drive: drive(a), acceptLoss: true }), {
      status: 200,
      body: { done: true, segments: [wanted] },
    });
    t.match((await world.ask(a, 'GET', '/v1/volumes/v1')).body['segments'], [{ generation: 3 }]);
    t.match(await force({}), { status: 400, body: { error: { message: /needs "drive"/ } } });
  },
);

t.test(
  'recovery: reads what nodes remember, refuses on a store in use, restores nothing that is doubtful',
  async (t) => {
    const world = new ApiWorld('recovery');
    const [a, b] = await world.start(2);
    const inUse = { status: 409, body: { error: { code: 'CONFLICT', message: /the cluster store is in use/ } } };
    t.match(await world.ask(a, 'POST', '/v1/recovery', { dryRun: true }), inUse);
    t.match(await world.ask(a, 'POST', '/v1/recovery/drives'), inUse);
    const drives = await world.run(world.state.drives());
    await world.run(world.state.deleteKeys(drives.map(({ key }) => key)));
    const layout = { index: 0, generation: 2, replicas: [] as ReplicaRecord[] };
    for (const { node } of [a, b]) {
      const record = drives.find(({ value }) => value.nodeId === node.id)?.value;
      layout.replicas.push({
        driveId: record?.id ?? '',
        inSync: true,
        syncedGeneration: 0,
        replaces: '',
        staleSinceMs: 0,
      });
    }
    const id = 'v-1' as VolumeId;
    const volume = {
      ...{
        id,
        name: 'v1',
        sizeBytes: 16 * 2 ** 20,
        replicas: 2,
        minInSync: 1,
        stripeWidth: 1,
        segmentBytes: 16 * 2 ** 20,
      },
      ...{ failWhenDegraded: true, createdMs: 1, deleting: false, labels: { b: '2', a: '1' } },
    };
    for (const [index, { node }] of [a, b].entries()) {
      const driveId = layout.replicas[index]?.driveId ?? '';
      const held = { volumes: [{ id, epoch: 3, record: volume }], copies: [{ volumeId: id, layout, highestStamp: 2 }] };
      node.shard.kept.set(`/drives/${node.name}`, { clusterId: 'c1', driveId, slotCount: 256, createdMs: 1, ...held });
    }
    b.node.memory.known = null;
    const doubtful = await world.ask(a, 'POST', '/v1/recovery', {});
    t.match(doubtful, { status: 409, body: { error: { message: /volume v1.*is not there.*accept or skip it/ } } });
    const named = { drives: [{ node: 'node-b', path: '/drives/node-b' }] };
    const plan = await world.ask(a, 'POST', '/v1/recovery', { ...named, dryRun: true });
    t.match(plan, {
      status: 200,
      body: {
        ...{ done: false, clusterId: 'c1', mustRestart: false, problems: [] },
        drives: [
          { node: 'node-a', state: 'found' },
          { node: 'node-b', path: '/drives/node-b', state: 'found' },
        ],
        volumes: [{ id, name: 'v1', decision: 'restore', doubts: [], sizeBytes: 16 * 2 ** 20 }],
      },
    });
    world.peers.cut.add('http://node-b');
    t.match(
      await world.ask(a, 'POST', '/v1/recovery', named),
      { status: 503 },
      'a node that does not answer may know more',
    );
    world.peers.cut.clear();
    t.match(await world.ask(a, 'POST', '/v1/recovery', named), { status: 200, body: { done: true } });
    t.match((await world.ask(b, 'GET', '/v1/volumes/v1')).body, { whenDegraded: 'fail', labels: { a: '1', b: '2' } });
  },
);

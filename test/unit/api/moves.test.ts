import t from 'tap';
import { ApiWorld } from './fixture.js';

const GIB = 2 ** 30;
const v1 = { name: 'v1', size: '64Mi' };

t.test('settings: every node follows the bandwidth of resync, and it survives', async (t) => {
  const world = new ApiWorld('settings');
  const [a, b] = await world.start(2);
  t.match((await world.ask(a, 'GET', '/v1/cluster')).body, { settings: { resyncBandwidthBytes: null } });
  const changed = await world.ask(b, 'PATCH', '/v1/cluster', { resyncBandwidth: '200Mi' });
  t.match(changed, { status: 200, body: { settings: { resyncBandwidthBytes: 200 * 2 ** 20 } } });
  await world.sleep(100);
  t.equal(a.node.shard.copyBandwidth, 200 * 2 ** 20);
  t.match(await world.ask(a, 'PATCH', '/v1/cluster', { resyncBandwidth: '10Ki' }), {
    status: 400,
    body: { error: { code: 'INVALID_ARGUMENT', message: /at least 1 MiB/ } },
  });
  await world.ask(a, 'PATCH', '/v1/cluster', { resyncBandwidth: null });
  await world.sleep(100);
  t.equal(a.node.shard.copyBandwidth, null);
  const { events } = (await world.ask(a, 'GET', '/v1/events')).body as never as { events: Record<string, string>[] };
  t.same(
    events.filter(({ subject }) => subject === 'cluster').map(({ message }) => message),
    ['the resync bandwidth of each node is 200 MiB/s', 'the resync bandwidth of each node has no bound'],
  );
});

t.test('copies move at the node that serves the volume, to a drive that has room and is open', async (t) => {
  const world = new ApiWorld('moves');
  const [a, b] = await world.start(3);
  await world.ask(a, 'POST', '/v1/volumes', v1);
  const move = (api: typeof a, body: object, action = 'move-replica') =>
    world.ask(api, 'POST', `/v1/volumes/v1/${action}`, body);
  const [from, to] = ['node-a:/drives/node-a', '/drives/node-c'];
  t.match(await move(a, { from, to }), { status: 409, body: { error: { message: /attach it first/ } } });
  await world.ask(a, 'POST', '/v1/volumes/v1/attach', { node: 'node-b' });
  t.match(await move(a, { from, to: '/drives' }), { status: 404, body: { error: { message: /no drive "\/drives"/ } } });
  t.match(await move(a, { from, to, segment: 1 }), { status: 200, body: { segments: 1 } }, 'forwarded to the owner');
  const { moves } = b.node.shard;
  t.match(moves, [{ segment: 1, freeBytes: GIB - 2 * 131_072 }]);
  const ids = ((await world.ask(a, 'GET', '/v1/drives')).body['drives'] as never as { id: string }[]).map(
    ({ id }) => id,
  );
  t.same([ids.indexOf(String(moves[0]?.from)), ids.indexOf(String(moves[0]?.to))], [0, 2]);
  t.match(await move(b, { from: String(ids[0]).slice(0, 8), to }), { status: 200 }, 'the beginning of an id is enough');
  t.match(await move(a, { to }, 'cancel-move'), { status: 200, body: { segments: 2 } });
  world.peers.cut.add('http://node-c');
  t.match(await move(b, { from, to }), { status: 503, body: { error: { message: /is not open .*choose another/ } } });
});

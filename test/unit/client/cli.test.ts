import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import t from 'tap';
import { nodeNameOf } from '../../../client/cli/commands/init.js';
import { runCli } from '../../../client/cli/program.js';
import { CLUSTER, DRIVE, operations, refusal, RESYNC, startApi, VOLUME, type Asked } from './api-stub.js';

const run = promisify(execFile);

interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

function braid(url: string, ...args: string[]): Promise<Ran> {
  return braidAsked(url, undefined, ...args);
}

/** At a terminal where somebody answers what is asked. */
async function braidAsked(url: string, answer: string | undefined, ...args: string[]): Promise<Ran> {
  const written = { stdout: '', stderr: '' };
  const code = await runCli(args, {
    stdout: { write: (text) => (written.stdout += text) },
    stderr: { write: (text) => (written.stderr += text) },
    env: { BRAID_API: url },
    signal: new AbortController().signal,
    ...(answer === undefined ? {} : { ask: async () => answer }),
  });
  return { code, ...written };
}

const NOWHERE = 'http://127.0.0.1:2';

t.test('status tells people what needs attention, and machines everything', async (t) => {
  const api = await startApi(t, {
    'GET /v1/cluster': CLUSTER,
    'GET /v1/drives': { drives: [DRIVE] },
    'GET /v1/volumes': { volumes: [VOLUME] },
  });
  const forPeople = await braid(api.url, 'status');
  t.match(forPeople.stdout, /health +degraded/);
  t.match(forPeople.stdout, /nodes +2 of 3 up/);
  t.match(forPeople.stdout, /! node b is down/);
  t.match(forPeople.stdout, /~ volume data: resync to \/srv\/drive on b: 1 MiB of 4 MiB/);
  t.match(forPeople.stdout, /resync at each node: at most 200 MiB\/s/);
  t.equal(forPeople.code, 0);
  const forMachines = await braid(api.url, 'status', '--json');
  t.same(JSON.parse(forMachines.stdout), CLUSTER);
  t.equal((await braid(api.url, 'status', '--check')).code, 1, 'a monitor sees that it is not healthy');
});

t.test('an empty cluster says what comes next', async (t) => {
  const answers = { 'GET /v1/cluster': CLUSTER, 'GET /v1/drives': { drives: [] }, 'GET /v1/volumes': { volumes: [] } };
  const api = await startApi(t, answers);
  t.match((await braid(api.url, 'status')).stdout, /Next: .*braid drive add/);
});

t.test('lists are tables, or JSON', async (t) => {
  const node = {
    id: 'n',
    name: 'a',
    apiAddress: 'http://x',
    alive: true,
    version: '0.1.0',
    labels: { rack: 'r1' },
    driveCount: 1,
  };
  const api = await startApi(t, {
    'GET /v1/nodes': { nodes: [node] },
    'GET /v1/drives': { drives: [{ ...DRIVE, state: 'failed', reason: 'its superblock is corrupt' }] },
    'GET /v1/volumes': { volumes: [VOLUME] },
  });
  t.match((await braid(api.url, 'node', 'ls')).stdout, /^NAME .*\na +up +1 .*rack=r1/);
  const drives = await braid(api.url, 'drive', 'ls');
  t.match(drives.stdout, /1 GiB/);
  t.match(drives.stdout, /! \/srv\/drive: its superblock is corrupt/);
  const volumes = await braid(api.url, 'volume', 'ls');
  t.match(volumes.stdout, /data +1 GiB +2 +degraded +a +\/dev\/loop0 +node b is down/);
  t.same(JSON.parse((await braid(api.url, '--json', 'volume', 'ls')).stdout), { volumes: [VOLUME] });
});

t.test('volume show hides healthy segments', async (t) => {
  const api = await startApi(t, { 'GET /v1/volumes/data': VOLUME });
  const { stdout } = await braid(api.url, 'volume', 'show', 'data');
  t.match(stdout, /resync to \/srv\/drive on b: 1 MiB of 4 MiB \(25 %\), 1\.5 MiB\/s, 2 s left/);
  t.match(stdout, /b \(down\) +stale/);
  t.notMatch(stdout, /\bc +in-sync/);
  t.match(stdout, /1 segment with all copies in sync/);
  t.match((await braid(api.url, 'volume', 'show', 'data', '--segments')).stdout, /c +in-sync/);
});

t.test('drive show says what to do; drive reopen does it', async (t) => {
  const api = await startApi(t, {
    'GET /v1/drives/d-1': { ...DRIVE, state: 'failed', reason: 'a write failed' },
    'POST /v1/drives/d-1/reopen': DRIVE,
    'POST /v1/drives/d-2/reopen': refusal(500, 'DRIVE', 'drive /srv/drive does not open: it has vanished'),
  });
  t.match((await braid(api.url, 'drive', 'show', 'd-1')).stdout, /failed[^]*! \/srv\/drive: a write failed/);
  t.match((await braid(api.url, 'drive', 'reopen', 'd-1')).stdout, /is open/);
  const refused = await braid(api.url, 'drive', 'reopen', 'd-2');
  t.match(refused, { code: 1, stderr: /does not open: it has vanished/ });
});

t.test('cluster set changes the bandwidth of resync, or takes the bound away', async (t) => {
  const api = await startApi(t, { 'PATCH /v1/cluster': CLUSTER });
  const set = await braid(api.url, 'cluster', 'set', 'resync-bandwidth', '200Mi');
  t.equal(set.stdout, 'resync-bandwidth: 200 MiB/s\n');
  await braid(api.url, 'cluster', 'set', 'resync-bandwidth', 'unlimited');
  t.same(
    api.asked.map(({ body }) => body),
    [{ resyncBandwidth: 209_715_200 }, { resyncBandwidth: null }],
  );
  t.match(await braid(api.url, 'cluster', 'set', 'resync-bandwidth', '200M'), { code: 2, stderr: /200Mi/ });
  t.equal(api.asked.length, 2);
});

t.test('volume move-replica waits until the copies have moved, and tells when one has not', async (t) => {
  const [segment] = VOLUME.segments;
  const copy = { node: 'c', path: '/srv/new', state: 'syncing', alive: true };
  const old = { driveId: 'd-1', node: 'a', path: '/srv/drive', state: 'in-sync', alive: true };
  const withCopies = (replicas: object[]) => ({ ...VOLUME, segments: [{ ...segment, replicas }] });
  const moving = withCopies([old, { ...copy, driveId: 'd-9', replaces: 'd-1' }]);
  let end = withCopies([{ ...copy, driveId: 'd-9', state: 'in-sync' }]);
  let asked = 0;
  const api = await startApi(t, {
    'POST /v1/volumes/data/move-replica': { segments: 1 },
    'POST /v1/volumes/data/cancel-move': { segments: 3 },
    'GET /v1/volumes/data': () => (asked++ % 2 === 0 ? moving : end),
  });
  const move = ['volume', 'move-replica', 'data', '--from', 'd-1', '--to', 'd-9'];
  t.match(await braid(api.url, ...move, '--segment', '0'), {
    code: 0,
    stdout: /copies of 1 segment of data have moved/,
  });
  t.same(api.asked[0]?.body, { from: 'd-1', to: 'd-9', segment: 0 });
  end = withCopies([old]);
  t.match(await braid(api.url, ...move), { code: 1, stdout: /1 copy of data did not move; braid events/ });
  t.match(await braid(api.url, ...move, '--no-wait'), { code: 0, stdout: /on their way/ });
  t.match(await braid(api.url, 'volume', 'move-replica', 'data', '--to', 'd-9'), { code: 2, stderr: /--from DRIVE/ });
  t.match(await braid(api.url, 'volume', 'move-replica', 'data', '--cancel'), {
    code: 0,
    stdout: /3 segments of data/,
  });
});

t.test('volume create and drive add send sizes in bytes', async (t) => {
  const api = await startApi(t, { 'POST /v1/volumes': VOLUME, 'POST /v1/drives': DRIVE });
  const created = await braid(
    api.url,
    ...['volume', 'create', 'data', '--size', '1Gi', '--replicas', '3'],
    '--label',
    'app=db',
  );
  t.equal(created.code, 0);
  t.same(api.asked[0]?.body, { name: 'data', size: 2 ** 30, replicas: 3, labels: { app: 'db' } });
  await braid(api.url, 'drive', 'add', '/srv/x', '--capacity', '1.5GiB', '--class', 'ssd');
  t.same(api.asked[1]?.body, { path: '/srv/x', capacity: 1.5 * 2 ** 30, driveClass: 'ssd' });
});

t.test('attach, detach and verify', async (t) => {
  const compared = { extentsCompared: 8, bytesCompared: 1_048_576, copiesMin: 2 };
  const report = { ...compared, differences: [] as object[], damaged: [] as object[] };
  const api = await startApi(t, {
    'POST /v1/volumes/data/attach': {
      ...{ node: 'a', nbdUri: 'nbd+unix:///data?socket=/x', nbdTcpUri: 'nbd://host-a:10809/data' },
      device: '/dev/loop3',
    },
    'POST /v1/volumes/data/detach': { released: true },
    'POST /v1/volumes/data/verify': () => report,
  });
  const attached = await braid(api.url, 'volume', 'attach', 'data', '--device', '--wait', '5');
  t.match(attached.stdout, /\/dev\/loop3/);
  t.match(attached.stdout, /NBD +nbd\+unix:.*\nNBD over TCP +nbd:\/\/host-a:10809\/data\n/);
  t.same(api.asked[0]?.body, { device: true, timeoutMs: 5_000 });
  t.match((await braid(api.url, 'volume', 'detach', 'data', '--force')).stdout, /is detached\n/);
  t.match((await braid(api.url, 'volume', 'verify', 'data')).stdout, /2 copies are identical/);
  report.damaged.push({ segment: 0, extent: 6, offsetBytes: 786_432, driveId: 'd-1', problem: 'checksum' });
  const damaged = await braid(api.url, 'volume', 'verify', 'data');
  t.equal(damaged.code, 1, 'damage is a failure');
  t.match(
    damaged.stdout,
    /1 damaged copy of extents\nOFFSET.*\n786432 +d-1 +does not match its checksum\n.*\n.*backup/,
  );
  report.differences.push({ segment: 0, extent: 7, offsetBytes: 917_504, driveIds: ['d-1', 'd-2'] });
  const differing = await braid(api.url, 'volume', 'verify', 'data');
  t.equal(differing.code, 1, 'copies that differ are a failure');
  t.match(differing.stdout, /copies differ in 1 extent/);
});

t.test('scrub start, stop and status', async (t) => {
  const idle = {
    ...{ isRunning: false, startedMs: 1, completedMs: Date.now() - 3 * 86_400_000 },
    ...{ passBytesDone: 0, passBytesTotal: 0, bytes: 0, errors: 0, repaired: 0, unresolved: 0 },
  };
  const drive = { id: 'd-1', node: 'a', path: '/d', scrub: { ...idle } };
  const running = { ...idle, isRunning: true, completedMs: 0, passBytesDone: 262_144, passBytesTotal: 1_048_576 };
  const status = { drives: [drive], volumes: [{ name: 'data', node: 'a', scrub: running }], unknown: [] as string[] };
  const answer = { drives: ['d-1', 'd-2'], volumes: ['data'], failures: [] as string[] };
  const api = await startApi(t, { 'POST /v1/scrub': () => answer, 'GET /v1/scrub': () => status });
  const started = await braid(api.url, 'scrub', 'start');
  t.match(started, { code: 0, stdout: /^The scrub of 2 drives and 1 volume is under way\n/ });
  await braid(api.url, 'scrub', 'stop', '--volume', 'data');
  await braid(api.url, 'scrub', 'start', '--drive', 'd-1');
  t.same(
    api.asked.map(({ body }) => body),
    [{ action: 'start' }, { action: 'stop', volume: 'data' }, { action: 'start', drive: 'd-1' }],
  );
  const healthy = await braid(api.url, 'scrub', 'status');
  t.equal(healthy.code, 0);
  t.match(healthy.stdout, /drive +d-1 +a +idle +3 d ago +0 +0 +0\n/);
  t.match(healthy.stdout, /volume +data +a +25 % of 1 MiB +never +0 +0 +0\n/);
  drive.scrub = { ...idle, errors: 3, repaired: 1, unresolved: 2 };
  const damaged = await braid(api.url, 'scrub', 'status');
  t.match(damaged, { code: 1, stdout: /idle +3 d ago +3 +1 +2\n[^]*braid events/ });
  answer.failures.push('node b: it does not answer');
  t.match(await braid(api.url, 'scrub', 'start'), { code: 1, stdout: /! node b: it does not answer/ });
});

t.test('rm deletes only when told twice', async (t) => {
  const api = await startApi(t, {
    'GET /v1/volumes/data': VOLUME,
    'DELETE /v1/volumes/data': { name: 'data', id: 'v-1' },
  });
  const refused = await braid(api.url, 'volume', 'rm', 'data');
  t.equal(refused.code, 2);
  t.match(refused.stderr, /1 GiB\) and all its data for ever; to do it: braid volume rm data --yes/);
  t.equal(api.asked.filter(({ method }) => method === 'DELETE').length, 0);
  t.equal((await braid(api.url, 'volume', 'rm', 'data', '--yes')).code, 0);
});

t.test('errors say what to do, with an exit code of their kind', async (t) => {
  const api = await startApi(t, {
    'GET /v1/volumes/dat': refusal(404, 'NOT_FOUND', 'there is no volume "dat"; did you mean "data"?'),
    'POST /v1/volumes': refusal(409, 'ALREADY_EXISTS', 'volume data exists'),
    'GET /v1/volumes': refusal(500, 'INTERNAL', 'oops'),
  });
  const unknown = await braid(api.url, 'volume', 'show', 'dat');
  t.same([unknown.code, unknown.stdout], [3, '']);
  t.match(unknown.stderr, /did you mean "data"/);
  const asJson = await braid(api.url, 'volume', 'show', 'dat', '--json');
  t.match(JSON.parse(asJson.stdout), { error: { code: 'NOT_FOUND', retryable: false } });
  t.equal((await braid(api.url, 'volume', 'create', 'data', '--size', '1Gi')).code, 4);
  t.equal((await braid(api.url, 'volume', 'ls')).code, 1);
  const down = await braid(NOWHERE, 'status');
  t.equal(down.code, 5);
  t.match(down.stderr, /braid init[^]*braidd --config/);
});

t.test('wrong usage is explained', async (t) => {
  const unknown = await braid(NOWHERE, 'statu');
  t.equal(unknown.code, 2);
  t.match(unknown.stderr, /unknown command 'statu'[^]*Did you mean status/);
  t.match((await braid(NOWHERE, 'volume', 'sho', 'x')).stderr, /Did you mean show/);
  const size = await braid(NOWHERE, 'volume', 'create', 'x', '--size', '20GB');
  t.equal(size.code, 2);
  t.match(size.stderr, /20Gi/);
  t.equal((await braid(NOWHERE, 'drive', 'add', '/x')).code, 2, 'a missing option');
  t.equal((await braid(NOWHERE, 'volume')).code, 2, 'a group without its command');
});

t.test('every command has help with the global options', async (t) => {
  t.match(await braid(NOWHERE, '--version'), { code: 0, stdout: /^\d+\.\d+\.\d+/ });
  const top = await braid(NOWHERE, '--help');
  t.equal(top.code, 0);
  t.match(top.stdout, /Exit codes:[^]*5 +cluster unavailable/);
  for (const words of [['status'], ['volume', 'create'], ['drive', 'add'], ['events'], ['top'], ['demo'], ['init']]) {
    const help = await braid(NOWHERE, ...words, '--help');
    t.equal(help.code, 0, words.join(' '));
    t.match(help.stdout, /--json/, `${words.join(' ')} shows the global options`);
  }
});

t.test('events follow in order, one JSON object per line', async (t) => {
  const event = (id: string) => ({
    id,
    timeMs: 0,
    severity: 'info',
    node: 'a',
    subject: 'cluster',
    message: `event ${id}`,
  });
  const interruption = new AbortController();
  const api = await startApi(t, {
    'GET /v1/events': ({ path }: { path: string }) => {
      if (!path.includes('after')) return { events: [event('1')], next: '1' };
      if (path.includes('after=2')) interruption.abort();
      return path.includes('after=1') ? { events: [event('2')], next: '2' } : { events: [], next: '2' };
    },
  });
  let stdout = '';
  await runCli(['events', '--follow', '--json'], {
    stdout: { write: (text) => (stdout += text) },
    stderr: { write: () => undefined },
    env: { BRAID_API: api.url },
    signal: interruption.signal,
  });
  t.same(
    stdout
      .trim()
      .split('\n')
      .map((line) => (JSON.parse(line) as { id: string }).id),
    ['1', '2'],
  );
  t.match((await braid(api.url, 'events')).stdout, /1970-01-01 00:00:00\.000 +info +a +cluster: event 1/);
});

t.test('top shows rates from two samples of every node', async (t) => {
  let samples = 0;
  const idle = operations(0, 0, [], 0);
  const api = await startApi(t, {
    'GET /v1/nodes': () => ({
      nodes: [
        { ...NODE, apiAddress: api.url },
        { ...NODE, name: 'b', alive: false, apiAddress: NOWHERE },
      ],
    }),
    'GET /v1/stats': () => {
      samples++;
      const write = operations(samples * 100, samples * 409_600, [0, 0, 0, samples * 100], samples * 500);
      const volume = { id: 'v', name: 'data', state: 'serving', inFlight: 2, connections: 1, degradedReplicas: 0 };
      const volumes = [
        {
          ...volume,
          resyncBytesDone: 0,
          resyncBytesTotal: 0,
          resync: RESYNC,
          read: idle,
          write,
          flush: idle,
          trim: idle,
        },
      ];
      return { node: 'a', timeMs: samples * 1_000, volumes, drives: [], shards: [] };
    },
  });
  const { stdout } = await braid(api.url, 'top', '--count', '1', '--json');
  t.match(JSON.parse(stdout), {
    volumes: [
      {
        name: 'data',
        node: 'a',
        write: { operationsPerSecond: 100, bytesPerSecond: 409_600, latencyUsMean: 5, latencyUsP99: 8 },
      },
    ],
    silentNodes: ['b'],
  });
  const text = (await braid(api.url, 'top', '--count', '1')).stdout;
  t.match(text, /no answer from b/);
  t.match(text, /data +a +serving +2 .*100 +400 KiB\/s/);
  t.match(text, /~ data: resync to .* \(25 %\), 1\.5 MiB\/s, 2 s left/);
});

const NODE = { id: 'n', name: 'a', apiAddress: '', alive: true, version: '0.1.0', labels: {}, driveCount: 1 };

t.test('init writes a configuration and does not overwrite one', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'braid-init-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const first = await braid(NOWHERE, 'init', '--dir', directory, '--name', 'host-a');
  t.equal(first.code, 0);
  t.match(first.stdout, /braidd --config .*braid\.yaml/);
  const text = readFileSync(join(directory, 'braid.yaml'), 'utf8');
  t.match(text, /^nodeName: "host-a"$/m);
  t.match(text, new RegExp(`^storeDir: "${directory}/store"$`, 'm'));
  t.equal(statSync(join(directory, 'braid.yaml')).mode & 0o777, 0o600);
  t.equal((await braid(NOWHERE, 'init', '--dir', directory)).code, 2, 'a second time is refused');
  const three = await braid(NOWHERE, 'init', '--dir', directory, '--nodes', '3', '--name', 'n', '--json');
  const { configs } = JSON.parse(three.stdout) as { configs: { nodeName: string; api: string }[] };
  t.same(
    configs.map(({ nodeName }) => nodeName),
    ['n-1', 'n-2', 'n-3'],
  );
  t.same(
    configs.map(({ api }) => api.split(':').at(-1)),
    ['7440', '7441', '7442'],
  );
  t.equal(nodeNameOf('My_Host.example.org'), 'my_host');
  t.equal(nodeNameOf('---'), 'node-1');
});

t.test('completion scripts are valid and know the commands', async (t) => {
  const { stdout: script } = await braid(NOWHERE, 'completion', 'bash');
  const complete = async (...words: string[]) => {
    const line = words.map((word) => `'${word}'`).join(' ');
    const test = `COMP_WORDS=(${line}); COMP_CWORD=${words.length - 1}; _braid; printf '%s\\n' "\${COMPREPLY[@]}"`;
    return (await run('bash', ['-c', `${script}\n${test}`])).stdout.trim().split('\n');
  };
  t.same(await complete('braid', 'stat'), ['status']);
  t.same(await complete('braid', 'volume', 'cr'), ['create']);
  t.ok((await complete('braid', 'volume', 'create', 'x', '--re')).includes('--replicas'));
  t.match((await braid(NOWHERE, 'completion', 'zsh')).stdout, /^#compdef braid/);
  t.match((await braid(NOWHERE, 'completion', 'fish')).stdout, /complete -c braid .* -a status /);
});

t.test('volume force-primary says what may be lost, and does nothing that was not confirmed', async (t) => {
  const lost = { index: 2, generation: 7, copyGeneration: 4, staleSinceMs: 1_700_000_000_000, missingDrives: ['d-9'] };
  const api = await startApi(t, {
    'POST /v1/volumes/data/force-primary': ({ body }: Asked) => {
      return { done: (body as { acceptLoss?: boolean }).acceptLoss === true, segments: [lost] };
    },
  });
  const command = ['volume', 'force-primary', 'data', '--drive', 'd-1'];
  const asked = () => api.asked.map(({ body }) => body);
  const alone = await braid(api.url, ...command);
  t.equal(alone.code, 2);
  t.match(alone.stdout, /2 +7 +4 +2023-11-14T22:13:20.000Z +d-9/);
  t.match(alone.stderr, /nothing was changed.*--drive d-1 --yes-i-know-that-writes-are-lost/);
  t.equal((await braidAsked(api.url, 'yes', ...command)).code, 2, 'another word is a no');
  t.same(asked(), [{ drive: 'd-1' }, { drive: 'd-1' }]);
  t.equal((await braidAsked(api.url, 'data', ...command)).code, 0);
  const done = await braid(api.url, '--json', ...command, '--segment', '2', '--yes-i-know-that-writes-are-lost');
  t.same(JSON.parse(done.stdout), { done: true, segments: [lost] });
  t.same(asked().at(3), { drive: 'd-1', acceptLoss: true });
  t.same(asked().at(5), { drive: 'd-1', segment: 2, acceptLoss: true });
  t.equal((await braidAsked(api.url, 'data', '--json', ...command)).code, 2, 'a machine is not asked');
});

t.test('recover shows the plan, wants doubts decided, asks, and says what comes next', async (t) => {
  const volume = { id: 'v-1', name: 'data', sizeBytes: 2 ** 30, decision: 'restore', doubts: [] as string[] };
  const plan = {
    ...{ done: false, clusterId: 'c-1', mustRestart: true, problems: [] as string[], volumes: [volume] },
    drives: [{ id: 'd-1', node: 'a', path: '/srv/a', state: 'unreadable', reason: 'EIO' }],
  };
  let answer = plan;
  const api = await startApi(t, {
    'POST /v1/recovery': ({ body }: Asked) => ({ ...answer, done: (body as { dryRun?: boolean }).dryRun !== true }),
  });
  const shown = await braid(api.url, 'recover', '--plan', '--cluster', 'c-1', '--drive', 'a=/srv/a', '--skip', 'x');
  t.equal(shown.code, 0);
  t.match(shown.stdout, /d-1 +a +unreadable +\/srv\/a[^]*! \/srv\/a: EIO[^]*data +1 GiB +restore +v-1/);
  const request = { skip: ['x'], clusterId: 'c-1', drives: [{ node: 'a', path: '/srv/a' }], dryRun: true };
  t.same(
    api.asked.map(({ body }) => body),
    [request],
    'nothing else was asked',
  );
  t.match(await braid(api.url, 'recover'), { code: 2, stderr: /nothing was changed/ });
  const done = await braidAsked(api.url, 'recover', 'recover');
  t.match(done, { code: 0, stdout: /Restored: 1 volume\nRestart all agents now.*\nNext: braid volume attach data/ });
  answer = { ...plan, volumes: [{ ...volume, decision: 'ambiguous', doubts: ['drive d-2 is not there'] }] };
  const before = api.asked.length;
  const doubtful = await braid(api.url, 'recover', '--yes');
  t.match(doubtful, { code: 4, stdout: /! data: drive d-2 is not there[^]*To decide: --accept data or --skip data/ });
  t.match(await braid(api.url, '--json', 'recover', '--yes'), {
    code: 4,
    stdout: /volume data: drive d-2 is not there/,
  });
  t.ok(
    api.asked.slice(before).every(({ body }) => (body as { dryRun?: boolean }).dryRun),
    'it was not even tried',
  );
  t.match(await braid(api.url, 'recover', '--drive', '/srv/a'), { code: 2, stderr: /A drive is NODE=DIRECTORY/ });
});

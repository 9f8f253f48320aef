/**
 * GlusterFS, replica 3, on one host. glusterd refuses loopback addresses: it gets network and mount namespaces of its own, whose `lo`
 * carries an address. Option group `virt`, as for images of virtual machines; without it writes are acknowledged early.
 */
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { identityOf, waitFor } from '../../client/processes.js';
import type { Scratch } from '../scratch.js';
import type { SubjectRecipe } from '../subjects/subject.js';
import { runTool } from '../subjects/tools.js';

const ADDRESS = '10.99.0.1';
const VOLUME = 'gv';
const START_TIMEOUT_MS = 30_000;
const SETTLE_MS = 3_000;

/** The namespaces live as long as this process; `argv` runs in them. */
async function startNamespace(scratch: Scratch, directory: string): Promise<string[]> {
  for (const name of ['lib', 'log', 'run', 'b0', 'b1', 'b2']) mkdirSync(`${directory}/${name}`, { recursive: true });
  if (existsSync('/var/lib/glusterd')) cpSync('/var/lib/glusterd', `${directory}/lib`, { recursive: true });
  mkdirSync(`${directory}/log/bricks`, { recursive: true });
  const script = [
    'set -e; mount --make-rprivate /; mkdir -p /var/lib/glusterd /var/log/glusterfs /run/gluster',
    `mount --bind ${directory}/lib /var/lib/glusterd; mount --bind ${directory}/log /var/log/glusterfs`,
    `mount --bind ${directory}/run /run/gluster; ip link set lo up; ip addr add ${ADDRESS}/32 dev lo`,
    `touch ${directory}/ready; exec sleep infinity`,
  ].join('; ');
  const command = ['unshare', '-m', '-n', 'sh', '-c', script];
  const pid = await scratch.startDaemon('gluster-namespace', command, () => existsSync(`${directory}/ready`));
  return ['nsenter', '-t', String(pid), '-m', '-n'];
}

/** Processes of GlusterFS that run in the network namespace of `namespacePid`. */
function daemonsIn(namespacePid: string): number[] {
  const namespaceOf = (pid: string) => readlinkSync(`/proc/${pid}/ns/net`);
  const own = namespaceOf(namespacePid);
  const isOurs = (pid: string) => {
    try {
      return /^gluster(d|fs|fsd)$/.test(readFileSync(`/proc/${pid}/comm`, 'utf8').trim()) && namespaceOf(pid) === own;
    } catch {
      return false; // it has ended meanwhile
    }
  };
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && isOurs(name))
    .map(Number);
}

export const gluster: SubjectRecipe = {
  name: 'gluster',
  title: 'GlusterFS, 3 copies',
  packages: {
    fio: 'fio',
    'glusterfs-server': 'glusterd',
    'glusterfs-cli': 'gluster',
    'glusterfs-client': 'glusterfs',
    iproute2: 'ip',
  },
  volumes: 3,
  start: async ({ scratch, volumeBytes }) => {
    const directory = scratch.path('gluster');
    const enter = await startNamespace(scratch, directory);
    const { signal } = scratch;
    await runTool([...enter, 'glusterd', '-p', `${directory}/glusterd.pid`], { signal });
    const cli = (...words: string[]) => runTool([...enter, 'gluster', '--mode=script', ...words], { signal });
    const isUp = () =>
      cli('volume', 'list').then(
        () => true,
        () => false,
      );
    const adopt = () => {
      const pids = daemonsIn(enter[2] ?? '');
      for (const pid of pids) {
        const identity = identityOf(pid);
        if (identity !== null) scratch.adopt(identity);
      }
      return pids;
    };
    await waitFor(isUp, START_TIMEOUT_MS, 'glusterd answers', signal).finally(adopt);
    const bricks = ['b0', 'b1', 'b2'].map((name) => `${ADDRESS}:${directory}/${name}`);
    await cli('volume', 'create', VOLUME, 'replica', '3', ...bricks, 'force');
    await cli('volume', 'set', VOLUME, 'group', 'virt');
    await cli('volume', 'start', VOLUME);
    await delay(SETTLE_MS, undefined, { signal });
    const options = [
      '--ioengine=gfapi_async',
      `--volume=${VOLUME}`,
      `--brick=${ADDRESS}`,
      '--direct=1',
      '--filename=v',
      `--size=${volumeBytes}`,
    ];
    return { name: gluster.name, title: gluster.title, pids: adopt(), target: { options, prefix: enter } };
  },
};

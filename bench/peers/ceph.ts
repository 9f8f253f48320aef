/** Ceph RBD: one monitor, one manager, three BlueStore OSDs on pre-written files, one pool of size 3, all on loopback. */
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { randomUUID } from 'node:crypto';
import { waitFor } from '../../client/processes.js';
import { GIB, MIB } from '../../daemon/base/units.js';
import type { Scratch } from '../scratch.js';
import type { SubjectContext, SubjectRecipe } from '../subjects/subject.js';
import { runTool } from '../subjects/tools.js';

const OSDS = 3;
const OSD_BYTES_MIN = 4 * GIB;
const START_TIMEOUT_MS = 90_000;
const MONITOR = '[v2:127.0.0.1:3300,v1:127.0.0.1:6789]';
const PLACEMENT_GROUPS = '32';

function configuration(directory: string, fsid: string, osdBytes: number): string {
  return `[global]
fsid = ${fsid}
mon_initial_members = a
mon_host = ${MONITOR}
public_network = 127.0.0.0/8
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
keyring = ${directory}/$name.keyring
run_dir = ${directory}
admin_socket = ${directory}/$name.$pid.asok
log_file = ${directory}/$name.log
crash_dir = ${directory}/crash
osd_pool_default_size = ${OSDS}
osd_pool_default_min_size = 2
osd_crush_chooseleaf_type = 0
osd_pool_default_pg_autoscale_mode = off
mon_allow_pool_size_one = false
[mon]
mon_data = ${directory}/mon.$id
mon_osd_reporter_subtree_level = osd
[mgr]
mgr_data = ${directory}/mgr.$id
mgr_initial_modules =
[osd]
osd_data = ${directory}/osd.$id
osd_objectstore = bluestore
bluestore_block_create = true
bluestore_block_size = ${osdBytes}
osd_memory_target = ${GIB}
[client]
rbd_cache = false
`;
}

/** The cluster's directory, and its programs run with its configuration. */
class Ceph {
  readonly directory: string;
  readonly environment: Readonly<Record<string, string>>;
  readonly pids: number[] = [];
  readonly #scratch: Scratch;

  constructor(scratch: Scratch) {
    this.#scratch = scratch;
    this.directory = scratch.path('ceph');
    this.environment = { CEPH_CONF: `${this.directory}/ceph.conf` };
    for (const name of ['crash', 'mon.a', 'mgr.x', ...ids().map((id) => `osd.${id}`)])
      mkdirSync(`${this.directory}/${name}`, { recursive: true });
  }

  run(...command: string[]): Promise<string> {
    return runTool(command, { signal: this.#scratch.signal, environment: this.environment, cwd: this.directory });
  }

  /** The configuration is found by flag: daemons get the bench's own environment. */
  async startDaemon(program: string, id: string, isReady: () => boolean | Promise<boolean>): Promise<void> {
    const command = [program, '--conf', `${this.directory}/ceph.conf`, '-i', id, '-f'];
    this.pids.push(await this.#scratch.startDaemon(`${program}-${id}`, command, isReady));
  }

  async until(what: string, condition: () => Promise<boolean>): Promise<void> {
    await waitFor(() => condition().catch(() => false), START_TIMEOUT_MS, what, this.#scratch.signal);
  }
}

const ids = () => Array.from({ length: OSDS }, (_, id) => String(id));

async function startMonitor(ceph: Ceph, fsid: string): Promise<void> {
  const { directory } = ceph;
  const admin = `${directory}/client.admin.keyring`;
  const all = ['mon', 'osd', 'mgr', 'mds'].flatMap((service) => ['--cap', service, 'allow *']);
  const monitor = `${directory}/mon.keyring`;
  await ceph.run('ceph-authtool', '--create-keyring', monitor, '--gen-key', '-n', 'mon.', '--cap', 'mon', 'allow *');
  await ceph.run('ceph-authtool', '--create-keyring', admin, '--gen-key', '-n', 'client.admin', ...all);
  await ceph.run('ceph-authtool', monitor, '--import-keyring', admin);
  await ceph.run('monmaptool', '--create', '--clobber', '--addv', 'a', MONITOR, '--fsid', fsid, `${directory}/monmap`);
  await ceph.run('ceph-mon', '--mkfs', '-i', 'a', '--monmap', `${directory}/monmap`, '--keyring', monitor);
  copyFileSync(monitor, `${directory}/mon.a.keyring`);
  await ceph.startDaemon('ceph-mon', 'a', () => true);
  await ceph.until('the Ceph monitor answers', () => ceph.run('timeout', '5', 'ceph', 'mon', 'stat').then(() => true));
  await ceph.run('ceph', 'config', 'set', 'mon', 'auth_allow_insecure_global_id_reclaim', 'false');
}

async function startManager(ceph: Ceph): Promise<void> {
  const capabilities = ['mon', 'allow profile mgr', 'osd', 'allow *', 'mds', 'allow *'];
  await ceph.run('ceph', 'auth', 'get-or-create', 'mgr.x', ...capabilities, '-o', `${ceph.directory}/mgr.x.keyring`);
  await ceph.startDaemon('ceph-mgr', 'x', () => true);
}

async function startOsd(ceph: Ceph, id: string, osdBytes: number): Promise<void> {
  const { directory } = ceph;
  const [uuid, key] = [randomUUID(), (await ceph.run('ceph-authtool', '--gen-print-key')).trim()];
  writeFileSync(`${directory}/osd.${id}.secret`, JSON.stringify({ cephx_secret: key }));
  await ceph.run('ceph', 'osd', 'new', uuid, '-i', `${directory}/osd.${id}.secret`);
  await ceph.run(
    'ceph-authtool',
    '--create-keyring',
    `${directory}/osd.${id}.keyring`,
    '--name',
    `osd.${id}`,
    '--add-key',
    key,
  );
  copyFileSync(`${directory}/osd.${id}.keyring`, `${directory}/osd.${id}/keyring`);
  // Written in full, so that the file system converts no extents later.
  const copy = [
    'if=/dev/zero',
    `of=${directory}/osd.${id}/block`,
    `bs=${4 * MIB}`,
    `count=${Math.ceil(osdBytes / (4 * MIB))}`,
  ];
  await ceph.run('dd', ...copy, 'oflag=direct', 'status=none');
  await ceph.run('ceph-osd', '-i', id, '--mkfs', '--osd-uuid', uuid);
  await ceph.startDaemon('ceph-osd', id, () => true);
}

async function startCeph({ scratch, volumeBytes }: SubjectContext): Promise<Ceph> {
  const ceph = new Ceph(scratch);
  const [fsid, osdBytes] = [randomUUID(), Math.max(OSD_BYTES_MIN, 2 * volumeBytes)];
  writeFileSync(`${ceph.directory}/ceph.conf`, configuration(ceph.directory, fsid, osdBytes));
  await startMonitor(ceph, fsid);
  await startManager(ceph);
  for (const id of ids()) await startOsd(ceph, id, osdBytes);
  await ceph.run('ceph', 'osd', 'pool', 'create', 'rbd', PLACEMENT_GROUPS, PLACEMENT_GROUPS);
  await ceph.run('ceph', 'osd', 'pool', 'application', 'enable', 'rbd', 'rbd');
  await ceph.until('all placement groups are active and clean', async () => {
    // A pool of the manager's own comes on top.
    return /^(\d+) pgs: \1 active\+clean/.test(await ceph.run('ceph', 'pg', 'stat'));
  });
  await ceph.run('rbd', 'create', '--size', `${volumeBytes / MIB}M`, 'rbd/v');
  return ceph;
}

export const ceph: SubjectRecipe = {
  name: 'ceph',
  title: 'Ceph RBD, 3 copies',
  packages: {
    fio: 'fio',
    'ceph-mon': 'ceph-mon',
    'ceph-mgr': 'ceph-mgr',
    'ceph-osd': 'ceph-osd',
    'ceph-common': 'rbd',
  },
  volumes: 2 * OSDS,
  extraBytes: OSDS * OSD_BYTES_MIN,
  start: async (context) => {
    const { pids, environment } = await startCeph(context);
    const options = ['--ioengine=rbd', '--pool=rbd', '--rbdname=v', '--clientname=admin'];
    return { name: ceph.name, title: ceph.title, pids, target: { options, environment } };
  },
};

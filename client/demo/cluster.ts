/** The demo's cluster: started in a directory, found again there by `braid demo --stop`, taken down without a trace. */
import { existsSync, mkdirSync, readFileSync, rmSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { LocalCluster } from '../local-cluster.js';
import { isMounted, removeDevices, run } from './host.js';

const RECORD = 'demo.json';

export interface DemoRecord {
  readonly volumeName: string;
  /** Empty while nothing is mounted. */
  readonly mountPoint: string;
}

export function writeRecord(directory: string, record: DemoRecord): void {
  writeFileSync(join(directory, RECORD), `${JSON.stringify(record, null, 2)}\n`);
}

/** Stops a demo that was kept. */
export async function stopDemo(directory: string): Promise<void> {
  const cluster = existsSync(join(directory, RECORD)) ? LocalCluster.open(directory) : null;
  if (cluster === null) throw new Error(`${directory} holds no demo (there is no ${RECORD} in it)`);
  const problems = await takeDown(cluster, directory);
  if (problems.length > 0) throw new Error(problems.join('\n'));
}

/** Unmounts, detaches, stops the agents and removes the files; resolves with what did not go in order. */
export async function takeDown(cluster: LocalCluster, directory: string): Promise<string[]> {
  const problems: string[] = [];
  const attempt = async (work: () => Promise<unknown>) => {
    await work().catch((error: unknown) => problems.push(error instanceof Error ? error.message : String(error)));
  };
  const { volumeName, mountPoint } = readRecord(directory);
  if (mountPoint !== '' && isMounted(mountPoint)) {
    await attempt(() => run('umount', mountPoint).catch(() => run('umount', '--lazy', mountPoint)));
  }
  const first = cluster.agents.find((agent) => agent.isRunning);
  if (volumeName !== '' && first !== undefined) {
    await attempt(async () => first.client().detachVolume(volumeName, { force: true }));
  }
  problems.push(...(await cluster.stopAll()));
  for (const agent of cluster.agents) await attempt(() => removeDevices(agent.dataDirectory));
  if (problems.length === 0) removeFiles(cluster, directory);
  return problems;
}

/** Removes exactly what a demo makes; a directory that holds anything else stays. */
function removeFiles(cluster: LocalCluster, directory: string): void {
  for (const agent of cluster.agents) rmSync(agent.directory, { recursive: true, force: true });
  for (const name of ['store', 'cluster.json', RECORD]) rmSync(join(directory, name), { recursive: true, force: true });
  for (const path of [join(directory, 'mnt'), directory]) {
    try {
      rmdirSync(path);
    } catch (error) {
      if (!['ENOENT', 'ENOTEMPTY'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
    }
  }
}

function readRecord(directory: string): DemoRecord {
  const path = join(directory, RECORD);
  if (!existsSync(path)) return { volumeName: '', mountPoint: '' };
  return JSON.parse(readFileSync(path, 'utf8')) as DemoRecord;
}

/** The cluster in `directory`, which must be empty or not exist yet. */
export function makeCluster(directory: string, nodes: number): LocalCluster {
  mkdirSync(directory, { recursive: true });
  writeRecord(directory, { volumeName: '', mountPoint: '' });
  return new LocalCluster({ directory, nodes, clusterName: 'demo', detached: true });
}

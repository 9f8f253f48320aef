/** The file system below a drive fails, or is full, while the drive is written to: it leaves the set, its agent stays up, nothing is lost. */
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { MIB } from '../../daemon/base/units.js';
import { FileSystem } from '../support/file-system.js';
import { startFio } from '../support/fio.js';
import { startCluster, temporaryDirectory, type TestCluster } from './harness.js';

const NODES = 3;
/** The node with the file system of its own; another one is the owner. */
const VICTIM = 1;
const WRITE_SECONDS = 12;

interface Setting {
  readonly cluster: TestCluster;
  readonly fileSystem: FileSystem;
}

/** The victim's drive is all that is in its file system. */
async function startOnFileSystem(t: Test, type: 'ext4' | 'xfs', bytes: number, driveBytes: number): Promise<Setting> {
  const fileSystem = await FileSystem.make(join(temporaryDirectory(t), 'small'), type, bytes);
  t.teardown(() => fileSystem.unmount());
  const cluster = await startCluster(t, { nodes: NODES, driveBytes: 0 });
  for (const [node, agent] of cluster.agents.entries()) {
    const path = node === VICTIM ? join(fileSystem.directory, 'drive') : agent.driveDirectory;
    await cluster.client(node).addDrive({ path, capacity: driveBytes });
  }
  return { cluster, fileSystem };
}

async function expectDriveFailed(t: Test, cluster: TestCluster): Promise<void> {
  await cluster.waitUntilDegraded(0, 'vol');
  t.ok(await cluster.client(VICTIM).isAlive(), 'its agent is up');
  const drive = await cluster.failedDrive(VICTIM);
  t.ok(drive.reason.length > 20, `it says why: ${drive.reason}`);
}

t.test('a file system that fails below a drive under fio --verify', async (t) => {
  const { cluster, fileSystem } = await startOnFileSystem(t, 'xfs', 640 * MIB, 512 * MIB);
  const uri = await cluster.serve(0, { name: 'vol', size: 256 * MIB, replicas: 3 });
  const fio = startFio(t, uri, WRITE_SECONDS, cluster.directory);
  await cluster.waitForWrites(0, 16 * MIB, 'fio writes');
  await fileSystem.fail();
  await expectDriveFailed(t, cluster);
  await cluster.waitForWrites(0, 8 * MIB, 'fio goes on with two copies');
  await cluster.kill(VICTIM, 'SIGKILL');
  await fileSystem.unmount();
  await fileSystem.mount();
  await cluster.restart(VICTIM);
  await cluster.waitUntilInSync(0, 'vol');
  await fio.expectVerified();
  await cluster.expectIdentical(t, 0, 'vol', 3);
});

t.test('a file system that is full below a drive under fio --verify', async (t) => {
  const { cluster, fileSystem } = await startOnFileSystem(t, 'ext4', 640 * MIB, 512 * MIB);
  const uri = await cluster.serve(0, { name: 'vol', size: 256 * MIB, replicas: 3 });
  const free = fileSystem.fill();
  const fio = startFio(t, uri, WRITE_SECONDS, cluster.directory);
  await expectDriveFailed(t, cluster);
  await cluster.waitForWrites(0, 8 * MIB, 'fio goes on with two copies');
  free();
  await cluster.kill(VICTIM, 'SIGKILL');
  await cluster.restart(VICTIM);
  await cluster.waitUntilInSync(0, 'vol');
  await fio.expectVerified();
  await cluster.expectIdentical(t, 0, 'vol', 3);
});

import t from 'tap';
import type { ClusterSnapshot, VolumeFacts } from '../../../daemon/control/cluster-state.js';
import { severityOf, volumeHealth } from '../../../daemon/control/volume-health.js';
import type { DriveRecord, NodeRecord, SegmentRecord, VolumeStatusRecord } from '../../../daemon/protocol/records.js';

const node = (id: string): NodeRecord => ({
  id,
  name: `node-${id}`,
  apiAddress: '',
  dataAddresses: [],
  version: '',
  labels: {},
});
const drive = (id: string, nodeId: string): DriveRecord => ({
  ...{ id, nodeId, path: '', driveClass: 'ssd', capacityBytes: 1, shard: 0, createdMs: 0 },
});
const snapshot = (...alive: string[]): ClusterSnapshot => ({
  nodes: new Map(['a', 'b'].map((id) => [id, node(id)])),
  alive: new Map(alive.map((id) => [id, 'i'])),
  drives: new Map([drive('da', 'a'), drive('db', 'b')].map((each) => [each.id, each])),
  volumes: [],
});
const segment = (...inSync: string[]): SegmentRecord => ({
  ...{ index: 0, generation: 1 },
  replicas: ['da', 'db'].map((driveId) => ({
    ...{ driveId, syncedGeneration: 0, replaces: '', staleSinceMs: 0 },
    inSync: inSync.includes(driveId),
  })),
});
const status = (more: Partial<VolumeStatusRecord> = {}): VolumeStatusRecord => ({
  ...{
    epoch: 1,
    state: 'serving',
    nbdUri: 'nbd+unix:',
    nbdTcpUri: '',
    device: '',
    segmentsDegraded: 0,
    resyncBytesDone: 0,
    resyncBytesTotal: 0,
    copies: [],
  },
  error: '',
  ...more,
});
const volume = {
  ...{
    id: 'v',
    name: 'v',
    sizeBytes: 1,
    replicas: 2,
    minInSync: 1,
    stripeWidth: 1,
    segmentBytes: 1,
    failWhenDegraded: false,
  },
  ...{ createdMs: 0, deleting: false, labels: {} },
};
const detached: VolumeFacts = { volume, owner: null, attachment: null, status: null };
const attached = (more: Partial<VolumeStatusRecord> = {}): VolumeFacts => ({
  volume,
  owner: { epoch: 1, nodeId: 'a', incarnation: 'i' },
  attachment: { nodeId: 'a', device: false },
  status: status(more),
});
const healthOf = (...args: Parameters<typeof volumeHealth>) => volumeHealth(...args).health;

t.test('a volume that nobody serves is as well as its copies', async (t) => {
  t.equal(healthOf(detached, snapshot('a', 'b'), [segment('da', 'db')]), 'ok');
  t.equal(healthOf(detached, snapshot('a', 'b'), [segment('da')]), 'degraded');
  t.equal(healthOf(detached, snapshot('a'), [segment('da', 'db')]), 'degraded', 'a copy on a dead node does not count');
  t.match(volumeHealth(detached, snapshot('b'), [segment('da')]), {
    health: 'unavailable',
    reason: /start the agents/,
  });
  t.equal(healthOf({ ...detached, volume: { ...volume, deleting: true } }, snapshot('a'), []), 'deleting');
});

t.test('an attached volume is as well as its owner says, if the owner is the one that is wanted', async (t) => {
  const all = snapshot('a', 'b');
  t.equal(healthOf(attached(), all, []), 'ok');
  t.equal(healthOf(attached({ segmentsDegraded: 1 }), all, []), 'degraded');
  const copy = { kind: 'resync', driveId: 'd', bytesDone: 2 ** 20, bytesTotal: 2 ** 22, bytesPerSecond: 0 };
  t.match(volumeHealth(attached({ segmentsDegraded: 1, copies: [copy, copy] }), all, []), {
    health: 'syncing',
    reason: /2 MiB of 8 MiB copied/,
  });
  t.match(volumeHealth(attached({ state: 'suspended', error: 'why' }), all, []), {
    health: 'suspended',
    reason: 'why',
  });
  t.match(volumeHealth(attached(), snapshot('b'), []), { health: 'unavailable', reason: /node-a, which is not alive/ });
  t.match(volumeHealth(attached({ epoch: 0, state: 'waiting', error: 'no copy answers' }), all, []), {
    health: 'unavailable',
    reason: 'no copy answers',
  });
  t.equal(healthOf({ ...attached(), owner: { epoch: 2, nodeId: 'b', incarnation: 'i' } }, all, []), 'unavailable');
});

t.test('what it means for the cluster', async (t) => {
  t.equal(severityOf('ok'), 'ok');
  t.equal(severityOf('deleting'), 'ok');
  t.equal(severityOf('syncing'), 'degraded');
  t.equal(severityOf('unavailable'), 'error');
});

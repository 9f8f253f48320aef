/** The records of the cluster store: whole objects in memory, and clear errors for bytes that are none. */
import fc from 'fast-check';
import t from 'tap';
import { SimClusterStore, SimStoreState } from '../../sim/world/sim-cluster-store.js';
import { SimClock } from '../../sim/world/sim-clock.js';
import { SimRandom } from '../../sim/world/sim-random.js';
import { BraidError } from '../../../daemon/base/errors.js';
import { listRecords, readRecord } from '../../../daemon/ports/stored-records.js';
import { records, type VolumeRecord } from '../../../daemon/protocol/records.js';

const volume: VolumeRecord = {
  id: 'v1',
  name: 'data',
  sizeBytes: 64 * 2 ** 40,
  replicas: 3,
  minInSync: 2,
  stripeWidth: 4,
  segmentBytes: 2 ** 30,
  failWhenDegraded: false,
  createdMs: 1_900_000_000_000,
  deleting: false,
  labels: { team: 'a', $odd: 'b' },
};

t.test('a record is what it was, with every field its own', async (t) => {
  const decoded = records.volume.decode('volumes/v1', records.volume.encode(volume));
  t.strictSame(decoded, volume);
  t.strictSame({ ...decoded, deleting: true }, { ...volume, deleting: true });
  const empty = records.segment.decode('segments/v1/00000', new Uint8Array(0));
  t.strictSame(empty, { index: 0, generation: 0, replicas: [] });
  const segment = {
    index: 1,
    generation: 7,
    replicas: [
      { driveId: 'a', inSync: true, syncedGeneration: 0, replaces: '', staleSinceMs: 0 },
      { driveId: 'b', inSync: false, syncedGeneration: 6, replaces: 'c', staleSinceMs: 7 },
    ],
  };
  t.strictSame(records.segment.decode('s', records.segment.encode(segment)), segment);
  t.equal(records.name.decode('names/data', records.name.encode('v1')), 'v1');
});

t.test('unknown fields are ignored', async (t) => {
  const encoded = records.owner.encode({ epoch: 3, nodeId: 'n', incarnation: 'i' });
  const newer = Uint8Array.from([...encoded, 0xfa, 0x3e, 0x02, 0x01, 0x02]);
  t.strictSame(records.owner.decode('owners/v1', newer), { epoch: 3, nodeId: 'n', incarnation: 'i' });
});

t.test('malformed bytes are CORRUPT, and the key is named', async (t) => {
  const encoded = records.volume.encode(volume);
  const tooLarge = Uint8Array.from([0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
  for (const bytes of [encoded.subarray(0, encoded.length - 1), Uint8Array.of(0xff, 0xff), tooLarge]) {
    t.throws(() => records.volume.decode('volumes/v1', bytes), { code: 'CORRUPT', message: /volumes\/v1/ });
  }
  t.throws(() => records.name.decode('names/x', Uint8Array.of(0xff)), { code: 'CORRUPT', message: /names\/x/ });
  t.throws(() => records.volume.encode({ ...volume, sizeBytes: -1 }), { message: /sizeBytes/ });
});

t.test('a volume of an impossible geometry is CORRUPT', async (t) => {
  const impossible = [
    { sizeBytes: 0 },
    { sizeBytes: 2 ** 50 },
    { replicas: 0 },
    { replicas: 4 },
    { minInSync: 0 },
    { minInSync: 4 },
    { stripeWidth: 0 },
    { stripeWidth: 2 ** 20 },
    { segmentBytes: 0 },
    { segmentBytes: 2 ** 30 + 4096 },
    { segmentBytes: 2 ** 40 },
  ];
  for (const field of impossible) {
    const bytes = records.volume.encode({ ...volume, ...field });
    t.throws(
      () => records.volume.decode('volumes/v1', bytes),
      { code: 'CORRUPT', message: /geometry/ },
      JSON.stringify(field),
    );
  }
});

t.test('property: any bytes are a record or CORRUPT', async () => {
  const valid = records.volume.encode(volume);
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 120 }),
    fc.tuple(fc.nat(valid.length - 1), fc.nat(255)).map(([at, value]) => valid.with(at, value)),
    fc.nat(valid.length).map((cut) => valid.subarray(0, cut)),
  );
  const property = fc.property(bytes, fc.constantFrom(...Object.values(records)), (value, codec) => {
    try {
      codec.decode('some/key', value);
    } catch (error) {
      if (!(error instanceof BraidError) || error.code !== 'CORRUPT') throw error;
    }
    return true;
  });
  fc.assert(property, { numRuns: 3_000, seed: 5 });
});

t.test('records are read and listed from a store', async (t) => {
  const clock = new SimClock();
  const store = new SimClusterStore(new SimStoreState(clock, new SimRandom(1)), clock, new SimRandom(2));
  const driven = async <T>(promise: Promise<T>): Promise<T> => {
    let isPending = true;
    const settled = promise.finally(() => (isPending = false));
    while (isPending) {
      clock.step();
      await new Promise((resolve) => setImmediate(resolve));
    }
    return settled;
  };
  const value = records.volume.encode(volume);
  const { revision } = await driven(store.txn([], [{ type: 'put', key: 'volumes/v1', value }]));
  t.strictSame(await driven(readRecord(store, 'volumes/v1', records.volume)), {
    key: 'volumes/v1',
    value: volume,
    revision,
  });
  t.equal(await driven(readRecord(store, 'volumes/v2', records.volume)), null);
  t.strictSame(await driven(listRecords(store, 'volumes/', records.volume)), {
    records: [{ key: 'volumes/v1', value: volume, revision }],
    revision,
  });
});

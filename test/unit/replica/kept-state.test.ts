/** What a drive says of the cluster when it is read without being served. */
import t from 'tap';
import {
  epochKey,
  extentKey,
  layoutKey,
  SUPERBLOCK_KEY,
  uuidToBytes,
  volumeRecordKey,
} from '../../../daemon/format/keys.js';
import {
  encodeEpoch,
  encodeLayout,
  encodeSuperblock,
  encodeTombstone,
  FORMAT_VERSION,
} from '../../../daemon/format/records.js';
import { records, type SegmentRecord, type VolumeRecord } from '../../../daemon/protocol/records.js';
import { readKeptState } from '../../../daemon/replica/kept-state.js';
import { SimClock } from '../../sim/world/sim-clock.js';
import { SimMetaMedia, SimMetaStoreOpener } from '../../sim/world/sim-meta-store.js';
import { SimRandom } from '../../sim/world/sim-random.js';

const random = new SimRandom('kept state');
const [clusterId, driveId, first, second] = [random.uuid(), random.uuid(), random.uuid(), random.uuid()];
const [FIRST, SECOND] = [uuidToBytes(first), uuidToBytes(second)];

const layout = (index: number): SegmentRecord => ({
  ...{ index, generation: 4 },
  replicas: [{ driveId, inSync: false, syncedGeneration: 3, replaces: '', staleSinceMs: 9 }],
});
const volume: VolumeRecord = {
  ...{ id: first, name: 'data', sizeBytes: 2 ** 24, replicas: 2, minInSync: 1, stripeWidth: 1, segmentBytes: 2 ** 24 },
  ...{ failWhenDegraded: true, createdMs: 3, deleting: false, labels: { a: 'b' } },
};

function driveWith(entries: readonly (readonly [Uint8Array, Uint8Array])[]): SimMetaStoreOpener {
  const media = new SimMetaMedia();
  media.apply(entries.map(([key, value]) => ({ key, value })));
  const metas = new SimMetaStoreOpener(new SimClock().nodeClock(1, 0), random.fork('meta'));
  metas.attach('/d/meta', media);
  return metas;
}

const superblock = encodeSuperblock({ formatVersion: FORMAT_VERSION, slotCount: 64, driveId, clusterId, createdMs: 5 });
const copy = (id: Uint8Array, index: number) =>
  [layoutKey(id, index), encodeLayout(4, records.segment.encode(layout(index)))] as const;

t.test('records, epochs, layouts, and the highest stamp of each copy', async (t) => {
  const metas = driveWith([
    [SUPERBLOCK_KEY, superblock],
    [epochKey(FIRST), encodeEpoch(7)],
    [epochKey(SECOND), encodeEpoch(2)],
    [volumeRecordKey(FIRST), records.volume.encode(volume)],
    ...[copy(FIRST, 0), copy(FIRST, 1), copy(SECOND, 0)],
    ...[3, 9, 4].map((stamp, extent) => [extentKey(FIRST, 0, extent), encodeTombstone(stamp)] as const),
    [extentKey(SECOND, 0, 5), encodeTombstone(2)],
  ]);
  const { volumes, copies, ...rest } = await readKeptState(metas, '/d');
  t.strictSame(rest, { clusterId, driveId, slotCount: 64, createdMs: 5 });
  const byId = <T extends { readonly id: string }>(list: readonly T[]) =>
    [...list].sort((a, b) => (a.id === first ? -1 : b.id === first ? 1 : 0));
  t.strictSame(byId(volumes), [
    { id: first, epoch: 7, record: volume },
    { id: second, epoch: 2, record: null },
  ]);
  const stampOf = (id: string, index: number) =>
    copies.find(({ volumeId, layout: { index: at } }) => volumeId === id && at === index)?.highestStamp;
  t.same([stampOf(first, 0), stampOf(first, 1), stampOf(second, 0)], [9, 0, 2]);
  t.strictSame(copies.find(({ layout: { index } }) => index === 1)?.layout, layout(1));
  await t.resolves(readKeptState(metas, '/d'), 'it was closed again');
});

t.test('what is no drive, or is damaged, is refused with what to do', async (t) => {
  await t.rejects(readKeptState(driveWith([]), '/d'), { code: 'DRIVE', message: /no superblock/ });
  const damaged = superblock.slice();
  damaged[20] = (damaged[20] ?? 0) ^ 1;
  await t.rejects(readKeptState(driveWith([[SUPERBLOCK_KEY, damaged]]), '/d'), { code: 'CORRUPT' });
  const bad = driveWith([
    [SUPERBLOCK_KEY, superblock],
    [layoutKey(FIRST, 0), encodeLayout(4, Uint8Array.of(0x0a, 0xff))],
  ]);
  await t.rejects(readKeptState(bad, '/d'), { code: 'CORRUPT', message: new RegExp(`segment 0 of volume ${first}`) });
  await t.rejects(readKeptState(bad, '/d'), { code: 'CORRUPT' }, 'and closed again');
});

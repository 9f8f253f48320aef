import fc from 'fast-check';
import t from 'tap';
import { BraidError } from '../../../daemon/base/errors.js';
import type { DriveId, NodeId } from '../../../daemon/base/ids.js';
import { placeSegment, shardOf, uniform, type PlacementDrive } from '../../../daemon/control/placement.js';

const GIB = 2 ** 30;

function drive(id: number, node: number, gibibytes = 100, more: Partial<PlacementDrive> = {}): PlacementDrive {
  return {
    ...{ id: `d${id}` as DriveId, nodeId: `n${node}` as NodeId, driveClass: 'ssd', capacityBytes: gibibytes * GIB },
    ...{ labels: {}, alive: true },
    ...more,
  };
}

const pools = fc
  .array(fc.record({ node: fc.integer({ min: 0, max: 7 }), size: fc.integer({ min: 1, max: 1_000 }) }), {
    minLength: 1,
    maxLength: 24,
  })
  .map((all) => all.map(({ node, size }, index) => drive(index, node, size)));
const nodeCountOf = (drives: readonly PlacementDrive[]) => new Set(drives.map(({ nodeId }) => nodeId)).size;

t.test('copies are on as many different nodes as asked, whatever the pool', async () => {
  const property = fc.property(pools, fc.integer({ min: 1, max: 3 }), fc.string(), (drives, replicas, key) => {
    fc.pre(nodeCountOf(drives) >= replicas);
    const chosen = placeSegment(drives, { key, replicas });
    const nodes = chosen.map((id) => drives.find((each) => each.id === id)?.nodeId);
    return chosen.length === replicas && new Set(nodes).size === replicas && !nodes.includes(undefined);
  });
  fc.assert(property);
});

t.test('the result depends on the set of drives only, not on their order', async () => {
  const property = fc.property(pools, fc.string(), (drives, key) => {
    const forwards = placeSegment(drives, { key, replicas: 1 });
    const backwards = placeSegment([...drives].reverse(), { key, replicas: 1 });
    return forwards[0] === backwards[0];
  });
  fc.assert(property);
});

t.test('a drive that leaves moves only what it held', async () => {
  const property = fc.property(pools, fc.string(), fc.nat(), (drives, key, which) => {
    const gone = drives[which % drives.length];
    const left = drives.filter((each) => each !== gone);
    fc.pre(nodeCountOf(left) >= 2 && nodeCountOf(drives) >= 2);
    const before = placeSegment(drives, { key, replicas: 2 });
    const after = placeSegment(left, { key, replicas: 2 });
    return before.filter((id) => id !== gone?.id).every((id) => after.includes(id));
  });
  fc.assert(property);
});

t.test('drives are used in proportion to their capacity', async (t) => {
  const drives = [drive(0, 0, 100), drive(1, 1, 300)];
  const count = 4_000;
  const hits = Array.from({ length: count }, (_, index) => placeSegment(drives, { key: `v/${index}`, replicas: 1 })[0]);
  const share = hits.filter((id) => id === 'd1').length / count;
  t.ok(share > 0.71 && share < 0.79, `three quarters expected, got ${share}`);
});

t.test('segments of one stripe group use different drives where there are some', async (t) => {
  const drives = [drive(0, 0), drive(1, 0), drive(2, 1), drive(3, 1)];
  for (let volume = 0; volume < 50; volume++) {
    const first = placeSegment(drives, { key: `v${volume}/0`, replicas: 2 });
    const usesInGroup = new Map(first.map((id) => [id, 1]));
    const second = placeSegment(drives, { key: `v${volume}/1`, replicas: 2, usesInGroup });
    t.same(new Set([...first, ...second]).size, 4, `volume ${volume}`);
  }
});

t.test('the preferred node gets one copy when it has a suitable drive', async () => {
  const property = fc.property(pools, fc.string(), fc.nat(), (drives, key, which) => {
    fc.pre(nodeCountOf(drives) >= 2);
    const node = drives[which % drives.length]?.nodeId as NodeId;
    const chosen = placeSegment(drives, { key, replicas: 2, preferredNode: node });
    return chosen.some((id) => drives.find((each) => each.id === id)?.nodeId === node);
  });
  fc.assert(property);
});

t.test('selectors are obeyed', async (t) => {
  const drives = [
    drive(0, 0, 1_000, { driveClass: 'hdd' }),
    drive(1, 1, 10, { driveClass: 'nvme', labels: { zone: 'a' } }),
    drive(2, 2, 10, { driveClass: 'nvme', labels: { zone: 'b' } }),
  ];
  t.same(placeSegment(drives, { key: 'k', replicas: 2, driveClass: 'nvme' }).sort(), ['d1', 'd2']);
  t.same(placeSegment(drives, { key: 'k', replicas: 1, nodeLabels: { zone: 'b' } }), ['d2']);
});

t.test('NO_SPACE names what cannot be met', async (t) => {
  const drives = [drive(0, 0), drive(1, 0), drive(2, 1, 100, { alive: false, driveClass: 'nvme' })];
  const failure = (request: Parameters<typeof placeSegment>[1]): BraidError => {
    try {
      placeSegment(drives, request);
    } catch (error) {
      if (error instanceof BraidError) return error;
    }
    throw new Error('must fail');
  };
  t.equal(failure({ key: 'k', replicas: 3 }).code, 'NO_SPACE');
  t.match(
    failure({ key: 'k', replicas: 3 }).message,
    /3 copies need drives on 3 different nodes, but drives exist on 2 only/,
  );
  t.match(failure({ key: 'k', replicas: 2 }).message, /drives on nodes that are alive exist on 1 only/);
  t.match(failure({ key: 'k', replicas: 1, driveClass: 'hdd' }).message, /there are no drives of class hdd/);
  t.match(failure({ key: 'k', replicas: 1, nodeLabels: { zone: 'x' } }).message, /drives on nodes labelled zone=x/);
});

t.test('hashes are spread evenly and lie strictly between 0 and 1', async (t) => {
  const buckets = new Array<number>(10).fill(0);
  for (let index = 0; index < 10_000; index++) {
    const value = uniform(`volume/${index}`);
    t.ok(value > 0 && value < 1);
    buckets[Math.floor(value * 10)] = (buckets[Math.floor(value * 10)] ?? 0) + 1;
  }
  for (const count of buckets) t.ok(count > 850 && count < 1_150, `${count}`);
  t.equal(shardOf('anything', 1), 0);
  t.equal(new Set(Array.from({ length: 64 }, (_, index) => shardOf(`v${index}`, 4))).size, 4);
});

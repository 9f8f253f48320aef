import fc from 'fast-check';
import t from 'tap';
import type { VolumeId } from '../../../daemon/base/ids.js';
import { MIB } from '../../../daemon/base/units.js';
import type { ReadDrive } from '../../../daemon/control/drives.js';
import { planRecovery, type PlannedVolume, type RecoveryChoice } from '../../../daemon/control/recovery-plan.js';
import type { SegmentRecord, VolumeRecord } from '../../../daemon/protocol/records.js';

const V = 'v1' as VolumeId;
const NOW_MS = 77;
const NO_CHOICE: RecoveryChoice = { accept: [], skip: [] };
const VOLUME: VolumeRecord = {
  ...{ id: V, name: 'data', sizeBytes: 16 * MIB, replicas: 3, minInSync: 2, stripeWidth: 1, segmentBytes: 16 * MIB },
  ...{ failWhenDegraded: false, createdMs: 5, deleting: false, labels: { app: 'db' } },
};

/** `A` in sync, `b2` stale since generation 2. */
function layout(generation: number, copies: string, index = 0): SegmentRecord {
  const replicas = copies.split(' ').map((copy) => {
    const inSync = copy === copy.toUpperCase();
    const syncedGeneration = inSync ? 0 : Number(copy.slice(1));
    return {
      driveId: (copy[0] ?? '').toLowerCase(),
      inSync,
      syncedGeneration,
      replaces: '',
      staleSinceMs: inSync ? 0 : 1,
    };
  });
  return { index, generation, replicas };
}

interface Contents {
  readonly layouts?: readonly SegmentRecord[];
  readonly stamp?: number;
  readonly epoch?: number;
  readonly record?: VolumeRecord | null;
  readonly cluster?: string;
}

function drive(id: string, contents: Contents): ReadDrive {
  const { layouts = [], stamp = 1, epoch = 4, record = VOLUME, cluster = 'c' } = contents;
  const place = { nodeId: `n${id}`, path: `/${id}`, driveClass: 'ssd', capacityBytes: 0, shard: 0, createdMs: 0 };
  const volumeId = record?.id ?? V;
  const kept = {
    ...{ clusterId: cluster, driveId: id, slotCount: 1_024, createdMs: 3 },
    volumes: epoch === 0 ? [] : [{ id: volumeId as VolumeId, epoch, record }],
    copies: layouts.map((each) => ({ volumeId: volumeId as VolumeId, layout: each, highestStamp: stamp })),
  };
  return { record: { id: '', ...place }, kept, reason: '' };
}

const unreadable = (id: string): ReadDrive => ({
  ...drive(id, {}),
  record: { ...drive(id, {}).record, id },
  kept: null,
  reason: 'EIO',
});
const plan = (drives: readonly ReadDrive[], choice: Partial<RecoveryChoice> = {}) =>
  planRecovery(drives, { ...NO_CHOICE, ...choice }, (id) => id, NOW_MS);

function only(drives: readonly ReadDrive[], choice: Partial<RecoveryChoice> = {}): PlannedVolume {
  const { volumes, problems } = plan(drives, choice);
  if (volumes.length !== 1 || volumes[0] === undefined)
    throw new Error(`${volumes.length} volumes; ${problems.join()}`);
  return volumes[0];
}

/** `A` in sync, `b2` stale since 2, as `layout`. */
function copiesOf({ restored }: PlannedVolume, index = 0): string {
  const replicas = restored?.segments[index]?.replicas ?? [];
  const text = replicas.map((each) =>
    each.inSync ? each.driveId.toUpperCase() : `${each.driveId}${each.syncedGeneration}`,
  );
  return text.join(' ');
}

t.test('with all drives there, everything is as it was', async (t) => {
  const same = { layouts: [layout(3, 'A B c2')], stamp: 3 };
  const { clusterId, problems, drives, volumes } = plan([
    drive('a', same),
    drive('b', { ...same, epoch: 9 }),
    drive('c', same),
  ]);
  t.strictSame({ clusterId, problems }, { clusterId: 'c', problems: [] });
  t.match(drives, [
    { record: { id: 'a', nodeId: 'na', path: '/a', capacityBytes: 128 * MIB, createdMs: 3 }, state: 'found' },
    {},
    {},
  ]);
  t.match(volumes, [{ id: V, name: 'data', doubts: [], decision: 'restore' }]);
  t.strictSame(volumes[0]?.restored?.volume, VOLUME);
  t.strictSame(volumes[0]?.restored?.segments, [layout(3, 'A B c2')]);
  t.ok((volumes[0]?.restored?.epoch ?? 0) > 9, 'above every epoch');
});

t.test('the newest layout wins, whatever the others say', async (t) => {
  const dropped = drive('c', { layouts: [layout(1, 'A B C')], stamp: 1 });
  const late = drive('b', { layouts: [layout(1, 'A B C')], stamp: 2 });
  const volume = only([drive('a', { layouts: [layout(2, 'A B c1')], stamp: 2 }), late, dropped]);
  t.equal(volume.decision, 'restore');
  t.equal(copiesOf(volume), 'A B c1', 'a copy that was dropped is not called in sync');
});

t.test('stamps above every layout: who was in sync then is not known', async (t) => {
  const old = { layouts: [layout(1, 'A B C')] };
  const drives = [drive('a', { ...old, stamp: 2 }), drive('b', { ...old, stamp: 1 }), drive('c', { ...old, stamp: 1 })];
  const volume = only(drives);
  t.equal(volume.decision, 'ambiguous');
  t.match(volume.doubts, [/segment 0: drive a was written to after generation 1/]);
  t.equal(copiesOf(only(drives, { accept: ['data'] })), 'A b1 c1', 'the one that saw the last writes');
});

t.test('a drive that is not there may have newer data', async (t) => {
  const same = { layouts: [layout(3, 'A B c2')], stamp: 3 };
  const noB = only([drive('a', same), drive('c', same)]);
  t.match(noB, { decision: 'ambiguous', doubts: [/drive b is not there \(in sync at generation 3 when/] });
  t.match(only([drive('a', same), drive('b', same)]).doubts, [/drive c is not there \(stale since generation 2 when/]);
  const accepted = plan([drive('a', same), drive('c', same)], { accept: [V] });
  t.match(accepted.volumes, [{ decision: 'accepted' }]);
  t.equal(copiesOf(accepted.volumes[0] as PlannedVolume), 'A b3 c2');
  t.ok((accepted.volumes[0]?.restored?.segments[0]?.generation ?? 0) > 1_000, 'above what the missing copy may carry');
  t.match(accepted.drives.at(-1), { record: { id: 'b', nodeId: '', path: '' }, state: 'missing' });
  t.match(plan([drive('a', same), drive('c', same), unreadable('b')], { accept: [V] }).drives.at(-1), {
    ...{ record: { id: 'b', nodeId: 'nb', path: '/b' }, state: 'unreadable', reason: 'EIO' },
  });
  t.equal(copiesOf(only([drive('c', same)], { accept: [V] })), 'a2 b2 C', 'only a stale one is there');
});

t.test('a volume that was being deleted does not come back by itself', async (t) => {
  const same = { layouts: [layout(1, 'A B')] };
  t.match(only([drive('a', same), drive('b', {})]), {
    ...{ decision: 'ambiguous', doubts: [/drive b has given its copy up: the volume was being deleted/] },
  });
  t.match(plan([drive('a', {}), drive('b', {})]).volumes, [], 'one that is gone everywhere is not mentioned');
  t.match(only([drive('a', same), drive('b', { epoch: 0 })]).doubts, [/drive b has no copy, and was in sync/]);
  const away = only([drive('a', { layouts: [layout(2, 'A b1')], stamp: 2 }), drive('b', {})]);
  t.match(away, { decision: 'restore' }, 'one that was away from the start has none yet');
});

t.test('a segment of which there is no copy reads as zeros, if the volume is accepted', async (t) => {
  const large = { ...VOLUME, replicas: 2, sizeBytes: 48 * MIB };
  const two = { layouts: [layout(1, 'A B', 0), layout(1, 'A B', 2)], record: large };
  const volume = only([drive('a', two), drive('b', two)], { accept: ['data'] });
  t.match(volume.doubts, [/segment 1: no drive that is there has a copy/]);
  t.match(
    volume.restored?.segments.map(({ index, replicas }) => [index, replicas.length]),
    [
      [0, 2],
      [1, 2],
      [2, 2],
    ],
  );
  const few = { ...two, record: { ...large, replicas: 3 } };
  t.match(only([drive('a', few), drive('b', few)]), {
    decision: 'impossible',
    doubts: [/./, /no room.*3 copies need/],
  });
});

t.test('contradictions, records that nobody keeps, names that are used twice', async (t) => {
  const split = [drive('a', { layouts: [layout(2, 'A b1')] }), drive('b', { layouts: [layout(2, 'a1 B')], stamp: 2 })];
  t.match(only(split).doubts, [/different layouts of the same generation/]);
  t.equal(copiesOf(only(split, { accept: ['data'] })), 'a0 B', 'all of the other is replaced');
  const same = { layouts: [layout(1, 'A B')] };
  const renamed = { ...same, record: { ...VOLUME, name: 'other' } };
  t.match(only([drive('a', same), drive('b', renamed)]).doubts, [/saw the same owner keep different records/]);
  t.match(only([drive('a', same), drive('b', { ...renamed, epoch: 5 })]), { name: 'other', decision: 'restore' });
  const old = { ...same, record: null };
  t.match(only([drive('a', old), drive('b', old)], { accept: [V] }), {
    decision: 'impossible',
    doubts: [/older version/],
  });
  t.match(only([drive('a', old), drive('b', same)]), { decision: 'restore' }, 'one record is enough');
  const twin = { layouts: [layout(1, 'C')], record: { ...VOLUME, id: 'v2', replicas: 1 } };
  const drives = [drive('a', same), drive('b', same), drive('c', twin)];
  t.match(plan(drives).volumes, [{ doubts: [/used twice: volume v2/] }, { doubts: [/used twice: volume v1/] }]);
  t.match(plan(drives, { accept: ['data'] }).problems, [/data means v1 or v2: give the id/, /cannot both be restored/]);
  t.match(plan(drives, { accept: ['v1'], skip: ['v2'] }), {
    problems: [],
    volumes: [{ decision: 'accepted' }, { decision: 'skipped' }],
  });
  t.match(plan(drives, { accept: ['v1', 'v2'] }).problems, [/two volumes named data/]);
});

t.test('drives of two clusters, drives that are there twice, no drives, words that mean nothing', async (t) => {
  const same = { layouts: [layout(1, 'A B')] };
  const drives = [drive('a', same), drive('b', same), drive('x', { cluster: 'other' })];
  t.match(plan(drives), { clusterId: '', problems: [/different clusters: c \(na:\/a, nb:\/b\); other \(nx:\/x\)/] });
  const chosen = plan(drives, { clusterId: 'c' });
  t.match(chosen, { problems: [], volumes: [{ decision: 'restore' }], drives: [{}, {}, { state: 'foreign' }] });
  t.match(plan(drives, { clusterId: 'z' }).problems, [/no drive is of cluster z/]);
  const copy = { ...drive('a', same), record: { ...drive('a', same).record, path: '/copy' } };
  t.match(plan([drive('a', same), drive('b', same), copy]).problems, [/drive a is there twice/]);
  t.match(plan([unreadable('a')]).problems, [/no drive can be read/]);
  t.match(plan(drives.slice(0, 2), { accept: ['no'], skip: [V] }).problems, [/no volume no on the drives/]);
  t.match(plan(drives.slice(0, 2), { accept: [V], skip: [V] }).problems, [/both accepted and skipped/]);
});

/**
 * A volume's life: copies are dropped and join, writes are acknowledged by all that are in sync then, drives hear of changes or do not.
 * Whatever of it is restored without a doubt has every acknowledged write in every copy that is called in sync.
 */
t.test('what is restored without a doubt lacks nothing', async (t) => {
  const NAMES = ['a', 'b', 'c'];
  const step = fc.record({
    kind: fc.constantFrom('drop' as const, 'join' as const, 'write' as const),
    who: fc.nat(2),
    /** Drives that hear of the change. */
    heard: fc.array(fc.boolean(), { minLength: 3, maxLength: 3 }),
  });
  let certain = 0;
  const property = fc.property(
    fc.array(step, { maxLength: 12 }),
    fc.array(fc.boolean(), { minLength: 3, maxLength: 3 }),
    (steps, there) => {
      let record = layout(1, 'A B C');
      const kept = new Map(NAMES.map((name) => [name, record]));
      const stamps = new Map(NAMES.map((name) => [name, 0]));
      const writes = new Map<string, Set<number>>(NAMES.map((name) => [name, new Set<number>()]));
      let written = 0;
      for (const { kind, who, heard } of steps) {
        const inSync = record.replicas.filter((replica) => replica.inSync).map(({ driveId }) => driveId);
        const name = NAMES[who] ?? 'a';
        if (kind === 'write') {
          written++;
          for (const each of inSync) {
            writes.get(each)?.add(written);
            stamps.set(each, record.generation);
          }
          continue;
        }
        const isIn = inSync.includes(name);
        if (kind === 'drop' ? !isIn || inSync.length === 1 : isIn) continue;
        const before = record.generation;
        const replicas = record.replicas.map((each) => {
          if (each.driveId !== name) return each;
          return { ...each, inSync: kind === 'join', syncedGeneration: kind === 'join' ? 0 : before };
        });
        if (kind === 'join') {
          writes.set(name, new Set(writes.get(inSync[0] ?? '')));
          stamps.set(name, Math.max(stamps.get(name) ?? 0, ...inSync.map((each) => stamps.get(each) ?? 0)));
        }
        record = { ...record, generation: before + 1, replicas };
        const open = record.replicas.filter((replica) => replica.inSync).map(({ driveId }) => driveId);
        for (const each of open) if (heard[NAMES.indexOf(each)] === true) kept.set(each, record);
      }
      const drives = NAMES.filter((_, index) => there[index]).map((name) =>
        drive(name, { layouts: [kept.get(name) ?? record], stamp: stamps.get(name) ?? 0 }),
      );
      if (drives.length === 0) return;
      const volume = only(drives);
      if (volume.decision !== 'restore') return;
      certain++;
      const copies = volume.restored?.segments[0]?.replicas.filter((replica) => replica.inSync) ?? [];
      if (copies.length === 0) throw new Error('no copy in sync');
      for (const { driveId } of copies) {
        const lost = written - (writes.get(driveId)?.size ?? 0);
        if (lost > 0) throw new Error(`drive ${driveId} lacks ${lost} acknowledged writes`);
      }
    },
  );
  fc.assert(property, { numRuns: 3_000, seed: 1 });
  t.ok(certain > 200, `${certain} of 3000 were certain`);
});

/**
 * Rebuilding a lost cluster store from what the drives keep: a pure function from what was read to what would be restored, and to what is
 * doubtful. Nothing that is doubtful is restored unless the operator names the volume.
 *
 * Why the newest layout tells which copies are in sync (numbers of ARCHITECTURE.md)
 * - A copy leaves the set by a committed change before anything that it missed is acknowledged (5), and what is acknowledged after that is
 *   stamped with the new generation on every copy that is left (8). Owners tell the drives of changes without waiting, so the newest
 *   layout may be older than the last change: then a copy that was left has stamps above its generation, or nothing was acknowledged since.
 * - So with every drive of the newest layout there, and no stamp above its generation, its in-sync copies have all that was acknowledged.
 * - A drive that is not there may have gone on without the others. That is a doubt, whatever was last known of its copy.
 * - Lost power changes nothing: the activity logs stay as they are, and the first owner goes by them (10).
 */
import { assert, must } from '../base/assert.js';
import { BraidError } from '../base/errors.js';
import type { VolumeId } from '../base/ids.js';
import { EXTENT_BYTES } from '../base/units.js';
import { segmentCountOf } from '../coordinator/layout.js';
import type { KeptCopy, KeptDrive } from '../ports/kept-drive.js';
import { records, type DriveRecord, type SegmentRecord, type VolumeRecord } from '../protocol/records.js';
import type { ReadDrive } from './drives.js';
import { withPrimary } from './force-primary.js';
import type { PlacementDrive } from './placement.js';
import { planSegments } from './volumes.js';

/** An epoch that was claimed and not seen by any drive that is there, and generations of copies that are not there, are below this much more. */
const LEAP = 1_000;

export interface RecoveryChoice {
  /** Names or ids of volumes that are restored with their doubts. */
  readonly accept: readonly string[];
  /** Of volumes that are not restored. */
  readonly skip: readonly string[];
  /** Absent: the only one that the drives belong to. */
  readonly clusterId?: string;
}

export interface PlannedDrive {
  readonly record: DriveRecord;
  /** `missing`: a layout names it and nobody has it; `foreign`: of another cluster. */
  readonly state: 'found' | 'unreadable' | 'missing' | 'foreign';
  readonly reason: string;
}

export interface PlannedVolume {
  readonly id: VolumeId;
  /** Empty when no drive keeps the volume's record. */
  readonly name: string;
  readonly doubts: readonly string[];
  /** `impossible`: the drives do not keep enough; it can only be skipped. */
  readonly decision: 'restore' | 'accepted' | 'skipped' | 'ambiguous' | 'impossible';
  /** What is restored; null when nothing can be. */
  readonly restored: RestoredVolume | null;
}

export interface RestoredVolume {
  readonly volume: VolumeRecord;
  readonly segments: readonly SegmentRecord[];
  /** Of the owner record: above any that a drive has seen. */
  readonly epoch: number;
}

export interface RecoveryPlan {
  /** Empty when the drives do not say. */
  readonly clusterId: string;
  /** Of the whole: nothing is restored while there is one. */
  readonly problems: readonly string[];
  readonly drives: readonly PlannedDrive[];
  readonly volumes: readonly PlannedVolume[];
}

interface FoundDrive {
  readonly record: DriveRecord;
  readonly kept: KeptDrive;
}

type Drives = ReadonlyMap<string, FoundDrive>;

/** `nameOf`: of a node, for people. */
export function planRecovery(
  read: readonly ReadDrive[],
  choice: RecoveryChoice,
  nameOf: (nodeId: string) => string,
  nowMs: number,
): RecoveryPlan {
  const placeOf = ({ nodeId, path }: DriveRecord): string => `${nameOf(nodeId)}:${path}`;
  const found = read.flatMap(({ record, kept }) => (kept === null ? [] : [{ record: recordOf(record, kept), kept }]));
  const { clusterId, problems } = chooseCluster(found, choice, placeOf);
  const own = found.filter(({ kept }) => kept.clusterId === clusterId);
  const drives: Drives = new Map(own.map((drive) => [drive.kept.driveId, drive]));
  const doubles = own.filter((drive) => drives.get(drive.kept.driveId) !== drive);
  const doubleProblems = doubles.map(({ record, kept }) => {
    const other = must(drives.get(kept.driveId), 'the other one').record;
    const where = `${placeOf(other)} and ${placeOf(record)}`;
    return `drive ${record.id} is there twice, at ${where}: one is a copy of the other; take the older one away`;
  });
  const planned = planVolumes(drives, choice, nowMs);
  const known = read.filter(({ kept }) => kept === null);
  return {
    clusterId,
    problems: [...problems, ...doubleProblems, ...choiceProblems(choice, planned)],
    drives: [
      ...found.map(({ record, kept }): PlannedDrive => {
        return { record, state: kept.clusterId === clusterId ? 'found' : 'foreign', reason: '' };
      }),
      ...known.map(({ record, reason }): PlannedDrive => ({ record, state: 'unreadable', reason })),
      ...missingDrives(planned, [...drives.keys(), ...known.map(({ record }) => record.id)]),
    ],
    volumes: planned,
  };
}

/** The record of a drive: what the drive itself says wins over what its node remembers. */
function recordOf(record: DriveRecord, { driveId, slotCount, createdMs }: KeptDrive): DriveRecord {
  return { ...record, id: driveId, capacityBytes: slotCount * EXTENT_BYTES, createdMs };
}

function chooseCluster(
  found: readonly FoundDrive[],
  choice: RecoveryChoice,
  placeOf: (record: DriveRecord) => string,
): { readonly clusterId: string; readonly problems: readonly string[] } {
  const ids = new Set(found.map(({ kept }) => kept.clusterId));
  if (choice.clusterId !== undefined && ids.has(choice.clusterId)) return { clusterId: choice.clusterId, problems: [] };
  if (ids.size === 0) {
    const advice = 'start the agents that had them, with their old data directories, or name the directories';
    return { clusterId: '', problems: [`no drive can be read: ${advice}`] };
  }
  const lists = [...ids].map((id) => {
    const places = found.filter(({ kept }) => kept.clusterId === id).map(({ record }) => placeOf(record));
    return `${id} (${places.join(', ')})`;
  });
  if (choice.clusterId !== undefined)
    return {
      clusterId: '',
      problems: [`no drive is of cluster ${choice.clusterId}; there are drives of ${lists.join('; ')}`],
    };
  const [only] = ids;
  if (ids.size === 1 && only !== undefined) return { clusterId: only, problems: [] };
  const message = `the drives are of different clusters: ${lists.join('; ')}; say which one is to be rebuilt`;
  return { clusterId: '', problems: [message] };
}

// ---- volumes

function planVolumes(drives: Drives, choice: RecoveryChoice, nowMs: number): PlannedVolume[] {
  const copies = new Map<VolumeId, Map<number, Map<string, KeptCopy>>>();
  for (const [driveId, { kept }] of drives) {
    for (const copy of kept.copies) {
      const segments = copies.get(copy.volumeId) ?? new Map<number, Map<string, KeptCopy>>();
      const ofSegment = segments.get(copy.layout.index) ?? new Map<string, KeptCopy>();
      copies.set(copy.volumeId, segments.set(copy.layout.index, ofSegment.set(driveId, copy)));
    }
  }
  const judged = [...copies].map(([id, segments]) => judgeVolume(id, segments, drives, nowMs));
  return judged
    .map(({ id, name, doubts, restored }) => {
      const rivals = judged
        .filter((other) => other.name === name && other.id !== id && name !== '')
        .map((other) => other.id);
      const isTwice = `the name ${name} is used twice: volume ${rivals.join(', ')} has it, too`;
      const all = rivals.length === 0 ? doubts : [...doubts, isTwice];
      return { id, name, doubts: all, decision: decide(id, name, all, restored, choice), restored };
    })
    .sort((a, b) => (`${a.name}\0${a.id}` < `${b.name}\0${b.id}` ? -1 : 1));
}

function decide(
  id: string,
  name: string,
  doubts: readonly string[],
  restored: RestoredVolume | null,
  { accept, skip }: RecoveryChoice,
): PlannedVolume['decision'] {
  const isNamed = (list: readonly string[]): boolean => list.includes(id) || (name !== '' && list.includes(name));
  if (isNamed(skip)) return 'skipped';
  if (restored === null) return 'impossible';
  if (doubts.length === 0) return 'restore';
  return isNamed(accept) ? 'accepted' : 'ambiguous';
}

type Judgement = Pick<PlannedVolume, 'id' | 'name' | 'doubts' | 'restored'>;

function judgeVolume(
  id: VolumeId,
  copies: ReadonlyMap<number, ReadonlyMap<string, KeptCopy>>,
  drives: Drives,
  nowMs: number,
): Judgement {
  const { epoch, candidates } = newestRecords(id, drives);
  const [volume] = candidates;
  if (volume === undefined) {
    const doubt = 'no drive keeps its record (name, size, copies): only agents of an older version have served it';
    return { id, name: '', doubts: [doubt], restored: null };
  }
  const doubts = new Map<string, number[]>();
  const judged = Array.from(
    { length: segmentCountOf(volume.sizeBytes, volume.segmentBytes, volume.stripeWidth) },
    (_, index) => {
      const { record, doubts: found } = judgeSegment(
        id,
        copies.get(index) ?? new Map<string, KeptCopy>(),
        drives,
        nowMs,
      );
      for (const doubt of found) doubts.set(doubt, [...(doubts.get(doubt) ?? []), index]);
      return record;
    },
  );
  const texts = [...doubts].map(([doubt, indices]) => `segment ${rangesOf(indices)}: ${doubt}`);
  if (candidates.length > 1) texts.unshift('drives that saw the same owner keep different records of it');
  const result = { id, name: volume.name };
  try {
    const empty = judged.includes(null) ? planSegments(volume, placementOf(drives)) : [];
    const segments = judged.map((record, index) => record ?? must(empty[index], 'a new segment'));
    return { ...result, doubts: texts, restored: { volume, segments, epoch: epoch + LEAP } };
  } catch (thrown) {
    if (!(thrown instanceof BraidError)) throw thrown;
    return { ...result, doubts: [...texts, `there is no room for what is lost: ${thrown.message}`], restored: null };
  }
}

/** Those of the drives that have seen the highest epoch: one, unless something is wrong. */
function newestRecords(id: VolumeId, drives: Drives): { readonly epoch: number; readonly candidates: VolumeRecord[] } {
  const kept = [...drives.values()].flatMap((drive) => drive.kept.volumes.filter((volume) => volume.id === id));
  const epoch = Math.max(0, ...kept.map((volume) => volume.epoch));
  const withRecord = kept.filter(({ record }) => record !== null);
  const newest = Math.max(0, ...withRecord.map((volume) => volume.epoch));
  const candidates = new Map<string, VolumeRecord>();
  for (const { epoch: seen, record } of withRecord)
    if (seen === newest && record !== null) candidates.set(records.volume.encode(record).join(), record);
  return { epoch, candidates: [...candidates.values()] };
}

// ---- segments

/** The record that is restored, null when there is no copy, and what is doubtful about it. */
function judgeSegment(
  id: VolumeId,
  copies: ReadonlyMap<string, KeptCopy>,
  drives: Drives,
  nowMs: number,
): { readonly record: SegmentRecord | null; readonly doubts: readonly string[] } {
  const none = 'no drive that is there has a copy; with the volume accepted it reads as zeros';
  if (copies.size === 0) return { record: null, doubts: [none] };
  const newest = newestLayouts(copies);
  const [layout] = newest;
  assert(layout !== undefined, 'one of the layouts is the newest');
  const highest = Math.max(...[...copies.values()].map(({ highestStamp }) => highestStamp));
  const doubts = layout.replicas.flatMap((replica) => doubtOf(id, layout, replica, copies, drives));
  if (newest.length > 1) doubts.push('drives keep different layouts of the same generation');
  if (highest > layout.generation) {
    const late = [...copies].filter(([, { highestStamp }]) => highestStamp > layout.generation).map(([drive]) => drive);
    const what = `was written to after generation ${layout.generation}, the newest whose copies in sync are known`;
    doubts.push(`drive ${late.join(', ')} ${what}`);
  }
  if (doubts.length === 0) return { record: layout, doubts };
  const chosen = chooseCopies(layout, copies, highest);
  if (chosen.length === 0) return { record: null, doubts: [...doubts, none] };
  const generation = Math.max(layout.generation, highest) + LEAP;
  const record = withPrimary(layout, chosen, generation, nowMs);
  return { record: newest.length > 1 ? withoutCommonPast(record) : record, doubts };
}

function newestLayouts(copies: ReadonlyMap<string, KeptCopy>): SegmentRecord[] {
  const layouts = [...copies.values()].map(({ layout }) => layout);
  const generation = Math.max(...layouts.map((layout) => layout.generation));
  const newest = layouts.filter((layout) => layout.generation === generation);
  return [...new Map(newest.map((layout) => [records.segment.encode(layout).join(), layout])).values()];
}

function doubtOf(
  id: VolumeId,
  { generation }: SegmentRecord,
  { driveId, inSync, syncedGeneration }: SegmentRecord['replicas'][number],
  copies: ReadonlyMap<string, KeptCopy>,
  drives: Drives,
): string[] {
  if (copies.has(driveId)) return [];
  const drive = drives.get(driveId);
  if (drive === undefined) {
    const last = inSync ? `in sync at generation ${generation}` : `stale since generation ${syncedGeneration}`;
    return [`drive ${driveId} is not there (${last} when it was last heard of): its copy may be newer`];
  }
  // One that was away when the volume was first served has no copy yet, and gets what it lacks.
  if (!inSync) return [];
  return drive.kept.volumes.some((volume) => volume.id === id)
    ? [`drive ${driveId} has given its copy up: the volume was being deleted`]
    : [`drive ${driveId} has no copy, and was in sync at generation ${generation}`];
}

/** With doubts: the copies in sync that are there; or the one that saw the last writes, or the one that was in sync last. */
function chooseCopies(layout: SegmentRecord, copies: ReadonlyMap<string, KeptCopy>, highest: number): string[] {
  const there = layout.replicas.filter(({ driveId }) => copies.has(driveId));
  const inSync = there.filter((replica) => replica.inSync);
  const newestLayoutOnly = highest <= layout.generation && newestLayouts(copies).length === 1;
  if (newestLayoutOnly && inSync.length > 0) return inSync.map(({ driveId }) => driveId);
  const rank = ({ driveId, inSync: isInSync, syncedGeneration }: (typeof there)[number]): number[] => [
    newestLayoutOnly ? 0 : (copies.get(driveId)?.highestStamp ?? 0),
    Number(isInSync),
    syncedGeneration,
  ];
  const [best] = there.sort((a, b) => {
    const [left, right] = [rank(a), rank(b)];
    const at = left.findIndex((value, index) => value !== right[index]);
    return at < 0 ? 0 : (right[at] ?? 0) - (left[at] ?? 0);
  });
  return best === undefined ? [] : [best.driveId];
}

/** The copies have two pasts: nothing is known to be the same, so all is copied. */
function withoutCommonPast(record: SegmentRecord): SegmentRecord {
  return { ...record, replicas: record.replicas.map((replica) => ({ ...replica, syncedGeneration: 0 })) };
}

// ---- small things

function placementOf(drives: Drives): PlacementDrive[] {
  return [...drives.values()].map(({ record }) => ({
    ...{ id: record.id as never, nodeId: record.nodeId as never, driveClass: record.driveClass },
    ...{ capacityBytes: record.capacityBytes, labels: {}, alive: true },
  }));
}

/** Named in what is restored: a drive that comes back finds its place by its record. */
function missingDrives(volumes: readonly PlannedVolume[], known: readonly string[]): PlannedDrive[] {
  const wanted = volumes.filter(isRestored).flatMap(({ restored }) => restored?.segments ?? []);
  const named = new Set(wanted.flatMap(({ replicas }) => replicas.map(({ driveId }) => driveId)));
  for (const id of known) named.delete(id);
  return [...named].map((id) => ({
    record: { id, nodeId: '', path: '', driveClass: 'ssd', capacityBytes: 0, shard: 0, createdMs: 0 },
    ...{ state: 'missing', reason: 'no agent that answers has it' },
  }));
}

export function isRestored({ decision }: PlannedVolume): boolean {
  return decision === 'restore' || decision === 'accepted';
}

function choiceProblems({ accept, skip }: RecoveryChoice, volumes: readonly PlannedVolume[]): string[] {
  const problems = [...new Set([...accept, ...skip])].flatMap((word) => {
    const meant = volumes.filter(({ id, name }) => id === word || name === word);
    if (meant.length === 0) return [`there is no volume ${word} on the drives`];
    if (meant.length > 1) return [`${word} means ${meant.map(({ id }) => id).join(' or ')}: give the id`];
    return accept.includes(word) && skip.includes(word) ? [`volume ${word} is both accepted and skipped`] : [];
  });
  const names = volumes.filter(isRestored).map(({ name }) => name);
  const twice = new Set(names.filter((name, index) => names.indexOf(name) !== index));
  return [
    ...problems,
    ...[...twice].map((name) => `two volumes named ${name} cannot both be restored: skip one by its id`),
  ];
}

/** `0-3, 7`. */
function rangesOf(indices: readonly number[]): string {
  const ranges: [number, number][] = [];
  for (const index of indices) {
    const last = ranges.at(-1);
    if (last?.[1] === index - 1) last[1] = index;
    else ranges.push([index, index]);
  }
  return ranges.map(([from, to]) => (from === to ? `${from}` : `${from}-${to}`)).join(', ');
}

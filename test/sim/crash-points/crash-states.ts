/**
 * The states in which a crash can leave a drive, from a recording: for each point of it every durable metadata commit and any prefix of those
 * under way; of each 4 KiB block what was last made stable, or any version written since. Few versions: all combinations. Many: all,
 * none, each write alone kept and alone lost, and samples.
 *
 * `Medium` says what the hardware promises. One that breaks a promise is to the drive above it as if the drive had not waited for it: with
 * these the tests plant the bugs that must be found.
 */
import { BLOCK_BYTES, EXTENT_BYTES } from '../../../daemon/base/units.js';
import type { MetaOperation } from '../../../daemon/ports/meta-store.js';
import { SimDiskMedia } from '../world/sim-disk.js';
import { SimMetaMedia } from '../world/sim-meta-store.js';
import type { SimRandom } from '../world/sim-random.js';
import type { DiskWrite, Entry } from './recorder.js';

/** What the drive relies on. */
export interface Medium {
  /** Writes that a flush makes stable. */
  readonly flushes: (write: DiskWrite) => boolean;
  /** A durable write is stable when it completes. */
  readonly isFuaStable: boolean;
  /** Whether a commit that was reported is durable; if not, only the next one that is makes it so. */
  readonly isDurable: (operations: readonly MetaOperation[]) => boolean;
}

export const HONEST: Medium = { flushes: () => true, isFuaStable: true, isDurable: () => true };

export interface CrashState {
  /** Of the recording. */
  readonly point: number;
  readonly disk: SimDiskMedia;
  readonly meta: SimMetaMedia;
  /** Blocks of the data area that hold anything else in some other state of this point. */
  readonly unstable: readonly number[];
  /** How it came about, to replay it. */
  readonly label: string;
}

/** A block that may hold one of several contents: the stable one first, then what was written since, in order. */
interface OpenBlock {
  readonly block: number;
  readonly versions: (Uint8Array | null)[];
  /** The write of each version but the first. */
  readonly writes: DiskWrite[];
}

interface Picture {
  readonly stable: ReadonlyMap<number, Uint8Array | null>;
  readonly open: readonly OpenBlock[];
  readonly durable: readonly (readonly MetaOperation[])[];
  readonly underWay: readonly (readonly MetaOperation[])[];
}

const COMBINATIONS_MAX = 16;
const WRITES_ALONE_MAX = 4;
const SAMPLES = 4;

export interface Base {
  readonly sizeBytes: number;
  /** Metadata before the recording: its data area was zeros. */
  readonly meta: readonly MetaOperation[];
}

/** All states of a crash right after entry `point - 1`. */
export function* crashStates(
  base: Base,
  entries: readonly Entry[],
  point: number,
  medium: Medium,
  random: SimRandom,
): Generator<CrashState> {
  const picture = pictureOf(entries.slice(0, point), medium);
  const unstable = picture.open.map(({ block }) => block);
  for (let commits = 0; commits <= picture.underWay.length; commits++) {
    for (const [name, choice] of choicesOf(picture.open, random)) {
      const disk = new SimDiskMedia(base.sizeBytes);
      for (const [block, bytes] of picture.stable) if (bytes !== null) put(disk, block, bytes);
      for (const [index, { block, versions }] of picture.open.entries())
        put(disk, block, versions[choice[index] ?? 0] ?? null);
      const meta = new SimMetaMedia();
      meta.apply(base.meta);
      for (const operations of picture.durable) meta.apply(operations);
      for (const operations of picture.underWay.slice(0, commits)) meta.apply(operations);
      yield { point, disk, meta, unstable, label: `point ${point}, ${commits} commits under way kept, ${name}` };
    }
  }
}

function put(disk: SimDiskMedia, block: number, bytes: Uint8Array | null): void {
  disk.put(block * BLOCK_BYTES, BLOCK_BYTES, bytes, true);
}

function pictureOf(entries: readonly Entry[], medium: Medium): Picture {
  const stable = new Map<number, Uint8Array | null>();
  const open = new Map<number, OpenBlock>();
  /** Writes that have completed, and what a flush under way covers. */
  let completed = new Set<DiskWrite>();
  const covered = new Map<object, Set<DiskWrite>>();
  const durable: (readonly MetaOperation[])[] = [];
  let underWay: (readonly MetaOperation[])[] = [];
  for (const entry of entries) {
    if (entry.type === 'commit') underWay.push(entry.commit.operations);
    else if (entry.type === 'committed') {
      if (!medium.isDurable(entry.commit.operations)) continue;
      const count = underWay.indexOf(entry.commit.operations) + 1;
      durable.push(...underWay.slice(0, count));
      underWay = underWay.slice(count);
    } else if (entry.type === 'submit') {
      if (entry.io.kind === 'flush') covered.set(entry.io, new Set(completed));
      else addVersions(open, stable, entry.io);
    } else if (entry.type === 'complete' && entry.result === 0) {
      const { io } = entry;
      if (io.kind === 'flush') {
        const writes = [...(covered.get(io) ?? [])].filter(medium.flushes);
        settle(open, stable, new Set(writes));
        completed = new Set([...completed].filter((write) => !writes.includes(write)));
      } else if (io.isDurable && medium.isFuaStable) settle(open, stable, new Set([io]));
      else completed.add(io);
    }
  }
  return { stable, open: [...open.values()], durable, underWay };
}

function addVersions(
  open: Map<number, OpenBlock>,
  stable: ReadonlyMap<number, Uint8Array | null>,
  write: DiskWrite,
): void {
  for (const [index, bytes] of write.contents.entries()) {
    const block = write.firstBlock + index;
    const found = open.get(block) ?? { block, versions: [stable.get(block) ?? null], writes: [] };
    open.set(block, found);
    found.versions.push(bytes);
    found.writes.push(write);
  }
}

/** These writes are stable: of each block the last of them, and nothing older, is what may be found. */
function settle(
  open: Map<number, OpenBlock>,
  stable: Map<number, Uint8Array | null>,
  writes: ReadonlySet<DiskWrite>,
): void {
  for (const [block, { versions, writes: all }] of open) {
    const last = all.findLastIndex((write) => writes.has(write));
    if (last < 0) continue;
    stable.set(block, versions[last + 1] ?? null);
    versions.splice(0, last + 1);
    all.splice(0, last + 1);
    if (all.length === 0) open.delete(block);
  }
}

/** For each open block the version that it holds. */
function* choicesOf(open: readonly OpenBlock[], random: SimRandom): Generator<readonly [string, readonly number[]]> {
  const counts = open.map(({ versions }) => versions.length);
  const combinations = counts.reduce((product, count) => Math.min(product * count, COMBINATIONS_MAX + 1), 1);
  if (combinations <= COMBINATIONS_MAX) {
    for (let number = 0; number < combinations; number++) {
      let rest = number;
      const choice = counts.map((count) => {
        const version = rest % count;
        rest = Math.floor(rest / count);
        return version;
      });
      yield [`combination ${number}`, choice];
    }
    return;
  }
  yield ['everything lost', counts.map(() => 0)];
  yield ['everything kept', counts.map((count) => count - 1)];
  const writes = [...new Set(open.flatMap(({ writes: all }) => all))];
  for (let alone = 0; alone < Math.min(WRITES_ALONE_MAX, writes.length); alone++) {
    const write = random.pick(writes);
    yield ['one write kept', open.map(({ writes: all }) => all.indexOf(write) + 1)];
    yield ['one write lost', open.map(({ writes: all }) => all.findLastIndex((each) => each !== write) + 1)];
  }
  for (let sample = 0; sample < SAMPLES; sample++)
    yield [`sample ${sample}`, counts.map((count) => random.below(count))];
}

export const BLOCKS_PER_SLOT = EXTENT_BYTES / BLOCK_BYTES;

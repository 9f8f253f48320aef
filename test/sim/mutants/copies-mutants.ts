/** Mutants of the owner's care for the copies: in-sync set, joins, cooling, reconciliation, resync, tombstones. */
import type { Mutant } from './mutant.js';

export const COPIES_MUTANTS: readonly Mutant[] = [
  {
    id: 'copies-without-lock',
    invariants: [3, 9],
    without: 'the extent lock of what is copied',
    edits: [
      {
        module: 'coordinator/range-lock',
        find: `if (kind[a] === KIND.READ && kind[b] === KIND.READ) return false;`,
        replace: `if (kind[a] === KIND.READ && kind[b] === KIND.READ) return false;
    if (kind[a] === KIND.LOCK || kind[b] === KIND.LOCK) return false;`,
      },
    ],
    found: { file: 'copying', test: '3: a client write waits for the copy of its extent that is under way' },
  },
  {
    id: 'acknowledged-before-the-drop',
    invariants: [5],
    without: 'the commit of a drop before what the copy missed is acknowledged',
    edits: [
      {
        module: 'coordinator/membership',
        find: `      await this.#commit(valid);\n`,
        replace: `      for (const { segment, replica } of valid) {
        replica.state = 'stale';
        segment.refresh();
        this.#options.events.segmentChanged(segment);
      }
      await this.#commit(valid);\n`,
      },
    ],
    found: {
      file: 'invariants',
      test: '1, 5: a lost copy is dropped in the cluster store before what it missed is acknowledged',
    },
  },
  {
    id: 'last-copy-dropped',
    invariants: [12],
    without: 'the wait for the last copy that has everything',
    edits: [
      {
        module: 'coordinator/membership',
        find: `    return segment.hasCertain(replica.bit);`,
        replace: `    return true;`,
      },
    ],
    found: { oracles: ['assertion', 'liveness'] },
  },
  {
    id: 'dropped-for-an-uncertain-copy',
    invariants: [12],
    without: 'the distinction between a copy that lost power and one that has everything',
    edits: [
      {
        module: 'coordinator/segment',
        find: `      (replica) => (this.readableMask & ~excludedMask & replica.bit) !== 0 && !replica.uncertain,`,
        replace: `      (replica) => (this.readableMask & ~excludedMask & replica.bit) !== 0,`,
      },
    ],
    found: {
      file: 'takeover',
      test: '12: a volume is not opened on a copy that lost power while one that has everything may come back',
    },
  },
  {
    id: 'survivors-not-heard',
    invariants: [12],
    without: 'the PING to those that the others are dropped for',
    edits: [
      {
        module: 'coordinator/membership',
        find: `      await this.#hearSurvivors(changes);\n`,
        replace: ``,
      },
    ],
    found: {
      file: 'takeover',
      test: 'a copy is not dropped for one that lost power a moment ago and still looks connected',
    },
  },
  {
    id: 'lost-power-unnoticed',
    invariants: [1],
    without: 'the suspicion against an in-sync copy whose node lost power',
    edits: [
      {
        module: 'coordinator/membership',
        find: `if (restarted && counts && state?.uncertain === true) replica.suspect = true;`,
        replace: ``,
      },
    ],
    found: { file: 'takeover', test: 'a copy that lost power is not trusted because it connects a second time' },
  },
  {
    id: 'joining-copy-does-not-count',
    invariants: [1, 5],
    without: 'the wait for a copy whose join is being committed',
    edits: [
      {
        module: 'coordinator/membership',
        find: `      replica.joining = true; //`,
        replace: `      //`,
      },
    ],
    found: {
      file: 'takeover',
      test: '1, 5: a copy that is lost while its join is being committed misses nothing that is acknowledged',
    },
  },
  {
    id: 'mismatch-not-repaired',
    invariants: [13],
    without: 'the rewriting of a block that did not match its checksum',
    edits: [
      {
        module: 'coordinator/read-path',
        find: `      if (tried !== 0) hooks.repair(segment, table.offset[row] ?? 0, tried);\n`,
        replace: ``,
      },
    ],
    found: { file: 'invariants', test: '13: a damaged block is read from another copy and rewritten' },
  },
  {
    id: 'cooled-with-a-copy-missing',
    invariants: [7],
    without: 'the rule that all in-sync copies are connected when a region is cooled',
    edits: [
      {
        module: 'coordinator/volume',
        find: `return segment !== undefined && segment.readableMask === segment.inSyncMask;`,
        replace: `return segment !== undefined;`,
      },
    ],
    found: { file: 'durability', test: '7: no region is cooled while an in-sync copy of it is missing' },
  },
  {
    id: 'cooled-with-a-write-in-flight',
    invariants: [7],
    without: 'the rule that no write is in flight in a region that the owner has cooled',
    edits: [
      {
        module: 'replica/drive-maintenance',
        find: ` || replica.regionWrites[region] !== 0) return`,
        replace: `) return`,
      },
      {
        module: 'coordinator/regions',
        find: `const idle = this.#inFlight[region] === 0 && this.tick`,
        replace: `const idle = this.tick`,
      },
    ],
    found: { file: 'durability', test: '7: a region is not cooled under a write' },
  },
  {
    id: 'not-reconciled',
    invariants: [10],
    without: 'reconciliation after an unclean owner',
    edits: [
      {
        module: 'coordinator/volume',
        find: `if (segment.inSyncCount > 1 || !segment.whole) this.#regions.markDirty(region);`,
        replace: `if (segment.inSyncCount === 0) this.#regions.markDirty(region);`,
      },
    ],
    found: { oracles: ['history', 'copies'] },
  },
  {
    id: 'served-before-reconciled',
    invariants: [10],
    without: 'the wait of operations for the reconciliation of their region',
    edits: [
      {
        module: 'coordinator/io',
        find: `    if (regions.isDirty(region)) {`,
        replace: `    if (regions.isDirty(region)) hooks.regionWanted(region);
    if (region < 0) {`,
      },
    ],
    found: { file: 'damage', test: '10: a block that cannot be read now on any copy may come back: its region waits' },
  },
  {
    id: 'reconciled-from-an-uncertain-copy',
    invariants: [10],
    without: 'the preference for sources that surely have everything',
    edits: [
      {
        module: 'coordinator/copier',
        find: `Number(a.uncertain) - Number(b.uncertain) || `,
        replace: ``,
      },
    ],
    found: {
      file: 'takeover',
      test: 'a copy that was made equal after lost power is as good as any when another loses power',
    },
  },
  {
    id: 'own-log-left-out',
    invariants: [9],
    without: 'the regions of its own activity log in the resync of a copy',
    edits: [
      {
        module: 'coordinator/copier',
        find: `    for (const region of replica.hotRegions) {
      for (let index`,
        replace: `    for (const region of [] as number[]) {
      for (let index`,
      },
    ],
    found: { file: 'invariants', test: '9: everything in the regions of its own log comes back too' },
  },
  {
    id: 'changes-left-out',
    invariants: [9],
    without: 'the extents that a copy missed in its resync',
    edits: [
      {
        module: 'coordinator/copier',
        find: `await this.listExtents(copy, replica.syncedGeneration, false)`,
        replace: `await this.listExtents(copy, segment.generation, false)`,
      },
    ],
    found: {
      file: 'invariants',
      test: '8, 9: a copy that was away gets back what changed, what was trimmed, and little else',
    },
  },
  {
    id: 'syncing-copy-gets-no-writes',
    invariants: [9],
    without: 'writes to a copy that catches up',
    edits: [
      {
        module: 'coordinator/segment',
        find: `      targets |= replica.bit;`,
        replace: `      if (replica.state === 'in-sync') targets |= replica.bit;`,
      },
      {
        module: 'coordinator/segment',
        find: `.filter(({ state }) => state !== 'stale');\n    for (const session`,
        replace: `.filter(({ state }) => state === 'in-sync');\n    for (const session`,
      },
    ],
    found: { file: 'copying', test: '3: a client write waits for the copy of its extent that is under way' },
  },
  {
    id: 'joined-before-flushed',
    invariants: [9],
    without: 'the flush of a copy that has caught up',
    edits: [
      {
        module: 'coordinator/copier',
        find: `      await this.#flushTarget(replica);\n`,
        replace: ``,
      },
    ],
    found: { file: 'durability', test: '9: what a copy missed is durable on it before it is in sync again' },
  },
  {
    id: 'tombstones-not-left',
    invariants: [8],
    without: 'the tombstone of what is trimmed while a copy is stale',
    edits: [
      {
        module: 'coordinator/io',
        find: `    frame.flags = (table.flags[row] ?? 0) | (segment.whole ? 0 : FLAG.TOMBSTONE);`,
        replace: `    frame.flags = table.flags[row] ?? 0;`,
      },
    ],
    found: {
      file: 'invariants',
      test: '8, 9: a copy that was away gets back what changed, what was trimmed, and little else',
    },
  },
  {
    id: 'tombstones-purged-early',
    invariants: [8],
    without: 'tombstones for a copy that is stale still when another has caught up',
    edits: [
      {
        module: 'coordinator/copier',
        find: `    if (segment.whole) await this.#purgeTombstones(segment);`,
        replace: `    await this.#purgeTombstones(segment);`,
      },
    ],
    found: { file: 'copying', test: '8: what was trimmed is known until the last copy that was away has caught up' },
  },
];

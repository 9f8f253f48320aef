/** Mutants of the owner's I/O path: what waits for what, when a write is acknowledged, lease, minInSync, FLUSH. */
import type { Mutant } from './mutant.js';

export const ORDER_MUTANTS: readonly Mutant[] = [
  {
    id: 'overlapping-writes',
    invariants: [3],
    without: 'the range lock between writes',
    edits: [
      {
        module: 'coordinator/range-lock',
        find: `if (kind[a] === KIND.READ && kind[b] === KIND.READ) return false;`,
        replace: `if ((kind[a] === KIND.READ) === (kind[b] === KIND.READ) && kind[a] !== KIND.LOCK && kind[b] !== KIND.LOCK) return false;`,
      },
    ],
    found: { oracles: ['history', 'copies'] },
  },
  {
    id: 'reads-overtake-writes',
    invariants: [4],
    without: 'the wait of a read for the writes that it overlaps',
    edits: [
      {
        module: 'coordinator/range-lock',
        find: `if (kind[a] === KIND.READ && kind[b] === KIND.READ) return false;`,
        replace: `if (kind[a] === KIND.READ || kind[b] === KIND.READ) return false;`,
      },
    ],
    found: { oracles: ['history'] },
  },
  {
    id: 'held-write-keeps-copies-out',
    invariants: [12],
    without: 'held writes that let copies pass',
    edits: [
      {
        module: 'coordinator/io',
        find: `      this.#lock.yield(row);\n`,
        replace: ``,
      },
    ],
    found: {
      file: 'invariants',
      test: '12: with too few copies a write waits, and is acknowledged when a copy is back',
    },
  },
  {
    id: 'acknowledged-early',
    invariants: [1],
    without: 'the wait for the last target before a write is acknowledged',
    edits: [
      {
        module: 'coordinator/io',
        find: `    table.pending[row] = (table.pending[row] ?? 0) & ~bit;
    if (table.pending[row] === 0) this.#settle(row, segment);`,
        replace: `    const rest = (table.pending[row] ?? 0) & ~bit;
    table.pending[row] = rest;
    if ((rest & (rest - 1)) === 0) this.#settle(row, segment);`,
      },
    ],
    found: { oracles: ['history', 'copies'] },
  },
  {
    id: 'not-issued-again',
    invariants: [8],
    without:
      'the re-issue of writes in flight when a copy is dropped, to copies that have them under the old generation',
    edits: [
      {
        module: 'coordinator/io',
        find: `    table.pending[row] = segment.targetMask & ~(table.noSpace[row] ?? 0);`,
        replace: `    table.pending[row] = segment.targetMask & ~(table.noSpace[row] ?? 0) & ~(table.took[row] ?? 0);`,
      },
    ],
    found: {
      file: 'invariants',
      test: '8, 9: a copy that was away gets back what changed, what was trimmed, and little else',
    },
  },
  {
    id: 'answer-of-older-generation',
    invariants: [8],
    without: 'asking a copy again whose answer is to a request of an older generation',
    edits: [
      {
        module: 'coordinator/io',
        find: `} else if (((table.again[row] ?? 0) & bit) !== 0) {`,
        replace: `} else if (((table.again[row] ?? 0) & bit & 0) !== 0) {`,
      },
    ],
    found: { file: 'copying', test: '8: an answer to a request of an older generation does not count' },
  },
  {
    id: 'nothing-replayed',
    invariants: [1],
    without: 'the replay of what a copy owes when it is connected again',
    edits: [
      {
        module: 'coordinator/io',
        find: `} else if (this.#isWriteOut(row)) this.#replay(row, session);`,
        replace: `}`,
      },
    ],
    found: { oracles: ['liveness'], faults: ['reset'] },
  },
  {
    id: 'min-in-sync-ignored',
    invariants: [12],
    without: 'minInSync',
    edits: [
      {
        module: 'coordinator/io',
        find: `    if (segment.inSyncCount < this.#options.minInSync) {`,
        replace: `    if (segment.inSyncCount < 1) {`,
      },
    ],
    found: {
      file: 'invariants',
      test: '12: with too few copies a write waits, and is acknowledged when a copy is back',
    },
  },
  {
    id: 'refused-write-left-behind',
    invariants: [1],
    without: 'giving back what other copies refused',
    edits: [
      {
        module: 'coordinator/io',
        find: `    if (unchanged === segment.targetMask) this.#finishWrite(row, STATUS.NO_SPACE);`,
        replace: `    if (unchanged !== 0) this.#finishWrite(row, STATUS.NO_SPACE);`,
      },
    ],
    found: { oracles: ['history', 'copies'] },
  },
  {
    id: 'syncing-copy-read',
    invariants: [4],
    without: 'the rule that reads come from in-sync copies',
    edits: [
      {
        module: 'coordinator/segment',
        find: `    const candidates = this.readableMask & ~excludedMask;`,
        replace: `    let candidates = this.readableMask & ~excludedMask;
    for (const each of this.replicas) if (each.state === 'syncing' && each.ready) candidates |= each.bit & ~excludedMask;`,
      },
    ],
    found: { file: 'copying', test: '4: a copy that catches up is not read, not even by its own node' },
  },
  {
    id: 'lease-not-checked-on-read',
    invariants: [11],
    without: 'the second look at the lease, when the data of a read has come',
    edits: [
      {
        module: 'coordinator/read-path',
        find: `else if (this.#host.mayServe()) this.#host.finish(`,
        replace: `else if (data !== null) this.#host.finish(`,
      },
    ],
    found: {
      file: 'fencing',
      test: '11: what an owner was reading when it was stopped is not answered after its lease',
    },
  },
  {
    id: 'lease-not-checked-on-entry',
    invariants: [11],
    without: 'the look at the lease when an operation comes in or starts',
    edits: [
      {
        module: 'coordinator/io',
        find: `    if (this.#options.leaseValid()) return true;`,
        replace: `    return true;`,
      },
    ],
    found: {
      file: 'fencing',
      test: '11: an owner that comes back after its lease serves nothing, even if nobody can tell it',
    },
  },
  {
    id: 'takeover-during-the-lease',
    invariants: [11],
    without: 'the wait for the end of the old owner’s lease',
    edits: [
      {
        module: 'coordinator/ownership',
        find: `    if (alive?.value.incarnation === previous.incarnation) {`,
        replace: `    if (alive?.value.incarnation === '') {`,
      },
    ],
    found: {
      file: 'invariants',
      test: '2, 11: an owner that was frozen past its lease serves nothing, and its late writes reach nobody',
    },
  },
  {
    id: 'flush-acknowledged-early',
    invariants: [1],
    without: 'the wait of a FLUSH for all sessions',
    edits: [
      {
        module: 'coordinator/flush',
        find: `    for (const session of this.#sessions) if (this.awaits(row, session)) return false;
    return true;`,
        replace: `    return this.#sessions.length > row - row;`,
      },
    ],
    found: { file: 'durability', test: 'FLUSH reaches every copy: all lose power, and that of node 2 decides' },
  },
  {
    id: 'flush-skips-syncing-copies',
    invariants: [1],
    without: 'FLUSH to copies that are syncing',
    edits: [
      {
        module: 'coordinator/segment',
        find: `      if ((segment.targetMask & bit) !== 0) session.targetCopies += change;`,
        replace: `      if ((segment.inSyncMask & bit) !== 0) session.targetCopies += change;`,
      },
      {
        module: 'coordinator/segment',
        find: `.filter(({ state }) => state !== 'stale');\n    for (const session`,
        replace: `.filter(({ state }) => state === 'in-sync');\n    for (const session`,
      },
    ],
    found: { file: 'takeover', test: 'FLUSH covers a copy that joins after it' },
  },
];

/** Mutants of what a replica does: sessions and epochs, activation, stamps, durability, checksums, slots. */
import type { Mutant } from './mutant.js';

export const REPLICA_MUTANTS: readonly Mutant[] = [
  {
    id: 'boot-ignored',
    invariants: [10],
    without: 'the boot id in the activity log: nobody is uncertain',
    edits: [
      {
        module: 'replica/activity-log',
        find: `    if (bootId.join() !== this.#bootId.join()) replica.markUncertain(region);\n`,
        replace: ``,
      },
    ],
    found: {
      file: 'takeover',
      test: '12: a volume is not opened on a copy that lost power while one that has everything may come back',
    },
  },
  {
    id: 'old-session-not-drained',
    invariants: [6],
    without: 'the wait for the operations of the older session',
    edits: [
      {
        module: 'replica/sessions',
        find: `  async drain(volume: VolumeState): Promise<void> {\n`,
        replace: `  async drain(volume: VolumeState): Promise<void> {\n    volume.ending.clear();\n`,
      },
    ],
    found: { file: 'fencing', test: '6: a write of the connection before is over when a copy takes the next session' },
  },
  {
    id: 'ended-session-accepted',
    invariants: [2],
    without: 'the refusal of requests of a session that has ended, from other nodes',
    edits: [
      {
        module: 'replica/sessions',
        find: `    this.#sessions.delete(session.handle);\n    volume.session = null;`,
        replace: `    volume.session = null;`,
      },
      {
        module: 'replica/server',
        find: `    if (session === undefined || session.peer !== peer || session.epoch !== frame.epoch) {`,
        replace: `    const isLocal = peer.nodeId === this.#options.nodeId;
    if (session === undefined || session.peer !== peer || (isLocal && !session.isCurrent)) {`,
      },
    ],
    found: { file: 'fencing', test: '2: a request that arrives after its session has ended is not carried out' },
  },
  {
    id: 'ended-session-accepted-locally',
    invariants: [2],
    without: 'the refusal of requests of a session that has ended, from the own node',
    edits: [
      {
        module: 'replica/sessions',
        find: `    this.#sessions.delete(session.handle);\n    volume.session = null;`,
        replace: `    volume.session = null;`,
      },
      {
        module: 'replica/server',
        find: `    if (session === undefined || session.peer !== peer || session.epoch !== frame.epoch) {`,
        replace: `    const isLocal = peer.nodeId === this.#options.nodeId;
    if (session === undefined || session.peer !== peer || (!isLocal && !session.isCurrent)) {`,
      },
    ],
    found: { file: 'fencing', test: '2: the own copy of an owner that is none any more refuses its writes, too' },
  },
  {
    id: 'lower-epoch-opens',
    invariants: [2],
    without: 'the refusal to open a session under a lower epoch',
    edits: [
      {
        module: 'replica/control',
        find: `    const highest = Math.max(epoch, this.#highestEpoch(volume));`,
        replace: `    const highest = epoch;`,
      },
    ],
    found: {
      file: 'invariants',
      test: '2, 11: an owner that was frozen past its lease serves nothing, and its late writes reach nobody',
    },
  },
  {
    id: 'epoch-not-persisted',
    invariants: [2],
    without: 'the epoch on the drive',
    edits: [
      {
        module: 'replica/drive-maintenance',
        find: `      if (seen < epoch) operations.push({ key: epochKey(volume), value: encodeEpoch(epoch) });\n`,
        replace: ``,
      },
    ],
    found: { file: 'fencing', test: '2: a copy that was restarted remembers the epoch that it has seen' },
  },
  {
    id: 'cooled-without-flush',
    invariants: [7],
    without: 'the flush of the drive before a region leaves the activity log',
    edits: [
      {
        module: 'replica/drive-maintenance',
        find: `await new Promise<number>((resolve) => io.flush(resolve));`,
        replace: `await Promise.resolve(io === undefined ? 1 : 0);`,
      },
    ],
    found: { file: 'durability', test: '7: what has left the activity log survives lost power' },
  },
  {
    id: 'activation-not-durable',
    invariants: [7],
    without: 'the commit that maps an extent and notes its region: it is only said to be durable',
    edits: [
      {
        module: 'replica/committer',
        find: `    this.#meta.commit(operations, (error) => this.#onCommitted(error));`,
        replace: `    this.#onCommitted(null);`,
      },
    ],
    found: { file: 'durability', test: '7: what a write needed of the metadata is durable when it is acknowledged' },
  },
  {
    id: 'region-not-logged',
    invariants: [7, 10],
    without: 'the entry of a region in the activity log',
    edits: [
      {
        module: 'replica/activity-log',
        find: `    this.#checksums.pin(replica, region);
    operations.push({ key: activityKey(replica.volume, replica.segment, region), value: this.#bootId });`,
        replace: `    this.#checksums.pin(replica, region);
    operations.push({ key: activityKey(replica.volume, replica.segment, region), value: null });`,
      },
    ],
    found: { oracles: ['history', 'copies'] },
  },
  {
    id: 'stamp-not-raised',
    invariants: [8],
    without: 'the stamp of an extent that is written under a newer generation',
    edits: [
      {
        module: 'replica/extent-planner',
        find: `    const raised = Math.max(stamp, this.#table.generation[op] as number);`,
        replace: `    const raised = stamp === 0 ? (this.#table.generation[op] as number) : stamp;`,
      },
      {
        module: 'replica/replica',
        find: `      (this.#stamps[extent] as number) >= generation &&\n`,
        replace: `      generation > 0 &&\n`,
      },
    ],
    found: {
      file: 'invariants',
      test: '8, 9: a copy that was away gets back what changed, what was trimmed, and little else',
    },
  },
  {
    id: 'stamp-too-low',
    invariants: [8],
    without: 'the stamp of a write, where the assertion stands',
    edits: [
      {
        module: 'replica/extent-planner',
        find: `    const raised = Math.max(stamp, this.#table.generation[op] as number);`,
        replace: `    const raised = stamp === 0 ? (this.#table.generation[op] as number) : stamp;`,
      },
    ],
    found: { oracles: ['assertion'] },
  },
  {
    id: 'fua-ignored',
    invariants: [1],
    without: 'the durable drive write of FUA',
    edits: [
      {
        module: 'replica/drive',
        find: `    const isDurable = ((table.flags[op] as number) & FLAG.FUA) !== 0;`,
        replace: `    const isDurable = false;`,
      },
    ],
    found: { oracles: ['history'] },
  },
  {
    id: 'flush-ignored',
    invariants: [1],
    without: 'the drive flush of FLUSH',
    edits: [
      {
        module: 'replica/drive',
        find: `    if (this.#state === 'serving') this.#io.flushOperation(op);`,
        replace: `    if (this.#state === 'serving') this.#host.onFlushed(op, STATUS.OK);`,
      },
    ],
    found: { oracles: ['history'] },
  },
  {
    id: 'freed-slot-not-zeroed',
    invariants: [13],
    without: 'the punch of a freed slot',
    edits: [
      {
        module: 'replica/freed-slots',
        find: `      this.#io.punchSlots(run[0] as number, run.length, (result) => this.#onPunched(run, result));`,
        replace: `      this.#onPunched(run, 0);`,
      },
    ],
    found: {
      file: 'durability',
      test: '13: an extent in a slot that was freed reads as zeros where it was not written, power lost or not',
    },
  },
  {
    id: 'freed-slot-not-flushed',
    invariants: [13],
    without: 'the flush of a punch before the slot is free',
    edits: [
      {
        module: 'replica/freed-slots',
        find: `    this.#io.flush((result) => this.#onFlushed(result));`,
        replace: `    this.#onFlushed(0);`,
      },
    ],
    found: {
      file: 'durability',
      test: '13: an extent in a slot that was freed reads as zeros where it was not written, power lost or not',
    },
  },
  {
    id: 'slot-leaked',
    invariants: [14],
    without: 'freed slots that become free',
    edits: [
      {
        module: 'replica/freed-slots',
        find: `      this.#allocator.free(slot);\n`,
        replace: ``,
      },
    ],
    found: { file: 'invariants', test: 'a full drive: the write fails, no copy keeps it, nothing else is lost' },
  },
  {
    id: 'mismatch-returned',
    invariants: [13],
    without: 'the comparison of what is read with its checksum',
    edits: [
      {
        module: 'replica/drive',
        find: `    if (block >= 0) {\n      this.#reportMismatch`,
        replace: `    if (block >= BLOCK_BYTES) {\n      this.#reportMismatch`,
      },
    ],
    found: { file: 'invariants', test: '13: a damaged block is read from another copy and rewritten' },
  },
  {
    id: 'finding-not-reported',
    invariants: [13],
    without: 'the word to the owner of what the scrub of a drive has found',
    edits: [
      {
        module: 'replica/server',
        find: `      const number = numberOf(session, replica);
      if (number === null) continue;`,
        replace: `      const number = null;
      if (number === null) continue;`,
      },
    ],
    found: { file: 'scrub', test: '13: the scrub of a drive finds rot, and the owner rewrites it from another copy' },
  },
];

/** The range lock against a simple model: an operation may run when nothing that came before it and conflicts is unfinished. */
import fc from 'fast-check';
import t from 'tap';
import { EXTENT_BYTES } from '../../../daemon/base/units.js';
import { KIND, OperationTable, PHASE } from '../../../daemon/coordinator/operations.js';
import { RangeLock } from '../../../daemon/coordinator/range-lock.js';

interface World {
  readonly table: OperationTable;
  readonly lock: RangeLock;
  readonly started: number[];
  add(kind: number, offset: number, length: number): number;
}

function world(): World {
  const table = new OperationTable(64, 8);
  const started: number[] = [];
  const lock = new RangeLock(table, 128, (row) => started.push(row));
  const add = (kind: number, offset: number, length: number): number => {
    const row = table.take(kind);
    table.segment[row] = 0;
    table.offset[row] = offset;
    table.length[row] = length;
    if (lock.enqueue(row)) started.push(row);
    return row;
  };
  return { table, lock, started, add };
}

function end({ table, lock }: World, row: number): void {
  lock.release(row);
  table.free(row);
}

t.test('overlapping writes run one after the other, in the order they came', (t) => {
  const w = world();
  const first = w.add(KIND.WRITE, 0, 8192);
  const second = w.add(KIND.WRITE, 4096, 8192);
  const beside = w.add(KIND.WRITE, 16384, 4096);
  t.same(w.started, [first, beside]);
  end(w, first);
  t.same(w.started, [first, beside, second]);
  t.end();
});

t.test('reads share, and wait for an overlapping write (invariant 4)', (t) => {
  const w = world();
  const reads = [w.add(KIND.READ, 0, 4096), w.add(KIND.READ, 0, 4096)];
  const write = w.add(KIND.WRITE, 0, 4096);
  const later = w.add(KIND.READ, 0, 4096);
  t.same(w.started, reads);
  for (const read of reads) end(w, read);
  t.same(w.started, [...reads, write]);
  end(w, write);
  t.same(w.started, [...reads, write, later]);
  t.end();
});

t.test(
  'an extent lock waits for what runs, goes ahead of what waits, and holds back everything else in its extent',
  (t) => {
    const w = world();
    const running = w.add(KIND.WRITE, 0, 4096);
    const waiting = w.add(KIND.WRITE, 0, 4096);
    const lock = w.add(KIND.LOCK, 0, EXTENT_BYTES);
    const other = w.add(KIND.READ, 64 * 1024, 4096);
    const elsewhere = w.add(KIND.WRITE, EXTENT_BYTES, 4096);
    t.same(w.started, [running, elsewhere]);
    end(w, running);
    t.same(w.started, [running, elsewhere, lock]);
    end(w, lock);
    t.same(w.started.slice(3).sort(), [waiting, other].sort());
    t.end();
  },
);

t.test('a held write yields to extent locks, not to clients', (t) => {
  const w = world();
  const held = w.add(KIND.WRITE, 0, 4096);
  const lock = w.add(KIND.LOCK, 0, EXTENT_BYTES);
  const read = w.add(KIND.READ, 0, 4096);
  w.table.phase[held] = PHASE.HELD;
  w.lock.yield(held);
  t.same(w.started, [held, lock]);
  end(w, lock);
  t.same(w.started, [held, lock], 'the read still waits for the held write');
  end(w, held);
  t.same(w.started, [held, lock, read]);
  t.end();
});

t.test('random histories: no conflict ever runs, and everything runs in the end', (t) => {
  const step = fc.record({
    kind: fc.constantFrom(KIND.READ, KIND.WRITE, KIND.TRIM, KIND.LOCK),
    block: fc.nat(40),
    blocks: fc.integer({ min: 1, max: 8 }),
    ends: fc.nat(3),
  });
  fc.assert(
    fc.property(fc.array(step, { minLength: 1, maxLength: 40 }), (steps) => {
      const w = world();
      let locks = 0;
      for (const { kind, block, blocks, ends } of steps) {
        if (kind === KIND.LOCK && ++locks > 8) continue;
        const offset = kind === KIND.LOCK ? Math.floor(block / 32) * EXTENT_BYTES : block * 4096;
        const length = kind === KIND.LOCK ? EXTENT_BYTES : Math.min(blocks, 32 - (block % 32)) * 4096;
        w.add(kind, offset, length);
        w.lock.assertConsistent();
        for (let index = 0; index < ends; index++) endOne(w);
      }
      while (endOne(w)) w.lock.assertConsistent();
      return w.table.used === 0;
    }),
    { numRuns: 300 },
  );
  t.end();
});

function endOne(w: World): boolean {
  const row = w.started.shift();
  if (row === undefined) return false;
  end(w, row);
  return true;
}

/** What a drive counts of its I/O: every operation, from submission to completion. */
import t from 'tap';
import { limits } from '../../../daemon/base/limits.js';
import { BLOCK_BYTES, EXTENT_BYTES } from '../../../daemon/base/units.js';
import { type Clock, tickAt } from '../../../daemon/ports/clock.js';
import type { Disk } from '../../../daemon/ports/disk.js';
import { NO_BUFFER } from '../../../daemon/ports/slab.js';
import { DriveIo } from '../../../daemon/replica/drive-io.js';

const EIO = -5;

class HandClock implements Clock {
  timeMs = 5_000;
  nowMs(): number {
    return this.timeMs;
  }
  tickUs(): number {
    return tickAt(this.timeMs);
  }
  wallMs(): number {
    return 0;
  }
  after(): { cancel(): void } {
    return { cancel: () => undefined };
  }
}

/** A disk that keeps the tags of what is in flight; the test completes them. */
function setUp() {
  const clock = new HandClock();
  const submitted: number[] = [];
  const submit = (tag: number): void => void submitted.push(tag);
  const disk: Disk = {
    ...{ sizeBytes: 8 * EXTENT_BYTES, read: submit, write: submit, flush: submit, punch: submit, zero: submit },
    check: () => Promise.resolve(''),
    close: () => Promise.resolve(),
  };
  const io = new DriveIo(
    { onOperationIo: () => undefined, onOperationFlushed: () => undefined, onFlushFailed: () => undefined },
    clock,
  );
  io.attach(disk);
  const complete = (afterMs: number, result = 0): void => {
    clock.timeMs += afterMs;
    io.onCompletion(submitted.shift() as number, result);
  };
  return { io, clock, complete };
}

t.test('each kind of operation has its counters and its latencies', async (t) => {
  const { io, complete } = setUp();
  io.read(0, 0, BLOCK_BYTES, NO_BUFFER);
  complete(0.003);
  io.write(1, 0, 2 * BLOCK_BYTES, NO_BUFFER, false);
  complete(3);
  io.zero(2, 0, BLOCK_BYTES);
  complete(1);
  io.punch(3, 0, BLOCK_BYTES);
  complete(1);
  io.punchSlots(1, 2, () => undefined);
  complete(1);
  io.flush(() => undefined);
  complete(40);
  const { read, write, flush, trim, inFlight } = io.stats();
  t.equal(inFlight, 0);
  t.match(read, { operations: 1, bytes: BLOCK_BYTES, errors: 0 });
  t.match(write, { operations: 1, bytes: 2 * BLOCK_BYTES, latencySumUs: 3_000 });
  t.match(flush, { operations: 1, bytes: 0, latencySumUs: 40_000 });
  t.match(trim, { operations: 3, bytes: 2 * BLOCK_BYTES + 2 * EXTENT_BYTES, latencySumUs: 3_000 });
  t.equal(write.latencyBuckets[12], 1, '3,000 microseconds are less than 2^12');
  t.equal(flush.latencyBuckets[16], 1, '40,000 microseconds are less than 2^16');
  t.equal(trim.latencyBuckets[10], 3);
});

t.test('operations in flight together are timed each for itself, in whatever order they end', async (t) => {
  const { io, clock, complete } = setUp();
  io.read(0, 0, BLOCK_BYTES, NO_BUFFER);
  clock.timeMs += 100;
  io.read(limits.replicaOperationsMax - 1, 0, BLOCK_BYTES, NO_BUFFER);
  t.match(io.stats(), { inFlight: 2, read: { operations: 0 } }, 'what has not ended is not counted');
  complete(1);
  complete(1);
  const { read } = io.stats();
  t.equal(read.latencySumUs, 103_000);
  t.same([read.latencyBuckets[17], read.latencyBuckets[11]], [1, 1]);
});

t.test('a failed operation counts as an error, with its time, also after the drive has failed', async (t) => {
  const { io, complete } = setUp();
  io.write(0, 0, BLOCK_BYTES, NO_BUFFER, false);
  io.write(1, 0, BLOCK_BYTES, NO_BUFFER, false);
  complete(1, EIO);
  io.fail();
  complete(1, EIO);
  t.match(io.stats(), { inFlight: 0, write: { operations: 2, errors: 2, bytes: 0, latencySumUs: 3_000 } });
});

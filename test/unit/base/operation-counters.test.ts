import t from 'tap';
import { LATENCY_BUCKETS, OperationCounts } from '../../../daemon/base/operation-counters.js';

t.test('each latency is in the bucket whose bounds hold it', async (t) => {
  const counts = new OperationCounts(2);
  const latenciesUs = [0, 1, 2, 3, 4, 1_023, 1_024, 2 ** 30, 2 ** 31 - 1];
  for (const latencyUs of latenciesUs) counts.add(1, 10, false, latencyUs);
  const wanted = new Array<number>(LATENCY_BUCKETS).fill(0);
  for (const bucket of [0, 1, 2, 2, 3, 10, 11, 31, 31]) wanted[bucket] = (wanted[bucket] ?? 0) + 1;
  const { latencyBuckets, latencySumUs, ...rest } = counts.counters(1);
  t.same(latencyBuckets, wanted);
  const sumUs = latenciesUs.reduce((sum, latencyUs) => sum + latencyUs, 0);
  t.equal(latencySumUs, sumUs, 'the sum is of all of them');
  t.same(rest, { operations: 9, bytes: 90, errors: 0 });
});

t.test('a failed operation moves no bytes, and kinds are counted apart', async (t) => {
  const counts = new OperationCounts(2);
  counts.add(0, 4_096, false, 1_000);
  counts.add(0, 4_096, true, 1_000);
  t.match(counts.counters(0), { operations: 2, bytes: 4_096, errors: 1, latencySumUs: 2_000 });
  t.match(counts.counters(1), { operations: 0, bytes: 0, errors: 0, latencySumUs: 0 });
});

import t from 'tap';
import { Output } from '../../../client/cli/output.js';
import { percentile, rateBetween } from '../../../client/cli/rates.js';
import { formatAge, formatMicroseconds, formatSize, parseSize } from '../../../client/cli/units.js';
import { operations } from './api-stub.js';

t.test('sizes', async (t) => {
  t.equal(parseSize('20Gi'), 20 * 2 ** 30);
  t.equal(parseSize(' 1.5 TiB '), 1.5 * 2 ** 40);
  t.equal(parseSize('512'), 512);
  for (const text of ['', '0', '-1', '20G', '1e9', '10 GB', '0.3', '99999999Ti']) t.equal(parseSize(text), null, text);
  t.equal(formatSize(0), '0 B');
  t.equal(formatSize(1_536), '1.5 KiB');
  t.equal(formatSize(20 * 2 ** 30), '20 GiB');
  t.equal(formatSize(2 ** 30 * 123.4), '123 GiB');
});

t.test('durations', async (t) => {
  t.equal(formatMicroseconds(850), '850 µs');
  t.equal(formatMicroseconds(1_234), '1.2 ms');
  t.equal(formatMicroseconds(3_400_000), '3.4 s');
  t.equal(formatAge(45_000), '45 s');
  t.equal(formatAge(3 * 3_600_000), '3 h');
});

t.test('rates count from zero when the agent has restarted meanwhile', async (t) => {
  const before = operations(1_000, 4_096_000, [0, 1_000], 1_500);
  const now = operations(50, 204_800, [0, 0, 50], 150);
  t.match(rateBetween(before, now, 2), { operationsPerSecond: 25, latencyUsMean: 3, latencyUsP99: 4 });
  t.match(rateBetween(before, before, 1), { operationsPerSecond: 0, latencyUsMean: 0, latencyUsP99: 0 });
});

t.test('a percentile is the bound of its bucket', async (t) => {
  t.equal(percentile([], 0.99), 0);
  t.equal(percentile([0, 98, 0, 1, 1], 0.98), 2);
  t.equal(percentile([0, 98, 0, 1, 1], 0.99), 8);
  t.equal(percentile([0, 98, 0, 1, 1], 1), 16);
});

t.test('tables align text left and numbers right, colours not counted', async (t) => {
  let text = '';
  const stream = { write: (chunk: string) => (text += chunk), isTTY: true };
  const output = new Output({ stdout: stream, stderr: stream }, { json: false, noColor: false });
  const lines = output.tableLines(
    ['NAME', 'SIZE'],
    [
      [output.paint('a', 'green'), '5 B'],
      ['long', '1.5 KiB'],
    ],
  );
  t.equal(lines[1], `${output.paint('a', 'green')}         5 B`);
  t.equal(lines[2], 'long  1.5 KiB');
  t.equal(output.tableLines(['ID', 'V'], [['07ab-1', '0.1.0']])[1], '07ab-1  0.1.0', 'ids and versions are text');
  output.progress('copy', 0.5, 'x');
  t.match(text, /█{15}░{15} 50 %/);
  const quiet = new Output({ stdout: stream, stderr: stream }, { json: true, noColor: false });
  text = '';
  quiet.line('for people');
  quiet.progress('copy', 0.5);
  t.equal(text, '', 'with --json nothing but the result is written');
});

/** The oracle is checked, too: what may be read after lost power, and after writes that failed. */
import t from 'tap';
import { SECTOR_BYTES } from '../../daemon/base/units.js';
import { Oracle, OracleViolation } from './oracle.js';

function write(oracle: Oracle, id: number, isDurable = false): void {
  oracle.writeStarted(id, id, 0, SECTOR_BYTES);
  oracle.writeAcknowledged(id, isDurable);
}

function flush(oracle: Oracle): void {
  oracle.flushAcknowledged(oracle.flushStarted());
}

function read(oracle: Oracle, value: number): void {
  oracle.readEnded(oracle.readStarted(0, SECTOR_BYTES), [value]);
}

await t.test('what was flushed, or written with FUA, survives lost power', async (t) => {
  for (const isDurable of [false, true]) {
    const oracle = new Oracle();
    write(oracle, 1);
    write(oracle, 2, isDurable);
    if (!isDurable) flush(oracle);
    oracle.powerLost();
    t.throws(() => read(oracle, 1), OracleViolation);
    t.throws(() => read(oracle, 0), OracleViolation);
    t.doesNotThrow(() => read(oracle, 2));
  }
});

await t.test('what was not flushed may be lost, but is decided once it was read', async (t) => {
  const oracle = new Oracle();
  write(oracle, 1);
  flush(oracle);
  write(oracle, 2);
  write(oracle, 3);
  t.throws(() => read(oracle, 2), OracleViolation, 'not while power is there');
  oracle.powerLost();
  t.throws(() => read(oracle, 0), OracleViolation, 'nothing older than what was flushed');
  t.doesNotThrow(() => read(oracle, 2));
  t.throws(() => read(oracle, 3), OracleViolation, 'reads never go backwards, nor forwards by themselves');
});

await t.test(
  'a flush says nothing of a write that came after it, or that lost power may have taken before it',
  async (t) => {
    const oracle = new Oracle();
    write(oracle, 1);
    const flushAt = oracle.flushStarted();
    write(oracle, 2);
    oracle.flushAcknowledged(flushAt);
    oracle.powerLost(); // 1 or 2, nobody has looked
    flush(oracle);
    oracle.powerLost();
    t.doesNotThrow(() => read(oracle, 1));
    flush(oracle); // 1 is read and flushed, 2 did not happen
    oracle.powerLost();
    t.doesNotThrow(() => read(oracle, 1));
  },
);

await t.test('a write that failed happened or did not, and not later', async (t) => {
  for (const seen of [1, 2]) {
    const oracle = new Oracle();
    write(oracle, 1);
    oracle.writeStarted(2, 2, 0, SECTOR_BYTES);
    oracle.writeFailed(2);
    t.doesNotThrow(() => read(oracle, seen));
    t.throws(() => read(oracle, 3 - seen), OracleViolation);
  }
});

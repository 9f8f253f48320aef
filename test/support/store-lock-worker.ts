/**
 * Keeps all others from writing to an embedded cluster store: holds the lock of LMDB's writers, as a process does that is stopped in the middle
 * of a transaction, until it is killed. Usage: `store-lock-worker.js DIRECTORY`; says `locked` when it is.
 */
import { writeSync } from 'node:fs';
import { open } from 'lmdb';

const [directory = ''] = process.argv.slice(2);

open(directory, { encoding: 'binary', noSubdir: false }).transactionSync(() => {
  writeSync(process.stdout.fd, 'locked\n');
  // A wait that nobody ends: the transaction stays open.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
});

/** What daemons cost, from /proc. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { KIB } from '../daemon/base/units.js';

const US_PER_SECOND = 1_000_000;
const ticksPerSecond = Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }));
const US_PER_TICK = US_PER_SECOND / ticksPerSecond;

/** User and system time of the processes with all their threads (ended ones included), in microseconds; one clock tick is 10 ms. */
export function cpuTimeUs(pids: readonly number[]): number {
  let ticks = 0;
  for (const pid of pids) {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The command name stands in parentheses and may hold spaces; utime and stime are fields 14 and 15.
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    ticks += Number(fields[11]) + Number(fields[12]);
  }
  return ticks * US_PER_TICK;
}

/** Sum of the resident sets (VmRSS); memory that processes share counts for each. */
export function residentBytes(pids: readonly number[]): number {
  let bytes = 0;
  for (const pid of pids) {
    const line = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
    bytes += Number(line?.[1] ?? 0) * KIB;
  }
  return bytes;
}

/** The command line. */
import { tmpdir } from 'node:os';
import { parseArgs } from 'node:util';
import { GIB, MIB } from '../daemon/base/units.js';

export const SUBJECT_NAMES = ['raw', 'qemu-nbd', 'quorum', 'braid', 'external', 'cold', 'heap', 'failures'] as const;
export const PEER_NAMES = ['ceph', 'gluster'] as const;
export type SubjectName = (typeof SUBJECT_NAMES)[number];
export type PeerName = (typeof PEER_NAMES)[number];

export interface Options {
  readonly quick: boolean;
  readonly only: ReadonlySet<SubjectName>;
  readonly peers: readonly PeerName[];
  readonly repetitions: number;
  readonly seconds: number;
  readonly volumeBytes: number;
  readonly heapOperations: number;
  readonly failureRepetitions: number;
  readonly directory: string;
  readonly jsonPath: string | undefined;
  readonly svgPath: string | undefined;
}

export class UsageError extends Error {}

export const USAGE = `Usage: npm run bench -- [options]

Measures Braid beside other ways to serve a volume, on this host, in one run.

  --quick             under 3 minutes: small volumes, short runs, no heap, no failures
  --only NAME,...     only these: ${SUBJECT_NAMES.join(', ')}
  --peers NAME,...    these too, from Debian's packages: ${PEER_NAMES.join(', ')}
  --repeat N          repetitions, of which medians are taken (default 3, quick 2, of failures 5)
  --seconds S         length of each of the runs (default 6, quick up to 2)
  --dir DIR           where volumes and daemons' files go; a file system with O_DIRECT (default: the system's temporary directory)
  --json FILE         also write all figures as JSON
  --svg FILE          also draw a chart
  --help              this text

The ratios count, not the figures: machines differ, and one host shares one drive among all copies.`;

const HEAP_OPERATIONS = 1_000_000;
const HEAP_OPERATIONS_QUICK = 200_000;

function list<T extends string>(flag: string, text: string, known: readonly T[]): T[] {
  const names = text.split(',').filter((name) => name !== '');
  const unknown = names.find((name) => !known.includes(name as T));
  if (unknown !== undefined) throw new UsageError(`${flag}: there is no "${unknown}"; there are ${known.join(', ')}`);
  return names as T[];
}

function positive(flag: string, text: string | undefined, fallback: number): number {
  if (text === undefined) return fallback;
  const value = Number(text);
  if (!(value > 0)) throw new UsageError(`${flag} wants a number above 0, not "${text}"`);
  return value;
}

/** Null: only the usage was asked for. */
export function readOptions(programArguments: readonly string[]): Options | null {
  const string = { type: 'string' } as const;
  const boolean = { type: 'boolean', default: false } as const;
  const flags = {
    quick: boolean,
    help: boolean,
    only: string,
    peers: string,
    repeat: string,
    seconds: string,
    dir: string,
    json: string,
    svg: string,
  };
  const { values } = parse(programArguments, flags);
  if (values.help) return null;
  const { quick } = values;
  const defaults = quick ? SUBJECT_NAMES.filter((name) => name !== 'heap' && name !== 'failures') : SUBJECT_NAMES;
  return {
    quick,
    only: new Set(values.only === undefined ? defaults : list('--only', values.only, SUBJECT_NAMES)),
    peers: list('--peers', values.peers ?? '', PEER_NAMES),
    repetitions: Math.ceil(positive('--repeat', values.repeat, quick ? 2 : 3)),
    failureRepetitions: Math.ceil(positive('--repeat', values.repeat, 5)),
    seconds: positive('--seconds', values.seconds, quick ? 2 : 6),
    volumeBytes: quick ? 256 * MIB : GIB,
    heapOperations: quick ? HEAP_OPERATIONS_QUICK : HEAP_OPERATIONS,
    directory: values.dir ?? tmpdir(),
    jsonPath: values.json,
    svgPath: values.svg,
  };
}

function parse<T extends NonNullable<Parameters<typeof parseArgs>[0]>['options'] & object>(
  args: readonly string[],
  options: T,
) {
  try {
    return parseArgs({ args: [...args], options, allowPositionals: false });
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

/** `npm run bench`: sets the subjects up, measures them in turn, prints what it found, and takes everything away again. */
import { writeFileSync } from 'node:fs';
import { measureFailures } from './failures.js';
import { runFio } from './fio.js';
import { measureHeap, type HeapUse } from './heap.js';
import { addSample, measureCold, measureColumns, type MeasureOptions, type Samples, warmUpCold } from './measure.js';
import { readOptions, USAGE, UsageError, type Options, type PeerName } from './options.js';
import { ceph } from './peers/ceph.js';
import { gluster } from './peers/gluster.js';
import { jsonReport, svgReport, textReport, type ReportInput } from './report.js';
import { Scratch } from './scratch.js';
import { BRAID_EXTRA_BYTES, BRAID_PACKAGES, BRAID_VOLUMES, BraidCluster } from './subjects/braid.js';
import { qemuNbd, quorum } from './subjects/qemu.js';
import { raw } from './subjects/raw.js';
import type { Subject, SubjectRecipe } from './subjects/subject.js';
import { missingPackages } from './subjects/tools.js';
import { COLD_WORKLOADS, COLUMNS, PREFILL } from './workloads.js';

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;
const EXIT_INTERRUPTED = 130;
/** A quick run is over in 3 minutes; what is not measuring (starting, fio's own start, cooling, stopping) gets its share first. */
const QUICK_BUDGET_MS = 180_000;
const QUICK_RUN_OVERHEAD_MS = 500;
const QUICK_COLD_OVERHEAD_MS = 16_000;
const QUICK_STOP_MS = 8_000;
const QUICK_SECONDS_MIN = 0.5;

const RECIPES: readonly SubjectRecipe[] = [raw, qemuNbd, quorum];
const PEERS: Readonly<Record<PeerName, SubjectRecipe>> = { ceph, gluster };

interface Bench {
  readonly options: Options;
  readonly scratch: Scratch;
  readonly startedMs: number;
  readonly skipped: string[];
}

const say = (text: string) => process.stderr.write(`${text}\n`);

/** Recipes whose packages are there. */
function available(bench: Bench): SubjectRecipe[] {
  const { only, peers } = bench.options;
  const wanted = [...RECIPES.filter(({ name }) => only.has(name as never)), ...peers.map((name) => PEERS[name])];
  return wanted.filter(({ title, packages }) => {
    const missing = missingPackages(packages);
    if (missing.length > 0)
      bench.skipped.push(`${title}: apt-get install -y --no-install-recommends ${missing.join(' ')}`);
    return missing.length === 0;
  });
}

async function prefill(subject: Subject, { options, scratch }: Bench): Promise<void> {
  say(`filling: ${subject.title}`);
  await runFio(subject.target, PREFILL, { operations: options.volumeBytes / PREFILL.blockBytes }, scratch.signal);
}

/** Starts and fills what is asked for. The cluster is null when no part of the run needs it. */
async function setUp(bench: Bench): Promise<{ subjects: Subject[]; cluster: BraidCluster | null }> {
  const { options, scratch } = bench;
  const { only, volumeBytes } = options;
  const recipes = available(bench);
  const needsBraid = only.has('braid') || only.has('external') || only.has('cold');
  const braidBytes = needsBraid ? BRAID_VOLUMES * volumeBytes + BRAID_EXTRA_BYTES : 0;
  scratch.requireSpace(
    recipes.reduce((sum, { volumes, extraBytes = 0 }) => sum + volumes * volumeBytes + extraBytes, braidBytes),
  );
  const subjects: Subject[] = [];
  const add = async (subject: Subject) => {
    subjects.push(subject);
    await prefill(subject, bench);
  };
  for (const recipe of recipes) {
    say(`starting: ${recipe.title}`);
    await add(await recipe.start({ scratch, volumeBytes }));
  }
  if (!needsBraid) return { subjects, cluster: null };
  say('starting: Braid, 4 agents');
  const cluster = await BraidCluster.start({ scratch, volumeBytes }, 'braid');
  // First writes are compared with hot ones: they need those.
  if (only.has('braid') || only.has('cold')) await add(await cluster.hyperconverged());
  if (only.has('external')) await add(await cluster.external());
  return { subjects, cluster };
}

/** Seconds of each run: as asked, or in a quick run what the budget leaves. */
function secondsPerRun(bench: Bench, subjectCount: number): number {
  const { quick, seconds, repetitions, only } = bench.options;
  if (!quick) return seconds;
  const runs = Math.max(1, subjectCount * COLUMNS.length * repetitions);
  const coldMs = only.has('cold') ? repetitions * QUICK_COLD_OVERHEAD_MS : 0;
  const leftMs =
    QUICK_BUDGET_MS - (performance.now() - bench.startedMs) - QUICK_STOP_MS - coldMs - runs * QUICK_RUN_OVERHEAD_MS;
  return Math.min(seconds, Math.max(QUICK_SECONDS_MIN, leftMs / runs / 1_000));
}

async function measure(bench: Bench): Promise<ReportInput> {
  const { options, scratch, skipped, startedMs } = bench;
  const { subjects, cluster } = await setUp(bench);
  const samples: Samples = new Map();
  const seconds = secondsPerRun(bench, subjects.length);
  for (let repetition = 1; repetition <= options.repetitions; repetition++) {
    const onProgress = (text: string) => say(`${repetition}/${options.repetitions} ${text}`);
    const settings: MeasureOptions = { seconds, signal: scratch.signal, onProgress };
    await measureColumns(subjects, samples, settings);
    const hot = subjects.find(({ name }) => name === 'braid');
    if (cluster === null || hot === undefined || !options.only.has('cold')) continue;
    if (repetition === 1) await warmUpCold(cluster, settings);
    for (const workload of COLD_WORKLOADS) {
      addSample(
        samples,
        'cold',
        workload.name,
        await measureCold(cluster, hot, options.volumeBytes, workload, settings),
      );
    }
  }
  await cluster?.stop();
  const heap: HeapUse[] = options.only.has('heap') ? await measureHeap(scratch, options.heapOperations, say) : [];
  const failures = options.only.has('failures') ? await measureFailures(scratch, options.failureRepetitions, say) : [];
  const { quick, repetitions, volumeBytes } = options;
  return {
    subjects: subjects.map(({ name, title }) => ({ name, title })),
    ...{ samples, heap, failures, skipped, settings: { quick, repetitions, seconds, volumeBytes } },
    elapsedMs: performance.now() - startedMs,
  };
}

function publish(input: ReportInput, { jsonPath, svgPath }: Options): void {
  process.stdout.write(`${textReport(input)}\n`);
  if (jsonPath !== undefined) writeFileSync(jsonPath, `${JSON.stringify(jsonReport(input), null, 2)}\n`);
  if (svgPath !== undefined) writeFileSync(svgPath, svgReport(input));
}

/** Aborts at the first signal; what comes while things are being cleaned up changes nothing. */
function abortOnSignals(): AbortSignal {
  const controller = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(name, () => {
      if (!controller.signal.aborted) say('ending: stopping daemons and removing files');
      controller.abort();
    });
  }
  return controller.signal;
}

async function run(options: Options): Promise<void> {
  const startedMs = performance.now();
  const missing = missingPackages(BRAID_PACKAGES);
  if (missing.length > 0) throw new UsageError(`packages are missing: apt-get install -y ${missing.join(' ')}`);
  const signal = abortOnSignals();
  const scratch = await Scratch.create(options.directory, signal);
  try {
    publish(await measure({ options, scratch, startedMs, skipped: [] }), options);
  } catch (error) {
    if (!signal.aborted) throw error;
    process.exitCode = EXIT_INTERRUPTED;
  } finally {
    for (const problem of await scratch.cleanUp()) say(`cleaning up: ${problem}`);
  }
  say(`took ${Math.round((performance.now() - startedMs) / 1_000)} s`);
}

try {
  const options = readOptions(process.argv.slice(2));
  if (options === null) console.log(USAGE);
  else await run(options);
} catch (error) {
  say(`bench: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = error instanceof UsageError ? EXIT_USAGE : EXIT_FAILED;
}

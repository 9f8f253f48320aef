/**
 * The shape of the source tree, checked: which floor may import which, no cycles, no dead files, no file too long.
 * Type imports count. The floors are drawn in ARCHITECTURE.md; this file is what enforces them.
 */
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import { dirname, join } from 'node:path/posix';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import ts from 'typescript';

type Import = { from: string; line: number; to: string };

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const FOLDERS = ['daemon', 'native', 'client', 'csi', 'test', 'bench'];
const FILE_LINES_MAX = 600;

/** The floors of the daemon. A file may import its own unit and every lower floor, never a neighbour. */
const FLOOR_OF: Record<string, number> = {
  ...{ 'daemon/main': 9, 'daemon/dataplane-worker': 9, 'daemon/api': 8, 'daemon/control': 7, 'daemon/dataplane': 6 },
  ...{ 'daemon/coordinator': 5, 'daemon/replica': 5, 'daemon/frontend': 5 },
  ...{ 'daemon/ports': 3, 'daemon/protocol': 2, 'daemon/format': 2, 'daemon/base': 1 },
};
const COMPOSITION_ROOTS = ['daemon/main', 'daemon/dataplane-worker'];
const ADAPTERS = 'daemon/adapters';

/** Units that stand beside the floors, with what they may import. */
const MAY_IMPORT: Record<string, string[]> = {
  [ADAPTERS]: ['daemon/ports', 'daemon/base', 'daemon/protocol', 'daemon/format', 'native'],
  native: ['daemon/base'],
  client: ['daemon/api/schemas'],
  csi: ['client'],
  test: FOLDERS,
  bench: FOLDERS,
};
const ONLY_IN_ADAPTERS = ['lmdb', 'etcd3'];

const ENTRY =
  /^(daemon\/main|native\/index|client\/(index|cli\/main)|csi\/main|bench\/main|test\/(run|sim\/main)|.*(-worker|\.test))\.ts$/;

const isWithin = (path: string, unit: string) => path === unit || path === `${unit}.ts` || path.startsWith(`${unit}/`);

/** `daemon/api` of `daemon/api/routes.ts`, `daemon/main` of `daemon/main.ts`, `client` of `client/cli/main.ts`. */
function unitOf(path: string): string {
  const [top = '', second = ''] = path.split('/');
  return top === 'daemon' ? `${top}/${second.replace(/\.ts$/, '')}` : top;
}

function packageRule(unit: string, specifier: string): string | undefined {
  const floor = FLOOR_OF[unit];
  if (isBuiltin(specifier) && floor !== undefined && floor < 8) return 'no node:* below the adapters';
  const isReserved = ONLY_IN_ADAPTERS.some((name) => specifier === name || specifier.startsWith(`${name}/`));
  if (isReserved && ![ADAPTERS, 'test', 'bench'].includes(unit)) return `only ${ADAPTERS} may import it`;
  return undefined;
}

/** The rule that an import breaks, if any. `to` is a path in this tree, or a package. */
function brokenRule(from: string, to: string): string | undefined {
  const unit = unitOf(from);
  if (!FOLDERS.some((folder) => isWithin(to, folder))) return packageRule(unit, to);
  const target = unitOf(to);
  if (unit === target) return undefined;
  const allowed = MAY_IMPORT[unit];
  if (allowed)
    return allowed.some((each) => isWithin(to, each)) ? undefined : `${unit} may import only ${allowed.join(', ')}`;
  const floor = FLOOR_OF[unit];
  if (floor === undefined) return `${unit} has no floor; give it one in floors.test.ts`;
  if (target === ADAPTERS) {
    return COMPOSITION_ROOTS.includes(unit) ? undefined : `only ${COMPOSITION_ROOTS.join(', ')} may import ${ADAPTERS}`;
  }
  const targetFloor = FLOOR_OF[target];
  if (targetFloor === undefined) return `the daemon's floors may not import ${target}`;
  return targetFloor < floor ? undefined : `${unit} (floor ${floor}) may not import ${target} (floor ${targetFloor})`;
}

function sourceFiles(): Map<string, string> {
  const paths = FOLDERS.filter((folder) => existsSync(ROOT + folder)).flatMap((folder) =>
    readdirSync(ROOT + folder, { recursive: true, encoding: 'utf8' }).map((name) => `${folder}/${name}`),
  );
  const sources = paths.filter((path) => path.endsWith('.ts') && !path.includes('/generated/')).sort();
  return new Map(sources.map((path) => [path, readFileSync(ROOT + path, 'utf8')]));
}

function importsOf(from: string, text: string): Import[] {
  return ts.preProcessFile(text, true, true).importedFiles.map(({ fileName, pos }) => ({
    from,
    line: text.slice(0, pos).split('\n').length,
    to: fileName.startsWith('.') ? join(dirname(from), fileName).replace(/\.js$/, '.ts') : fileName,
  }));
}

/** The first cycle that a depth-first walk meets, as a list of files that ends where it starts. */
function findCycle(graph: Map<string, string[]>): string[] | undefined {
  const finished = new Set<string>();
  const visit = (file: string, path: string[]): string[] | undefined => {
    if (path.includes(file)) return [...path.slice(path.indexOf(file)), file];
    if (finished.has(file)) return undefined;
    for (const next of graph.get(file) ?? []) {
      const cycle = visit(next, [...path, file]);
      if (cycle) return cycle;
    }
    finished.add(file);
    return undefined;
  };
  for (const file of graph.keys()) {
    const cycle = visit(file, []);
    if (cycle) return cycle;
  }
  return undefined;
}

function findUnreached(graph: Map<string, string[]>): string[] {
  const reached = new Set([...graph.keys()].filter((file) => ENTRY.test(file)));
  for (const file of reached) for (const next of graph.get(file) ?? []) reached.add(next);
  return [...graph.keys()].filter((file) => !reached.has(file));
}

const files = sourceFiles();
const imports = [...files].flatMap(([path, text]) => importsOf(path, text));
const graph = new Map<string, string[]>([...files.keys()].map((path) => [path, []]));
for (const { from, to } of imports) if (files.has(to)) graph.get(from)?.push(to);

t.test('every import points to a lower floor', async (t) => {
  for (const { from, line, to } of imports) {
    const rule = brokenRule(from, to);
    if (rule) t.fail(`${from}:${line} imports ${to}: ${rule}`);
  }
  t.ok(imports.length > 0, 'there are imports to check');
});

t.test('no file imports itself through others', async (t) => {
  t.equal(findCycle(graph)?.join(' -> '), undefined);
});

t.test('every file is an entry or imported from one', async (t) => {
  t.same(findUnreached(graph), []);
});

t.test(`no file is longer than ${FILE_LINES_MAX} lines`, async (t) => {
  for (const [path, text] of files) {
    const lineCount = text.split('\n').length - 1;
    if (lineCount > FILE_LINES_MAX) t.fail(`${path}:${FILE_LINES_MAX + 1} has ${lineCount} lines; split it`);
  }
  t.ok(files.size > 0, 'there are files to check');
});

t.test('the rules catch what they are for', async (t) => {
  const forbidden: [from: string, to: string][] = [
    ['daemon/coordinator/write.ts', 'daemon/replica/store.ts'],
    ['daemon/base/assert.ts', 'daemon/ports/clock.ts'],
    ['daemon/format/record.ts', 'daemon/protocol/frame.ts'],
    ['daemon/control/leader.ts', 'daemon/adapters/etcd.ts'],
    ['daemon/control/leader.ts', 'node:fs'],
    ['daemon/base/assert.ts', 'assert'],
    ['daemon/api/server.ts', 'lmdb'],
    ['daemon/replica/store.ts', 'native/index.ts'],
    ['daemon/adapters/uring.ts', 'daemon/replica/store.ts'],
    ['daemon/base/assert.ts', 'test/sim/clock.ts'],
    ['daemon/misc/util.ts', 'daemon/base/assert.ts'],
    ['client/index.ts', 'daemon/api/server.ts'],
    ['csi/node.ts', 'daemon/api/schemas/volume.ts'],
  ];
  for (const [from, to] of forbidden) t.ok(brokenRule(from, to), `${from} may not import ${to}`);
  const allowed: [from: string, to: string][] = [
    ['daemon/main.ts', 'daemon/adapters/etcd.ts'],
    ['daemon/dataplane-worker.ts', 'daemon/dataplane/loop.ts'],
    ['daemon/api/server.ts', 'node:http'],
    ['daemon/adapters/uring.ts', 'native/index.ts'],
    ['client/volumes.ts', 'daemon/api/schemas/volume.ts'],
    ['csi/node.ts', 'client/index.ts'],
  ];
  for (const [from, to] of allowed) t.equal(brokenRule(from, to), undefined, `${from} may import ${to}`);
  t.same(
    findCycle(
      new Map([
        ['a', ['b']],
        ['b', ['c']],
        ['c', ['b']],
      ]),
    ),
    ['b', 'c', 'b'],
  );
  t.same(
    findUnreached(
      new Map([
        ['csi/main.ts', ['csi/a.ts']],
        ['csi/a.ts', []],
        ['csi/b.ts', []],
      ]),
    ),
    ['csi/b.ts'],
  );
});

#!/usr/bin/env node
/**
 * Brings a fresh checkout to the point where a job can run, then runs it:
 *
 *     node deploy/setup/run.mjs <test|demo|bench|sim> [-- arguments of the job]
 *
 * It runs before `npm ci`, so it depends on nothing but Node. Each step is skipped when its result is up to date, says
 * one line on stderr when it is not (stdout belongs to the job), and shows its output only when it fails.
 */
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const NODE_MAJOR_MIN = 20;
const FAILED_OUTPUT_LINES_MAX = 120;
const IS_ROOT = process.getuid?.() === 0;

const TOOLCHAIN = ['liburing-dev', 'g++', 'make', 'python3'];
const NBD = ['libnbd-bin'];
const DEVICES = ['fuse3', 'e2fsprogs', 'util-linux'];
/** What the tests cut links and break file systems with. */
const FAULTS = ['iproute2', 'xfsprogs'];

/** @type {Record<string, { entry: string, jobArguments: string[], packages: string[] }>} */
const JOBS = {
  test: {
    entry: 'dist/test/run.js',
    jobArguments: [],
    packages: [
      ...[...TOOLCHAIN, 'clang', 'libclang-rt-dev', ...NBD, ...DEVICES, ...FAULTS],
      ...['fio', 'nbdkit', 'nbd-client', 'qemu-utils'],
      ...['etcd-server', 'nfs-ganesha', 'nfs-ganesha-vfs', 'libnfs-utils'],
    ],
  },
  demo: {
    entry: 'dist/client/cli/main.js',
    jobArguments: ['demo'],
    // Without root there is no device to attach, and the demo speaks NBD only.
    packages: IS_ROOT ? [...TOOLCHAIN, ...NBD, ...DEVICES, 'fio'] : [...TOOLCHAIN, ...NBD],
  },
  bench: {
    entry: 'dist/bench/main.js',
    jobArguments: [],
    packages: [...TOOLCHAIN, ...NBD, 'fio', 'qemu-utils', 'qemu-system-common'],
  },
  sim: { entry: 'dist/test/sim/main.js', jobArguments: [], packages: TOOLCHAIN },
};

/** @param {string} message @returns {never} */
function fail(message) {
  console.error(`braid: ${message}`);
  process.exit(1);
}

/**
 * @param {string} title what the user reads while it runs
 * @param {string} command
 * @param {string[]} commandArguments
 * @param {NodeJS.ProcessEnv} [env]
 */
function step(title, command, commandArguments, env = process.env) {
  console.error(`${title}…`);
  const options = { cwd: ROOT, env, encoding: /** @type {const} */ ('utf8'), maxBuffer: 1 << 28 };
  const result = spawnSync(command, commandArguments, options);
  if (result.status === 0) return;
  const output = `${result.stdout ?? ''}${result.stderr ?? ''}`.trimEnd().split('\n');
  console.error(output.slice(-FAILED_OUTPUT_LINES_MAX).join('\n'));
  const reason = result.error?.message ?? (result.signal ? `ended by ${result.signal}` : `exit code ${result.status}`);
  fail(`${title} failed (${reason}): ${command} ${commandArguments.join(' ')}`);
}

function checkNode() {
  if (Number.parseInt(process.versions.node, 10) < NODE_MAJOR_MIN) {
    fail(`Node.js ${NODE_MAJOR_MIN} or newer is needed, this is ${process.versions.node} (${process.execPath})`);
  }
}

/** @param {string[]} packages */
function installDebianPackages(packages) {
  const query = spawnSync('dpkg-query', ['-W', '-f', '${Package} ${db:Status-Status}\n', ...packages], {
    encoding: 'utf8',
  });
  if (query.error) {
    console.error(`this is no Debian system; make sure that it has the equivalents of: ${packages.join(' ')}`);
    return;
  }
  const missing = packages.filter((name) => !query.stdout.split('\n').includes(`${name} installed`));
  if (missing.length === 0) return;
  if (!IS_ROOT) {
    fail(
      `packages are missing; run this, then try again:\n  sudo apt-get install -y --no-install-recommends ${missing.join(' ')}`,
    );
  }
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  step('updating package lists', 'apt-get', ['update'], env);
  const install = ['install', '-y', '--no-install-recommends', ...missing];
  step(`installing ${missing.join(' ')}`, 'apt-get', install, env);
}

/** The environment in which node-gyp finds Node's headers, where it cannot download them. */
function buildEnvironment() {
  const { stdout } = spawnSync('npm', ['config', 'get', 'nodedir'], { cwd: ROOT, encoding: 'utf8' });
  const configured = (stdout ?? '').trim();
  if (configured !== '' && configured !== 'undefined') return { ...process.env, npm_config_nodedir: configured };
  if (existsSync('/usr/include/node/node_api.h')) return { ...process.env, npm_config_nodedir: '/usr' };
  return process.env;
}

/**
 * @param {string[]} paths files and folders; those that do not exist count as empty
 * @param {(path: string) => boolean} [wanted]
 */
function fingerprint(paths, wanted = () => true) {
  const hash = createHash('sha256').update(`${process.version} ${process.arch}\n`);
  /** @param {string} path */
  const visit = (path) => {
    const stat = statSync(join(ROOT, path), { throwIfNoEntry: false });
    if (stat?.isDirectory()) {
      for (const name of readdirSync(join(ROOT, path)).sort()) if (name !== 'generated') visit(join(path, name));
    } else if (stat?.isFile() && wanted(path)) {
      hash.update(`${path} ${stat.size}\n`).update(readFileSync(join(ROOT, path)));
    }
  };
  paths.forEach(visit);
  return hash.digest('hex');
}

/**
 * Runs `make` unless the stamp says that its result was made from the same inputs.
 * @param {string} stamp
 * @param {string} wanted
 * @param {() => void} make
 */
function whenStale(stamp, wanted, make) {
  const path = join(ROOT, stamp);
  if (existsSync(path) && readFileSync(path, 'utf8') === wanted) return;
  make();
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, wanted);
}

function prepare() {
  const npm = (/** @type {string} */ title, /** @type {string[]} */ ...command) =>
    step(title, 'npm', command, buildEnvironment());
  whenStale('node_modules/.braid-lock-hash', fingerprint(['package-lock.json']), () =>
    npm('installing packages', 'ci', '--no-audit', '--no-fund'),
  );
  const isNative = (/** @type {string} */ path) => !path.endsWith('.ts');
  whenStale('build/.stamp-native', fingerprint(['native', 'binding.gyp', 'package-lock.json'], isNative), () =>
    npm('building the native addon', 'run', 'build:native'),
  );
  const sources = ['daemon', 'native', 'client', 'csi', 'test', 'bench'];
  const isTypeScript = (/** @type {string} */ path) => /\.(ts|proto|json|mjs)$/.test(path);
  const inputs = [...sources, 'tsconfig.json', 'package-lock.json', 'deploy/setup/proto.mjs'];
  whenStale('dist/.stamp-ts', fingerprint(inputs, isTypeScript), () => {
    npm('generating the protocol messages', 'run', 'build:proto');
    npm('compiling TypeScript', 'run', 'build:ts');
  });
}

/** @param {string[]} commandArguments */
function runJob(commandArguments) {
  const child = spawn(process.execPath, ['--enable-source-maps', ...commandArguments], { cwd: ROOT, stdio: 'inherit' });
  for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) {
    // A terminal sends Ctrl-C to the job as well; forwarding it would deliver it twice.
    const delivered = signal === 'SIGINT' && process.stdin.isTTY;
    process.on(signal, () => delivered || child.kill(signal));
  }
  child.on('error', (error) => fail(error.message));
  child.on('exit', (code, signal) => {
    if (signal === null) process.exit(code ?? 1);
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  });
}

const [name = '', ...rest] = process.argv.slice(2);
const job = Object.hasOwn(JOBS, name) ? JOBS[name] : undefined;
if (!job) fail(`usage: node deploy/setup/run.mjs <${Object.keys(JOBS).join('|')}> [-- arguments]`);
checkNode();
installDebianPackages(job.packages);
prepare();
runJob([job.entry, ...job.jobArguments, ...(rest[0] === '--' ? rest.slice(1) : rest)]);

import t from 'tap';
import { BraidError } from '../../../daemon/base/errors.js';
import {
  CONFIG_KEYS,
  configHelp,
  environmentName,
  flagName,
  resolveConfig,
  unknownVariables,
  type ConfigSources,
} from '../../../daemon/control/config.js';

const none: ConfigSources = { file: null, environment: {}, flags: {}, hostName: 'host-1' };

function failure(sources: Partial<ConfigSources>): BraidError {
  try {
    resolveConfig({ ...none, ...sources });
  } catch (error) {
    if (error instanceof BraidError) return error;
  }
  throw new Error('must fail');
}

t.test('defaults are complete; the store is inside the data directory', async (t) => {
  const config = resolveConfig(none);
  t.equal(config.nodeName, 'host-1');
  t.equal(config.storeDir, '/var/lib/braid/store');
  t.equal(config.apiPort, 7440);
  t.equal(config.apiHost, '127.0.0.1');
  t.equal(resolveConfig({ ...none, flags: { dataDir: '/x' } }).storeDir, '/x/store');
});

t.test('flags win over the environment, which wins over the file', async (t) => {
  const file = {
    path: '/etc/braid.yaml',
    values: { apiPort: 1, dataPort: 1, shards: 3, slabBytes: '64Mi', labels: { zone: 'a' } },
  };
  const config = resolveConfig({
    ...none,
    file,
    environment: { BRAID_API_PORT: '2', BRAID_DATA_PORT: '2' },
    flags: { apiPort: '3' },
  });
  t.same([config.apiPort, config.dataPort, config.shards], [3, 2, 3]);
  t.equal(config.slabBytes, 64 * 2 ** 20);
  t.same(config.labels, { zone: 'a' });
  t.same(resolveConfig({ ...none, flags: { labels: 'a=b,c=d' } }).labels, { a: 'b', c: 'd' });
});

t.test('errors name the source, the key and what is expected', async (t) => {
  const unknown = failure({ file: { path: '/etc/braid.yaml', values: { apiprt: 1 } } });
  t.equal(unknown.code, 'INVALID_ARGUMENT');
  t.match(unknown.message, /\/etc\/braid\.yaml: unknown setting "apiprt"; did you mean "apiPort"\?/);
  t.match(failure({ flags: { apiPort: 'many' } }).message, /--api-port is "many".*TCP port of the REST API/);
  t.match(failure({ environment: { BRAID_SHARDS: '99' } }).message, /BRAID_SHARDS is 99.*Threads/);
  t.match(failure({ file: { path: '/c', values: { dataDir: 'relative' } } }).message, /\/c: dataDir.*absolute/);
  t.match(failure({ flags: { labels: 'oops' } }).message, /--labels is "oops"/);
  t.match(failure({ hostName: 'Not_A Name!' }).message, /default of nodeName.*--node-name/);
  t.match(failure({ flags: { slabBytes: '1Mi' } }).message, /--slab-bytes/);
  t.match(failure({ flags: { nbdTcp: 'nowhere' } }).message, /--nbd-tcp/);
});

t.test('every setting has a flag, a variable and a line of help', async (t) => {
  const help = configHelp('host-1');
  for (const key of CONFIG_KEYS) {
    t.ok(help.includes(flagName(key)), flagName(key));
    t.ok(help.includes(environmentName(key)), environmentName(key));
  }
  t.equal(flagName('nbdTcp'), '--nbd-tcp');
  t.equal(environmentName('nbdTcp'), 'BRAID_NBD_TCP');
});

t.test('a variable that is nearly a setting is noticed; others are not ours', async (t) => {
  t.same(unknownVariables({ BRAID_DATADIR: '/x', BRAID_TOKEN: 'y', HOME: '/' }), [
    'BRAID_DATADIR is not a setting; did you mean BRAID_DATA_DIR?',
  ]);
});

/**
 * The settings of an agent: one schema for the configuration file, the environment (`BRAID_DATA_DIR`) and flags (`--data-dir`), in rising
 * order of precedence. Pure: reading files and the environment is the caller's.
 */
import { Type, type Static, type TSchema } from 'typebox';
import { Compile } from 'typebox/compile';
import { BraidError } from '../base/errors.js';
import { limits } from '../base/limits.js';
import { didYouMean, nearest } from '../base/nearest.js';
import { formatSize, KIB, MIB, parseSize } from '../base/units.js';

const NODE_NAME_PATTERN = '^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$';
const PORT_MAX = 65_535;
const SHARDS_MAX = 16;
const ENVIRONMENT_PREFIX = 'BRAID_';
const SIZES: readonly string[] = ['slabBytes', 'scrubBytesPerSecond'];
const port = (description: string) => Type.Integer({ minimum: 0, maximum: PORT_MAX, description });
const path = (description: string) =>
  Type.String({ pattern: '^/', maxLength: 1_024, description: `${description} (absolute path)` });
const host = (description: string) => Type.String({ minLength: 1, maxLength: 255, description });

export const ConfigSchema = Type.Object(
  {
    dataDir: path("This node's own directory: identity, sockets, the embedded store"),
    storeDir: path('Directory of the embedded cluster store, shared by all agents of this host'),
    nodeName: Type.String({
      pattern: NODE_NAME_PATTERN,
      description: 'Name of this node: lower-case letters, digits, ".", "_", "-"; at most 63',
    }),
    clusterName: Type.String({
      pattern: NODE_NAME_PATTERN,
      description: 'Name of the cluster, when this agent is its first',
    }),
    apiHost: host(
      'Address that the REST API listens on. It has no authentication: keep it on loopback or a trusted network',
    ),
    apiPort: port('TCP port of the REST API; 0 picks a free one'),
    dataHost: host('Address that other nodes reach the data plane at'),
    dataPort: port('TCP port of the first shard, further shards take the next ones; 0 picks free ones'),
    nbdTcp: Type.String({
      pattern: '^$|^.+:[0-9]{1,5}$',
      description: 'host:port of the NBD server over TCP, further shards take the next ports; empty: unix socket only',
    }),
    shards: Type.Integer({ minimum: 1, maximum: SHARDS_MAX, description: 'Threads of the data plane' }),
    slabBytes: Type.Integer({
      minimum: 16 * MIB,
      maximum: 64 * 1024 * MIB,
      multipleOf: 64 * KIB,
      description: 'Buffers of each shard, bytes or with a unit (Mi, Gi)',
    }),
    scrubBytesPerSecond: Type.Integer({
      minimum: MIB,
      maximum: 16 * 1024 * MIB,
      description: 'How fast a drive is scrubbed, and the volumes of a shard together: bytes or with a unit (Mi, Gi)',
    }),
    scrubIntervalHours: Type.Integer({
      minimum: 0,
      maximum: 8_760,
      description: 'Hours from one scrub of a drive or volume to the next; 0: only with "braid scrub start"',
    }),
    logLevel: Type.Enum(['debug', 'info', 'warn', 'error'], {
      type: 'string',
      description: 'Least severity that is logged',
    }),
    labels: Type.Record(Type.String(), Type.String({ maxLength: 63 }), {
      description: 'Labels of this node for placement: key=value,... or a map in the file',
    }),
  },
  { additionalProperties: false },
);
export type Config = Static<typeof ConfigSchema>;
export type ConfigKey = keyof Config;

export const CONFIG_KEYS = Object.keys(ConfigSchema.properties) as readonly ConfigKey[];

/** `storeDir` and `nodeName` depend on the rest and on the host. */
export function configDefaults(hostName: string): Omit<Config, 'storeDir'> {
  return {
    dataDir: '/var/lib/braid',
    nodeName: hostName,
    clusterName: 'braid',
    apiHost: '127.0.0.1',
    apiPort: 7440,
    dataHost: '127.0.0.1',
    dataPort: 0,
    nbdTcp: '',
    shards: 1,
    slabBytes: limits.slabBytes,
    scrubBytesPerSecond: limits.scrubBytesPerSecondDefault,
    scrubIntervalHours: limits.scrubIntervalHoursDefault,
    logLevel: 'info',
    labels: {},
  };
}

/** Where settings come from, least important first. Values of the environment and of flags are text. */
export interface ConfigSources {
  readonly file: { readonly path: string; readonly values: Readonly<Record<string, unknown>> } | null;
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** By key, in camel case. */
  readonly flags: Readonly<Record<string, string>>;
  readonly hostName: string;
}

/** The settings in force. Throws `BraidError` INVALID_ARGUMENT naming the source and the key that is wrong. */
export function resolveConfig({ file, environment, flags, hostName }: ConfigSources): Config {
  const values: Record<string, unknown> = { ...configDefaults(hostName) };
  const origins = new Map<string, string>();
  const take = (key: string, value: unknown, origin: string): void => {
    values[key] = value;
    origins.set(key, origin);
  };
  for (const [key, value] of Object.entries(file?.values ?? {})) {
    checkKey(key, `${file?.path}: unknown setting`, CONFIG_KEYS);
    take(key, typeof value === 'string' ? fromText(key as ConfigKey, value) : value, `${file?.path}: ${key}`);
  }
  for (const [name, value] of Object.entries(environment)) {
    const key = CONFIG_KEYS.find((each) => environmentName(each) === name);
    if (key !== undefined && value !== undefined) take(key, fromText(key, value), name);
  }
  for (const [key, value] of Object.entries(flags)) take(key, fromText(key as ConfigKey, value), flagName(key));
  values['storeDir'] ??= `${String(values['dataDir'])}/store`;
  return check(values, origins);
}

/** Variables that look like a setting and are none: to be warned about, not refused, because other programs use `BRAID_` too. */
export function unknownVariables(environment: Readonly<Record<string, string | undefined>>): string[] {
  const known = CONFIG_KEYS.map(environmentName);
  const bare = (name: string): string => name.slice(ENVIRONMENT_PREFIX.length);
  return Object.keys(environment)
    .filter((name) => name.startsWith(ENVIRONMENT_PREFIX) && !known.includes(name))
    .map((name) => ({ name, meant: nearest(bare(name), known.map(bare), 1)[0] }))
    .filter(({ meant }) => meant !== undefined)
    .map(({ name, meant }) => `${name} is not a setting; did you mean ${ENVIRONMENT_PREFIX}${meant}?`);
}

export function checkKey(key: string, problem: string, known: readonly string[]): void {
  if (known.includes(key)) return;
  throw new BraidError(
    'INVALID_ARGUMENT',
    `${problem} "${key}"${didYouMean(key, known) || '; braidd --help lists them all'}`,
  );
}

/** `dataDir` as `--data-dir`. */
export function flagName(key: string): string {
  return `--${key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

/** `dataDir` as `BRAID_DATA_DIR`. */
export function environmentName(key: string): string {
  return `${ENVIRONMENT_PREFIX}${key.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`;
}

/** One line per setting: flag, variable, meaning, default. */
export function configHelp(hostName: string): string {
  const defaults: Readonly<Record<string, unknown>> = { ...configDefaults(hostName), storeDir: 'DATADIR/store' };
  const lines = CONFIG_KEYS.map((key) => {
    const schema = ConfigSchema.properties[key] as { readonly description?: string; readonly enum?: readonly string[] };
    const choices = schema.enum === undefined ? '' : `: ${schema.enum.join(', ')}`;
    return `  ${flagName(key).padEnd(16)} ${schema.description}${choices}\n${' '.repeat(19)}default: ${defaultText(key, defaults[key])}; ${environmentName(key)}; ${key}`;
  });
  return lines.join('\n');
}

function defaultText(key: string, value: unknown): string {
  if (typeof value === 'number') return SIZES.includes(key) ? formatSize(value) : String(value);
  return typeof value === 'string' && value !== '' ? value : 'none';
}

/** Text as the type of its key; what cannot be converted is left for the check to refuse. */
function fromText(key: ConfigKey, text: string): unknown {
  switch (key) {
    case 'apiPort':
    case 'dataPort':
    case 'shards':
    case 'scrubIntervalHours':
      return /^\d+$/.test(text) ? Number(text) : text;
    case 'slabBytes':
    case 'scrubBytesPerSecond':
      return parseSize(text) ?? text;
    case 'labels':
      return labelsOf(text);
    default:
      return text;
  }
}

/** `a=b,c=d`; anything else stays text, which is no label map. */
function labelsOf(text: string): unknown {
  const pairs = text === '' ? [] : text.split(',').map((pair) => pair.split('=', 2));
  const isWellFormed = pairs.every(([name, value]) => name !== undefined && name !== '' && value !== undefined);
  return isWellFormed ? Object.fromEntries(pairs) : text;
}

function check(values: Record<string, unknown>, origins: ReadonlyMap<string, string>): Config {
  for (const key of CONFIG_KEYS) {
    const schema: TSchema & { readonly description?: string } = ConfigSchema.properties[key];
    const validator = Compile(schema);
    if (validator.Check(values[key])) continue;
    const [error] = validator.Errors(values[key]);
    const where = origins.get(key) ?? `the default of ${key} (the host's name does not fit: set ${flagName(key)})`;
    const given = JSON.stringify(values[key]) ?? 'nothing';
    throw new BraidError(
      'INVALID_ARGUMENT',
      `${where} is ${given}, which ${error?.message ?? 'is malformed'}. ${key}: ${schema.description}`,
    );
  }
  return values as Config;
}

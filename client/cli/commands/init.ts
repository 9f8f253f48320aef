import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { Command } from 'commander';
import { contextOf, numberArgument, type Surroundings } from '../context.js';
import { UsageError } from '../errors.js';

const API_PORT_DEFAULT = 7440;
const NODES_MAX = 16;

interface InitOptions {
  readonly dir: string;
  readonly name: string;
  readonly cluster: string;
  readonly nodes: number;
  readonly apiPort: number;
  readonly force?: boolean;
}

interface AgentConfig {
  readonly path: string;
  readonly nodeName: string;
  readonly apiPort: number;
  readonly text: string;
}

/** `braid init`. */
export function initCommand(surroundings: Surroundings): Command {
  return new Command('init')
    .description('write the configuration of an agent on this host, with the embedded cluster store')
    .option('--dir <directory>', 'where it and its data live', '/var/lib/braid')
    .option('--name <name>', "the node's name", nodeNameOf(hostname()))
    .option('--cluster <name>', "the cluster's name", 'braid')
    .option('--nodes <count>', 'so many agents on this host, to try replication', numberArgument(1, NODES_MAX), 1)
    .option('--api-port <port>', 'port of the (first) REST API', numberArgument(1, 65_535), API_PORT_DEFAULT)
    .option('--force', 'replace existing configuration files')
    .addHelpText('after', '\nExamples:\n  braid init --dir /var/lib/braid\n  braid init --dir ./try --nodes 3')
    .action((options: InitOptions, command: Command) => {
      const { output } = contextOf(command, surroundings);
      const directory = resolve(options.dir);
      const configs = configsOf(directory, options);
      const existing = configs.find(({ path }) => existsSync(path));
      if (existing !== undefined && options.force !== true) {
        throw new UsageError(`${existing.path} exists; keep it, or replace it with --force`);
      }
      mkdirSync(directory, { recursive: true, mode: 0o700 });
      for (const { path, text } of configs) writeFileSync(path, text, { mode: 0o600 });
      const result = configs.map(({ path, nodeName, apiPort }) => ({
        path,
        nodeName,
        api: `http://127.0.0.1:${apiPort}`,
      }));
      output.result({ configs: result }, () => {
        output.line(
          `Written: ${configs.map(({ path }) => path).join(', ')}\n\nStart ${configs.length === 1 ? 'the agent' : 'the agents'}:`,
        );
        for (const { path } of configs) output.line(`  braidd --config ${path}${configs.length === 1 ? '' : ' &'}`);
        output.line('\nThen:');
        output.line(`  braid drive add ${join(directory, 'drive')} --capacity 20Gi    a directory for its data`);
        output.line('  braid status');
      });
    });
}

/** A host's name as a node's: lower case, no domain, only the characters that names may have. */
export function nodeNameOf(host: string): string {
  const name = (host.split('.')[0] ?? '')
    .toLowerCase()
    .replace(/[^a-z0-9_-]/g, '-')
    .replace(/^[^a-z0-9]+|[^a-z0-9]+$/g, '');
  return name === '' ? 'node-1' : name.slice(0, 63);
}

function configsOf(directory: string, options: InitOptions): AgentConfig[] {
  return Array.from({ length: options.nodes }, (_, index) => {
    const isOnly = options.nodes === 1;
    const nodeName = isOnly ? options.name : `${options.name}-${index + 1}`;
    const path = join(directory, isOnly ? 'braid.yaml' : `node-${index + 1}.yaml`);
    const apiPort = options.apiPort + index;
    const dataDir = join(directory, isOnly ? 'data' : `node-${index + 1}`);
    return {
      path,
      nodeName,
      apiPort,
      text: configText({ directory, dataDir, nodeName, apiPort, cluster: options.cluster }),
    };
  });
}

function configText(values: {
  directory: string;
  dataDir: string;
  nodeName: string;
  apiPort: number;
  cluster: string;
}): string {
  const { directory, dataDir, nodeName, apiPort, cluster } = values;
  return `# Configuration of a Braid agent (braidd). Flags and BRAID_* environment variables override it.
nodeName: ${JSON.stringify(nodeName)}
clusterName: ${JSON.stringify(cluster)}

# What is this agent's own: run-time files, sockets.
dataDir: ${JSON.stringify(dataDir)}

# Embedded cluster store, shared by all agents of this host.
storeDir: ${JSON.stringify(join(directory, 'store'))}

# REST API. It has no authentication yet: keep it on a trusted address.
apiHost: 127.0.0.1
apiPort: ${apiPort}

# Traffic between agents. 0 picks a free port.
dataHost: 127.0.0.1
dataPort: 0

logLevel: info
`;
}

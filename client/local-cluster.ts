/**
 * Several real agents on this host, in one directory: what `braid demo` and the cluster tests run on.
 *
 * ```
 * DIR/cluster.json       which processes were started (`ClusterRecord`); how another process finds and stops them
 * DIR/store/             the embedded cluster store that all agents share
 * DIR/NODE/data/         the agent's data directory (run/agent.json appears when it serves)
 * DIR/NODE/drive/        its drive
 * DIR/NODE/agent.log     what it printed
 * ```
 *
 * Only processes that the record names are ever signalled.
 */
import { spawn } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { endProcess, identityOf, isRunning, signalProcess, waitFor, type ProcessIdentity } from './processes.js';
import { BraidClient } from './sdk/client.js';

const AGENT_PROGRAM = fileURLToPath(new URL('../daemon/main.js', import.meta.url));
const START_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 20_000;
const LOG_TAIL_CHARS = 4_000;
const RECORD_VERSION = 1;

export interface LocalClusterOptions {
  readonly directory: string;
  readonly nodes: number;
  readonly clusterName?: string;
  /** Agents run in sessions of their own and outlive this process. */
  readonly detached?: boolean;
  /** Further flags of braidd for every agent. */
  readonly agentArguments?: readonly string[];
  /** Where the agents' program is, when not in this installation. */
  readonly agentProgram?: string;
  /** Where and how agent `index` runs. Default: as a child of this process, on loopback. */
  readonly place?: (index: number) => AgentPlace;
}

export interface AgentPlace {
  /** Address that it listens on. */
  readonly host: string;
  /** Program and arguments that the agent's command is appended to; it replaces itself by that. */
  readonly command: readonly string[];
}

const HERE: AgentPlace = { host: '127.0.0.1', command: [] };

interface AgentRecord {
  readonly name: string;
  readonly process: ProcessIdentity | null;
}

interface ClusterRecord {
  readonly version: typeof RECORD_VERSION;
  readonly agents: readonly AgentRecord[];
}

/** One agent's process and where it lives. */
export class LocalAgent {
  readonly name: string;
  readonly directory: string;
  readonly #command: readonly string[];
  readonly #detached: boolean;
  readonly #onChange: () => void;
  #process: ProcessIdentity | null = null;

  constructor(
    name: string,
    directory: string,
    options: { command: readonly string[]; detached: boolean; onChange: () => void },
  ) {
    this.name = name;
    this.directory = directory;
    this.#command = options.command;
    this.#detached = options.detached;
    this.#onChange = options.onChange;
  }

  get process(): ProcessIdentity | null {
    return this.#process;
  }

  get isRunning(): boolean {
    return this.#process !== null && isRunning(this.#process);
  }

  get dataDirectory(): string {
    return join(this.directory, 'data');
  }

  get driveDirectory(): string {
    return join(this.directory, 'drive');
  }

  get logPath(): string {
    return join(this.directory, 'agent.log');
  }

  /** URL of its API. Changes when it restarts. */
  get apiUrl(): string {
    const { api } = this.#readAgentFile() ?? {};
    if (api === undefined)
      throw new Error(`${this.name} does not serve: ${this.dataDirectory}/run/agent.json is missing`);
    return api.includes('://') ? api : `http://${api}`;
  }

  /** A client of this agent, as it is reachable now. */
  client(): BraidClient {
    return new BraidClient({ baseUrl: this.apiUrl });
  }

  adopt(process: ProcessIdentity | null): void {
    this.#process = process;
  }

  /** Starts the process and resolves when it serves its API and is ready. */
  async start(signal?: AbortSignal): Promise<void> {
    if (this.isRunning) throw new Error(`${this.name} runs already`);
    mkdirSync(this.directory, { recursive: true });
    rmSync(join(this.dataDirectory, 'run', 'agent.json'), { force: true });
    const log = openSync(this.logPath, 'a');
    const [program = '', ...programArguments] = this.#command;
    const child = spawn(program, programArguments, {
      cwd: this.directory,
      detached: this.#detached,
      stdio: ['ignore', log, log],
    });
    closeSync(log);
    // Of this start: the one before may report its end after we are running.
    const exit = { reason: '' };
    child.on('error', (error) => (exit.reason = error.message));
    child.on('exit', (code, by) => (exit.reason = by ?? `exit code ${code}`));
    if (this.#detached) child.unref();
    this.#process = child.pid === undefined ? null : identityOf(child.pid);
    this.#onChange();
    await waitFor(() => this.#isReady(exit.reason), START_TIMEOUT_MS, `${this.name} is ready`, signal).catch(
      (error: unknown) => {
        throw new Error(`${error instanceof Error ? error.message : String(error)}\n${this.logTail()}`);
      },
    );
  }

  async #isReady(exitReason: string): Promise<boolean> {
    if (exitReason !== '') throw new Error(`${this.name} ended at start (${exitReason})`);
    if (this.#readAgentFile()?.pid !== this.#process?.pid) return false;
    return this.client()
      .readiness()
      .then(
        ({ ready }) => ready,
        () => false,
      );
  }

  #readAgentFile(): { pid: number; api: string } | null {
    try {
      return JSON.parse(readFileSync(join(this.dataDirectory, 'run', 'agent.json'), 'utf8')) as {
        pid: number;
        api: string;
      };
    } catch {
      return null;
    }
  }

  /** Sends a signal; with SIGKILL resolves when the process is gone. */
  async kill(signal: NodeJS.Signals): Promise<void> {
    const target = this.#process;
    if (target === null) return;
    signalProcess(target, signal);
    if (signal === 'SIGKILL') await waitFor(() => !isRunning(target), STOP_TIMEOUT_MS, `${this.name} is killed`);
  }

  /** Stops it in order; rejects when it had to be killed. */
  async stop(): Promise<void> {
    const target = this.#process;
    if (target === null) return;
    const isGraceful = await endProcess(target, STOP_TIMEOUT_MS);
    this.#process = null;
    this.#onChange();
    if (!isGraceful) throw new Error(`${this.name} did not stop in ${STOP_TIMEOUT_MS} ms and was killed`);
  }

  /** The end of its log. */
  logTail(): string {
    const text = existsSync(this.logPath) ? readFileSync(this.logPath, 'utf8') : '';
    return `--- ${this.name}: ${this.logPath}\n${text.slice(-LOG_TAIL_CHARS).trimEnd()}`;
  }
}

export class LocalCluster {
  readonly directory: string;
  readonly agents: readonly LocalAgent[];

  constructor(options: LocalClusterOptions) {
    this.directory = options.directory;
    const names = Array.from({ length: options.nodes }, (_, index) => `node-${index + 1}`);
    this.agents = names.map((name, index) => {
      const directory = join(options.directory, name);
      const { host, command } = options.place?.(index) ?? HERE;
      const program = [process.execPath, '--enable-source-maps', options.agentProgram ?? AGENT_PROGRAM];
      return new LocalAgent(name, directory, {
        command: [...command, ...program, ...agentArguments(name, directory, host, options)],
        detached: options.detached ?? false,
        onChange: () => this.#writeRecord(),
      });
    });
  }

  /** The cluster that another process started in `directory`, as its record says; null when there is none. */
  static open(directory: string): LocalCluster | null {
    const path = join(directory, 'cluster.json');
    if (!existsSync(path)) return null;
    const record = JSON.parse(readFileSync(path, 'utf8')) as ClusterRecord;
    if (record.version !== RECORD_VERSION) throw new Error(`${path} is of another version of Braid`);
    const cluster = new LocalCluster({ directory, nodes: record.agents.length, detached: true });
    record.agents.forEach((agent, index) => cluster.agent(index).adopt(agent.process));
    return cluster;
  }

  /** The embedded cluster store of all its agents. */
  get storeDirectory(): string {
    return join(this.directory, 'store');
  }

  agent(index: number): LocalAgent {
    const agent = this.agents[index];
    if (agent === undefined) throw new Error(`the local cluster has ${this.agents.length} nodes, none at ${index}`);
    return agent;
  }

  /** Starts all agents; the first one founds the cluster. */
  async start(signal?: AbortSignal): Promise<void> {
    mkdirSync(this.storeDirectory, { recursive: true });
    const [first, ...others] = this.agents;
    await first?.start(signal);
    await Promise.all(others.map((agent) => agent.start(signal)));
  }

  client(index: number): BraidClient {
    return this.agent(index).client();
  }

  /** Gives each node's own directory to the pool. */
  async addDrives(capacityBytes: number): Promise<void> {
    for (const agent of this.agents)
      await agent.client().addDrive({ path: agent.driveDirectory, capacity: capacityBytes });
  }

  kill(index: number, signal: NodeJS.Signals): Promise<void> {
    return this.agent(index).kill(signal);
  }

  /** Starts an agent again, after it was killed or stopped. */
  restart(index: number, signal?: AbortSignal): Promise<void> {
    return this.agent(index).start(signal);
  }

  stop(index: number): Promise<void> {
    return this.agent(index).stop();
  }

  /** Stops every agent, the stopped (SIGSTOP) included; resolves with what did not go in order. */
  async stopAll(): Promise<string[]> {
    const ends = await Promise.allSettled(
      this.agents.map(async (agent) => {
        await agent.kill('SIGCONT');
        await agent.stop();
      }),
    );
    return ends.flatMap((end) => (end.status === 'rejected' ? [String(end.reason)] : []));
  }

  /** The ends of all logs, for a report of what went wrong. */
  logs(): string {
    return this.agents.map((agent) => agent.logTail()).join('\n');
  }

  #writeRecord(): void {
    const agents = this.agents.map(({ name, process }) => ({ name, process }));
    const record: ClusterRecord = { version: RECORD_VERSION, agents };
    const path = join(this.directory, 'cluster.json');
    writeFileSync(`${path}.new`, `${JSON.stringify(record, null, 2)}\n`);
    renameSync(`${path}.new`, path);
  }
}

function agentArguments(name: string, directory: string, host: string, options: LocalClusterOptions): string[] {
  return [
    ...['--data-dir', join(directory, 'data'), '--store-dir', join(options.directory, 'store')],
    ...['--node-name', name, '--cluster-name', options.clusterName ?? 'local'],
    ...['--api-host', host, '--api-port', '0', '--data-host', host, '--data-port', '0'],
    ...(options.agentArguments ?? []),
  ];
}

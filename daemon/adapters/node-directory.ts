/**
 * The node's own directory.
 *
 * ```
 * DATADIR/node.json        {"id": ...}: who this node is, for ever; written once, atomically
 * DATADIR/drives.json      the node's drives, as the cluster store last named them: where rebuilding the store begins
 * DATADIR/run/             sockets, devices
 * DATADIR/run/agent.json   {pid, api, node, ...} of the agent that serves now: how other programs find it
 * ```
 */
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { asError, BraidError } from '../base/errors.js';
import type { NodeId } from '../base/ids.js';
import type { DriveMemory, KnownDrives } from '../ports/kept-drive.js';
import { records, type DriveRecord } from '../protocol/records.js';

/** sun_path of a unix socket address, less the final NUL. */
const SOCKET_PATH_BYTES_MAX = 107;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

export interface AgentFile {
  readonly pid: number;
  /** URL of the REST API. */
  readonly api: string;
  readonly node: string;
  readonly nodeId: string;
  readonly clusterId: string;
  readonly nbdSockets: readonly string[];
  readonly version: string;
}

export class NodeDirectory implements DriveMemory {
  readonly path: string;
  readonly runDirectory: string;

  constructor(path: string) {
    this.path = path;
    this.runDirectory = join(path, 'run');
  }

  /** Rejects with INVALID_ARGUMENT when it cannot be made, or is too deep for unix sockets. */
  async create(shardCount: number): Promise<void> {
    const longest = this.nbdSocket(shardCount - 1);
    const excess = Buffer.byteLength(longest) - SOCKET_PATH_BYTES_MAX;
    if (excess > 0) {
      throw new BraidError(
        'INVALID_ARGUMENT',
        `the socket path ${longest} is ${excess} bytes too long for Linux: use a shorter dataDir`,
      );
    }
    try {
      await mkdir(this.runDirectory, { recursive: true, mode: 0o700 });
    } catch (error) {
      const advice = 'make it writable for this user, or choose another dataDir (--data-dir)';
      throw new BraidError('INVALID_ARGUMENT', `cannot use the data directory: ${asError(error).message}; ${advice}`, {
        cause: error,
      });
    }
  }

  nbdSocket(shardIndex: number): string {
    return join(this.runDirectory, `nbd-${shardIndex}.sock`);
  }

  /** This node's id; `makeId` names it at its first start. The caller holds the directory's process lock. */
  async nodeId(makeId: () => string): Promise<NodeId> {
    const path = join(this.path, 'node.json');
    const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return null;
      throw new BraidError('CORRUPT', `cannot read ${path}: ${error.message}`, { cause: error });
    });
    if (text !== null) return parseNodeId(path, text);
    const id = makeId();
    // Durable before anybody hears of the id.
    await writeDurably(path, { id });
    return id as NodeId;
  }

  /** The drives that this node had last; null when there is no such file, or none that can be understood. */
  async read(): Promise<KnownDrives | null> {
    try {
      const { clusterId, drives } = JSON.parse(await readFile(this.#drivesFile, 'utf8')) as Partial<KnownDrives>;
      if (!UUID.test(clusterId ?? '') || !Array.isArray(drives)) return null;
      // As every other record: with all fields, and no others.
      const decoded = (drives as DriveRecord[]).map((drive) =>
        records.drive.decode(this.#drivesFile, records.drive.encode(drive)),
      );
      return { clusterId: String(clusterId), drives: decoded };
    } catch {
      return null;
    }
  }

  /** Remembers the node's drives. */
  async write(known: KnownDrives): Promise<void> {
    await writeDurably(this.#drivesFile, known);
  }

  get #drivesFile(): string {
    return join(this.path, 'drives.json');
  }

  /** Tells other programs where the agent is. */
  async writeAgentFile(agent: AgentFile): Promise<void> {
    await writeDurably(join(this.runDirectory, 'agent.json'), agent);
  }

  async removeAgentFile(): Promise<void> {
    await rm(join(this.runDirectory, 'agent.json'), { force: true });
  }
}

function parseNodeId(path: string, text: string): NodeId {
  try {
    const { id } = JSON.parse(text) as { id?: unknown };
    if (typeof id === 'string' && UUID.test(id)) return id as NodeId;
  } catch {
    // Answered below.
  }
  throw new BraidError('CORRUPT', `${path} does not hold a node id: restore it, or remove it to join as a new node`);
}

/** Replaces a file so that a crash leaves the old contents or the new ones. */
async function writeDurably(path: string, value: object): Promise<void> {
  const temporary = `${path}.new`;
  const file = await open(temporary, 'w', 0o600);
  try {
    await file.writeFile(`${JSON.stringify(value, null, 2)}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, path);
  const directory = await open(dirname(path), 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

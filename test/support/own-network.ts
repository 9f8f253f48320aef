/**
 * Nodes with links between them that can be cut, for a test in namespaces of its own (own-namespaces.ts). Each node has a network namespace; a
 * bridge in the test's joins them. Nothing of it has a name or an address outside, and all of it is gone with the processes, however these end.
 *
 * ```
 * test's namespace:  bridge 10.77.0.1 ── link0 ── link1 ── …
 * node i:                                 eth0 10.77.0.(10 + i)
 * ```
 *
 * A link is cut in one direction by sending what goes that way to a hardware address that nobody has: the sender hears of no error, as with a
 * broken cable. The store's files and the NBD sockets are not reached by any link, so they stay reachable.
 */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { promisify } from 'node:util';
import type { AgentPlace } from '../../client/local-cluster.js';
import { waitFor } from '../../client/processes.js';

const BRIDGE = 'bridge';
const NOBODY = '02:00:00:00:00:00';
const START_TIMEOUT_MS = 10_000;

const execute = promisify(execFile);
const addressOf = (node: number) => `10.77.0.${10 + node}`;
const outsideOf = (node: number) => `link${node}`;

export class OwnNetwork {
  /** Processes that do nothing but keep the nodes' namespaces; they end when their input does, at the latest with this process. */
  readonly #keepers: readonly ChildProcess[];

  private constructor(keepers: readonly ChildProcess[]) {
    this.#keepers = keepers;
  }

  static async create(nodes: number): Promise<OwnNetwork> {
    const keepers = Array.from({ length: nodes }, () =>
      spawn('unshare', ['--net', 'cat'], { stdio: ['pipe', 'ignore', 'inherit'] }),
    );
    const network = new OwnNetwork(keepers);
    try {
      await ip('link', 'add', BRIDGE, 'type', 'bridge');
      await ip('address', 'add', '10.77.0.1/24', 'dev', BRIDGE);
      await ip('link', 'set', BRIDGE, 'up');
      for (const node of keepers.keys()) await network.#join(node);
      return network;
    } catch (error) {
      for (const keeper of keepers) keeper.kill();
      throw error;
    }
  }

  /** Where and how a node's agent runs. */
  place(node: number): AgentPlace {
    return { host: addressOf(node), command: this.#inside(node) };
  }

  /** Nothing that `from` sends reaches `to` any more. */
  async cut(from: number, to: number): Promise<void> {
    const neighbour = ['neighbour', 'replace', addressOf(to), 'lladdr', NOBODY, 'nud', 'permanent', 'dev', 'eth0'];
    await this.#run(from, ['ip', ...neighbour]);
  }

  async restore(from: number, to: number): Promise<void> {
    await this.#run(from, ['ip', 'neighbour', 'delete', addressOf(to), 'dev', 'eth0']);
  }

  /** After the agents have ended. */
  async close(): Promise<void> {
    // Those of a namespace that ends would go with it some time later, and the next network has the same names.
    for (const node of this.#keepers.keys()) await ip('link', 'delete', outsideOf(node));
    await Promise.all(
      this.#keepers.map(async (keeper) => {
        const ended = once(keeper, 'exit');
        keeper.stdin?.end();
        await ended;
      }),
    );
    await ip('link', 'delete', BRIDGE);
  }

  async #join(node: number): Promise<void> {
    const keeper = String(this.#keepers[node]?.pid);
    const outside = outsideOf(node);
    const hasOwnNamespace = async () => {
      const names = await execute('readlink', ['/proc/self/ns/net', `/proc/${keeper}/ns/net`]);
      return new Set(names.stdout.trim().split('\n')).size === 2;
    };
    await waitFor(hasOwnNamespace, START_TIMEOUT_MS, `node ${node} has a network namespace`);
    await ip('link', 'add', outside, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', keeper);
    await ip('link', 'set', outside, 'master', BRIDGE, 'up');
    await this.#run(node, ['ip', 'link', 'set', 'lo', 'up']);
    await this.#run(node, ['ip', 'address', 'add', `${addressOf(node)}/24`, 'dev', 'eth0']);
    await this.#run(node, ['ip', 'link', 'set', 'eth0', 'up']);
  }

  #inside(node: number): string[] {
    return ['nsenter', `--net=/proc/${this.#keepers[node]?.pid}/ns/net`];
  }

  async #run(node: number, command: readonly string[]): Promise<void> {
    const [program = '', ...programArguments] = [...this.#inside(node), ...command];
    await execute(program, programArguments);
  }
}

async function ip(...programArguments: string[]): Promise<void> {
  await execute('ip', programArguments);
}

import type { NodeId } from '../base/ids.js';
import type { Clock } from '../ports/clock.js';
import type { Log } from '../ports/log.js';
import type { Random } from '../ports/random.js';
import type { ShardAddresses, ShardControl } from '../ports/shard.js';
import type { ClusterState } from './cluster-state.js';
import type { Events } from './events.js';

/** Who this agent is. */
export interface NodeIdentity {
  readonly clusterId: string;
  readonly id: NodeId;
  readonly name: string;
  /** Changes whenever the agent's process starts anew. */
  readonly incarnation: string;
  readonly version: string;
  readonly labels: Readonly<Record<string, string>>;
}

export interface ShardHandle {
  readonly control: ShardControl;
  readonly addresses: ShardAddresses;
}

/** What every controller needs. */
export interface ControlContext {
  readonly state: ClusterState;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly events: Events;
  readonly node: NodeIdentity;
  /** By index; at least one. */
  readonly shards: readonly ShardHandle[];
}

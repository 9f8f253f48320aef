import type { Agent } from '../control/agent.js';
import type { Log } from '../ports/log.js';
import type { PeerClient } from '../ports/peer.js';

/** What the routes stand on. */
export interface ApiDependencies {
  readonly agent: Agent;
  readonly peers: PeerClient;
  readonly log: Log;
  /** Size of the cluster store on this host; null when that is not known here (etcd). */
  readonly storeBytes: () => Promise<number | null>;
}

import type { ShardAddresses } from '../ports/shard.js';

/** Where NBD clients find a volume (the NBD URI specification). */
export interface NbdUris {
  /** Of the unix socket, for clients on the owner's node. */
  readonly nbdUri: string;
  /** For clients anywhere; empty when the node does not serve NBD over TCP. */
  readonly nbdTcpUri: string;
}

export const NO_URIS: NbdUris = { nbdUri: '', nbdTcpUri: '' };

export function nbdUris(volumeName: string, { nbdSocketPath, nbdTcpAddress }: ShardAddresses): NbdUris {
  const name = encodeURIComponent(volumeName);
  return {
    nbdUri: `nbd+unix:///${name}?socket=${encodeURIComponent(nbdSocketPath)}`,
    nbdTcpUri: nbdTcpAddress === undefined ? '' : `nbd://${nbdTcpAddress}/${name}`,
  };
}

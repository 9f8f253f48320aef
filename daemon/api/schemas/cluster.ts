import { Type, type Static } from 'typebox';
import { bytes, count, Labels } from './common.js';

export const ClusterHealth = Type.Enum(['ok', 'degraded', 'error'], {
  type: 'string',
  description: 'degraded: data is served with fewer copies or nodes than wanted; error: some data is not served',
});
export type ClusterHealth = Static<typeof ClusterHealth>;

const UpAndTotal = (what: string) =>
  Type.Object({ total: count(`All ${what}`), healthy: count(`${what} without a problem`) });

export const Cluster = Type.Object(
  {
    id: Type.String(),
    name: Type.String(),
    health: ClusterHealth,
    reasons: Type.Array(Type.String(), { description: 'Why it is not ok; empty when it is' }),
    nodes: UpAndTotal('nodes'),
    drives: UpAndTotal('drives'),
    volumes: UpAndTotal('volumes'),
    capacity: Type.Object({
      rawBytes: bytes('Capacity of all drives'),
      usedBytes: bytes('Allocated on drives whose node answers'),
      provisionedBytes: bytes('Sizes of all volumes, times their copies'),
    }),
  },
  { $id: 'Cluster' },
);
export type Cluster = Static<typeof Cluster>;

export const Node = Type.Object(
  {
    id: Type.String(),
    name: Type.String(),
    apiAddress: Type.String({ description: 'URL of its REST API' }),
    alive: Type.Boolean({ description: 'Its agent renews its lease' }),
    version: Type.String(),
    labels: Labels,
    driveCount: count('Drives that it gives to the pool'),
  },
  { $id: 'Node' },
);
export type Node = Static<typeof Node>;

export const NodeList = Type.Object({ nodes: Type.Array(Node) }, { $id: 'NodeList' });
export type NodeList = Static<typeof NodeList>;

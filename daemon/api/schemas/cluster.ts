import { Type, type Static } from 'typebox';
import { bytes, closed, count, Labels, Size } from './common.js';

export const ClusterHealth = Type.Enum(['ok', 'degraded', 'error'], {
  type: 'string',
  description: 'degraded: data is served with fewer copies or nodes than wanted; error: some data is not served',
});
export type ClusterHealth = Static<typeof ClusterHealth>;

const UpAndTotal = (what: string) =>
  Type.Object({ total: count(`All ${what}`), healthy: count(`${what} without a problem`) });

export const Settings = Type.Object({
  resyncBandwidthBytes: Type.Union([Type.Integer(), Type.Null()], {
    description: 'What resync and rebuild may copy a second at each node, all its volumes together; null: no bound',
  }),
});
export type Settings = Static<typeof Settings>;

export const ChangeSettings = Type.Object(
  {
    resyncBandwidth: Type.Union([Size, Type.Null()], {
      description: 'Bytes a second, at least 1Mi; null: no bound',
    }),
  },
  { ...closed, $id: 'ChangeSettings' },
);
export type ChangeSettings = Static<typeof ChangeSettings>;

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
    settings: Settings,
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

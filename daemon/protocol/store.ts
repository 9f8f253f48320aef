/**
 * Key layout of the cluster store, and the one place where its records are encoded and decoded.
 *
 * ```
 * cluster                        Cluster
 * nodes/<nodeId>                 Node
 * alive/<nodeId>                 NodeAlive, under the node's lease
 * drives/<driveId>               Drive
 * volumes/<volumeId>             Volume
 * names/<name>                   volume id (UTF-8): makes names unique
 * owners/<volumeId>              Owner
 * attachments/<volumeId>         Attachment
 * segments/<volumeId>/<index>    Segment; index as 5 hex digits, so that key order is numeric order
 * left/<driveId>/<volumeId>/<index>  volume name: a copy that is not part of its segment any more; its node removes both
 * creating/<volumeId>            empty, under the creator's lease: its records are being written
 * status/<volumeId>              VolumeStatus, under the owner's node lease
 * scrubs/<volumeId>              Scrub, written by the owner
 * recovering                     empty: the store is being rebuilt from the drives, and not complete
 * events/<timeMs><random>        Event; oldest are pruned
 * ```
 */
import type { DriveId, NodeId, VolumeId } from '../base/ids.js';

export const storeKeys = {
  cluster: 'cluster',
  nodes: 'nodes/',
  node: (id: NodeId) => `nodes/${id}`,
  alive: (id: NodeId) => `alive/${id}`,
  aliveAll: 'alive/',
  drives: 'drives/',
  drive: (id: DriveId) => `drives/${id}`,
  volumes: 'volumes/',
  volume: (id: VolumeId) => `volumes/${id}`,
  names: 'names/',
  name: (name: string) => `names/${name}`,
  owners: 'owners/',
  owner: (id: VolumeId) => `owners/${id}`,
  attachments: 'attachments/',
  attachment: (id: VolumeId) => `attachments/${id}`,
  segmentsAll: 'segments/',
  segments: (id: VolumeId) => `segments/${id}/`,
  segment: (id: VolumeId, index: number) => `segments/${id}/${index.toString(16).padStart(5, '0')}`,
  leftAll: 'left/',
  leftOn: (driveId: DriveId) => `left/${driveId}/`,
  left: (driveId: DriveId, id: VolumeId, index: number) =>
    `left/${driveId}/${id}/${index.toString(16).padStart(5, '0')}`,
  statuses: 'status/',
  status: (id: VolumeId) => `status/${id}`,
  scrub: (id: VolumeId) => `scrubs/${id}`,
  recovering: 'recovering',
  events: 'events/',
} as const;

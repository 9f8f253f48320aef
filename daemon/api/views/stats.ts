/** This node's counters, with names instead of ids. */
import type { OperationCounters } from '../../base/operation-counters.js';
import { EXTENT_BYTES } from '../../base/units.js';
import type { Agent } from '../../control/agent.js';
import type { LocalDrive } from '../../control/drives.js';
import { NO_SCRUB_STATS, type ShardStats } from '../../ports/shard.js';
import type { DriveStats, Operations, Stats, VolumeStats } from '../schemas/index.js';

import { resyncView } from './resync.js';

type ShardDrive = ShardStats['drives'][number];
type ShardVolume = ShardStats['volumes'][number];

const NO_OPERATIONS: Operations = { operations: 0, bytes: 0, errors: 0, latencyBuckets: [], latencySumUs: 0 };

export async function statsView(agent: Agent): Promise<Stats> {
  const { state, node, clock } = agent.context;
  const shards = await agent.stats();
  const timeMs = clock.nowMs();
  const drives = new Map(
    shards.flatMap((shard) => shard.drives.map((drive) => [String(drive.driveId), drive] as const)),
  );
  const volumes = shards.flatMap((shard) => shard.volumes);
  const names =
    volumes.length === 0
      ? new Map<string, string>()
      : new Map((await state.volumes()).map(({ value }) => [value.id, value.name]));
  return {
    node: node.name,
    timeMs,
    volumes: volumes.map((volume) => volumeStats(agent, volume, names.get(volume.volumeId) ?? volume.volumeId)),
    drives: agent.drives.list().map((drive) => driveStats(drive, drives.get(drive.record.id))),
    shards: shards.map(({ slabBytes, slabUsedBytes: [frontend, peer, internal], eventLoopDelayMsP99 }, index) => ({
      index,
      slabBytes,
      slabUsedBytes: { frontend, peer, internal },
      eventLoopDelayMsP99,
    })),
  };
}

function volumeStats(agent: Agent, volume: ShardVolume, name: string): VolumeStats {
  const served = agent.attachments.served().find(({ volumeId }) => volumeId === volume.volumeId);
  return {
    id: volume.volumeId,
    name,
    state: served?.state ?? 'opening',
    inFlight: volume.inFlight,
    connections: volume.connections,
    degradedReplicas: volume.degradedReplicas,
    repairs: volume.repairs,
    scrub: volume.scrub,
    resyncBytesDone: served?.resyncBytesDone ?? 0,
    resyncBytesTotal: served?.resyncBytesTotal ?? 0,
    resync: resyncView(served ?? null),
    read: operations(volume.read),
    write: operations(volume.write),
    flush: operations(volume.flush),
    trim: operations(volume.trim),
  };
}

function driveStats({ record, state, reason, failures }: LocalDrive, drive: ShardDrive | undefined): DriveStats {
  const hasFailed = state === 'failed' || drive?.state === 'failed';
  const isOpen = !hasFailed && state === 'open' && drive !== undefined;
  return {
    id: record.id,
    path: record.path,
    state: hasFailed ? 'failed' : isOpen ? 'open' : 'opening',
    reason: reason || drive?.reason || '',
    capacityBytes: record.capacityBytes,
    usedBytes: isOpen ? (drive.slotCount - drive.slotsFree) * EXTENT_BYTES : 0,
    hotRegions: drive?.hotRegions ?? 0,
    inFlight: drive?.inFlight ?? 0,
    failures,
    checksumMismatches: drive?.checksumMismatches ?? 0,
    metadataBytes: drive?.metadataBytes ?? 0,
    scrub: drive?.scrub ?? NO_SCRUB_STATS,
    read: operations(drive?.read),
    write: operations(drive?.write),
    flush: operations(drive?.flush),
    trim: operations(drive?.trim),
  };
}

function operations(counters: OperationCounters | undefined): Operations {
  return counters === undefined ? NO_OPERATIONS : { ...counters, latencyBuckets: [...counters.latencyBuckets] };
}

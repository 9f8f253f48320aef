/**
 * Every limit of the data plane, with its arithmetic. Past a limit there is backpressure or a clear error, never growth.
 * Relations between limits are asserted at the end of this file, when it is loaded.
 */
import { assert } from './assert.js';
import {
  BLOCK_BYTES,
  EXTENT_BYTES,
  GIB,
  KIB,
  MIB,
  REGION_BYTES,
  SECTOR_BYTES,
  STRIPE_UNIT_BYTES,
  TIB,
} from './units.js';

export const limits = {
  /** Volumes: 1 MiB to 64 TiB, a multiple of the sector. */
  volumeBytesMin: MIB,
  volumeBytesMax: 64 * TIB,
  replicasMax: 3,
  /** Targets of one write: three in-sync copies, and one syncing copy that replaces one of them. */
  targetsPerSegmentMax: 4,
  /** A copy that is to replace another is given up when its drive cannot be reached or opened for so long, and when it has failed so often. */
  newcomerAbsentMsMax: 30_000,
  newcomerFailuresMax: 3,
  segmentBytesDefault: GIB,
  segmentBytesMin: 16 * MIB,
  segmentBytesMax: 4 * GIB,
  /** 64 TiB / 1 GiB. */
  segmentsPerVolumeMax: 65_536,
  stripeWidthMax: 16,
  volumesPerNodeMax: 256,
  drivesPerNodeMax: 64,
  nodesMax: 256,

  /** Largest payload of one frame or one drive I/O: an extent. It is also the slab's largest buffer. */
  payloadBytesMax: EXTENT_BYTES,
  /** Control messages ride in the same frames, hence the same bound; lists are paged to fit. */
  controlPayloadBytesMax: EXTENT_BYTES,
  /** Frames queued for one connection: all that the coordinators of a shard can have to say to one peer (asserted below). */
  framesQueuedPerConnectionMax: 16_384,
  /** Frames of a shard to itself, in both directions: requests as for any peer, and the replies of its replica server. */
  loopbackFramesMax: 24_576,
  connectionsPerShardMax: 1_024,

  /** Client pieces in flight per volume: 1,024 x 128 KiB = 128 MiB at most, but the slab bounds it first. */
  operationsPerVolumeMax: 1_024,
  /** Client pieces in flight in all volumes of a shard, beyond those that every volume may have whatever the others do: four busy volumes. */
  operationsSharedMax: 4_096,
  operationsAssuredPerVolume: 8,
  /** Extent locks that healing of a volume holds or waits for at once: a window each for resync, reconcile, repair and verify. */
  internalOperationsPerVolumeMax: 32,
  /** Control requests of a volume that are out at one peer at once: OPEN, CLOSE, COOL, PURGE_TOMBSTONES, PING, three LIST_EXTENTS. */
  controlsPerVolumeMax: 8,
  /** Requests being served per replica shard (all sessions). */
  replicaOperationsMax: 8_192,
  /** Requests in flight per NBD connection; further ones stay in the socket. */
  nbdRequestsPerConnectionMax: 256,
  /** Pieces of one large client request in flight at once (window): 32 x 128 KiB = 4 MiB. */
  nbdPiecesPerRequestMax: 32,
  /** Advertised maximum block size of the NBD export (NBD protocol, block size constraints). */
  nbdRequestBytesMax: 32 * MIB,
  nbdConnectionsPerVolumeMax: 64,
  /**
   * Payload of READs of one NBD connection that is being read or waits to be sent; further pieces start when the client has taken some.
   * 32 x 128 KiB, one client at depth 32. A client that takes nothing so holds 4 of the 48 MiB of the slab's front-end pool.
   */
  nbdUnsentBytesPerConnectionMax: 4 * MIB,
  /**
   * And what a connection may have while more than half of that pool is in use: two pieces. Clients that take nothing so hold half of it,
   * and 24 MiB / 256 KiB = 96 of them are needed to use up the other half.
   */
  nbdUnsentBytesAssured: 256 * KIB,
  /** How soon a READ that waits for room in the pool looks again, where nothing else tells. */
  nbdThrottleTickMs: 10,
  /**
   * A connection whose peer takes nothing for this long while something is sent to it is closed. A call sends 1 MiB at most, so a client
   * must take 35 KiB/s. Between agents heartbeats find out sooner, but not about a peer that still sends.
   */
  sendStallMs: 30_000,
  /** A client that has not chosen an export by then only occupies a connection. People type no NBD options: ten round trips, of 3 s each. */
  nbdHandshakeTimeoutMs: 30_000,
  /** Payload of one NBD option. SET_META_CONTEXT is the largest: an export name and 15 queries of 4 KiB; real ones stay below 1 KiB. */
  nbdOptionBytesMax: 64 * KIB,
  /** Options of one handshake. Clients send about ten. */
  nbdOptionsMax: 1_000,
  /** Replies in one handshake: a list of 256 exports (`volumesPerNodeMax`) with names and descriptions of 4 KiB each takes 2 MiB; two of them. */
  nbdHandshakeReplyBytesMax: 4 * MIB,
  /** Range that one reply to NBD_CMD_BLOCK_STATUS describes: 8,192 extents, 64 KiB of descriptors. Clients ask on from where it ends. */
  nbdBlockStatusBytesMax: GIB,

  /** Slab of one shard; quotas by purpose so that one cannot starve another (ports/slab.ts). */
  slabBytes: 96 * MIB,
  /** Share of the front-end pool, as in native/core/slab.cc. */
  slabFrontendShare: 0.5,

  /** Hot regions per drive: 4,096 x 4 MiB = 16 GiB of data being written; 4 KiB of checksums each = 16 MiB of memory. */
  hotRegionsPerDriveMax: 4_096,
  /** Above this share the replica asks its coordinators to cool idle regions. */
  hotRegionsPressure: 3_072,
  /** Extents copied at once by a resync or a reconcile, per volume. */
  copyWindowExtents: 8,
  /**
   * While clients are busy the copier rests three times as long as a copy took, so it has a quarter of the time, and what a client waits for
   * behind it is one extent.
   */
  copyRestFactor: 3,
  /** Clients count as busy for so long after they were seen to start something: longer than any pause of a client that waits for its answers. */
  copyBusyMs: 200,
  /** What the copiers of a shard get whatever clients do: an extent each 8 ms, 1 GiB in about a minute, 1 TiB in 18 hours. */
  copyBytesPerSecondMin: 16 * MIB,
  /** The lowest bandwidth that an operator may set for a node's copiers: less is a copy that never ends. */
  copyBandwidthMin: MIB,
  /** Extents of one copy that wait until they can be read at their source: 128 MiB. More is a drive to be replaced, not a few bad blocks. */
  damagedExtentsMax: 1_024,
  /** How long they wait until they are tried again, doubled each time. */
  damagedRetryMsMin: 1_000,
  damagedRetryMsMax: 30_000,

  /** A replica that is merely unreachable may come back within this time and have its writes replayed. */
  reconnectGraceMs: 1_000,
  heartbeatIntervalMs: 500,
  /** Silence after which a connection counts as dead: four heartbeats. */
  heartbeatTimeoutMs: 2_000,
  /** A drive operation that takes longer counts as failed. */
  driveTimeoutMs: 10_000,
  /** How often it is looked at whether the drive's files are still the ones that were opened: two cheap calls. */
  driveCheckMs: 5_000,
  /** How often a drive is asked again to zero freed slots that it could not. */
  freedRetryMs: 10_000,
  /** A region with no write for this long is cooled. */
  coolAfterIdleMs: 5_000,
  coolRegionsPerBatch: 64,

  /** Requests in flight that make a peer of a replica server busy: 1/128 of `replicaOperationsMax`; a quieter peer is never paused. */
  busyPeerOperations: 64,
  /** Control requests of one peer being served at once; each holds a decoded message of at most 128 KiB: 16 MiB. */
  controlsPerPeerMax: 128,
  /** Cold regions whose checksums stay in memory after a read: 512 x 4 KiB = 2 MiB for 2 GiB of data being read. */
  coldRegionsPerDriveMax: 512,
  /** Extents of one commit when many are changed: 1,024 records of 140 bytes are 140 KiB. */
  extentsPerCommitMax: 1_024,
  /** Freed slots that wait before TRIM and DELETE wait too: 65,536 x 128 KiB = 8 GiB given back but not yet free. */
  freedSlotsPerDriveMax: 65_536,
  /** Freed runs of slots being punched at once: enough to keep a drive busy, few enough not to disturb reads and writes. */
  punchesPerDriveMax: 16,

  /**
   * Scrub: bytes/s of each drive, and of all volumes that a shard compares together. 32 MiB/s read 18 TiB in a week, with a fifth of what one
   * hard disk gives; each read takes 128 KiB of the internal pool, so the drives of a shard (64) hold 16 MiB at most, and wait for the rest.
   */
  scrubBytesPerSecondDefault: 32 * MIB,
  scrubIntervalHoursDefault: 168,
  scrubReadsPerDriveMax: 2,
  /** While a drive is busy the scrub waits for up to so many times its period: it goes on at a ninth of its rate. */
  scrubYieldsMax: 8,
  /** A drive or volume that was just opened is left alone. */
  scrubQuietMs: 30_000,
  /** Position of a pass; what was read since is read again after a restart. */
  scrubSaveMs: 60_000,
  /** What was found is looked at again, and named again to its owner, this often. */
  scrubRecheckMs: 10_000,

  /** Slots are mapped ahead of a sequential stream while more than this share of a drive is free: 10 % of 1 TiB is 100 GiB. */
  mapAheadFreeShareMin: 0.1,
  /** Of a new drive's data area, the start is written once (drive-directory.ts): 8 GiB at 1 GiB/s are 8 s. */
  prewriteBytesMax: 8 * GIB,
  /** A slower drive is left as it is from there on: `drive add` answers within the CLI's 30 s, 15 s of them for this. */
  prewriteMsMax: 15_000,

  /** Node lease; an owner stops serving `leaseMarginMs` before its lease could have run out. */
  leaseTtlMs: 5_000,
  leaseRenewMs: 1_000,
  leaseMarginMs: 1_000,
} as const;

assert(limits.payloadBytesMax === EXTENT_BYTES, 'a frame carries at most one extent');
assert(limits.segmentBytesMin % REGION_BYTES === 0, 'segments are whole regions');
assert(STRIPE_UNIT_BYTES % EXTENT_BYTES === 0, 'an extent never crosses a stripe unit');
assert(
  limits.segmentsPerVolumeMax * limits.segmentBytesDefault >= limits.volumeBytesMax,
  'the largest volume has enough segments',
);
assert(limits.nbdRequestBytesMax % limits.payloadBytesMax === 0, 'large requests cut into whole extents');
assert(limits.nbdUnsentBytesPerConnectionMax >= 2 * limits.payloadBytesMax, 'half of it is at least one piece');
assert(limits.nbdUnsentBytesAssured >= 2 * limits.payloadBytesMax, 'a READ without fragments is two pieces at most');
assert(limits.heartbeatTimeoutMs >= 3 * limits.heartbeatIntervalMs, 'one lost heartbeat is not a failure');
assert(limits.leaseTtlMs > limits.leaseRenewMs + limits.leaseMarginMs, 'a lease survives one missed renewal');
assert(limits.hotRegionsPressure < limits.hotRegionsPerDriveMax, 'pressure is felt before the activity log is full');
assert(limits.prewriteBytesMax % EXTENT_BYTES === 0, 'whole slots are written ahead');
assert(limits.busyPeerOperations < limits.replicaOperationsMax / 4, 'a peer can be busy before slots run short');
assert(limits.operationsPerVolumeMax * limits.targetsPerSegmentMax < 65_536, 'request tags fit 16 bits');
assert(limits.internalOperationsPerVolumeMax >= 4 * limits.copyWindowExtents, 'every kind of copying has its window');
assert(
  limits.operationsSharedMax +
    limits.volumesPerNodeMax *
      (limits.operationsAssuredPerVolume + limits.internalOperationsPerVolumeMax + limits.controlsPerVolumeMax) <=
    limits.framesQueuedPerConnectionMax,
  'all that the volumes of a shard have out at one peer fits its queue',
);
assert(
  limits.loopbackFramesMax >= limits.framesQueuedPerConnectionMax + limits.replicaOperationsMax,
  'requests and replies of a shard to itself fit its loopback',
);
assert(BLOCK_BYTES % SECTOR_BYTES === 0 && limits.slabBytes % (64 * KIB) === 0, 'alignment');

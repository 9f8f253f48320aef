/**
 * The control plane of one node: starts and stops the controllers in the right order, and is what the API talks to.
 * Knows nothing of processes, threads and files, so the simulator runs it as it is.
 */
import { asError, BraidError } from '../base/errors.js';
import type { DriveId, VolumeId } from '../base/ids.js';
import type { ClusterStore, LeaseId } from '../ports/cluster-store.js';
import { sleep, type Clock } from '../ports/clock.js';
import type { DeviceAttacher } from '../ports/device.js';
import type { DriveFormatter } from '../ports/drive-formatter.js';
import type { DriveMemory } from '../ports/kept-drive.js';
import type { Log } from '../ports/log.js';
import type { Random } from '../ports/random.js';
import type { MoveReplicas, ScrubAction, ShardStats, VerifyReport } from '../ports/shard.js';
import { records, type ClusterRecord, type VolumeRecord } from '../protocol/records.js';
import { storeKeys } from '../protocol/store.js';
import { AttachRequests } from './attach-requests.js';
import { AttachmentController } from './attachments.js';
import { absent, ClusterState, putRecord } from './cluster-state.js';
import type { ControlContext, NodeIdentity, ShardHandle } from './context.js';
import { ClusterSettings } from './cluster-settings.js';
import { DeletionController } from './deletions.js';
import { DriveController } from './drives.js';
import type { Events } from './events.js';
import { LeftReplicas } from './left-replicas.js';
import { controlLimits } from './limits.js';
import { PrimaryForcer } from './force-primary.js';
import { NodeRegistrar } from './node-registrar.js';
import { Recovery } from './recovery.js';
import { Volumes } from './volumes.js';

export interface AgentOptions {
  readonly state: ClusterState;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly events: Events;
  readonly node: NodeIdentity;
  readonly shards: readonly ShardHandle[];
  readonly devices: DeviceAttacher;
  readonly formatter: DriveFormatter;
  readonly memory: DriveMemory;
}

export class Agent {
  readonly context: ControlContext;
  readonly registrar: NodeRegistrar;
  readonly drives: DriveController;
  readonly attachments: AttachmentController;
  readonly deletions: DeletionController;
  readonly leftReplicas: LeftReplicas;
  readonly settings: ClusterSettings;
  readonly volumes: Volumes;
  readonly attachRequests: AttachRequests;
  readonly forcer: PrimaryForcer;
  readonly recovery: Recovery;
  #isStarted = false;
  #stopping: Promise<void> | null = null;

  constructor({ devices, formatter, memory, ...context }: AgentOptions) {
    this.context = context;
    const lease = (): LeaseId | null => this.registrar.lease;
    this.attachments = new AttachmentController(context, devices, lease);
    this.registrar = new NodeRegistrar(context, this.attachments);
    this.drives = new DriveController(context, formatter, memory);
    this.deletions = new DeletionController(context, (driveId) => this.drives.isOpen(driveId));
    this.leftReplicas = new LeftReplicas(context, () => this.drives.open());
    this.settings = new ClusterSettings(context);
    this.volumes = new Volumes(context, lease);
    this.attachRequests = new AttachRequests(context);
    this.forcer = new PrimaryForcer(context);
    this.recovery = new Recovery(context, this.drives);
  }

  /**
   * Joins the cluster as the node whose REST API is at `apiAddress`. Rejects when it cannot; drives and volumes that have problems do not
   * stop it.
   */
  async start(apiAddress: string): Promise<void> {
    const { context } = this;
    await this.registrar.start(apiAddress);
    // Drives before volumes: a volume that is attached here wants its local copy.
    await this.drives.start();
    this.settings.start();
    await this.attachments.start();
    await this.deletions.start();
    this.leftReplicas.start();
    // Garbage costs little: the next start removes it.
    await this.volumes.sweep().catch((error: unknown) => context.log.warn({ err: asError(error) }, 'not swept'));
    this.#isStarted = true;
    context.events.report({ severity: 'info', subject: `node/${context.node.name}`, message: 'the agent has started' });
  }

  /** Clean: volumes are released, the lease is given back, shards are stopped. What is attached here comes back at the next start. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  /** What keeps the node from serving; empty when nothing does. */
  async notReady(): Promise<string[]> {
    const reasons: string[] = [];
    if (!this.#isStarted) reasons.push('the agent is starting');
    if (this.#stopping !== null) reasons.push('the agent is stopping');
    if (this.registrar.lease === null)
      reasons.push('the node holds no lease: the cluster store does not answer in time');
    await Promise.all([
      reasonOf(this.context.state.cluster(), 'the cluster store cannot be read', reasons),
      ...this.context.shards.map(({ control }, index) =>
        reasonOf(control.servedVolumes(), `shard ${index} does not answer`, reasons),
      ),
    ]);
    return reasons;
  }

  /** Of each shard, by index. */
  stats(): Promise<readonly ShardStats[]> {
    return Promise.all(this.context.shards.map(({ control }) => control.stats()));
  }

  /** Moves copies of a volume that is attached to this node. */
  moveReplicas(id: VolumeId, request: MoveReplicas): Promise<number> {
    return this.attachments.hold(id, (shard) => shard.moveReplicas(id, request));
  }

  /** Gives up the moves of copies to a drive, or all. */
  cancelMoves(id: VolumeId, to: DriveId | null): Promise<number> {
    return this.attachments.hold(id, (shard) => shard.cancelMoves(id, to));
  }

  /** Compares all copies of a volume. It is served here, or nowhere: then this node takes it for that time. */
  verify(id: VolumeId): Promise<VerifyReport> {
    return this.attachments.hold(id, (shard) => shard.verifyVolume(id));
  }

  /** Begins or ends the scrub of a drive of this node. */
  async scrubDrive(id: string, action: ScrubAction): Promise<void> {
    const drive = this.drives.list().find(({ record }) => record.id === id);
    const shard = drive?.state === 'open' ? this.context.shards[drive.record.shard] : undefined;
    if (shard === undefined)
      throw new BraidError('UNAVAILABLE', `drive ${id} is not open: ${drive?.reason ?? 'it is not of this node'}`);
    await shard.control.scrubDrive(id as DriveId, action);
  }

  /** Begins or ends the scrub of a volume that this node serves; the volume is not taken for it. */
  async scrubVolume({ id, name }: VolumeRecord, action: ScrubAction): Promise<void> {
    if (!this.attachments.served().some(({ volumeId }) => volumeId === id))
      throw new BraidError('UNAVAILABLE', `volume ${name} is not served yet; try again`);
    await this.attachments.hold(id as VolumeId, (shard) => shard.scrubVolume(id as VolumeId, action));
  }

  /** A drive that hangs would hold its shard up for ever; what it was asked for is in nobody's way any more. */
  async #stopShards(): Promise<void> {
    const { shards, clock } = this.context;
    const stopped = Promise.all(shards.map(({ control }) => control.stop()));
    const isLate = await Promise.race([
      stopped.then(() => false),
      sleep(clock, controlLimits.shardStopMs).then(() => true),
    ]);
    if (!isLate) return;
    stopped.catch(() => undefined);
    throw new BraidError('TIMEOUT', `a shard does not stop within ${controlLimits.shardStopMs} ms: a drive hangs`);
  }

  async #stop(): Promise<void> {
    const { context } = this;
    const { log, events } = context;
    events.report({ severity: 'info', subject: `node/${context.node.name}`, message: 'the agent is stopping' });
    // Volumes are released while the lease is still held; the lease goes only when nothing is served under it.
    const steps: readonly (readonly [string, () => Promise<unknown>])[] = [
      ['settings', () => this.settings.stop()],
      ['left copies', () => this.leftReplicas.stop()],
      ['deletions', () => this.deletions.stop()],
      ['volumes', () => this.attachments.stop()],
      ['drives', () => this.drives.stop()],
      ['shards', () => this.#stopShards()],
      ['events', () => events.flush()],
      ['lease', () => this.registrar.stop()],
    ];
    for (const [name, step] of steps) {
      await step().catch((error: unknown) => log.error({ err: asError(error), step: name }, 'not stopped cleanly'));
    }
  }
}

async function reasonOf(check: Promise<unknown>, what: string, reasons: string[]): Promise<void> {
  try {
    await check;
  } catch (error) {
    reasons.push(`${what}: ${asError(error).message}`);
  }
}

export interface ClusterDefaults {
  readonly name: string;
  /** Of the cluster that this node has drives of, if any: an empty store is to be rebuilt from them. */
  readonly id?: string | undefined;
  readonly random: Random;
  readonly clock: Clock;
}

export const CLUSTER_FORMAT_VERSION = 1;

/** The cluster's record; made on an empty store, by whichever agent is first. */
export async function ensureCluster(
  store: ClusterStore,
  { name, id, random, clock }: ClusterDefaults,
): Promise<ClusterRecord> {
  const state = new ClusterState(store);
  const key = storeKeys.cluster;
  for (;;) {
    const found = await state.cluster();
    if (found !== null) return checkCluster(found.value);
    const createdMs = Math.floor(clock.wallMs());
    const record = {
      id: id ?? random.uuid(),
      name,
      formatVersion: CLUSTER_FORMAT_VERSION,
      createdMs,
      resyncBandwidthBytes: 0,
    };
    await state.commit([absent(key)], [putRecord(key, records.cluster, record)]);
  }
}

function checkCluster(record: ClusterRecord): ClusterRecord {
  if (record.formatVersion === CLUSTER_FORMAT_VERSION) return record;
  throw new BraidError(
    'UNSUPPORTED',
    `the cluster store has format ${record.formatVersion}, this agent knows ${CLUSTER_FORMAT_VERSION}: use the version of braidd that wrote it`,
  );
}

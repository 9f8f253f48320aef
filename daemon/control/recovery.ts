/**
 * `braid recover`: writes what `planRecovery` has found into an empty cluster store.
 *
 * Invariants
 * - Nothing is written while the store has drives, volumes, owners or attachments, and nothing that is doubtful without its volume's name.
 * - `recovering` is there from the first write to the last: what an attempt that did not end has left is removed by the next one.
 * - A volume's record comes after its segments, owner and drives: whoever sees it can take it.
 */
import { BraidError } from '../base/errors.js';
import type { VolumeId } from '../base/ids.js';
import type { StoreOperation } from '../ports/cluster-store.js';
import { records } from '../protocol/records.js';
import { storeKeys } from '../protocol/store.js';
import { batches, deleteKey, putRecord, unchanged } from './cluster-state.js';
import type { ControlContext } from './context.js';
import type { DriveController, ReadDrive } from './drives.js';
import { controlLimits } from './limits.js';
import { isRestored, planRecovery, type RecoveryChoice, type RecoveryPlan } from './recovery-plan.js';

/** What makes a store one that is in use. */
const IN_USE = [storeKeys.drives, storeKeys.volumes, storeKeys.owners, storeKeys.attachments];
/** All that an attempt may leave. */
const WRITTEN = [storeKeys.volumes, storeKeys.names, storeKeys.owners, storeKeys.segmentsAll, storeKeys.drives];

export interface Recovered {
  readonly plan: RecoveryPlan;
  /** The agents run under another cluster id than that of the drives. */
  readonly mustRestart: boolean;
}

export class Recovery {
  readonly #context: ControlContext;
  readonly #drives: DriveController;

  constructor(context: ControlContext, drives: DriveController) {
    this.#context = context;
    this.#drives = drives;
  }

  /** The drives that this node remembers, and those in further directories. CONFLICT unless the store is empty. */
  async readOwn(paths: readonly string[]): Promise<readonly ReadDrive[]> {
    await this.#checkEmpty();
    return this.#drives.readKept(paths);
  }

  /** What `restore` would do. */
  async plan(read: readonly ReadDrive[], choice: RecoveryChoice): Promise<Recovered> {
    await this.#checkEmpty();
    const { state, clock, node } = this.#context;
    const names = new Map((await state.nodes()).map(({ value }) => [value.id, value.name]));
    const plan = planRecovery(read, choice, (id) => names.get(id) ?? id, Math.floor(clock.wallMs()));
    return { plan, mustRestart: plan.clusterId !== node.clusterId };
  }

  /** Rejects with CONFLICT, and writes nothing, when the store is not empty or anything is doubtful that was not named. */
  async restore(read: readonly ReadDrive[], choice: RecoveryChoice): Promise<Recovered> {
    const recovered = await this.plan(read, choice);
    checkDecided(recovered.plan);
    await this.#write(recovered.plan);
    const { volumes, drives } = recovered.plan;
    const accepted = volumes.filter(({ decision }) => decision === 'accepted');
    const found = drives.filter(({ state }) => state === 'found').length;
    const doubtful = accepted.length === 0 ? '' : `; with doubts: ${accepted.map(({ name }) => name).join(', ')}`;
    const message = `rebuilt from ${found} drives: ${volumes.filter(isRestored).length} volumes${doubtful}`;
    this.#context.events.report({ severity: 'warning', subject: 'cluster', message });
    return recovered;
  }

  async #checkEmpty(): Promise<void> {
    const { store } = this.#context.state;
    // An attempt that has not ended may be repeated, as long as nobody has begun to use what it left.
    const isUnfinished = (await store.get(storeKeys.recovering)) !== null;
    const prefixes = isUnfinished ? [storeKeys.attachments] : IN_USE;
    const lists = await Promise.all(prefixes.map((prefix) => store.list(prefix)));
    const used = prefixes.filter((_, index) => (lists[index]?.entries.length ?? 0) > 0);
    if (used.length === 0) return;
    const message = `the cluster store is in use (it has ${used.map((prefix) => prefix.slice(0, -1)).join(', ')})`;
    const advice =
      'it is rebuilt from the drives only when it is new; stop the agents and move it away first if it is lost';
    throw new BraidError('CONFLICT', `${message}: ${advice}`);
  }

  async #write(plan: RecoveryPlan): Promise<void> {
    const { state } = this.#context;
    const cluster = await state.cluster();
    if (cluster === null)
      throw new BraidError('UNAVAILABLE', 'the cluster store has no cluster record: restart the agents');
    await state.store.txn([], [{ type: 'put', key: storeKeys.recovering, value: new Uint8Array(0) }]);
    for (const prefix of WRITTEN)
      await state.deleteKeys((await state.store.list(prefix)).entries.map(({ key }) => key));
    const restored = plan.volumes.filter(isRestored).flatMap((volume) => volume.restored ?? []);
    const drives = plan.drives.filter(({ record, state: found }) => found !== 'foreign' && record.id !== '');
    await this.#put(
      restored.flatMap(({ volume, segments }) =>
        segments.map((segment) =>
          putRecord(storeKeys.segment(volume.id as VolumeId, segment.index), records.segment, segment),
        ),
      ),
    );
    await this.#put(drives.map(({ record }) => putRecord(storeKeys.drive(record.id as never), records.drive, record)));
    await this.#put(
      restored.map(({ volume, epoch }) => {
        const owner = { epoch, nodeId: '', incarnation: '' };
        return putRecord(storeKeys.owner(volume.id as VolumeId), records.owner, owner);
      }),
    );
    await this.#put(restored.map(({ volume }) => putRecord(storeKeys.name(volume.name), records.name, volume.id)));
    await this.#put(
      restored.map(({ volume }) => putRecord(storeKeys.volume(volume.id as VolumeId), records.volume, volume)),
    );
    const isDone = await state.commit(
      [unchanged(cluster)],
      [
        putRecord(cluster.key, records.cluster, { ...cluster.value, id: plan.clusterId }),
        deleteKey(storeKeys.recovering),
      ],
    );
    if (!isDone) throw new BraidError('ABORTED', 'somebody else has changed the cluster meanwhile; try again');
  }

  async #put(operations: readonly StoreOperation[]): Promise<void> {
    for (const batch of batches(operations, controlLimits.txnOperationsMax))
      await this.#context.state.commit([], batch);
  }
}

function checkDecided({ problems, volumes }: RecoveryPlan): void {
  const open = volumes.filter(({ decision }) => decision === 'ambiguous' || decision === 'impossible');
  const lines = open.map(({ id, name, doubts, decision }) => {
    const advice = decision === 'impossible' ? 'it can only be skipped' : 'accept or skip it';
    return `volume ${name === '' ? id : `${name} (${id})`}: ${doubts.join('; ')}: ${advice}`;
  });
  if (problems.length + lines.length > 0)
    throw new BraidError('CONFLICT', `nothing was restored: ${[...problems, ...lines].join('. ')}`);
}

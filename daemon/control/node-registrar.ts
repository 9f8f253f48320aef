/**
 * Keeps this node in the cluster: its Node record, its lease, and `alive/<nodeId>` under the lease.
 *
 * Invariants
 * 1. Shards get a lease deadline only after a renewal has succeeded, counted from when it was sent: the true end cannot be earlier.
 * 2. After a lease was lost, no new deadline is given before every volume served under it has been given up (`onLost`): a volume may
 *    have had another owner in between, so it is taken anew, under the next epoch.
 */
import { BraidError } from '../base/errors.js';
import { limits } from '../base/limits.js';
import type { LeaseId } from '../ports/cluster-store.js';
import { records } from '../protocol/records.js';
import { storeKeys } from '../protocol/store.js';
import { absent, deleteKey, putRecord, unchanged } from './cluster-state.js';
import type { ControlContext } from './context.js';
import { Loop } from './loop.js';

export interface LeaseListener {
  /** A new lease is held: keys under the earlier one are gone. */
  onGranted(lease: LeaseId): void;
  /** The lease has ended. Resolves when nothing is served under it any more, and never rejects. */
  onLost(): Promise<void>;
}

export class NodeRegistrar {
  readonly #context: ControlContext;
  readonly #listener: LeaseListener;
  readonly #loop: Loop;
  #lease: LeaseId | null = null;
  #deadlineMs = 0;
  #isStopped = false;

  constructor(context: ControlContext, listener: LeaseListener) {
    this.#context = context;
    this.#listener = listener;
    this.#loop = new Loop({
      name: 'node lease',
      clock: context.clock,
      log: context.log,
      run: () => this.#renew(),
      // Not more and more seldom: what the store's outage leaves of the lease is short.
      retryMsMin: limits.leaseRenewMs / 4,
      retryMsMax: limits.leaseRenewMs / 4,
    });
  }

  /** Null while the lease is lost or cannot be renewed in time. */
  get lease(): LeaseId | null {
    return this.#context.clock.nowMs() < this.#deadlineMs ? this.#lease : null;
  }

  /**
   * Registers the node and takes the first lease. The caller holds the process lock of this node's data directory, so an `alive` key of an
   * earlier incarnation is left from a crash, and goes at once. `apiAddress`: URL of this node's REST API, for others.
   */
  async start(apiAddress: string): Promise<void> {
    const { state, node, shards } = this.#context;
    await this.#checkName();
    const dataAddresses = shards.map(({ addresses }) => addresses.dataAddress);
    const { id, name, version, labels } = node;
    const record = { id, name, apiAddress, dataAddresses, version, labels: { ...labels } };
    await state.commit([], [putRecord(storeKeys.node(node.id), records.node, record)]);
    const old = await state.nodeAlive(node.id);
    if (old !== null && old.value.incarnation !== node.incarnation) {
      await state.commit([unchanged(old)], [deleteKey(old.key)]);
      this.#report('warning', 'the agent had ended without a clean stop and has started again');
    }
    await this.#grant();
    this.#loop.trigger();
  }

  /** Gives the lease back: others may take over at once what this node has not released. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    await this.#loop.stop();
    const lease = this.#lease;
    this.#lease = null;
    this.#deadlineMs = 0;
    if (lease !== null) await this.#context.state.store.revokeLease(lease);
  }

  async #checkName(): Promise<void> {
    const { state, node } = this.#context;
    const namesake = (await state.nodes()).find(({ value }) => value.name === node.name && value.id !== node.id);
    if (namesake === undefined) return;
    throw new BraidError(
      'ALREADY_EXISTS',
      `the cluster has a node named "${node.name}" with another identity (${namesake.value.id}): choose another nodeName, or use the data directory of that node`,
    );
  }

  async #grant(): Promise<void> {
    const { state, node, clock } = this.#context;
    const key = storeKeys.alive(node.id);
    const old = await state.nodeAlive(node.id);
    const sentMs = clock.nowMs();
    const lease = await state.store.grantLease(limits.leaseTtlMs);
    const alive = putRecord(key, records.nodeAlive, { incarnation: node.incarnation }, lease);
    // Of several attempts whose answers are late one counts: the key must not end with a lease that nobody renews.
    if (!(await state.commit([old === null ? absent(key) : unchanged(old)], [alive])))
      throw new BraidError('ABORTED', 'an earlier request for a lease was late; it is asked for again');
    this.#lease = lease;
    this.#extend(sentMs);
    this.#listener.onGranted(lease);
  }

  async #renew(): Promise<number | null> {
    if (this.#lease === null) {
      await this.#grant();
      this.#report('info', 'the node has a lease again');
      return limits.leaseRenewMs;
    }
    const sentMs = this.#context.clock.nowMs();
    if (await this.#context.state.store.keepAlive(this.#lease)) {
      this.#extend(sentMs);
      return Math.max(0, limits.leaseRenewMs - (this.#context.clock.nowMs() - sentMs));
    }
    await this.#lost();
    return 0;
  }

  /** Invariant 1: `sentMs` is from before the store counted the time to live anew. */
  #extend(sentMs: number): void {
    this.#deadlineMs = sentMs + limits.leaseTtlMs - limits.leaseMarginMs;
    if (this.#isStopped) return;
    for (const { control } of this.#context.shards) control.setLeaseDeadline(this.#deadlineMs);
  }

  async #lost(): Promise<void> {
    this.#lease = null;
    this.#deadlineMs = 0;
    this.#report(
      'error',
      'the node lost its lease (its agent or the cluster store was stalled): its volumes are opened anew',
    );
    // No time limit: a volume that is not given up could be served beside its next owner (invariant 2).
    await this.#listener.onLost();
  }

  #report(severity: 'info' | 'warning' | 'error', message: string): void {
    this.#context.events.report({ severity, subject: `node/${this.#context.node.id}`, message });
  }
}

/** Settings of the whole cluster, in its record: every agent follows them while it runs. */
import { BraidError } from '../base/errors.js';
import { limits } from '../base/limits.js';
import { formatSize } from '../base/units.js';
import type { StoreWatch } from '../ports/cluster-store.js';
import { records } from '../protocol/records.js';
import { storeKeys } from '../protocol/store.js';
import { putRecord, retryRaces, unchanged } from './cluster-state.js';
import type { ControlContext } from './context.js';
import { controlLimits } from './limits.js';
import { Loop } from './loop.js';

export interface Settings {
  /** What the copiers of a node may copy a second, all its volumes together; null: no bound. */
  readonly resyncBandwidthBytes: number | null;
}

export class ClusterSettings {
  readonly #context: ControlContext;
  readonly #loop: Loop;
  #watch: StoreWatch | null = null;

  constructor(context: ControlContext) {
    this.#context = context;
    const { clock, log } = context;
    const retry = { retryMsMin: controlLimits.statusPollMs, retryMsMax: controlLimits.takeRetryMsMax };
    this.#loop = new Loop({ name: 'settings', clock, log, run: () => this.#apply(), ...retry });
  }

  /** A store that does not answer is asked again in the background: it does not keep the agent from starting. */
  start(): void {
    this.#loop.trigger();
  }

  async stop(): Promise<void> {
    await this.#loop.stop();
    this.#watch?.close();
  }

  /** Rejects with INVALID_ARGUMENT when a value is out of bounds. */
  async change({ resyncBandwidthBytes }: Settings): Promise<void> {
    if (resyncBandwidthBytes !== null && resyncBandwidthBytes < limits.copyBandwidthMin) {
      const least = formatSize(limits.copyBandwidthMin);
      const message = `a resync bandwidth of ${formatSize(resyncBandwidthBytes)}/s would hardly ever end: use at least ${least}, or null for no bound`;
      throw new BraidError('INVALID_ARGUMENT', message);
    }
    const { state, events } = this.#context;
    await retryRaces('the cluster record', async () => {
      const record = await state.cluster();
      if (record === null)
        throw new BraidError('UNAVAILABLE', 'the cluster store has no cluster record: restart the agents');
      const value = { ...record.value, resyncBandwidthBytes: resyncBandwidthBytes ?? 0 };
      return (await state.commit([unchanged(record)], [putRecord(record.key, records.cluster, value)])) || undefined;
    });
    const rate = resyncBandwidthBytes === null ? 'has no bound' : `is ${formatSize(resyncBandwidthBytes)}/s`;
    events.report({ severity: 'info', subject: 'cluster', message: `the resync bandwidth of each node ${rate}` });
  }

  /** The shards of a node share what the node may copy. */
  async #apply(): Promise<number | null> {
    const { state, shards } = this.#context;
    this.#watch ??= await state.watchIds(storeKeys.cluster, () => this.#loop.trigger());
    const bytes = (await state.cluster())?.value.resyncBandwidthBytes ?? 0;
    for (const { control } of shards) control.setCopyBandwidth(bytes === 0 ? null : bytes / shards.length);
    return controlLimits.resyncPeriodMs;
  }
}

/** Limits and periods of the control plane. The data plane's are in `base/limits.ts`. */
import { assert } from '../base/assert.js';
import { limits } from '../base/limits.js';

export const controlLimits = {
  /** Bounds of one `ClusterStore.txn`. */
  txnComparesMax: 64,
  txnOperationsMax: 128,

  eventsKept: 1_000,
  /** Listing all events is not free: a node prunes after this many of its own. */
  eventsPerPrune: 64,
  eventMessageCharsMax: 1_000,
  /** Events waiting for the store; past it the oldest are dropped (they are in the log too). */
  eventsQueuedMax: 256,

  /** Volumes of this node are looked at this often; their status is written only when it has changed. */
  statusPollMs: 500,
  /** Reads everything that a watch could have missed; also the retry after a failed read. */
  resyncPeriodMs: 10_000,
  takeRetryMsMin: 100,
  takeRetryMsMax: 2_000,
  /** Drives are looked at this often; one that cannot be opened is tried each time. */
  driveRetryMs: 5_000,
  /** One that fails while it is open is tried after that, then after twice as long each time: copies that come and go with it cost the cluster. */
  driveRetryMsMax: 600_000,
  /** It counts as well when it has been open for this long. */
  driveStableMs: 600_000,
  /** Opening and closing a healthy drive takes less; one that does not answer by then holds nothing else up. */
  driveAnswerMs: 5_000,
  /** Shards close their drives when the agent ends; one that hangs is left, and the lease is given back all the same. */
  shardStopMs: 5_000,
  deletionRetryMs: 1_000,
  deletionRetryMsMax: 30_000,
  releaseRetryMs: 1_000,

  /** Optimistic transactions are tried this often before ABORTED goes to the caller. */
  casAttemptsMax: 5,
  /** Stripe width that is chosen when the pool allows it and nobody says otherwise. */
  stripeWidthDefaultMax: 4,
  labelsMax: 32,
} as const;

assert(controlLimits.statusPollMs < limits.leaseTtlMs, 'a status is younger than the lease that it is under');
assert(controlLimits.takeRetryMsMax < limits.leaseTtlMs, 'a take-over follows the end of a lease soon');
assert(controlLimits.eventsQueuedMax < controlLimits.eventsKept, 'a burst of events does not push out all others');

/**
 * What a WRITE, TRIM or ZERO needs of the metadata before it may touch data: a slot, a stamp of at least its generation
 * (invariant 8), its region in the activity log (invariant 7), all in one commit.
 */
import { must } from '../base/assert.js';
import { extentKey, freedKey } from '../format/keys.js';
import { encodeTombstone } from '../format/records.js';
import type { MetaOperation } from '../ports/meta-store.js';
import { FLAG, OPCODE } from '../protocol/frame.js';
import type { ActivityLog } from './activity-log.js';
import type { ChecksumTable } from './checksums.js';
import type { FreedSlots } from './freed-slots.js';
import type { MapAhead } from './map-ahead.js';
import type { OperationTable } from './operations.js';
import { REGION, regionOf, type Replica } from './replica.js';
import type { SlotAllocator } from './slot-allocator.js';

export const NEED = { NOTHING: 0, COMMIT: 1, WAIT: 2, SPACE: 3 } as const;

export interface PlannerParts {
  readonly allocator: SlotAllocator;
  readonly checksums: ChecksumTable;
  readonly activity: ActivityLog;
  readonly freed: FreedSlots;
  readonly ahead: MapAhead;
}

export class ExtentPlanner {
  readonly #table: OperationTable;
  readonly #parts: PlannerParts;
  /** Result of `#aim`: what the operation's extent has to be. */
  #slot = 0;
  #stamp = 0;
  #mustAllocate = false;

  constructor(table: OperationTable, parts: PlannerParts) {
    this.#table = table;
    this.#parts = parts;
  }

  /** Whether a TRIM or ZERO finds nothing to do, neither on the drive nor in the metadata. */
  isIdle(op: number): boolean {
    const replica = must(this.#table.replica[op], 'the replica of an operation');
    const extent = this.#table.extent[op] as number;
    this.#aim(op, replica, extent);
    const isEmpty = replica.slotOf(extent) === 0 && !this.#mustAllocate && !replica.isChanging(extent);
    return isEmpty && this.#stamp === replica.stampOf(extent);
  }

  /** Adds what the operation needs to the commit; only `NEED.COMMIT` changes anything. */
  plan(op: number, operations: MetaOperation[]): number {
    const { activity, freed, allocator, ahead } = this.#parts;
    const replica = must(this.#table.replica[op], 'the replica of an operation');
    const extent = this.#table.extent[op] as number;
    const state = replica.stateOf(extent);
    if (state === REGION.COOLING) return NEED.WAIT;
    this.#aim(op, replica, extent);
    if (this.#slot !== 0) replica.endAhead(extent);

    const slot = replica.slotOf(extent);
    const isFreeing = slot !== 0 && this.#slot === 0;
    const isChange = this.#mustAllocate || isFreeing || this.#stamp !== replica.stampOf(extent);
    const isActivation = state === REGION.COLD && (isChange || slot !== 0);
    if (!isChange && !isActivation) {
      return replica.isChanging(extent) || state === REGION.ACTIVATING ? NEED.COMMIT : NEED.NOTHING;
    }
    if (isActivation && activity.isFull) return NEED.WAIT;
    if (isFreeing && (freed.isFull || replica.isChanging(extent))) return NEED.WAIT;
    if (this.#mustAllocate) {
      this.#slot = allocator.allocate(replica.slotHint(extent));
      if (this.#slot === 0) this.#slot = ahead.takeSlot(operations);
      if (this.#slot === 0) return freed.pending > 0 ? NEED.WAIT : NEED.SPACE;
    }
    if (isActivation) activity.activate(replica, regionOf(extent), operations);
    if (isChange) this.#change(op, replica, extent, isFreeing ? slot : 0, operations);
    if (this.#mustAllocate) ahead.map(replica, extent, this.#stamp, operations);
    return NEED.COMMIT;
  }

  /** The commit that the operation joined is durable. */
  settle(op: number): void {
    const replica = must(this.#table.replica[op], 'the replica of an operation');
    const extent = this.#table.extent[op] as number;
    this.#parts.ahead.settle();
    replica.settle(extent);
    this.#parts.activity.activated(replica, regionOf(extent));
    const freedSlot = this.#table.freedSlot[op] as number;
    this.#table.freedSlot[op] = 0;
    if (freedSlot !== 0) this.#parts.freed.unmapped(freedSlot);
  }

  #aim(op: number, replica: Replica, extent: number): void {
    const opcode = this.#table.opcode[op];
    const isTombstone = ((this.#table.flags[op] as number) & FLAG.TOMBSTONE) !== 0;
    const slot = replica.slotOf(extent);
    const stamp = replica.stampOf(extent);
    const raised = Math.max(stamp, this.#table.generation[op] as number);
    const isWhole = replica.isWholeExtent(this.#table.offset[op] as number, this.#table.length[op] as number);
    this.#slot = slot;
    this.#stamp = stamp;
    this.#mustAllocate = opcode === OPCODE.WRITE && slot === 0;
    if (opcode === OPCODE.TRIM && isWhole && slot !== 0) {
      this.#slot = 0;
      this.#stamp = isTombstone ? raised : 0;
    } else if (opcode === OPCODE.WRITE || slot !== 0 || isTombstone) this.#stamp = raised;
  }

  #change(op: number, replica: Replica, extent: number, freedSlot: number, operations: MetaOperation[]): void {
    const { checksums } = this.#parts;
    const key = extentKey(replica.volume, replica.segment, extent);
    if (this.#slot !== 0 && !this.#mustAllocate) {
      replica.setHead(extent, this.#slot, this.#stamp, true);
      operations.push({ key, value: checksums.encodeRecord(replica, extent) });
      return;
    }
    // A new slot reads as zeros; without a slot there is nothing to compare.
    checksums.reset(replica, extent);
    replica.setHead(extent, this.#slot, this.#stamp, true);
    if (this.#slot !== 0) operations.push({ key, value: checksums.encodeRecord(replica, extent) });
    else operations.push({ key, value: this.#stamp === 0 ? null : encodeTombstone(this.#stamp) });
    if (freedSlot === 0) return;
    operations.push({ key: freedKey(freedSlot), value: new Uint8Array(0) });
    this.#table.freedSlot[op] = freedSlot;
  }
}

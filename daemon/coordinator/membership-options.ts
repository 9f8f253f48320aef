/** What the in-sync sets of a volume are given, and whom they tell what happens (membership.ts). */
import type { VolumeId } from '../base/ids.js';
import type { BufferId } from '../ports/slab.js';
import type { Frame } from '../protocol/frame.js';
import type { VolumeRecord } from '../protocol/records.js';
import type { CoordinatorContext } from './context.js';
import type { Replica, Segment, SegmentCounts, Session } from './segment.js';

export interface MembershipEvents {
  segmentChanged(segment: Segment): void;
  sessionReady(session: Session): void;
  sessionDown(session: Session): void;
  onReply(session: Session, frame: Frame, buffer: BufferId): void;
  onPressure(): void;
  onDamaged(segment: Segment, replica: Replica, offsetBytes: number): void;
  /** An in-sync copy does not know all checksums of these regions any more: its agent was restarted while they were hot. */
  onForgotten(segment: Segment, regions: readonly number[]): void;
  fenced(reason: string): void;
  /** Another replica is open: opening waits for this. */
  progressed(): void;
}

export interface MembershipOptions {
  readonly context: CoordinatorContext;
  readonly volumeId: VolumeId;
  readonly volume: VolumeRecord;
  readonly epoch: number;
  readonly ownerRevision: number;
  readonly segments: readonly Segment[];
  readonly counts: SegmentCounts;
  readonly sessions: Session[];
  readonly events: MembershipEvents;
}

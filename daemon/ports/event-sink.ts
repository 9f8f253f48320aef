/** Where the data plane reports what an operator should know: drives that fail, copies that drop out or return, fencing, corruption. */

export type EventSeverity = 'info' | 'warning' | 'error';

export interface ReportedEvent {
  readonly severity: EventSeverity;
  /** `volume/<id or name>`, `drive/<id>`, `node/<id or name>` or `cluster`. Ids of volumes and nodes are shown by name. */
  readonly subject: string;
  /** A sentence: what happened, and what to do if anything. */
  readonly message: string;
}

export interface EventSink {
  /** Never fails and never waits: an event is lost when the cluster store cannot be reached (it is in the log too). */
  report(event: ReportedEvent): void;
}

/** What clients ask of the drive, as far as the model of what must be found needs it. */

export interface OpenRequest {
  readonly kind: 'open';
  readonly volumeId: string;
  readonly epoch: number;
  readonly segments: readonly { readonly index: number; readonly generation: number }[];
}

/** A WRITE, TRIM or ZERO. */
export interface ChangeRequest {
  readonly kind: 'change';
  readonly segment: number;
  readonly firstBlock: number;
  readonly count: number;
  /** Block i of it holds `contentOf(value, i)`. */
  readonly value: number;
  readonly generation: number;
  readonly isDurable: boolean;
  readonly isWrite: boolean;
  readonly hasTombstone: boolean;
}

export interface FlushRequest {
  readonly kind: 'flush';
}

export interface CoolRequest {
  readonly kind: 'cool';
  readonly segment: number;
  readonly regions: readonly number[];
}

export interface DeleteRequest {
  readonly kind: 'delete';
  readonly segment: number;
}

export interface PurgeRequest {
  readonly kind: 'purge';
  readonly segment: number;
  readonly generation: number;
}

export type Request = OpenRequest | ChangeRequest | FlushRequest | CoolRequest | DeleteRequest | PurgeRequest;

import { isErrorCode, type BraidError, type ErrorCode } from '../base/errors.js';
import type { ServedVolume } from '../ports/shard.js';
import type { VolumeStatusRecord } from '../protocol/records.js';
import { NO_URIS, type NbdUris } from './nbd-uri.js';

export interface StatusFacts {
  readonly served: ServedVolume | null;
  readonly isTaken: boolean;
  readonly uris: NbdUris;
  readonly device: string;
  readonly error: string;
}

/** The record that tells everyone how far an attached volume is. A volume that could not be taken yet is `waiting` (epoch 0). */
export function encodeStatus({ served, isTaken, uris, device, error }: StatusFacts): VolumeStatusRecord {
  return {
    epoch: served?.epoch ?? 0,
    state: served?.state ?? (isTaken ? 'opening' : 'waiting'),
    ...(served === null ? NO_URIS : uris),
    device,
    segmentsDegraded: served?.segmentsDegraded ?? 0,
    resyncBytesDone: served?.resyncBytesDone ?? 0,
    resyncBytesTotal: served?.resyncBytesTotal ?? 0,
    copies: (served?.copies ?? []).map((copy) => ({ ...copy, driveId: copy.driveId ?? '' })),
    error: error === '' ? (served?.reason ?? '') : error,
  };
}

/** An error in a status: its message, and its code for `failureCode`. */
export function describeFailure(error: BraidError): string {
  return `${error.message} (${error.code})`;
}

/** The code of an error that `describeFailure` wrote; null when it is no such text. */
export function failureCode(text: string): ErrorCode | null {
  const code = /\(([A-Z_]+)\)$/.exec(text)?.[1];
  return isErrorCode(code) ? code : null;
}

/** States in which clients can use the volume (while reconciling, regions that need it wait; while suspended, writes wait). */
export function isServing(state: string): boolean {
  return state === 'serving' || state === 'reconciling' || state === 'suspended';
}

/**
 * The records of the cluster store: what each key of `store.ts` holds, and the one place where they are encoded and
 * decoded. In memory a record is a plain object with every field present (absent ones have their proto3 default), so it
 * can be spread, compared and frozen. 64-bit fields are numbers below 2^53. Unknown fields are dropped.
 */
import { assert } from '../base/assert.js';
import { asError, BraidError } from '../base/errors.js';
import { limits } from '../base/limits.js';
import { REGION_BYTES } from '../base/units.js';
import { braid } from './generated/messages.js';

type Fields<T> = { [Name in keyof T as Name extends '$unknowns' ? never : Name]: T[Name] };

export type ClusterRecord = Fields<braid.Cluster>;
export type NodeRecord = Fields<braid.Node>;
export type NodeAliveRecord = Fields<braid.NodeAlive>;
export type DriveRecord = Fields<braid.Drive>;
export type VolumeRecord = Fields<braid.Volume>;
export type OwnerRecord = Fields<braid.Owner>;
export type AttachmentRecord = Fields<braid.Attachment>;
export type ReplicaRecord = Fields<braid.Replica>;
export type SegmentRecord = Omit<Fields<braid.Segment>, 'replicas'> & { replicas: ReplicaRecord[] };
export type CopyProgressRecord = Fields<braid.CopyProgress>;
export type VolumeStatusRecord = Omit<Fields<braid.VolumeStatus>, 'copies'> & { copies: CopyProgressRecord[] };
export type ScrubRecord = Fields<braid.Scrub>;
export type EventRecord = Fields<braid.Event>;

export interface RecordCodec<T> {
  encode(record: T): Uint8Array;
  /** Throws `BraidError` CORRUPT, naming `key`, when `bytes` are not such a record. */
  decode(key: string, bytes: Uint8Array): T;
}

interface MessageClass<T> {
  encode(record: T): { finish(): Uint8Array };
  decode(bytes: Uint8Array): object;
}

function checkNumber(name: string, value: number): void {
  assert(Number.isSafeInteger(value) && value >= 0, `${name} is a whole number from 0 to 2^53 - 1`);
}

/** A copy of a message, with the defaults that the generated classes keep on their prototypes. */
function plainCopy(message: object): object {
  const copy: Record<string, unknown> = {};
  for (const name in message) {
    if (name !== '$unknowns') copy[name] = plainValue(name, (message as Record<string, unknown>)[name]);
  }
  return copy;
}

function plainValue(name: string, value: unknown): unknown {
  if (typeof value === 'number') checkNumber(name, value);
  if (Array.isArray(value)) return value.map((item: unknown) => plainValue(name, item));
  return typeof value === 'object' && value !== null ? plainCopy(value) : value;
}

function malformed(key: string, cause: unknown): BraidError {
  const advice = 'restore the record, or rebuild the cluster store from the drives';
  return new BraidError('CORRUPT', `the record ${key} is malformed (${asError(cause).message}): ${advice}`, { cause });
}

/** `check` throws for a record that no agent writes, and that would lead its reader astray. */
function codecOf<T extends object>(messages: MessageClass<T>, check: (record: T) => void = () => {}): RecordCodec<T> {
  return {
    encode: (record) => messages.encode(plainCopy(record) as T).finish(),
    decode: (key, bytes) => {
      try {
        const record = plainCopy(messages.decode(bytes)) as T;
        check(record);
        return record;
      } catch (error) {
        throw malformed(key, error);
      }
    },
  };
}

/** What addresses are computed from: arithmetic on other values would end in an assertion, or in somebody else's data. */
function checkGeometry({ sizeBytes, replicas, minInSync, stripeWidth, segmentBytes }: VolumeRecord): void {
  const isWithin = (value: number, min: number, max: number) => value >= min && value <= max;
  const isRight =
    isWithin(sizeBytes, limits.volumeBytesMin, limits.volumeBytesMax) &&
    isWithin(replicas, 1, limits.replicasMax) &&
    isWithin(minInSync, 1, replicas) &&
    isWithin(stripeWidth, 1, limits.stripeWidthMax) &&
    isWithin(segmentBytes, limits.segmentBytesMin, limits.segmentBytesMax) &&
    segmentBytes % REGION_BYTES === 0;
  if (!isRight) throw new Error('its geometry is impossible');
}

/** `names/<name>` holds nothing but a volume id. */
const textCodec: RecordCodec<string> = {
  encode: (text) => new TextEncoder().encode(text),
  decode: (key, bytes) => {
    try {
      return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    } catch (error) {
      throw malformed(key, error);
    }
  },
};

export const records = {
  cluster: codecOf<ClusterRecord>(braid.Cluster),
  node: codecOf<NodeRecord>(braid.Node),
  nodeAlive: codecOf<NodeAliveRecord>(braid.NodeAlive),
  drive: codecOf<DriveRecord>(braid.Drive),
  volume: codecOf<VolumeRecord>(braid.Volume, checkGeometry),
  name: textCodec,
  owner: codecOf<OwnerRecord>(braid.Owner),
  attachment: codecOf<AttachmentRecord>(braid.Attachment),
  segment: codecOf<SegmentRecord>(braid.Segment),
  volumeStatus: codecOf<VolumeStatusRecord>(braid.VolumeStatus),
  scrub: codecOf<ScrubRecord>(braid.Scrub),
  event: codecOf<EventRecord>(braid.Event),
} as const;

/** Branded identifiers: they are plain strings and numbers at run time, and cannot be mixed up at compile time. */

declare const brand: unique symbol;
type Brand<T, Name extends string> = T & { readonly [brand]: Name };

export type NodeId = Brand<string, 'NodeId'>;
export type DriveId = Brand<string, 'DriveId'>;
export type VolumeId = Brand<string, 'VolumeId'>;
/** Number of a volume's ownership; +1 with each new owner. 0: never owned. */
export type Epoch = Brand<number, 'Epoch'>;
/** Number of a segment's in-sync set; +1 with each change. A fresh segment is at 1; 0: nothing yet. */
export type Generation = Brand<number, 'Generation'>;

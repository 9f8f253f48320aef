/**
 * Loads the addon and types its functions. Rules of the boundary: plain data only; a negative number is -errno; names and
 * order are those of `bridge/addon.cc`; every function runs on the thread that created the engine.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { getSystemErrorMap } from 'node:util';
import { BraidError, type ErrorCode } from '../daemon/base/errors.js';
import { abi } from './abi.js';

export { abi } from './abi.js';

declare const handleBrand: unique symbol;
/** An engine; the functions do nothing with one that has stopped. */
export type Handle = { readonly [handleBrand]: true };

/** Byte offsets of the parts in the shared memory. */
export interface Layout {
  readonly slab: number;
  readonly slabBytes: number;
  readonly events: number;
  readonly commands: number;
  readonly control: number;
  readonly checksums: number;
  readonly refs: number;
  readonly announced: number;
  readonly unsent: number;
  readonly freed: number;
  readonly orders: number;
}

export interface EngineOptions {
  readonly slabBytes: number;
  readonly connectionsMax: number;
  readonly framesQueuedMax: number;
  readonly nbdRequestsMax: number;
  readonly nbdWriteBytesMax: number;
  readonly nbdUnsentBytesMax: number;
  readonly sendStallMs: number;
}

/** Counters since the start, but for those that say what is now (`…InFlight`, `connections`). */
export interface EngineStats {
  readonly framesIn: number;
  readonly framesOut: number;
  readonly nbdRequests: number;
  readonly nbdReplies: number;
  readonly bytesIn: number;
  readonly bytesOut: number;
  readonly receives: number;
  readonly sends: number;
  readonly driveReads: number;
  readonly driveReadBytes: number;
  readonly driveWrites: number;
  readonly driveWriteBytes: number;
  readonly driveOthers: number;
  readonly driveOperationsInFlight: number;
  readonly batches: number;
  readonly events: number;
  readonly commands: number;
  readonly enters: number;
  readonly poolWaits: number;
  readonly connections: number;
  readonly connectionsRefused: number;
}

export interface Addon {
  readonly abi: Readonly<Record<string, number>>;
  create(
    options: EngineOptions,
    onEvents: (count: number) => void,
    onStopped: () => void,
  ): { handle: Handle; memory: ArrayBuffer; layout: Layout } | number;
  submit(handle: Handle): void;
  alloc(handle: Handle, lengthBytes: number, pool: number): number;
  usedBytes(handle: Handle, pool: number): number;
  computeChecksums(handle: Handle, buffer: number, offsetBytes: number, lengthBytes: number): void;
  listenTcp(handle: Handle, protocol: number, host: string, port: number): [listener: number, port: number];
  listenUnix(handle: Handle, protocol: number, path: string): number;
  closeListener(handle: Handle, listener: number): void;
  reserve(handle: Handle): number;
  connect(handle: Handle, connection: number, ip: string, port: number): void;
  failConnect(handle: Handle, connection: number): void;
  sendControl(handle: Handle, record: Uint32Array, payload: Uint8Array): void;
  sendBytes(handle: Handle, connection: number, bytes: Uint8Array, final: boolean): void;
  takeBytes(handle: Handle, connection: number): ArrayBuffer;
  startTransmission(handle: Handle, connection: number, leftover: Uint8Array): void;
  openDrive(handle: Handle, fd: number): [drive: number, sizeBytes: number];
  closeDrive(handle: Handle, drive: number): void;
  stats(handle: Handle): Partial<EngineStats>;
  stop(handle: Handle): void;
  /** Programs that this process starts get no descriptor that is open now, but those that are handed to them. 0 or -errno. */
  closeOnExec(): number;
}

/** `ENOENT` for -2 (and for 2). */
export function errnoName(errno: number): string {
  return getSystemErrorMap().get(-Math.abs(errno))?.[0] ?? `errno ${Math.abs(errno)}`;
}

/** The error for a function that returned -errno. `what` says what was tried, `advice` what to do next. */
export function nativeError(code: ErrorCode, what: string, errno: number, advice: string): BraidError {
  const description = getSystemErrorMap().get(-Math.abs(errno))?.[1] ?? 'unknown error';
  return new BraidError(code, `${what}: ${description} (${errnoName(errno)}); ${advice}`);
}

/** Refuses an addon that was built from other sources than this script. */
export function checkAbi(theirs: Readonly<Record<string, number>>): void {
  const names = new Set([...Object.keys(abi), ...Object.keys(theirs)]);
  const ours: Readonly<Record<string, number>> = abi;
  const differing = [...names].filter((name) => ours[name] !== theirs[name]);
  if (differing.length === 0) return;
  throw new BraidError('INTERNAL', `the native addon does not fit (${differing.join(', ')}): run "npm run build"`);
}

let loaded: Addon | undefined;

/** Loads the addon once per thread. Throws when it is not built or does not fit. */
export function loadAddon(): Addon {
  if (loaded !== undefined) return loaded;
  const path = fileURLToPath(new URL('../../build/Release/braid.node', import.meta.url));
  if (!existsSync(path))
    throw new BraidError('INTERNAL', `the native addon is not built (${path}): run "npm run build"`);
  let addon: Addon;
  try {
    addon = createRequire(import.meta.url)(path) as Addon;
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    throw new BraidError('INTERNAL', `the native addon cannot be loaded (${message}): run "npm run build"`, { cause });
  }
  checkAbi(addon.abi);
  loaded = addon;
  return addon;
}

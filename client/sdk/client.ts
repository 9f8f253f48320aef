/**
 * Typed client of the REST API, on the platform's `fetch`. One method per endpoint; each rejects with `BraidApiError` only.
 *
 * Nothing is retried here: whether a repeated request is harmless is the caller's to know (`BraidApiError.retryable`).
 */
import { Value } from 'typebox/value';
import type { Static, TSchema } from 'typebox';
import * as schemas from '../../daemon/api/schemas/index.js';
import { BraidApiError } from './errors.js';
import type * as api from './types.js';

const TIMEOUT_MS_DEFAULT = 30_000;
/** Over the time that the server itself may wait before it answers. */
const TIMEOUT_MARGIN_MS = 10_000;
/** Comparing all copies of a large volume takes its time. */
const VERIFY_TIMEOUT_MS = 3_600_000;
/** Every drive's metadata is read once, all of it. */
const RECOVER_TIMEOUT_MS = 1_200_000;
const ERROR_BODY_CHARS_MAX = 400;

export interface BraidClientOptions {
  /** URL of any agent's API, `http://127.0.0.1:7440`. */
  readonly baseUrl: string;
  /** Sent as a bearer token, where a proxy in front of the API asks for one. */
  readonly token?: string;
  /** For one request, except where the server is told to wait longer. */
  readonly timeoutMs?: number;
  /** Check every answer against its schema, and reject with PROTOCOL when it does not match. */
  readonly validate?: boolean;
  /** Ends requests under way when it aborts; they reject with UNAVAILABLE. */
  readonly signal?: AbortSignal;
}

interface RequestOptions {
  readonly body?: object;
  readonly query?: Record<string, string | number | undefined>;
  readonly timeoutMs?: number;
  /** An answer with this status is one of the documented answers, not an error. */
  readonly alsoAccept?: number;
}

export class BraidClient {
  readonly baseUrl: string;
  readonly #token: string | undefined;
  readonly #timeoutMs: number;
  readonly #validate: boolean;
  readonly #signal: AbortSignal | undefined;

  constructor(options: BraidClientOptions) {
    this.baseUrl = options.baseUrl.replace(/\/+$/, '');
    this.#token = options.token;
    this.#timeoutMs = options.timeoutMs ?? TIMEOUT_MS_DEFAULT;
    this.#validate = options.validate ?? false;
    this.#signal = options.signal;
  }

  /** The agent's process answers. */
  async isAlive(): Promise<boolean> {
    return this.#request('GET', '/healthz', schemas.Liveness).then(
      () => true,
      () => false,
    );
  }

  /** Whether the agent serves, and what is missing if not. */
  readiness(): Promise<api.Readiness> {
    return this.#request('GET', '/readyz', schemas.Readiness, { alsoAccept: 503 });
  }

  /** Health and capacity of the whole cluster. */
  cluster(): Promise<api.Cluster> {
    return this.#request('GET', '/v1/cluster', schemas.Cluster);
  }

  /** Changes settings of the cluster while it runs. */
  changeCluster(settings: api.ChangeSettings): Promise<api.Cluster> {
    return this.#request('PATCH', '/v1/cluster', schemas.Cluster, { body: settings });
  }

  async nodes(): Promise<api.Node[]> {
    return (await this.#request('GET', '/v1/nodes', schemas.NodeList)).nodes;
  }

  async drives(): Promise<api.Drive[]> {
    return (await this.#request('GET', '/v1/drives', schemas.DriveList)).drives;
  }

  /** Gives a directory of a node (by default the one that answers) to the pool. */
  addDrive(drive: api.AddDrive): Promise<api.Drive> {
    return this.#request('POST', '/v1/drives', schemas.Drive, { body: drive, timeoutMs: 10 * this.#timeoutMs });
  }

  drive(id: string): Promise<api.Drive> {
    return this.#request('GET', drivePath(id), schemas.Drive);
  }

  /** Opens a drive that has failed, once it was repaired. */
  reopenDrive(id: string): Promise<api.Drive> {
    return this.#request('POST', `${drivePath(id)}/reopen`, schemas.Drive, { timeoutMs: 2 * this.#timeoutMs });
  }

  async volumes(): Promise<api.VolumeSummary[]> {
    return (await this.#request('GET', '/v1/volumes', schemas.VolumeList)).volumes;
  }

  /** One volume with its layout and health. */
  volume(name: string): Promise<api.Volume> {
    return this.#request('GET', volumePath(name), schemas.Volume);
  }

  createVolume(volume: api.CreateVolume): Promise<api.Volume> {
    return this.#request('POST', '/v1/volumes', schemas.Volume, { body: volume });
  }

  /** Deletes a volume that is attached nowhere, with its data. */
  deleteVolume(name: string): Promise<api.DeletedVolume> {
    return this.#request('DELETE', volumePath(name), schemas.DeletedVolume);
  }

  /** Serves a volume on a node, as a block device if asked, and waits until it does. */
  attachVolume(name: string, options: api.AttachVolume = {}): Promise<api.AttachedVolume> {
    const timeoutMs = (options.timeoutMs ?? schemas.ATTACH_TIMEOUT_MS_DEFAULT) + TIMEOUT_MARGIN_MS;
    return this.#request('POST', `${volumePath(name)}/attach`, schemas.AttachedVolume, { body: options, timeoutMs });
  }

  detachVolume(name: string, options: api.DetachVolume = {}): Promise<api.DetachedVolume> {
    const timeoutMs = (options.timeoutMs ?? schemas.DETACH_TIMEOUT_MS_DEFAULT) + TIMEOUT_MARGIN_MS;
    return this.#request('POST', `${volumePath(name)}/detach`, schemas.DetachedVolume, { body: options, timeoutMs });
  }

  /**
   * Makes an older copy the primary one of segments that have no good copy left. Changes nothing unless `acceptLoss`: then the answer says
   * what would be given up.
   */
  forcePrimary(name: string, request: api.ForcePrimary): Promise<api.ForcedPrimary> {
    return this.#request('POST', `${volumePath(name)}/force-primary`, schemas.ForcedPrimary, { body: request });
  }

  /** Compares all copies of an attached volume, extent by extent. */
  verifyVolume(name: string): Promise<api.VerifyReport> {
    const options = { body: {}, timeoutMs: VERIFY_TIMEOUT_MS };
    return this.#request('POST', `${volumePath(name)}/verify`, schemas.VerifyReport, options);
  }

  /** How far the scrubs of all drives and served volumes are, and what they have found. */
  scrubStatus(): Promise<api.ScrubStatus> {
    return this.#request('GET', '/v1/scrub', schemas.ScrubStatus);
  }

  /** Starts or stops the scrub of a drive, of an attached volume, or of everything. Answers at once. */
  scrub(request: api.ScrubRequest): Promise<api.ScrubAnswer> {
    return this.#request('POST', '/v1/scrub', schemas.ScrubAnswer, { body: request });
  }

  /** Moves the copies of an attached volume from one drive to another; answers when that has begun. */
  moveReplica(name: string, move: api.MoveReplica): Promise<api.MovedReplicas> {
    const options = { body: move, timeoutMs: 10 * this.#timeoutMs };
    return this.#request('POST', `${volumePath(name)}/move-replica`, schemas.MovedReplicas, options);
  }

  /** Gives up moves that are not finished; the old copies stay. */
  cancelMove(name: string, move: api.CancelMove = {}): Promise<api.MovedReplicas> {
    return this.#request('POST', `${volumePath(name)}/cancel-move`, schemas.MovedReplicas, { body: move });
  }

  /** Rebuilds an empty cluster store from what the drives keep; with `dryRun` says what would be restored. */
  recover(request: api.Recover = {}): Promise<api.Recovery> {
    return this.#request('POST', '/v1/recovery', schemas.Recovery, { body: request, timeoutMs: RECOVER_TIMEOUT_MS });
  }

  /** What happened. Pass the `next` of an answer as `after` to get only what followed. */
  events(query: api.EventQuery = {}): Promise<api.EventList> {
    return this.#request('GET', '/v1/events', schemas.EventList, { query: { ...query } });
  }

  /** Counters of the node that answers. */
  stats(): Promise<api.Stats> {
    return this.#request('GET', '/v1/stats', schemas.Stats);
  }

  async #request<S extends TSchema>(
    method: string,
    path: string,
    schema: S,
    options: RequestOptions = {},
  ): Promise<Static<S>> {
    const url = new URL(this.baseUrl + path);
    for (const [key, value] of Object.entries(options.query ?? {})) {
      if (value !== undefined) url.searchParams.set(key, String(value));
    }
    const { status, text } = await this.#fetch(method, url, options);
    const body = parseJson(text);
    if ((status < 200 || status > 299) && status !== options.alsoAccept) throw errorOf(status, text, body);
    if (body === undefined || (this.#validate && !Value.Check(schema, body))) {
      throw new BraidApiError('PROTOCOL', `${method} ${url.pathname}: the answer is not what this version expects`, {
        status,
      });
    }
    return body as Static<S>;
  }

  #abortAfter(timeoutMs: number): AbortSignal {
    const timeout = AbortSignal.timeout(timeoutMs);
    return this.#signal === undefined ? timeout : AbortSignal.any([timeout, this.#signal]);
  }

  async #fetch(method: string, url: URL, options: RequestOptions): Promise<{ status: number; text: string }> {
    const timeoutMs = options.timeoutMs ?? this.#timeoutMs;
    const headers: Record<string, string> = { accept: 'application/json' };
    if (options.body !== undefined) headers['content-type'] = 'application/json';
    if (this.#token !== undefined) headers['authorization'] = `Bearer ${this.#token}`;
    const init: RequestInit = { method, headers, signal: this.#abortAfter(timeoutMs) };
    if (options.body !== undefined) init.body = JSON.stringify(options.body);
    try {
      const response = await fetch(url, init);
      return { status: response.status, text: await response.text() };
    } catch (error) {
      if (error instanceof Error && error.name === 'TimeoutError') {
        throw new BraidApiError('TIMEOUT', `${url.origin} did not answer in ${timeoutMs} ms`, {
          retryable: true,
          cause: error,
        });
      }
      throw new BraidApiError('UNAVAILABLE', `cannot reach ${url.origin}: ${reasonOf(error)}`, {
        retryable: true,
        cause: error,
      });
    }
  }
}

function drivePath(id: string): string {
  return `/v1/drives/${encodeURIComponent(id)}`;
}

function volumePath(name: string): string {
  return `/v1/volumes/${encodeURIComponent(name)}`;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function errorOf(status: number, text: string, body: unknown): BraidApiError {
  if (Value.Check(schemas.ErrorBody, body)) {
    const { code, message, retryable } = body.error;
    return new BraidApiError(code, message, { status, retryable });
  }
  const excerpt = text.slice(0, ERROR_BODY_CHARS_MAX);
  return new BraidApiError('PROTOCOL', `HTTP status ${status}, and not from Braid: ${excerpt}`, { status });
}

/** `fetch` says "fetch failed" and keeps the reason in its cause. */
function reasonOf(error: unknown): string {
  const cause: unknown = error instanceof Error ? error.cause : undefined;
  if (cause instanceof AggregateError) return cause.errors.map(String).join('; ');
  if (cause instanceof Error) return cause.message;
  return error instanceof Error ? error.message : String(error);
}

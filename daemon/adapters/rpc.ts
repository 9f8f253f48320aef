/**
 * Request and response between two threads over a message port, in both directions at once.
 *
 * ```
 * call   { type: 'call',   id, method, args }   -> exactly one result or error with the same id
 * result { type: 'result', id, value }
 * error  { type: 'error',  id, code, message, stack }
 * notify { type: 'notify', method, args }       -> no answer; order with calls is kept
 * ```
 *
 * Arguments and results are plain data (structured clone). `BraidError`s keep their code and message; anything else arrives as INTERNAL.
 * A failed assertion is answered and then thrown uncaught in its own thread: it must stop the process.
 * There is no time limit: whoever knows that the other side has died calls `close`, which ends every call with UNAVAILABLE.
 *
 * Use, on each side:
 * ```
 * const rpc = new RpcEndpoint<TheirMethods>(port);   // Worker, parentPort or MessagePort
 * rpc.serve(myMethods);                              // may come later and in parts; names must be unique
 * await rpc.call('openDrive', driveId, directory);
 * rpc.notify('setLeaseDeadline', deadlineMs);
 * ```
 */
import { AssertionFailed, assert } from '../base/assert.js';
import { asError, BraidError, isErrorCode } from '../base/errors.js';

/** `Worker`, `parentPort` and `MessagePort` of node:worker_threads are all of this shape. */
export interface RpcPort {
  postMessage(message: unknown): void;
  on(event: 'message', listener: (message: unknown) => void): unknown;
  off(event: 'message', listener: (message: unknown) => void): unknown;
}

/** Methods by name. Written so that interfaces fit, which have no index signature. */
export type RpcMethods<T> = { readonly [Name in keyof T]: (...args: never[]) => unknown };

type Handler = (...args: readonly unknown[]) => unknown;

type Message =
  | { readonly type: 'call'; readonly id: number; readonly method: string; readonly args: readonly unknown[] }
  | { readonly type: 'notify'; readonly method: string; readonly args: readonly unknown[] }
  | { readonly type: 'result'; readonly id: number; readonly value: unknown }
  | {
      readonly type: 'error';
      readonly id: number;
      readonly code: string;
      readonly message: string;
      readonly stack: string;
    };

interface Waiter {
  readonly method: string;
  resolve(value: unknown): void;
  reject(error: BraidError): void;
}

/** Slow path only: a few calls per volume and drive; more than this means that the other side hangs. */
const CALLS_IN_FLIGHT_MAX = 16_384;

export class RpcEndpoint<Remote extends RpcMethods<Remote>> {
  readonly #port: RpcPort;
  readonly #handlers = new Map<string, Handler>();
  readonly #waiting = new Map<number, Waiter>();
  readonly #onMessage = (message: unknown): void => this.#receive(message as Message);
  #nextId = 1;
  #closed: BraidError | null = null;

  constructor(port: RpcPort) {
    this.#port = port;
    port.on('message', this.#onMessage);
  }

  /** Answers the methods of `methods`, own properties only: bind the methods of a class first. */
  serve<Local extends RpcMethods<Local>>(methods: Local): void {
    for (const [name, handler] of Object.entries(methods)) {
      assert(!this.#handlers.has(name), `rpc method ${name} is served once`);
      assert(typeof handler === 'function', `rpc method ${name} is a function`);
      this.#handlers.set(name, handler as Handler);
    }
  }

  call<Name extends keyof Remote & string>(
    method: Name,
    ...args: Parameters<Remote[Name]>
  ): Promise<Awaited<ReturnType<Remote[Name]>>> {
    return new Promise((resolve, reject) => {
      if (this.#closed !== null) return reject(this.#closed);
      if (this.#waiting.size >= CALLS_IN_FLIGHT_MAX) {
        return reject(
          new BraidError('LIMIT_EXCEEDED', `the other thread does not answer (${method}); try again later`),
        );
      }
      const id = this.#nextId++;
      this.#waiting.set(id, { method, resolve, reject });
      this.#post({ type: 'call', id, method, args });
    });
  }

  /** Without an answer; lost when the endpoint is closed. */
  notify<Name extends keyof Remote & string>(method: Name, ...args: Parameters<Remote[Name]>): void {
    if (this.#closed === null) this.#post({ type: 'notify', method, args });
  }

  /** Ends every call in flight, and all later ones, with UNAVAILABLE. Leaves the port open. Idempotent. */
  close(reason: string): void {
    if (this.#closed !== null) return;
    this.#closed = new BraidError('UNAVAILABLE', reason);
    this.#port.off('message', this.#onMessage);
    for (const waiter of this.#waiting.values()) waiter.reject(this.#closed);
    this.#waiting.clear();
  }

  #post(message: Message): void {
    this.#port.postMessage(message);
  }

  #receive(message: Message): void {
    switch (message.type) {
      case 'call':
        void this.#answer(message.id, message.method, message.args);
        return;
      case 'notify':
        void this.#answer(null, message.method, message.args);
        return;
      case 'result':
        this.#take(message.id)?.resolve(message.value);
        return;
      case 'error':
        this.#take(message.id)?.reject(fromWire(message));
        return;
      default:
        // Other parts of the process may share the port; what they say is not for us.
        return;
    }
  }

  #take(id: number): Waiter | undefined {
    const waiter = this.#waiting.get(id);
    this.#waiting.delete(id);
    return waiter;
  }

  /** `id` is null for a notification: then an error has nobody to go to, and is a programmer's. */
  async #answer(id: number | null, method: string, args: readonly unknown[]): Promise<void> {
    try {
      const handler = this.#handlers.get(method);
      if (handler === undefined) throw new AssertionFailed(`rpc method ${method} must be served by this thread`);
      const value = await handler(...args);
      if (id !== null && this.#closed === null) this.#post({ type: 'result', id, value });
    } catch (thrown) {
      if (id !== null && this.#closed === null) this.#post(toWire(id, asError(thrown)));
      const mustStop = thrown instanceof AssertionFailed || (id === null && !(thrown instanceof BraidError));
      if (mustStop) queueMicrotask(() => rethrow(thrown));
    }
  }
}

function toWire(id: number, error: Error): Message {
  const code = error instanceof BraidError ? error.code : 'INTERNAL';
  return { type: 'error', id, code, message: error.message, stack: error.stack ?? '' };
}

function fromWire(message: Extract<Message, { type: 'error' }>): BraidError {
  const code = isErrorCode(message.code) ? message.code : 'INTERNAL';
  const error = new BraidError(code, message.message);
  if (message.stack !== '') error.stack = `${error.stack}\n  in the other thread: ${message.stack}`;
  return error;
}

function rethrow(thrown: unknown): never {
  throw asError(thrown);
}

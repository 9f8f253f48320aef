/** REST calls to other agents, over `fetch`. */
import { asError, BraidError, isErrorCode } from '../base/errors.js';
import type { PeerClient, PeerRequest } from '../ports/peer.js';

/** Longer answers than this are not from an agent. */
const BODY_CHARS_MAX = 64 * 1024 * 1024;

export class HttpPeerClient implements PeerClient {
  async request({ apiAddress, method, path, body, timeoutMs }: PeerRequest): Promise<unknown> {
    const headers: Record<string, string> = { accept: 'application/json', 'x-braid-forwarded': '1' };
    if (body !== undefined) headers['content-type'] = 'application/json';
    const init: RequestInit = { method, headers, signal: AbortSignal.timeout(timeoutMs), redirect: 'error' };
    if (body !== undefined) init.body = JSON.stringify(body);
    let status: number;
    let text: string | null;
    try {
      const response = await fetch(new URL(path, apiAddress), init);
      status = response.status;
      text = await boundedText(response);
    } catch (thrown) {
      throw unreachable(apiAddress, timeoutMs, asError(thrown));
    }
    const answer = parse(text, apiAddress);
    if (status >= 200 && status < 300) return answer;
    throw peersError(answer, apiAddress, status);
  }
}

/** The body; null, and nothing more is read, when it is longer than an agent's. */
async function boundedText(response: Response): Promise<string | null> {
  const decoder = new TextDecoder();
  let text = '';
  for await (const chunk of (response.body ?? []) as AsyncIterable<Uint8Array>) {
    text += decoder.decode(chunk, { stream: true });
    if (text.length > BODY_CHARS_MAX) return null;
  }
  return text + decoder.decode();
}

function unreachable(apiAddress: string, timeoutMs: number, error: Error): BraidError {
  if (error.name === 'TimeoutError') {
    return new BraidError('TIMEOUT', `the agent at ${apiAddress} did not answer in ${timeoutMs} ms`, { cause: error });
  }
  const reason = error.cause instanceof Error ? error.cause.message : error.message;
  return new BraidError('UNAVAILABLE', `the agent at ${apiAddress} cannot be reached: ${reason}`, { cause: error });
}

function parse(text: string | null, apiAddress: string): unknown {
  try {
    if (text !== null) return JSON.parse(text);
  } catch {
    // Answered below: an agent sends JSON.
  }
  throw new BraidError(
    'PROTOCOL',
    `${apiAddress} does not answer like a Braid agent: check the addresses of the nodes`,
  );
}

function peersError(answer: unknown, apiAddress: string, status: number): BraidError {
  const { error } = (answer ?? {}) as { error?: { code?: unknown; message?: string } };
  if (isErrorCode(error?.code)) return new BraidError(error.code, error.message ?? 'no message');
  return new BraidError('PROTOCOL', `${apiAddress} answered with HTTP status ${status} and no error of Braid's`);
}

/** REST calls to other agents of the cluster. */
export interface PeerRequest {
  /** `http://host:port`, from the Node record. */
  readonly apiAddress: string;
  readonly method: 'GET' | 'POST' | 'DELETE';
  /** Path and query. */
  readonly path: string;
  readonly body?: unknown;
  readonly timeoutMs: number;
}

export interface PeerClient {
  /**
   * The JSON body of a 2xx answer. The peer's own errors come back as the same `BraidError`; UNAVAILABLE when it cannot be reached, TIMEOUT
   * when it does not answer in time (what it did is unknown then).
   */
  request(request: PeerRequest): Promise<unknown>;
}

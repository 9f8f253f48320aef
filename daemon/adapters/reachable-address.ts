import { hostname } from 'node:os';

/** `host:port` at which others reach what listens on `host`: this host's name when that is every address; IPv6 in brackets. */
export function reachableAddress(host: string, port: number): string {
  const isWildcard = host === '0.0.0.0' || host === '::';
  const name = isWildcard ? hostname() : host;
  return `${name.includes(':') ? `[${name}]` : name}:${port}`;
}

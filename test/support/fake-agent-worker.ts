/** A stand-in for braidd that only starts, says that it is ready, and stops, well or badly (`--fake ...`). */
import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';

const args = process.argv.slice(2);
const valueOf = (flag: string) => args[args.indexOf(flag) + 1] ?? '';
const mode = args.includes('--fake') ? valueOf('--fake') : '';

if (mode === 'dies') {
  console.log('no such device');
  process.exit(3);
}
process.on('SIGTERM', () => {
  if (mode !== 'stubborn') process.exit(0);
});
const server = createServer((_request, response) => {
  response.end(JSON.stringify({ ready: mode !== 'never-ready', reasons: [], node: valueOf('--node-name') }));
});
server.listen(Number(valueOf('--api-port')), '127.0.0.1', () => {
  const run = join(valueOf('--data-dir'), 'run');
  mkdirSync(run, { recursive: true });
  const api = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  writeFileSync(join(run, 'agent.json'), JSON.stringify({ pid: process.pid, api }));
});

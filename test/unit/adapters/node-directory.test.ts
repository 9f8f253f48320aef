/** The node's own directory: its identity is made once and for ever, and other programs find the agent through it. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { NodeDirectory } from '../../../daemon/adapters/node-directory.js';

const ID = '0123abcd-89ab-4cde-8f01-23456789abcd';
/** Short enough for sockets in it. */
function temporary(t: Test): string {
  const path = mkdtempSync(join(tmpdir(), 'braid-node-'));
  t.teardown(() => rmSync(path, { recursive: true }));
  return path;
}

const noId = (): string => {
  throw new Error('the node has an id');
};

t.test('is made with everything above it, for its user only', async (t) => {
  const directory = new NodeDirectory(join(temporary(t), 'a/b'));
  await directory.create(1);
  t.equal(statSync(directory.runDirectory).mode & 0o777, 0o700);
  t.equal(directory.nbdSocket(2), join(directory.path, 'run/nbd-2.sock'));
  await directory.create(1);
  t.pass('what is there is used');
});

t.test('refuses what cannot be a directory, or is too deep for unix sockets', async (t) => {
  const parent = temporary(t);
  writeFileSync(join(parent, 'file'), '');
  await t.rejects(new NodeDirectory(join(parent, 'file')).create(1), {
    code: 'INVALID_ARGUMENT',
    message: /cannot use the data directory: .*--data-dir/,
  });
  const ending = '/run/nbd-0.sock';
  const path = join(parent, 'x'.repeat(107 - ending.length - parent.length - 1));
  await new NodeDirectory(path).create(1);
  t.pass('107 bytes fit');
  await t.rejects(new NodeDirectory(path).create(11), {
    code: 'INVALID_ARGUMENT',
    message: /nbd-10\.sock is 1 bytes too long/,
  });
});

t.test('the id is made at the first start and stays', async (t) => {
  const directory = new NodeDirectory(t.testdir());
  t.equal(await directory.nodeId(() => ID), ID);
  t.same(JSON.parse(readFileSync(join(directory.path, 'node.json'), 'utf8')), { id: ID });
  t.same(readdirSync(directory.path), ['node.json'], 'no temporary file stays');
  t.equal(await new NodeDirectory(directory.path).nodeId(noId), ID);
});

t.test('what a crash left of a first start is no identity', async (t) => {
  const directory = new NodeDirectory(t.testdir({ 'node.json.new': '{"id": "01' }));
  t.equal(await directory.nodeId(() => ID), ID);
  t.equal(await directory.nodeId(noId), ID);
});

t.test('a damaged identity is never replaced by a new one', async (t) => {
  for (const text of ['', '{', '{}', '{"id": 7}', '{"id": "../../etc"}', `{"id": "${ID}x"}`, 'null']) {
    const directory = new NodeDirectory(t.testdir({ 'node.json': text }));
    await t.rejects(directory.nodeId(noId), { code: 'CORRUPT', message: /node\.json does not hold a node id/ }, text);
    t.equal(readFileSync(join(directory.path, 'node.json'), 'utf8'), text);
  }
  const directory = new NodeDirectory(t.testdir({ 'node.json': {} }));
  await t.rejects(directory.nodeId(noId), { code: 'CORRUPT', message: /cannot read .*node\.json: EISDIR/ });
});

t.test('the file about the agent that serves comes and goes', async (t) => {
  const directory = new NodeDirectory(temporary(t));
  await directory.create(1);
  const path = join(directory.runDirectory, 'agent.json');
  const agent = {
    ...{ pid: 1, api: 'http://127.0.0.1:7440', node: 'a', nodeId: ID, clusterId: ID, version: '0.1.0' },
    nbdSockets: [directory.nbdSocket(0)],
  };
  await directory.removeAgentFile();
  t.pass('nothing to remove is fine');
  writeFileSync(path, 'of an agent that was killed');
  await directory.writeAgentFile(agent);
  t.same(JSON.parse(readFileSync(path, 'utf8')), agent);
  t.equal(statSync(path).mode & 0o777, 0o600);
  await directory.removeAgentFile();
  t.same(readdirSync(directory.runDirectory), []);
});

t.test('an id that cannot be made durable is not used', async (t) => {
  const directory = new NodeDirectory(t.testdir());
  mkdirSync(join(directory.path, 'node.json.new'));
  await t.rejects(
    directory.nodeId(() => ID),
    { code: 'EISDIR' },
  );
});

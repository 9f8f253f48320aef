/**
 * Agents are killed and started again in a loop, each before the others have settled, while a mirror is written and checked.
 * `BRAID_RESTART_SECONDS=300 node dist/test/cluster/restart-loop.test.js` does it for five minutes.
 */
import t from 'tap';
import { MIB } from '../../daemon/base/units.js';
import { MirrorWriter, seededRandom } from '../support/mirror-writer.js';
import { startCluster } from './harness.js';

const SECONDS = Number(process.env['BRAID_RESTART_SECONDS'] ?? 45);
/** Starting, and the last healing. */
const SPARE_SECONDS = 120;
const VOLUME = { name: 'vol', size: 64 * MIB, replicas: 3 };
const BLOCKS = VOLUME.size / 4_096;
const OWNER = 0;
/** Whose turn it is, again and again. */
const VICTIMS = [1, 2, 1, OWNER, 2] as const;
const PAUSE_MS_MAX = 1_500;

t.setTimeout((SECONDS + SPARE_SECONDS) * 1_000);

t.test(`agents restarted in a loop for ${SECONDS} s`, async (t) => {
  const cluster = await startCluster(t);
  const seed = Math.floor(Math.random() * 2 ** 32);
  t.comment(`seed ${seed}`);
  const random = seededRandom(seed);
  const mirror = new MirrorWriter({ blocks: BLOCKS, seed });
  let client = await cluster.connect(await cluster.serve(OWNER, VOLUME));
  mirror.start(client);
  let restarts = 0;
  const endMs = performance.now() + SECONDS * 1_000;
  while (performance.now() < endMs || restarts < VICTIMS.length) {
    const victim = VICTIMS[restarts % VICTIMS.length] ?? OWNER;
    const pauseMs = random() * PAUSE_MS_MAX;
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
    await cluster.kill(victim, 'SIGKILL');
    await cluster.restart(victim);
    restarts++;
    if (victim !== OWNER) continue;
    await mirror.stop();
    client = await cluster.connect(await cluster.attach(OWNER, VOLUME.name));
    const problems = await mirror.check(client);
    if (problems.length > 0) t.same(problems, [], 'every acknowledged write is there');
    mirror.start(client);
  }
  const before = mirror.writesAcknowledged;
  await cluster.waitFor(() => mirror.writesAcknowledged > before + 200, 60_000, 'writes go on');
  await mirror.stop();
  t.comment(`${restarts} restarts; ${mirror.writesAcknowledged} writes acknowledged`);
  t.same(mirror.errors, [], 'clients have seen no errors but closed connections');
  t.same(await mirror.check(client), [], 'every acknowledged write is there');
  await cluster.expectHealed(t, OWNER, VOLUME.name);
});

import t from 'tap';
import { EXTENT_BYTES, MIB } from '../../../daemon/base/units.js';
import { NO_BUFFER, POOL_FRONTEND } from '../../../daemon/ports/slab.js';
import { SimClock } from '../../sim/world/sim-clock.js';
import { SimSlab } from '../../sim/world/sim-slab.js';

await t.test('nothing of a buffer can be copied, wherever the buffer ends', async (t) => {
  const quotaBytes = [4 * MIB, MIB, MIB] as const;
  const slab = new SimSlab({ clock: new SimClock(), quotaBytes });
  let count = 0;
  for (;;) {
    const buffer = slab.alloc(EXTENT_BYTES, POOL_FRONTEND);
    if (buffer === NO_BUFFER) break;
    t.equal(slab.bytes(buffer, EXTENT_BYTES, 0).length, 0);
    count++;
  }
  t.equal(count, quotaBytes[POOL_FRONTEND] / EXTENT_BYTES, 'the pool is used up');
});

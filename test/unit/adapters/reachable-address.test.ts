import { hostname } from 'node:os';
import t from 'tap';
import { reachableAddress } from '../../../daemon/adapters/reachable-address.js';

t.test('an address is given to others as they can use it', async (t) => {
  t.equal(reachableAddress('10.0.0.1', 10_809), '10.0.0.1:10809');
  t.equal(reachableAddress('host-a', 10_809), 'host-a:10809');
  t.equal(reachableAddress('fd00::1', 10_809), '[fd00::1]:10809');
  for (const wildcard of ['0.0.0.0', '::']) t.equal(reachableAddress(wildcard, 1), `${hostname()}:1`);
});

/** The slot allocator against a plain model. */
import fc from 'fast-check';
import t from 'tap';
import { SlotAllocator } from '../../../daemon/replica/slot-allocator.js';

t.test('allocates near the hint, in order, and all there is', async (t) => {
  const allocator = new SlotAllocator(100);
  t.equal(allocator.freeSlots, 99);
  t.equal(allocator.allocate(50), 50);
  t.equal(allocator.allocate(50), 51, 'the next free one');
  t.equal(allocator.allocate(0), 52, 'after the one allocated last');
  t.equal(allocator.allocate(1_000), 53, 'a hint beyond the end is none');
  t.ok(allocator.claim(99));
  t.notOk(allocator.claim(99), 'twice');
  t.notOk(allocator.claim(0), 'never');
  t.notOk(allocator.claim(100), 'out of range');
  t.equal(allocator.allocate(99), 1, 'round the end, past slot 0');
  while (allocator.freeSlots > 0) t.not(allocator.allocate(77), 0);
  t.equal(allocator.allocate(0), 0);
  t.throws(() => allocator.free(0), /in use/);
  allocator.free(64);
  t.throws(() => allocator.free(64), /in use/);
  t.equal(allocator.allocate(3), 64);
  allocator.assertConsistent();
});

t.test('agrees with a set, whatever is done', async (t) => {
  const step = fc.record({ isFree: fc.boolean(), slot: fc.nat(2_200) });
  const property = fc.property(
    fc.integer({ min: 2, max: 2_200 }),
    fc.array(step, { maxLength: 400 }),
    (slotCount, steps) => {
      const allocator = new SlotAllocator(slotCount);
      const used = new Set([0]);
      for (const { isFree, slot } of steps) {
        if (isFree && slot > 0 && used.has(slot)) {
          allocator.free(slot);
          used.delete(slot);
        } else if (isFree && allocator.claim(slot)) used.add(slot);
        else {
          const found = allocator.allocate(slot);
          if (found === 0 ? used.size < slotCount : used.has(found) || found >= slotCount) return false;
          if (slot > 0 && slot < slotCount && !used.has(slot) && found !== slot) return false;
          used.add(found);
        }
      }
      allocator.assertConsistent();
      return allocator.freeSlots === slotCount - used.size;
    },
  );
  fc.assert(property, { numRuns: 200, seed: 7 });
  t.pass('200 runs');
});

import fc from 'fast-check';
import t from 'tap';
import { EXTENT_BYTES, GIB, MIB } from '../../../daemon/base/units.js';
import { segmentCountOf, VolumeLayout } from '../../../daemon/coordinator/layout.js';

t.test('every extent of the volume has its own place in a segment', (t) => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 200 }),
      fc.constantFrom(16, 32, 64),
      fc.integer({ min: 1, max: 5 }),
      (sizeMib, segmentMib, width) => {
        const layout = new VolumeLayout(sizeMib * MIB, segmentMib * MIB, width);
        const places = new Set<string>();
        for (let offset = 0; offset < layout.sizeBytes; offset += EXTENT_BYTES) {
          const segment = layout.segmentOf(offset);
          const inSegment = layout.offsetInSegment(offset);
          if (segment >= layout.segmentCount || inSegment >= layout.segmentBytes || inSegment % EXTENT_BYTES !== 0)
            return false;
          if (layout.offsetInVolume(segment, inSegment + 5) !== offset + 5) return false;
          places.add(`${segment}/${inSegment}`);
        }
        return places.size === Math.ceil(layout.sizeBytes / EXTENT_BYTES);
      },
    ),
    { numRuns: 50 },
  );
  t.end();
});

t.test('consecutive MiB rotate over the stripe', (t) => {
  const layout = new VolumeLayout(8 * GIB, GIB, 4);
  t.same(
    [0, 1, 2, 3, 4].map((unit) => layout.segmentOf(unit * MIB)),
    [0, 1, 2, 3, 0],
  );
  t.equal(layout.offsetInSegment(4 * MIB + 5), MIB + 5);
  t.equal(layout.segmentOf(4 * GIB), 4, 'the next stripe group follows the first');
  t.equal(segmentCountOf(MIB, GIB, 4), 4, 'stripe groups are whole');
  t.end();
});

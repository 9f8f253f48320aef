import t from 'tap';
import { isMountPoint, mountPointsOf, unescapeMountPath } from '../../../daemon/adapters/loop-device.js';

const MOUNTINFO = `22 27 0:21 / /sys rw,nosuid shared:7 - sysfs sysfs rw
42 27 0:39 / /run/braid/devices/my\\040volume rw,nosuid - fuse /dev/fuse rw
43 27 7:1 / /mnt/data rw,relatime - ext4 /dev/loop1 rw
44 43 7:1 /sub /mnt/with\\040space rw,relatime - ext4 /dev/loop1 rw
45 27 7:11 / /mnt/other rw,relatime - ext4 /dev/loop11 rw
`;

t.test('mount points are found by device number, not by a prefix of it', async (t) => {
  t.same(mountPointsOf(MOUNTINFO, '7:1'), ['/mnt/data', '/mnt/with space']);
  t.same(mountPointsOf(MOUNTINFO, '7:11'), ['/mnt/other']);
  t.same(mountPointsOf(MOUNTINFO, '7:2'), []);
});

t.test('a mount point matches as a whole path, escapes resolved', async (t) => {
  t.ok(isMountPoint(MOUNTINFO, '/run/braid/devices/my volume'));
  t.notOk(isMountPoint(MOUNTINFO, '/run/braid/devices/my'));
  t.equal(unescapeMountPath('a\\134b\\011c'), 'a\\b\tc');
});

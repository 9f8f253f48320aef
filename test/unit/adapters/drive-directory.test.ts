/** Making a drive's directory: all or nothing. */
import { existsSync, mkdirSync, readdirSync, statSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { createDriveDirectory } from '../../../daemon/adapters/drive-directory.js';
import { EXTENT_BYTES, MIB, TIB } from '../../../daemon/base/units.js';

const nothing = async (): Promise<void> => undefined;

t.test('reserves the data area, then formats', async (t) => {
  const directory = join(t.testdir(), 'a/drive');
  let slotCount = 0;
  const format = async (count: number) => {
    t.equal(statSync(join(directory, 'data')).size, 32 * EXTENT_BYTES, 'the data area is there first');
    mkdirSync(join(directory, 'meta'));
    slotCount = count;
  };
  await createDriveDirectory({ directory, capacityBytes: 4 * MIB + 17, format });
  t.equal(slotCount, 32, 'whole extents');
  t.ok(statSync(join(directory, 'data')).blocks * 512 >= 4 * MIB, 'space is reserved');
  t.equal(statSync(join(directory, 'data')).mode & 0o777, 0o600);
});

t.test('takes an empty directory, and no other', async (t) => {
  const directory = t.testdir({ full: { file: 'x' }, empty: {}, 'fresh-fs': { 'lost+found': {} }, file: 'x' });
  const create = (name: string) =>
    createDriveDirectory({ directory: join(directory, name), capacityBytes: MIB, format: nothing });
  await create('empty');
  await create('fresh-fs');
  await t.rejects(create('empty'), { code: 'CONFLICT' }, 'now it is not');
  await t.rejects(create('full'), { code: 'CONFLICT', message: /not empty/ });
  await t.rejects(create('file'), { code: 'DRIVE' });
  t.same(readdirSync(join(directory, 'full')), ['file']);
});

t.test('removes what it made when something fails', async (t) => {
  const directory = t.testdir({ there: {} });
  const format = async () => {
    mkdirSync(join(directory, 'there/meta'), { recursive: true });
    writeFileSync(join(directory, 'there/meta/data.mdb'), 'x');
    throw new Error('no');
  };
  await t.rejects(createDriveDirectory({ directory: join(directory, 'there'), capacityBytes: MIB, format }), /no/);
  t.same(readdirSync(join(directory, 'there')), []);
  await t.rejects(createDriveDirectory({ directory: join(directory, 'new'), capacityBytes: MIB, format }), /no/);
  t.notOk(existsSync(join(directory, 'new')));
});

t.test('refuses too little and too much', async (t) => {
  const directory = join(t.testdir(), 'drive');
  await t.rejects(createDriveDirectory({ directory, capacityBytes: EXTENT_BYTES, format: nothing }), {
    code: 'INVALID_ARGUMENT',
  });
  await t.rejects(createDriveDirectory({ directory, capacityBytes: 4 * TIB, format: nothing }), {
    code: 'NO_SPACE',
    message: /smaller capacity/,
  });
  t.notOk(existsSync(directory));
});

t.test('too much is refused before any space is taken from others', async (t) => {
  const directory = join(t.testdir(), 'drive');
  const { bavail, bsize } = statfsSync(t.testdirName);
  const capacityBytes = bavail * bsize + EXTENT_BYTES;
  // Without fallocate the file would be sparse, so that nothing but the question before can refuse it.
  t.intercept(process, 'env', { value: { ...process.env, PATH: t.testdirName } });
  await t.rejects(createDriveDirectory({ directory, capacityBytes, format: nothing }), { code: 'NO_SPACE' });
  t.notOk(existsSync(directory));
});

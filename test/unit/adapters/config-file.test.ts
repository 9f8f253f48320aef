/** Configuration files: YAML maps are read, whatever else there may be is refused with the place and the reason. */
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { readConfigFile } from '../../../daemon/adapters/config-file.js';

function file(t: Test, text: string): string {
  const path = join(t.testdir(), 'braid.yaml');
  writeFileSync(path, text);
  return path;
}

t.test('a map is read with the types that YAML gives its values', async (t) => {
  const path = file(t, '# a comment\nnodeName: a\napiPort: 7440\nslabBytes: 96Mi\nlabels: { rack: "7" }\n');
  const values = { nodeName: 'a', apiPort: 7_440, slabBytes: '96Mi', labels: { rack: '7' } };
  t.same(await readConfigFile(path), { path, values });
});

t.test('an empty file is an empty map', async (t) => {
  for (const text of ['', '\n', '# nothing yet\n', '---\n', '{}']) {
    t.same((await readConfigFile(file(t, text))).values, {}, JSON.stringify(text));
  }
});

t.test('what is no map is refused', async (t) => {
  for (const text of ['7440', 'apiPort', '- apiPort: 7440', 'true']) {
    await t.rejects(readConfigFile(file(t, text)), {
      code: 'INVALID_ARGUMENT',
      message: /braid\.yaml is not a list of settings: write lines like "apiPort: 7440"/,
    });
  }
});

t.test('what is no YAML is refused with line and column', async (t) => {
  const broken = file(t, 'nodeName: a\nlabels: {\n');
  await t.rejects(readConfigFile(broken), { code: 'INVALID_ARGUMENT', message: /braid\.yaml is not YAML: .*line 3/s });
  await t.rejects(readConfigFile(file(t, 'apiPort: 1\napiPort: 2\n')), {
    code: 'INVALID_ARGUMENT',
    message: /Map keys must be unique at line 2/,
  });
  await t.rejects(readConfigFile(file(t, 'a: 1\n---\nb: 2\n')), { code: 'INVALID_ARGUMENT' }, 'two documents');
});

t.test('aliases are refused: a few lines of them can make gigabytes', async (t) => {
  for (const text of ['labels: &all { rack: "7" }\nother: *all\n', 'labels: *nowhere\n']) {
    await t.rejects(readConfigFile(file(t, text)), { code: 'INVALID_ARGUMENT', message: /braid\.yaml.*alias/ });
  }
});

t.test('a file that cannot be read is named, with the reason', async (t) => {
  const missing = join(t.testdir(), 'nowhere.yaml');
  await t.rejects(readConfigFile(missing), {
    code: 'INVALID_ARGUMENT',
    message: /cannot read the configuration file: ENOENT.*nowhere\.yaml/,
  });
  await t.rejects(readConfigFile(t.testdirName), { code: 'INVALID_ARGUMENT', message: /EISDIR/ });
  if (process.getuid?.() === 0) return;
  const secret = file(t, 'nodeName: a\n');
  chmodSync(secret, 0);
  await t.rejects(readConfigFile(secret), { code: 'INVALID_ARGUMENT', message: /EACCES/ });
});

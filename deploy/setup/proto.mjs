/**
 * Generates `daemon/protocol/generated/messages.{js,d.ts}` from `daemon/protocol/*.proto`, and puts the JavaScript
 * where the compiled output looks for it (tsc emits nothing for a `.js` file that has a `.d.ts` beside it).
 *
 *     node deploy/setup/proto.mjs [source folder [output folder for the compiled copy]]
 */
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../', import.meta.url));
const [source = join(root, 'daemon/protocol'), compiled = join(root, 'dist/daemon/protocol')] = process.argv.slice(2);
const generated = resolve(source, 'generated');
const messages = join(generated, 'messages.js');

const FLAGS = [
  ...['--target', 'static-module', '--wrap', 'es6', '--dependency', 'protobufjs/minimal.js', '--dts', '--force-number'],
  ...['--no-create', '--no-verify', '--no-convert', '--no-delimited', '--no-typeurl', '--no-service'],
];

/** 64-bit fields are numbers (the codecs check that they are below 2^53), although npm always installs `long`. */
const WITHOUT_LONG = '$protobuf.util.Long = undefined;\n$protobuf.configure();\n';

/** @param {string} path @param {(text: string) => string} change */
function rewrite(path, change) {
  const before = readFileSync(path, 'utf8');
  const after = change(before);
  if (after === before) throw new Error(`${path}: the generator's output has changed, adapt ${import.meta.filename}`);
  writeFileSync(path, after);
}

const protos = readdirSync(source).filter((name) => name.endsWith('.proto'));
if (protos.length === 0) throw new Error(`${source} holds no .proto file`);

mkdirSync(generated, { recursive: true });
const pbjs = join(root, 'node_modules/protobufjs-cli/bin/pbjs');
execFileSync(process.execPath, [pbjs, ...FLAGS, '--out', messages, ...protos.map((name) => join(source, name))], {
  stdio: 'inherit',
});
rewrite(messages, (text) => text.replace(/^import .*protobufjs\/minimal\.js";\n/m, (line) => line + WITHOUT_LONG));
rewrite(join(generated, 'messages.d.ts'), (text) => text.replace(/^import Long = .*\n/m, ''));
cpSync(messages, join(compiled, 'generated/messages.js'));

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { openApiDocument } from '../../../daemon/api/openapi.js';
import { ERROR_CODES } from '../../../daemon/api/schemas/index.js';
import { errorKinds } from '../../../daemon/base/errors.js';

interface Operation {
  readonly operationId?: string;
  readonly summary?: string;
  readonly requestBody?: { readonly required?: boolean };
  readonly responses: Record<string, unknown>;
}
interface Document {
  readonly paths: Record<string, Record<string, Operation>>;
  readonly components: { readonly schemas: Record<string, object> };
}

const CHECKED_IN = fileURLToPath(new URL('../../../../docs/openapi.json', import.meta.url));

t.test('docs/openapi.json is what the code says', async (t) => {
  const generated: unknown = JSON.parse(JSON.stringify(await openApiDocument()));
  const checkedIn: unknown = JSON.parse(readFileSync(CHECKED_IN, 'utf8'));
  t.strictSame(checkedIn, generated, 'write it anew: npm run build:ts && npm run --silent openapi > docs/openapi.json');
});

t.test('every operation has a name, a summary and the error answer; every reference leads somewhere', async (t) => {
  const document = (await openApiDocument()) as Document;
  const operations = Object.values(document.paths).flatMap((path) => Object.values(path));
  t.ok(operations.length >= 17);
  t.equal(new Set(operations.map(({ operationId }) => operationId)).size, operations.length);
  for (const { operationId, summary, responses } of operations) {
    t.ok(operationId !== undefined && summary !== undefined, `${operationId} is described`);
    t.ok(responses['default'], `${operationId} can fail`);
  }
  const references = [...JSON.stringify(document).matchAll(/"\$ref":"#\/components\/schemas\/([^"]+)"/g)];
  for (const [, name = ''] of references) t.ok(document.components.schemas[name], name);
  t.ok(document.components.schemas['Error']);
});

t.test('a body is required where the request means nothing without it', async (t) => {
  const document = (await openApiDocument()) as Document;
  const operations = Object.values(document.paths).flatMap((path) => Object.values(path));
  const required = new Map<string | undefined, boolean | undefined>();
  for (const { operationId, requestBody } of operations) {
    if (requestBody !== undefined) required.set(operationId, requestBody.required);
  }
  t.same(Object.fromEntries(required), {
    addDrive: true,
    forcePrimary: true,
    changeCluster: true,
    createVolume: true,
    scrub: true,
    attachVolume: false,
    cancelMove: false,
    detachVolume: false,
    moveReplica: true,
    readDrives: false,
    recover: false,
  });
});

t.test('the error codes of the schema are those of the code', async (t) => {
  t.same([...ERROR_CODES].sort(), Object.keys(errorKinds).sort());
});

/** The OpenAPI document of the REST API, without an agent. `docs/openapi.json` is a copy of it (`npm run openapi`); a test compares them. */
import type { ApiDependencies } from './dependencies.js';
import { buildServer } from './server.js';

/** Routes look at the agent when they are called, which never happens here; registering them needs only that the context is there. */
const nobody = { agent: { context: { node: {} } } } as unknown as ApiDependencies;

export async function openApiDocument(): Promise<object> {
  const app = await buildServer(nobody);
  const document = app.swagger();
  await app.close();
  return document;
}

/** The REST API of an agent: all routes on one server, not yet listening. */
import type { ApiDependencies } from './dependencies.js';
import { createApi, type Api } from './fastify.js';
import { attachRoutes } from './routes/attach.js';
import { clusterRoutes } from './routes/cluster.js';
import { addSchemas } from './routes/documented.js';
import { driveRoutes } from './routes/drives.js';
import { forcePrimaryRoutes } from './routes/force-primary.js';
import { healthRoutes } from './routes/health.js';
import { scrubRoutes } from './routes/scrub.js';
import { recoveryRoutes } from './routes/recovery.js';
import { volumeRoutes } from './routes/volumes.js';

export async function buildServer(api: ApiDependencies): Promise<Api> {
  const app = await createApi(api.log);
  addSchemas(app);
  healthRoutes(app, api);
  clusterRoutes(app, api);
  driveRoutes(app, api);
  volumeRoutes(app, api);
  attachRoutes(app, api);
  scrubRoutes(app, api);
  forcePrimaryRoutes(app, api);
  recoveryRoutes(app, api);
  await app.ready();
  return app;
}

/** Prints the OpenAPI document of the compiled API: `npm run openapi > docs/openapi.json`. */
import { openApiDocument } from '../../dist/daemon/api/openapi.js';

console.log(JSON.stringify(await openApiDocument(), null, 2));

/** The parts of a route's schema that all routes share. Answers refer to named schemas, which become components of the OpenAPI document. */
import { Type, type Static, type TSchema } from 'typebox';
import type { Api } from '../fastify.js';
import * as schemas from '../schemas/index.js';

/** A reference to a schema with an `$id`, of the schema's own static type. */
export function ref<T extends TSchema & { $id?: string }>(schema: T) {
  return Type.Unsafe<Static<T>>({ $ref: `${schema.$id ?? ''}#` });
}

/** Answers of a route: this one on success, `Error` otherwise. */
export function answers<T extends TSchema & { $id?: string }>(success: T, description: string) {
  return {
    200: Type.Unsafe<Static<T>>({ ...ref(success), description }),
    default: Type.Unsafe<schemas.ErrorBody>({ $ref: 'Error#', description: 'What went wrong' }),
  };
}

export const NameParams = Type.Object({ name: schemas.Name });

/** Makes every schema with an `$id` known under that name. */
export function addSchemas(app: Api): void {
  for (const schema of Object.values(schemas)) {
    if (typeof schema === 'object' && '$id' in schema) app.addSchema(schema);
  }
}

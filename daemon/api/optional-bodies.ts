/** The OpenAPI document says which bodies can be left out, as `validation.ts` takes one that is left out for `{}`. fastify-swagger requires all. */
import type { SwaggerTransformObject } from '@fastify/swagger';

interface Described {
  readonly paths?: Readonly<Record<string, Readonly<Record<string, { requestBody?: Body }>>>>;
  readonly components?: { readonly schemas?: Readonly<Record<string, { readonly required?: readonly string[] }>> };
}

interface Body {
  required?: boolean;
  readonly content: Readonly<Record<string, { readonly schema?: { readonly $ref?: string } }>>;
}

/** Expects bodies that refer to named schemas (`ref` in `routes/documented.ts`). */
export const describeOptionalBodies: SwaggerTransformObject = (document) => {
  if (!('openapiObject' in document)) return document.swaggerObject;
  const { paths = {}, components } = document.openapiObject as Described;
  for (const { requestBody } of Object.values(paths).flatMap((path) => Object.values(path))) {
    if (requestBody === undefined) continue;
    const name = requestBody.content['application/json']?.schema?.$ref?.split('/').at(-1) ?? '';
    requestBody.required = (components?.schemas?.[name]?.required ?? []).length > 0;
  }
  return document.openapiObject;
};

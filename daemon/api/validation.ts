/** Validates requests by their schemas, with messages for people: what is wrong, where, and what it may have been meant to be. */
import type { FastifySchemaCompiler } from 'fastify';
import type { TSchema } from 'typebox';
import { Compile } from 'typebox/compile';
import { must } from '../base/assert.js';
import { BraidError } from '../base/errors.js';
import { didYouMean } from '../base/nearest.js';
import * as schemas from './schemas/index.js';

interface SchemaError {
  readonly keyword: string;
  readonly instancePath: string;
  readonly message: string;
  readonly params: object;
}

/** Bodies are taken as they are; path and query arrive as text and are converted first. */
export const validatorCompiler: FastifySchemaCompiler<TSchema> = ({ schema: given, httpPart }) => {
  const schema = resolve(given);
  const validator = Compile(schema);
  return (input: unknown) => {
    // A body that is left out is an empty one.
    const value = httpPart === 'body' ? (input ?? {}) : validator.Convert(input);
    if (validator.Check(value)) return { value };
    return { error: explain(httpPart ?? 'request', schema, validator.Errors(value)) };
  };
};

const named = new Map<unknown, TSchema>(
  Object.values(schemas).flatMap((schema) =>
    typeof schema === 'object' && '$id' in schema ? [[`${String(schema.$id)}#`, schema]] : [],
  ),
);

/** Routes refer to bodies by name, so that the OpenAPI document does. */
function resolve(schema: TSchema): TSchema {
  return '$ref' in schema ? must(named.get(schema.$ref), `schema ${String(schema.$ref)}`) : schema;
}

function explain(part: string, schema: TSchema, errors: readonly SchemaError[]): BraidError {
  // An error in a union is followed by one for the union itself, which says more.
  const error = errors.find(({ keyword }) => keyword === 'additionalProperties') ?? unionOf(errors) ?? errors[0];
  if (error === undefined) return new BraidError('INVALID_ARGUMENT', `${part}: malformed`);
  const where = error.instancePath.replace(/^\//, '').replaceAll('/', '.');
  return new BraidError('INVALID_ARGUMENT', `${where === '' ? part : where} ${sentence(error, schema)}`);
}

function unionOf(errors: readonly SchemaError[]): SchemaError | undefined {
  return errors.find(({ keyword }) => keyword === 'anyOf');
}

function sentence(error: SchemaError, schema: TSchema): string {
  const properties = (schema as { properties?: Record<string, { description?: string }> }).properties ?? {};
  const params = error.params as {
    additionalProperties?: string[];
    requiredProperties?: string[];
    allowedValues?: unknown[];
  };
  switch (error.keyword) {
    case 'additionalProperties': {
      const unknown = params.additionalProperties?.[0] ?? '';
      return `has no field "${unknown}"${didYouMean(unknown, Object.keys(properties)) || `; the fields are ${Object.keys(properties).join(', ')}`}`;
    }
    case 'required':
      return `needs ${params.requiredProperties?.map((name) => `"${name}"`).join(', ') ?? 'more fields'}`;
    case 'enum':
      return `must be one of ${params.allowedValues?.join(', ') ?? 'the values of the schema'}`;
    case 'pattern':
    case 'anyOf': {
      const name = error.instancePath.split('/')[1] ?? '';
      const description = properties[name]?.description;
      return description === undefined ? `is malformed: it ${error.message}` : `is malformed; expected: ${description}`;
    }
    default:
      return error.message;
  }
}

/** The HTTP server without routes: limits, validation, error conversion, OpenAPI. */
import swagger from '@fastify/swagger';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import fastify from 'fastify';
import { asError, BraidError } from '../base/errors.js';
import { didYouMean } from '../base/nearest.js';
import { KIB, MIB } from '../base/units.js';
import type { Log } from '../ports/log.js';
import { toHttpError } from './errors.js';
import { describeOptionalBodies } from './optional-bodies.js';
import { validatorCompiler } from './validation.js';

/** Largest request body: the largest request is far below it. */
const BODY_BYTES_MAX = MIB;
const URL_PARAMETER_CHARS_MAX = KIB;
/** A client must have sent its whole request by then; the answer may take longer (attach, verify). */
const REQUEST_TIMEOUT_MS = 30_000;
const KEEP_ALIVE_TIMEOUT_MS = 60_000;
const SLOW_REQUEST_MS = 5_000;

/** Set on requests that one agent passes on to another; they are not passed on again. */
export const FORWARDED_HEADER = 'x-braid-forwarded';

function createInstance() {
  return fastify({
    bodyLimit: BODY_BYTES_MAX,
    requestTimeout: REQUEST_TIMEOUT_MS,
    keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
    // Closing comes last in the agent's end: whoever still waits for an answer is told by the closed connection.
    forceCloseConnections: true,
    routerOptions: { maxParamLength: URL_PARAMETER_CHARS_MAX },
    logger: false,
  }).withTypeProvider<TypeBoxTypeProvider>();
}

export type Api = ReturnType<typeof createInstance>;

/** `paths` answers the paths of the routes, for suggestions. */
export async function createApi(log: Log): Promise<Api> {
  const app = createInstance();
  const paths = new Set<string>();
  app.setValidatorCompiler(validatorCompiler);
  addJsonParser(app);
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Braid',
        version: '1',
        description:
          'Replicated block storage. Any agent answers for the whole cluster. Errors have one form, `Error`, and a closed list of codes.',
        license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
      },
    },
    transformObject: describeOptionalBodies,
    refResolver: { buildLocalReference: (json, _baseUri, _fragment, index) => nameOf(json) ?? `def-${index}` },
  });
  app.addHook('onRoute', ({ url }) => void paths.add(url));
  app.addHook('onRequest', async (request) => {
    if (request.headers['sec-fetch-site'] !== 'cross-site') return;
    throw new BraidError('INVALID_ARGUMENT', 'requests from other web sites are refused');
  });
  app.addHook('onResponse', async (request, reply) => {
    const fields = {
      method: request.method,
      url: request.url,
      status: reply.statusCode,
      ms: Math.round(reply.elapsedTime),
    };
    log[reply.elapsedTime > SLOW_REQUEST_MS ? 'info' : 'debug'](fields, 'request');
  });
  app.setErrorHandler((thrown, request, reply) => {
    const { status, body } = toHttpError(thrown);
    if (body.error.code === 'INTERNAL')
      log.error({ err: asError(thrown), method: request.method, url: request.url }, 'request failed');
    return reply.status(status).send(body);
  });
  app.setNotFoundHandler((request, reply) => {
    const path = request.url.split('?', 1)[0] ?? '';
    const message = `there is no ${request.method} ${path}${didYouMean(path, paths) || '; GET /openapi.json lists what there is'}`;
    const { status, body } = toHttpError(new BraidError('NOT_FOUND', message));
    return reply.status(status).send(body);
  });
  return app;
}

/** An empty body counts as none, whatever its content type says. */
function addJsonParser(app: Api): void {
  const parse = app.getDefaultJsonParser('error', 'error');
  app.addContentTypeParser('application/json', { parseAs: 'string' }, (request, text, done) => {
    if (text === '') return done(null, undefined);
    void parse(request, text.toString(), done);
    return undefined;
  });
}

function nameOf(json: object): string | undefined {
  const id = '$id' in json ? json.$id : undefined;
  return typeof id === 'string' ? id : undefined;
}

import { Type, type Static } from 'typebox';

export const Liveness = Type.Object({ status: Type.Literal('ok') }, { $id: 'Liveness' });
export type Liveness = Static<typeof Liveness>;

/** Answer of /readyz, with status 200 when `ready` and 503 when not. */
export const Readiness = Type.Object(
  {
    ready: Type.Boolean(),
    reasons: Type.Array(Type.String(), { description: 'What is missing; empty when ready' }),
    node: Type.String(),
  },
  { $id: 'Readiness' },
);
export type Readiness = Static<typeof Readiness>;

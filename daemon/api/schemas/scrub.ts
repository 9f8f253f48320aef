import { Type, type Static } from 'typebox';
import { closed, Name } from './common.js';
import { ScrubStats } from './stats.js';

export const ScrubRequest = Type.Object(
  {
    action: Type.Enum(['start', 'stop'], { type: 'string', description: 'What is so already stays so' }),
    drive: Type.Optional(Type.String({ maxLength: 64, description: 'This drive only' })),
    volume: Type.Optional(Name),
  },
  { ...closed, $id: 'ScrubRequest' },
);
export type ScrubRequest = Static<typeof ScrubRequest>;

export const ScrubAnswer = Type.Object(
  {
    drives: Type.Array(Type.String(), { description: 'Ids of the drives that were told' }),
    volumes: Type.Array(Type.String(), { description: 'Names of the volumes that were told' }),
    failures: Type.Array(Type.String(), { description: 'What could not be told, and why' }),
  },
  { $id: 'ScrubAnswer' },
);
export type ScrubAnswer = Static<typeof ScrubAnswer>;

export const ScrubStatus = Type.Object(
  {
    drives: Type.Array(
      Type.Object({
        id: Type.String(),
        node: Type.String({ description: 'Name of its node' }),
        path: Type.String({ description: 'Directory on its node' }),
        scrub: ScrubStats,
      }),
    ),
    volumes: Type.Array(
      Type.Object({
        name: Type.String(),
        node: Type.String({ description: 'Name of the node that serves it' }),
        scrub: ScrubStats,
      }),
      { description: 'Volumes that are served now' },
    ),
    unknown: Type.Array(Type.String(), { description: 'Nodes that do not answer, and why' }),
  },
  { $id: 'ScrubStatus' },
);
export type ScrubStatus = Static<typeof ScrubStatus>;

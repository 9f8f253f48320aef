import { Type, type Static } from 'typebox';

export const EventSeverity = Type.Enum(['info', 'warning', 'error'], { type: 'string' });

export const Event = Type.Object(
  {
    id: Type.String({ description: 'Names the event; ids grow with time' }),
    timeMs: Type.Integer({ description: 'Milliseconds since 1970, by the clock of the node' }),
    severity: EventSeverity,
    node: Type.String({ description: 'Name of the node that saw it' }),
    subject: Type.String({ description: 'volume/NAME, drive/ID, node/NAME or cluster' }),
    message: Type.String(),
  },
  { $id: 'Event' },
);
export type Event = Static<typeof Event>;

export const EventList = Type.Object(
  {
    events: Type.Array(Event, { description: 'Oldest first' }),
    next: Type.String({ description: 'Pass it as `after` to get only what happened later' }),
  },
  { $id: 'EventList' },
);
export type EventList = Static<typeof EventList>;

export const EVENTS_PAGE_MAX = 1_000;

export const EventQuery = Type.Object(
  {
    after: Type.Optional(Type.String({ maxLength: 64, description: 'Only events after this id' })),
    limit: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: EVENTS_PAGE_MAX,
        default: 100,
        description: 'Without `after` the newest ones, with `after` the oldest of those that follow',
      }),
    ),
  },
  { additionalProperties: false },
);
export type EventQuery = Static<typeof EventQuery>;

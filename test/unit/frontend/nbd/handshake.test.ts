import fc from 'fast-check';
import t from 'tap';
import { limits } from '../../../../daemon/base/limits.js';
import {
  Handshake,
  type ExportDirectory,
  type ExportInfo,
  type HandshakeOutcome,
} from '../../../../daemon/frontend/nbd/handshake.js';
import { EXPORT_FLAG, INFO, OPT, REP } from '../../../../daemon/frontend/nbd/protocol.js';

const GIB = 1 << 30;
const RED: ExportInfo = { name: 'red', sizeBytes: GIB, readOnly: false, description: 'a red volume' };
const BLUE: ExportInfo = { name: 'blåu', sizeBytes: 4096, readOnly: true, description: '' };

function directory(exports: ExportInfo[], full: string[] = []): ExportDirectory {
  return {
    list: () => exports,
    find: (name) => (name === '' && exports.length === 1 ? exports[0] : exports.find((e) => e.name === name)) ?? null,
    admits: (name) => !full.includes(name),
  };
}

const u16 = (value: number) => [value >> 8, value & 255];
const u32 = (value: number) => [...u16(value >>> 16), ...u16(value & 0xffff)];
const text = (value: string) => [...Buffer.from(value)];
const counted = (value: string) => [...u32(Buffer.byteLength(value)), ...text(value)];
const option = (number: number, data: number[] = []) => [
  ...text('IHAVEOPT'),
  ...u32(number),
  ...u32(data.length),
  ...data,
];
const go = (name: string, wanted: number[] = [], number: number = OPT.GO) =>
  option(number, [...counted(name), ...u16(wanted.length), ...wanted.flatMap(u16)]);
const contexts = (number: number, name: string, queries: string[]) =>
  option(number, [...counted(name), ...u32(queries.length), ...queries.flatMap(counted)]);
const FIXED = u32(3);

type Answer = { option: number; type: number; data: Buffer };

/** Says `bytes` in fragments of `step`, and answers everything that came back. */
function say(handshake: Handshake, bytes: number[], step = bytes.length): { reply: Buffer; outcome: HandshakeOutcome } {
  const replies: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at += step) {
    const { reply, outcome } = handshake.receive(Uint8Array.from(bytes.slice(at, at + step)));
    replies.push(reply);
    if (outcome.kind !== 'more') return { reply: Buffer.concat(replies), outcome };
  }
  return { reply: Buffer.concat(replies), outcome: { kind: 'more' } };
}

function answers(reply: Buffer): Answer[] {
  const list: Answer[] = [];
  for (let at = 0; at < reply.length;) {
    if (reply.readBigUInt64BE(at) !== 0x0003e889045565a9n) throw new Error('the magic of an option reply');
    const length = reply.readUInt32BE(at + 16);
    const data = reply.subarray(at + 20, at + 20 + length);
    list.push({ option: reply.readUInt32BE(at + 8), type: reply.readUInt32BE(at + 12), data });
    at += 20 + length;
  }
  return list;
}

const types = (reply: Buffer) => answers(reply).map(({ type }) => type);

t.test('greets as a fixed newstyle server', async (t) => {
  const greeting = Buffer.from(new Handshake(directory([RED])).greeting());
  t.equal(greeting.toString('latin1', 0, 16), 'NBDMAGICIHAVEOPT');
  t.same([...greeting.subarray(16)], u16(3));
});

t.test('NBD_OPT_GO enters transmission, in any fragmentation', async (t) => {
  const bytes = [
    ...FIXED,
    ...option(OPT.STRUCTURED_REPLY),
    ...contexts(OPT.SET_META_CONTEXT, 'red', ['base:allocation']),
  ];
  bytes.push(...go('red', [INFO.NAME, INFO.DESCRIPTION, INFO.BLOCK_SIZE, 77]));
  for (const step of [1, 2, 3, 7, 1000]) {
    const { reply, outcome } = say(new Handshake(directory([RED, BLUE])), bytes, step);
    if (outcome.kind !== 'transmission') throw new Error('transmission');
    t.match(outcome, { exportName: 'red', structured: true, hasContext: true });
    t.equal(outcome.leftover.length, 0);
    t.same(types(reply), [REP.ACK, REP.META_CONTEXT, REP.ACK, REP.INFO, REP.INFO, REP.INFO, REP.INFO, REP.ACK]);
    const [, context, , info, sizes, name, description] = answers(reply).map(({ data }) => data);
    t.equal(context?.toString('latin1', 4), 'base:allocation');
    t.equal(info?.readBigUInt64BE(2), BigInt(GIB));
    const { HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES, SEND_DF, CAN_MULTI_CONN } = EXPORT_FLAG;
    const flags = HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_TRIM | SEND_WRITE_ZEROES | SEND_DF | CAN_MULTI_CONN;
    t.equal(info?.readUInt16BE(10), flags);
    t.same(
      [2, 6, 10].map((at) => sizes?.readUInt32BE(at)),
      [512, 4096, limits.nbdRequestBytesMax],
    );
    t.equal(name?.toString('utf8', 2), 'red');
    t.equal(description?.toString('utf8', 2), 'a red volume');
  }
});

t.test('what follows the last option is handed over', async (t) => {
  const { outcome } = say(new Handshake(directory([RED])), [...FIXED, ...go(''), 1, 2, 3]);
  t.equal(outcome.kind, 'transmission');
  if (outcome.kind === 'transmission') t.same([...outcome.leftover], [1, 2, 3]);
});

t.test('NBD_OPT_INFO answers like GO and goes on', async (t) => {
  const { reply, outcome } = say(new Handshake(directory([RED])), [...FIXED, ...go('red', [], OPT.INFO)]);
  t.equal(outcome.kind, 'more');
  t.same(types(reply), [REP.INFO, REP.INFO, REP.ACK]);
  t.equal(answers(reply)[0]?.data.readUInt16BE(10) ?? -1, 0x16d, 'no SEND_DF without structured replies');
});

t.test('NBD_OPT_EXPORT_NAME, with and without zeroes, also for clients that are not fixed newstyle', async (t) => {
  for (const [flags, length] of [
    [0, 134],
    [1, 134],
    [2, 10],
    [3, 10],
  ] as const) {
    const handshake = new Handshake(directory([RED, BLUE]));
    const { reply, outcome } = say(handshake, [...u32(flags), ...option(OPT.EXPORT_NAME, text('blåu'))], 5);
    t.equal(outcome.kind, 'transmission');
    t.equal(reply.length, length);
    t.equal(reply.readBigUInt64BE(0), 4096n);
    t.equal(reply.readUInt16BE(8) & EXPORT_FLAG.READ_ONLY, EXPORT_FLAG.READ_ONLY);
    t.equal(reply.readUInt16BE(8) & (EXPORT_FLAG.SEND_TRIM | EXPORT_FLAG.SEND_WRITE_ZEROES), 0);
  }
});

t.test('the empty name is the only export, and none when there are several', async (t) => {
  t.equal(say(new Handshake(directory([RED])), [...FIXED, ...go('')]).outcome.kind, 'transmission');
  t.same(types(say(new Handshake(directory([RED, BLUE])), [...FIXED, ...go('')]).reply), [REP.ERR_UNKNOWN]);
  t.same(types(say(new Handshake(directory([])), [...FIXED, ...go('')]).reply), [REP.ERR_UNKNOWN]);
  const named = say(new Handshake(directory([])), [...FIXED, ...option(OPT.EXPORT_NAME)]);
  t.match(named.outcome, { kind: 'close', reason: /no export/ });
  t.equal(named.reply.length, 0);
});

t.test('NBD_OPT_LIST', async (t) => {
  const handshake = new Handshake(directory([RED, BLUE]));
  const listed = answers(say(handshake, [...FIXED, ...option(OPT.LIST)]).reply);
  t.same(
    listed.map(({ type }) => type),
    [REP.SERVER, REP.SERVER, REP.ACK],
  );
  t.same([...(listed[0]?.data ?? [])], [...counted('red'), ...text('a red volume')]);
  t.same([...(listed[1]?.data ?? [])], counted('blåu'));
  t.same(types(say(handshake, option(OPT.LIST, [0])).reply), [REP.ERR_INVALID]);
});

t.test('metadata contexts', async (t) => {
  const handshake = new Handshake(directory([RED, BLUE]));
  say(handshake, FIXED);
  const ask = (number: number, name: string, queries: string[]) =>
    types(say(handshake, contexts(number, name, queries)).reply);
  const LIST = OPT.LIST_META_CONTEXT;
  const SET = OPT.SET_META_CONTEXT;
  t.same(ask(SET, 'red', ['base:allocation']), [REP.ERR_INVALID], 'structured replies come first');
  t.same(ask(LIST, 'red', []), [REP.ERR_INVALID]);
  say(handshake, option(OPT.STRUCTURED_REPLY));
  t.same(ask(LIST, 'red', []), [REP.META_CONTEXT, REP.ACK], 'no query lists all');
  t.same(ask(LIST, 'red', ['base:']), [REP.META_CONTEXT, REP.ACK], 'a wildcard lists its namespace');
  t.same(ask(LIST, 'red', ['', 'qemu:', 'base:else']), [REP.ACK]);
  t.same(ask(SET, 'red', []), [REP.ACK], 'no query selects nothing');
  t.same(ask(SET, 'red', ['base:', '', 'x-y:z']), [REP.ACK], 'wildcards select nothing');
  t.same(ask(SET, 'red', ['base:allocation', 'base:allocation']), [REP.META_CONTEXT, REP.ACK]);
  t.same(ask(SET, 'green', ['base:allocation']), [REP.ERR_UNKNOWN]);
  t.same(types(say(handshake, option(SET, [...counted('red'), ...u32(1)])).reply), [REP.ERR_INVALID]);
  t.same(types(say(handshake, option(LIST, [...counted('red'), ...u32(0), 0])).reply), [REP.ERR_INVALID]);
  const { outcome } = say(handshake, go('red'));
  t.match(outcome, { kind: 'transmission', hasContext: false }, 'a SET that failed has replaced what was selected');
});

t.test('a context is good for the export it was selected on, however that is named', async (t) => {
  for (const [exports, selected, chosen, hasContext] of [
    [[RED], '', 'red', true],
    [[RED], 'red', '', true],
    [[RED, BLUE], 'red', 'blåu', false],
  ] as const) {
    const bytes = [
      ...FIXED,
      ...option(OPT.STRUCTURED_REPLY),
      ...contexts(OPT.SET_META_CONTEXT, selected, ['base:allocation']),
    ];
    const { outcome } = say(new Handshake(directory([...exports])), [...bytes, ...go(chosen)]);
    t.match(outcome, { kind: 'transmission', hasContext });
  }
});

t.test('what is not known or not allowed is refused, and the session goes on', async (t) => {
  const handshake = new Handshake(directory([RED], ['red']));
  say(handshake, FIXED);
  const ask = (bytes: number[]) => {
    const { reply, outcome } = say(handshake, bytes);
    t.equal(outcome.kind, 'more');
    return types(reply);
  };
  t.same(ask(option(OPT.STARTTLS)), [REP.ERR_UNSUP]);
  t.same(ask(option(OPT.STARTTLS, [1])), [REP.ERR_INVALID]);
  t.same(ask(option(4)), [REP.ERR_UNSUP]);
  t.same(ask(option(11)), [REP.ERR_UNSUP]);
  t.same(ask(option(0xffffffff, [1, 2, 3])), [REP.ERR_UNSUP]);
  t.same(ask(option(OPT.STRUCTURED_REPLY, [1])), [REP.ERR_INVALID]);
  t.same(ask(go('green')), [REP.ERR_UNKNOWN]);
  t.same(ask(go('red')), [REP.ERR_POLICY], 'the export has all the connections it takes');
  t.same(ask(go('red', [], OPT.INFO)), [REP.INFO, REP.INFO, REP.ACK], 'but it may be asked about');
  t.same(ask(option(OPT.GO, [...u32(5), ...text('red'), 0, 0])), [REP.ERR_INVALID], 'a name beyond the data');
  t.same(ask(option(OPT.GO, [...counted('red'), ...u16(2), 0, 0])), [REP.ERR_INVALID], 'requests beyond the data');
  t.same(ask(option(OPT.GO, [...counted('red'), ...u16(0), 0])), [REP.ERR_INVALID], 'data beyond the requests');
  t.same(ask(option(OPT.GO, [])), [REP.ERR_INVALID]);
  t.same(ask(go('r\0d')), [REP.ERR_INVALID], 'NUL in a string');
  t.same(ask(go('x'.repeat(4097))), [REP.ERR_INVALID], 'a string beyond 4,096 bytes');
  t.same(ask(go('x'.repeat(4096))), [REP.ERR_UNKNOWN]);
  t.same(ask(option(OPT.GO, [...u32(1), 0xff, 0, 0])), [REP.ERR_INVALID], 'a string that is not UTF-8');
});

t.test('NBD_OPT_ABORT is acknowledged', async (t) => {
  const { reply, outcome } = say(new Handshake(directory([RED])), [...FIXED, ...option(OPT.ABORT, [1, 2])]);
  t.same(types(reply), [REP.ACK]);
  t.match(outcome, { kind: 'close', reason: /ended/ });
});

t.test('violations close the session with a reason', async (t) => {
  const full = directory([RED], ['red']);
  const cases: [bytes: number[], reason: RegExp, reply: number[]][] = [
    [u32(4), /unknown client flags/, []],
    [[...FIXED, ...text('IHAVEOPS'), ...u32(3), ...u32(0)], /magic/, []],
    [[...u32(0), ...option(OPT.LIST)], /fixed newstyle/, []],
    [[...FIXED, ...text('IHAVEOPT'), ...u32(99), ...u32(limits.nbdOptionBytesMax + 1)], /bytes/, [REP.ERR_TOO_BIG]],
    [[...FIXED, ...text('IHAVEOPT'), ...u32(1), ...u32(0xffffffff)], /bytes/, []],
    [[...FIXED, ...option(OPT.EXPORT_NAME, [0xc3])], /not a string/, []],
    [[...FIXED, ...option(OPT.EXPORT_NAME, text('red'))], /too many connections/, []],
  ];
  for (const [bytes, reason, reply] of cases) {
    const said = say(new Handshake(full), bytes);
    t.match(said.outcome, { kind: 'close', reason });
    t.same(types(said.reply), reply);
  }
});

t.test('options and replies of a session are bounded', async (t) => {
  const counted = new Handshake(directory([RED]));
  say(counted, FIXED);
  const many = Array.from({ length: limits.nbdOptionsMax }, () => option(99)).flat();
  t.equal(say(counted, many).outcome.kind, 'more');
  t.match(say(counted, option(99)).outcome, { kind: 'close', reason: /too many options/ });

  const large = Array.from({ length: 256 }, (_, i) => ({ ...RED, name: `${i}`, description: 'x'.repeat(1000) }));
  const { reply, outcome } = say(new Handshake(directory(large)), [
    ...FIXED,
    ...Array.from({ length: 100 }, () => option(OPT.LIST)).flat(),
  ]);
  t.match(outcome, { kind: 'close', reason: /too many replies/ });
  t.ok(reply.length < limits.nbdHandshakeReplyBytesMax + 300_000);
});

const anyOption = fc.oneof(
  fc.tuple(fc.nat(13), fc.uint8Array({ maxLength: 40 })).map(([number, data]) => option(number, [...data])),
  fc.constantFrom(go('red', [1, 2, 3], OPT.INFO), option(OPT.LIST), option(OPT.STRUCTURED_REPLY), go('')),
  fc.constantFrom(contexts(OPT.SET_META_CONTEXT, 'red', ['base:allocation']), contexts(OPT.LIST_META_CONTEXT, 'x', [])),
  fc.uint8Array({ minLength: 1, maxLength: 30 }).map((noise) => [...noise]),
);

t.test('property: any bytes in any fragmentation are answered alike, and never throw', async (t) => {
  const conversation = fc.record({
    flags: fc.constantFrom(FIXED, u32(1), u32(0), u32(0xffff)),
    options: fc.array(anyOption, { maxLength: 12 }),
    cuts: fc.infiniteStream(fc.integer({ min: 1, max: 40 })),
  });
  fc.assert(
    fc.property(conversation, ({ flags, options, cuts }) => {
      const bytes = [...flags, ...options.flat()];
      const whole = say(new Handshake(directory([RED, BLUE])), bytes);
      const handshake = new Handshake(directory([RED, BLUE]));
      const replies: Uint8Array[] = [];
      let outcome: HandshakeOutcome = { kind: 'more' };
      let at = 0;
      for (const step of cuts) {
        if (at >= bytes.length || outcome.kind !== 'more') break;
        const said = handshake.receive(Uint8Array.from(bytes.slice(at, at + step)));
        handshake.assertConsistent();
        at += step;
        replies.push(said.reply);
        outcome = said.outcome;
      }
      const isAlike = Buffer.concat(replies).equals(whole.reply) && outcome.kind === whole.outcome.kind;
      const hasReason = outcome.kind !== 'close' || outcome.reason.length > 0;
      return isAlike && hasReason;
    }),
    { numRuns: 2000 },
  );
  t.pass('for 2,000 conversations');
});

t.test('property: noise after the client flags closes with a reason', async (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 16, maxLength: 300 }), (noise) => {
      fc.pre(Buffer.from(noise.subarray(0, 8)).toString('latin1') !== 'IHAVEOPT');
      const { outcome } = say(new Handshake(directory([RED])), [...FIXED, ...noise], 3);
      return outcome.kind === 'close' && outcome.reason.length > 0;
    }),
  );
  t.pass('always');
});

import t from 'tap';
import { crc32c, encodeFrame, parseReply } from '../../support/raw-frames.js';

t.test('CRC-32C has the values of RFC 3720', async (t) => {
  t.equal(crc32c(Buffer.from('123456789')), 0xe3069283);
  t.equal(crc32c(Buffer.alloc(32)), 0x8a9136aa);
  t.equal(crc32c(Buffer.alloc(32, 0xff)), 0x62a8ab43);
});

t.test('a frame has a header, a table and its payload', async (t) => {
  const frame = encodeFrame({ opcode: 0x81, payload: Buffer.alloc(5_000, 1) });
  t.equal(frame.length, 64 + 8 + 5_000);
  t.same(parseReply(frame), { opcode: 0x81, status: 0 });
  t.equal(parseReply(Buffer.from('HTTP/1.1 400')), null);
});

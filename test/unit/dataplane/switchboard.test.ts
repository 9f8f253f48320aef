import t, { type Test } from 'tap';
import { limits } from '../../../daemon/base/limits.js';
import { KIB, MIB } from '../../../daemon/base/units.js';
import { LOOPBACK, Switchboard } from '../../../daemon/dataplane/switchboard.js';
import type { ConnectionId, Network, NetworkHandler } from '../../../daemon/ports/network.js';
import { NO_BUFFER, POOL_FRONTEND } from '../../../daemon/ports/slab.js';
import { Frame, OPCODE, STATUS } from '../../../daemon/protocol/frame.js';
import { SimClock } from '../../sim/world/sim-clock.js';
import { SimSlab } from '../../sim/world/sim-slab.js';

const NOWHERE: Network = {
  connect: () => 1,
  send: () => undefined,
  sendControl: () => undefined,
  setReceiving: () => undefined,
  close: () => undefined,
};

/** A loopback connection whose server end notes what it gets: the tags of the requests. */
function fixture() {
  const slab = new SimSlab({ clock: new SimClock().nodeClock(1, 0), quotaBytes: [MIB, MIB, MIB] });
  const requests: number[] = [];
  const replies: number[] = [];
  const closed: ConnectionId[] = [];
  let serverEnd = 0;
  const handler = (into: number[]): NetworkHandler => ({
    onAccepted: (connection) => {
      serverEnd = connection;
    },
    onConnected: () => undefined,
    onFrame: (_connection, frame, buffer) => {
      into.push(frame.tag);
      if (buffer !== NO_BUFFER) slab.release(buffer);
    },
    onClosed: (connection) => {
      closed.push(connection);
    },
  });
  const board = new Switchboard(NOWHERE, slab, handler(replies), handler(requests), () => undefined);
  const clientEnd = board.connect(LOOPBACK);
  board.deliver();
  const frame = new Frame();
  const request = (opcode: number, tag: number, buffer = NO_BUFFER): void => {
    board.send(clientEnd, frame.request(opcode, tag, 0, 0), buffer, 0, NO_BUFFER);
  };
  const reply = (tag: number): void => {
    board.send(serverEnd, frame.request(OPCODE.WRITE, tag, 0, 0).toReply(STATUS.OK), NO_BUFFER, 0, NO_BUFFER);
  };
  return { board, slab, requests, replies, closed, clientEnd, serverEnd, request, reply };
}

t.test('a paused server end gets control requests only; the others follow in order', (t: Test) => {
  const { board, requests, replies, serverEnd, request, reply } = fixture();
  request(OPCODE.WRITE, 1);
  board.deliver();
  board.setReceiving(serverEnd, false);
  request(OPCODE.WRITE, 2);
  request(OPCODE.COOL, 3);
  request(OPCODE.FLUSH, 4);
  reply(1);
  board.deliver();
  t.same(requests, [1, 3], 'what the server may be waiting for is not held');
  t.same(replies, [1], 'nor are its replies');
  board.setReceiving(serverEnd, true);
  request(OPCODE.READ, 5);
  board.deliver();
  t.same(requests, [1, 3, 2, 4, 5]);
  t.end();
});

t.test('a server end that pauses in the middle of a batch gets no more of it', (t: Test) => {
  const { board, requests, serverEnd, request } = fixture();
  for (let tag = 1; tag <= 3; tag++) request(OPCODE.WRITE, tag);
  const push = requests.push.bind(requests);
  requests.push = (tag) => {
    board.setReceiving(serverEnd, false);
    return push(tag);
  };
  board.deliver();
  t.same(requests, [1]);
  for (let round = 2; round <= 3; round++) {
    board.setReceiving(serverEnd, true);
    board.deliver();
    t.equal(requests.length, round);
  }
  t.same(requests, [1, 2, 3]);
  t.end();
});

t.test('what is held is given back when the connection closes', (t: Test) => {
  const { board, slab, requests, closed, clientEnd, serverEnd, request } = fixture();
  const buffer = slab.alloc(4 * KIB, POOL_FRONTEND);
  board.setReceiving(serverEnd, false);
  request(OPCODE.WRITE, 1, buffer);
  slab.release(buffer);
  board.deliver();
  t.equal(slab.usedBytes(POOL_FRONTEND), 4 * KIB);
  board.close(clientEnd);
  board.deliver();
  t.same(requests, []);
  t.same(closed, [clientEnd, serverEnd]);
  t.equal(slab.usedBytes(POOL_FRONTEND), 0);
  t.end();
});

t.test('a paused connection whose requests no longer fit is closed', (t: Test) => {
  const { board, closed, serverEnd, request } = fixture();
  board.setReceiving(serverEnd, false);
  for (let tag = 1; tag <= limits.framesQueuedPerConnectionMax; tag++) request(OPCODE.WRITE, tag);
  board.deliver();
  t.same(closed, []);
  request(OPCODE.WRITE, 0);
  board.deliver();
  t.equal(closed.length, 2);
  t.end();
});

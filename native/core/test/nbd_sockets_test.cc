// NBD connections over TCP, through a real ring.
#include "driver.h"

using namespace braid;

namespace {

std::string nbdRequest(uint16_t type, uint64_t offset, uint32_t length, uint32_t cookie) {
  std::string bytes(NBD_REQUEST_BYTES, '\0');
  uint8_t* out = reinterpret_cast<uint8_t*>(bytes.data());
  storeBig<uint32_t>(out, NBD_REQUEST_MAGIC);
  storeBig<uint16_t>(out + 6, type);
  storeBig<uint32_t>(out + 12, cookie);
  storeBig<uint64_t>(out + 16, offset);
  storeBig<uint32_t>(out + 24, length);
  return bytes;
}

// A connection in transmission.
struct NbdFixture {
  explicit NbdFixture(const Limits& limits = Limits()) : driver(Driver::SLAB_BYTES, limits) {
    id = driver.waitFor(abi::EVENT_ACCEPTED).words[abi::WORD_TARGET];
    driver.engine->sockets().startTransmission(id, nullptr, 0);
  }
  void finish(uint32_t cookie) {
    uint32_t* words = driver.command(abi::COMMAND_NBD_SIMPLE, id);
    words[abi::WORD_COOKIE_LOW] = cookie;
    words[abi::WORD_FINAL] = 1;
  }
  // Queues `length` bytes of payload, as JavaScript does.
  void sendData(uint32_t buffer, uint32_t length) {
    driver.engine->slab().retain(buffer);
    uint32_t* words = driver.command(abi::COMMAND_NBD_DATA, id);
    words[abi::WORD_BUFFER] = buffer;
    words[abi::WORD_LENGTH] = length;
    unsent() += length;
  }
  uint32_t& unsent() {
    uint8_t* table = driver.engine->memory()->base() + driver.engine->layout().unsent;
    return reinterpret_cast<uint32_t*>(table)[id & ((1u << abi::CONNECTION_SLOT_BITS) - 1)];
  }
  Driver driver;
  Client client{driver.listen(Protocol::NBD)};
  uint32_t id;
};

}  // namespace

TEST(nbd_hands_over_handshake_bytes_and_takes_leftovers_back) {
  Driver driver;
  Client client(driver.listen(Protocol::NBD));
  client.send("hello" + nbdRequest(3, 0, 0, 9));
  const uint32_t id = driver.waitFor(abi::EVENT_BYTES).words[abi::WORD_TARGET];
  Sockets& sockets = driver.engine->sockets();
  CHECK_EQUAL(sockets.handshakeBytes(id), 5 + NBD_REQUEST_BYTES);
  uint8_t bytes[100];
  sockets.takeHandshakeBytes(id, bytes);
  CHECK(std::memcmp(bytes, "hello", 5) == 0);
  driver.turn(0);
  driver.turn(0);
  sockets.startTransmission(id, bytes + 5, NBD_REQUEST_BYTES);
  client.send(nbdRequest(3, 0, 0, 10));
  CHECK_EQUAL(driver.waitFor(abi::EVENT_NBD_REQUEST).words[abi::WORD_COOKIE_LOW], 9u);
  CHECK_EQUAL(driver.waitFor(abi::EVENT_NBD_REQUEST).words[abi::WORD_COOKIE_LOW], 10u);
}

TEST(nbd_delivers_a_large_unaligned_write_in_pieces) {
  NbdFixture test;
  const uint64_t offset = 131072 * 3 + 512;
  std::string payload(300000, '\0');
  for (size_t i = 0; i < payload.size(); i++) payload[i] = static_cast<char>(i * 31 >> 3);
  test.client.send(nbdRequest(NBD_CMD_WRITE, offset, 300000, 4) + payload);
  uint64_t at = 0;
  const uint32_t lengths[] = {131072 - 512, 131072, 300000 - 2 * 131072 + 512};
  for (int piece = 0; piece < 3; piece++) {
    const abi::Record event = test.driver.waitFor(abi::EVENT_NBD_REQUEST);
    CHECK_EQUAL(event.words[abi::WORD_LENGTH], lengths[piece]);
    CHECK_EQUAL(event.words[abi::WORD_PAYLOAD_LENGTH], 300000u);
    CHECK_EQUAL(event.words[abi::WORD_OFFSET_LOW], offset + at);
    CHECK_EQUAL(event.words[abi::WORD_NBD_FLAGS] >> 16, (piece == 0 ? 1u : 0u) | (piece == 2 ? 2u : 0u));
    const uint32_t buffer = event.words[abi::WORD_BUFFER];
    const uint8_t* bytes = test.driver.engine->slab().bytesOf(buffer) + (offset + at) % 4096;
    CHECK(std::memcmp(bytes, payload.data() + at, lengths[piece]) == 0);
    if (piece == 1) {
      CHECK_EQUAL(test.driver.engine->slab().checksumsOf(buffer)[31], crc32c(0, bytes + 31 * 4096, 4096));
    }
    at += lengths[piece];
    test.driver.release(buffer);
  }
  test.finish(4);
  CHECK_EQUAL(test.client.read(test.driver, 16).substr(0, 4), std::string("\x67\x44\x66\x98"));
  CHECK_EQUAL(test.driver.used(), 0u);
}

TEST(nbd_stops_parsing_while_too_many_requests_are_in_flight) {
  Limits limits;
  limits.nbdRequestsMax = 4;
  NbdFixture test(limits);
  std::string bytes;
  for (uint32_t cookie = 1; cookie <= 6; cookie++) bytes += nbdRequest(0, 0, 512, cookie);
  test.client.send(bytes);
  for (uint32_t cookie = 1; cookie <= 4; cookie++) {
    CHECK_EQUAL(test.driver.waitFor(abi::EVENT_NBD_REQUEST).words[abi::WORD_COOKIE_LOW], cookie);
  }
  test.driver.expectSilence();
  test.finish(1);
  CHECK_EQUAL(test.driver.waitFor(abi::EVENT_NBD_REQUEST).words[abi::WORD_COOKIE_LOW], 5u);
  test.driver.expectSilence();
}

TEST(nbd_sends_structured_replies) {
  NbdFixture test;
  test.client.send(nbdRequest(0, 4096, 4096, 1));
  test.driver.waitFor(abi::EVENT_NBD_REQUEST);
  const uint32_t buffer = test.driver.engine->alloc(4096, abi::POOL_FRONTEND);
  std::memset(test.driver.engine->slab().bytesOf(buffer), 'z', 4096);
  uint32_t* words = test.driver.command(abi::COMMAND_NBD_DATA_CHUNK, test.id);
  words[abi::WORD_COOKIE_LOW] = 1;
  words[abi::WORD_OFFSET_LOW] = 4096;
  words[abi::WORD_BUFFER] = buffer;
  words[abi::WORD_LENGTH] = 1000;
  test.unsent() += 1000;
  words = test.driver.command(abi::COMMAND_NBD_HOLE_CHUNK, test.id);
  words[abi::WORD_COOKIE_LOW] = 1;
  words[abi::WORD_OFFSET_LOW] = 5096;
  words[abi::WORD_LENGTH] = 3096;
  words = test.driver.command(abi::COMMAND_NBD_STATUS_CHUNK, test.id);
  words[abi::WORD_COOKIE_LOW] = 1;
  words[abi::WORD_STATUS] = 5;
  words[abi::WORD_FINAL] = 1;
  const std::string bytes = test.client.read(test.driver, 28 + 1000 + 32 + 26);
  const uint8_t* reply = reinterpret_cast<const uint8_t*>(bytes.data());
  CHECK_EQUAL(loadBig<uint32_t>(reply), NBD_STRUCTURED_REPLY_MAGIC);
  CHECK_EQUAL(loadBig<uint16_t>(reply + 6), NBD_REPLY_TYPE_OFFSET_DATA);
  CHECK_EQUAL(loadBig<uint32_t>(reply + 16), 1008u);
  CHECK_EQUAL(loadBig<uint64_t>(reply + 20), 4096u);
  CHECK_EQUAL(bytes[28 + 999], 'z');
  reply += 28 + 1000;
  CHECK_EQUAL(loadBig<uint16_t>(reply + 6), NBD_REPLY_TYPE_OFFSET_HOLE);
  CHECK_EQUAL(loadBig<uint64_t>(reply + 20), 5096u);
  CHECK_EQUAL(loadBig<uint32_t>(reply + 28), 3096u);
  reply += 32;
  CHECK_EQUAL(loadBig<uint16_t>(reply + 4), NBD_REPLY_FLAG_DONE);
  CHECK_EQUAL(loadBig<uint16_t>(reply + 6), NBD_REPLY_TYPE_ERROR);
  CHECK_EQUAL(loadBig<uint32_t>(reply + 20), 5u);
  CHECK_EQUAL(test.driver.used(), 0u);
}

TEST(nbd_counts_what_is_unsent_and_tells_when_it_has_drained) {
  constexpr uint32_t PIECES = 96;
  NbdFixture test;
  Driver& driver = test.driver;
  const uint32_t buffer = driver.engine->alloc(131072, abi::POOL_FRONTEND);
  for (uint32_t i = 0; i < PIECES; i++) test.sendData(buffer, 131072);
  for (int i = 0; i < 50; i++) driver.keep(1000000);
  CHECK(driver.queue.empty());
  CHECK(test.unsent() > driver.engine->limits().nbdUnsentBytesMax);
  uint32_t taken = 0;
  while (driver.queue.empty()) taken += static_cast<uint32_t>(test.client.read(driver, 65536).size());
  CHECK_EQUAL(driver.waitFor(abi::EVENT_DRAINED).words[abi::WORD_TARGET], test.id);
  CHECK(test.unsent() < driver.engine->limits().nbdUnsentBytesMax / 2);
  test.client.read(driver, PIECES * 131072 - taken);
  driver.expectSilence();
  CHECK_EQUAL(test.unsent(), 0u);
  driver.release(buffer);
  CHECK_EQUAL(driver.used(), 0u);
}

TEST(nbd_small_replies_all_arrive_when_the_socket_has_no_room_for_a_while) {
  constexpr uint32_t REPLIES = 8000;
  NbdFixture test;
  const uint32_t buffer = test.driver.engine->alloc(4096, abi::POOL_FRONTEND);
  std::memset(test.driver.engine->slab().bytesOf(buffer), 'y', 4096);
  for (uint32_t i = 0; i < REPLIES; i++) {
    test.sendData(buffer, 1000);
    if (i % 3 == 0) test.driver.keep(0);
  }
  CHECK(test.unsent() > 0);
  const std::string bytes = test.client.read(test.driver, REPLIES * 1000);
  CHECK_EQUAL(bytes.find_first_not_of('y'), std::string::npos);
  while (!test.driver.queue.empty()) test.driver.waitFor(abi::EVENT_DRAINED);
  test.driver.expectSilence();
  CHECK_EQUAL(test.unsent(), 0u);
  test.driver.release(buffer);
  CHECK_EQUAL(test.driver.used(), 0u);
}

TEST(nbd_closes_a_client_that_takes_nothing_but_not_one_that_is_slow) {
  for (const bool isSlow : {true, false}) {
    Limits limits;
    limits.sendStallNs = 1000000000;  // far longer than the 1 MiB of one send takes at the pace below, also on a busy machine
    NbdFixture test(limits);
    Driver& driver = test.driver;
    const uint32_t buffer = driver.engine->alloc(131072, abi::POOL_FRONTEND);
    for (int i = 0; i < 100; i++) test.sendData(buffer, 131072);
    if (isSlow) {
      for (int i = 0; i < 100; i++) {
        test.client.read(driver, 131072);
        driver.keep(15000000);
      }
      driver.waitFor(abi::EVENT_DRAINED);
      for (int i = 0; i < 100; i++) driver.keep(3000000);  // with nothing queued silence is no stall
      driver.expectSilence();
    } else {
      CHECK_EQUAL(driver.waitFor(abi::EVENT_CLOSED).words[abi::WORD_STATUS], abi::CLOSE_PEER_DOES_NOT_READ);
    }
    driver.release(buffer);
    CHECK_EQUAL(driver.used(), 0u);
  }
}

TEST(nbd_closes_on_bad_requests) {
  for (const bool isTooLong : {false, true}) {
    NbdFixture test;
    test.client.send(isTooLong ? nbdRequest(NBD_CMD_WRITE, 0, (32u << 20) + 1, 1) : std::string(NBD_REQUEST_BYTES, 'x'));
    CHECK_EQUAL(test.driver.waitFor(abi::EVENT_CLOSED).words[abi::WORD_STATUS],
                isTooLong ? abi::CLOSE_NBD_WRITE_TOO_LARGE : abi::CLOSE_NBD_BAD_MAGIC);
  }
}

TEST(nbd_delivers_disconnect_and_then_the_end) {
  NbdFixture test;
  test.client.send(nbdRequest(NBD_CMD_DISC, 0, 0, 1) + "whatever follows");
  CHECK_EQUAL(test.driver.waitFor(abi::EVENT_NBD_REQUEST).words[abi::WORD_KIND] >> 16, NBD_CMD_DISC + 0u);
  test.client.end();
  CHECK_EQUAL(test.driver.waitFor(abi::EVENT_CLOSED).words[abi::WORD_STATUS], abi::CLOSE_PEER);
}

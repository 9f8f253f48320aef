// Frames over TCP, through a real ring.
#include "driver.h"

using namespace braid;

namespace {

FrameHeader request(uint8_t opcode, uint32_t tag) {
  FrameHeader header = {};
  header.opcode = opcode;
  header.tag = tag;
  return header;
}

// The close reason after these bytes.
uint32_t reasonAfter(const std::string& bytes) {
  Driver driver;
  Client client(driver.listen(Protocol::FRAMES));
  client.send(bytes);
  const uint32_t reason = driver.waitFor(abi::EVENT_CLOSED).words[abi::WORD_STATUS];
  driver.queue.clear();
  CHECK_EQUAL(driver.used(), 0u);
  return reason;
}

std::string changed(std::string bytes, size_t at) {
  bytes[at] ^= 1;
  return bytes;
}

}  // namespace

TEST(sockets_deliver_frames_with_payload_into_the_peer_pool) {
  Driver driver;
  Client client(driver.listen(Protocol::FRAMES));
  const std::string payload(10000, 'x');
  client.send(frameBytes(request(16, 7), payload) + frameBytes(request(7, 8), ""));
  const abi::Record write = driver.waitFor(abi::EVENT_FRAME);
  const uint32_t buffer = write.words[abi::WORD_BUFFER];
  CHECK_EQUAL(write.words[abi::WORD_TAG], 7u);
  CHECK_EQUAL(write.words[abi::WORD_PAYLOAD_LENGTH], 10000u);
  CHECK(std::memcmp(driver.engine->slab().bytesOf(buffer), payload.data(), payload.size()) == 0);
  CHECK_EQUAL(driver.engine->slab().checksumsOf(buffer)[1], crc32c(0, payload.data(), 4096));
  CHECK_EQUAL(driver.engine->slab().usedBytes(abi::POOL_PEER), 16384u);
  const abi::Record ping = driver.waitFor(abi::EVENT_FRAME);
  CHECK_EQUAL(ping.words[abi::WORD_TAG], 8u);
  CHECK_EQUAL(ping.words[abi::WORD_BUFFER], NO_BUFFER);
  driver.release(buffer);
  CHECK_EQUAL(driver.used(), 0u);
}

TEST(sockets_parse_frames_that_arrive_byte_by_byte) {
  Driver driver;
  Client client(driver.listen(Protocol::FRAMES));
  driver.waitFor(abi::EVENT_ACCEPTED);
  const std::string bytes = frameBytes(request(16, 1), std::string(300, 'a')) + frameBytes(request(7, 2), "");
  for (const char byte : bytes) {
    client.send(std::string(1, byte));
    driver.keep(100000);
  }
  driver.release(driver.waitFor(abi::EVENT_FRAME).words[abi::WORD_BUFFER]);
  CHECK_EQUAL(driver.waitFor(abi::EVENT_FRAME).words[abi::WORD_TAG], 2u);
}

TEST(sockets_close_on_violations_with_their_reason) {
  const std::string good = frameBytes(request(16, 1), std::string(5000, 'p'));
  CHECK_EQUAL(reasonAfter(changed(good, 0)), abi::CLOSE_BAD_MAGIC);
  CHECK_EQUAL(reasonAfter(changed(good, 60)), abi::CLOSE_BAD_HEADER_CHECKSUM);
  CHECK_EQUAL(reasonAfter(changed(good, 64)), abi::CLOSE_BAD_TABLE_CHECKSUM);
  CHECK_EQUAL(reasonAfter(changed(good, 80)), abi::CLOSE_BAD_PAYLOAD_CHECKSUM);
  CHECK_EQUAL(reasonAfter(changed(good, good.size() - 1)), abi::CLOSE_BAD_PAYLOAD_CHECKSUM);
  CHECK_EQUAL(reasonAfter(frameBytes(request(FRAME_READ_REPLY, 1), "data")), abi::CLOSE_UNANNOUNCED_REPLY);
  FrameHeader stray = request(FRAME_READ_REPLY, 1);
  stray.replyBuffer = 0xffffffff;
  CHECK_EQUAL(reasonAfter(frameBytes(stray, "")), abi::CLOSE_UNANNOUNCED_REPLY);
}

TEST(sockets_release_everything_when_a_peer_disconnects_mid_frame) {
  for (const size_t length : {20u, 64u, 70u, 2000u, 60000u, 130000u}) {
    Driver driver;
    Client client(driver.listen(Protocol::FRAMES));
    client.send(frameBytes(request(16, 1), std::string(131072, 'p')).substr(0, length));
    driver.waitFor(abi::EVENT_ACCEPTED);
    for (int i = 0; i < 20; i++) driver.keep(1000000);
    client.end();
    CHECK_EQUAL(driver.waitFor(abi::EVENT_CLOSED).words[abi::WORD_STATUS], abi::CLOSE_PEER_MID_FRAME);
    CHECK_EQUAL(driver.used(), 0u);
  }
}

TEST(sockets_put_read_replies_into_the_announced_buffer) {
  Driver driver;
  const uint16_t port = driver.listen(Protocol::FRAMES);
  const uint32_t id = driver.engine->sockets().reserve();
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  driver.engine->sockets().connect(id, reinterpret_cast<sockaddr*>(&address), sizeof address);
  Slab& slab = driver.engine->slab();
  const uint32_t reply = driver.engine->alloc(8192, abi::POOL_FRONTEND);
  reinterpret_cast<uint32_t*>(driver.engine->memory()->base() + driver.engine->layout().announced)[reply - 1] = id;
  uint32_t* words = driver.command(abi::COMMAND_SEND_FRAME | FRAME_READ << 8, id);
  words[abi::WORD_TAG] = 5;
  words[abi::WORD_LENGTH] = 8192;
  words[abi::WORD_REPLY_BUFFER] = reply;
  const abi::Record read = driver.waitFor(abi::EVENT_FRAME);
  CHECK_EQUAL(read.words[abi::WORD_TAG], 5u);

  const uint32_t data = driver.engine->alloc(8192, abi::POOL_PEER);
  std::memset(slab.bytesOf(data), 'd', 8192);
  driver.engine->computeChecksums(data, 0, 8192);
  words = driver.command(abi::COMMAND_SEND_FRAME | FRAME_READ_REPLY << 8, read.words[abi::WORD_TARGET]);
  words[abi::WORD_TAG] = 5;
  words[abi::WORD_PAYLOAD_LENGTH] = 8192;
  words[abi::WORD_BUFFER] = data;
  const abi::Record arrived = driver.waitFor(abi::EVENT_FRAME);
  CHECK_EQUAL(arrived.words[abi::WORD_TARGET], id);
  CHECK_EQUAL(arrived.words[abi::WORD_BUFFER], reply);
  CHECK_EQUAL(static_cast<char>(slab.bytesOf(reply)[8191]), 'd');
  CHECK_EQUAL(slab.checksumsOf(reply)[1], slab.checksumsOf(data)[1]);
  driver.release(reply);
  CHECK_EQUAL(driver.used(), 0u);
}

TEST(sockets_wait_when_the_pool_is_empty_and_resume_in_turn) {
  Driver driver;
  Slab& slab = driver.engine->slab();
  const uint16_t port = driver.listen(Protocol::FRAMES);
  std::vector<uint32_t> all;
  for (uint32_t buffer; (buffer = slab.alloc(131072, abi::POOL_PEER)) != NO_BUFFER;) all.push_back(buffer);
  Client first(port), second(port);
  first.send(frameBytes(request(16, 1), std::string(131072, '1')));
  first.send(frameBytes(request(16, 3), std::string(131072, '1')));
  driver.waitFor(abi::EVENT_ACCEPTED);
  driver.waitFor(abi::EVENT_ACCEPTED);
  for (int i = 0; i < 20; i++) driver.keep(1000000);
  second.send(frameBytes(request(16, 2), std::string(4096, '2')));
  driver.expectSilence();
  // Whoever waits does not spin: the turns above each blocked.
  const uint64_t enters = driver.engine->ring().enterCount();
  driver.turn(1000000);
  CHECK_EQUAL(driver.engine->ring().enterCount(), enters + 1);
  for (const uint32_t tag : {1u, 2u, 3u}) {
    driver.release(all.back());
    all.pop_back();
    const abi::Record event = driver.waitFor(abi::EVENT_FRAME);
    CHECK_EQUAL(event.words[abi::WORD_TAG], tag);
    all.push_back(event.words[abi::WORD_BUFFER]);
    if (tag == 2) continue;
    CHECK_EQUAL(driver.engine->slab().bytesOf(event.words[abi::WORD_BUFFER])[131071], '1');
  }
  for (const uint32_t buffer : all) driver.release(buffer);
  CHECK_EQUAL(driver.used(), 0u);
}

TEST(sockets_receive_control_replies_from_the_reserve) {
  Driver driver;
  Slab& slab = driver.engine->slab();
  std::vector<uint32_t> all;
  for (uint32_t pool = 0; pool <= abi::POOL_INTERNAL; pool++) {
    for (uint32_t buffer; (buffer = slab.alloc(131072, pool)) != NO_BUFFER;) all.push_back(buffer);
  }
  Client client(driver.listen(Protocol::FRAMES));
  client.send(frameBytes(request(4 | FRAME_REPLY, 1), "reply"));
  driver.release(driver.waitFor(abi::EVENT_FRAME).words[abi::WORD_BUFFER]);
  for (const uint32_t buffer : all) driver.release(buffer);
}

TEST(slab_tells_javascript_once_that_a_pool_has_room) {
  Driver driver;
  std::vector<uint32_t> all;
  for (uint32_t buffer; (buffer = driver.engine->alloc(131072, abi::POOL_INTERNAL)) != NO_BUFFER;) all.push_back(buffer);
  CHECK_EQUAL(driver.engine->alloc(4096, abi::POOL_INTERNAL), NO_BUFFER);
  driver.expectSilence();
  driver.release(all.back());
  all.pop_back();
  CHECK_EQUAL(driver.waitFor(abi::EVENT_AVAILABLE).words[abi::WORD_TARGET], abi::POOL_INTERNAL);
  driver.expectSilence();
  const uint32_t buffer = driver.engine->alloc(4096, abi::POOL_INTERNAL);
  CHECK(buffer != NO_BUFFER);
  driver.release(buffer);
  for (const uint32_t each : all) driver.release(each);
}

TEST(sockets_close_a_peer_that_does_not_read) {
  Limits limits;
  limits.framesQueuedMax = 1000;
  Driver driver(Driver::SLAB_BYTES, limits);
  Client client(driver.listen(Protocol::FRAMES));
  const uint32_t id = driver.waitFor(abi::EVENT_ACCEPTED).words[abi::WORD_TARGET];
  const uint32_t buffer = driver.engine->alloc(131072, abi::POOL_FRONTEND);
  driver.engine->computeChecksums(buffer, 0, 131072);
  for (int i = 0; i < 1500; i++) {
    driver.engine->slab().retain(buffer);
    uint32_t* words = driver.command(abi::COMMAND_SEND_FRAME | 16 << 8, id);
    words[abi::WORD_BUFFER] = buffer;
    words[abi::WORD_PAYLOAD_LENGTH] = 131072;
    if (i % 100 == 0) driver.keep(0);
  }
  CHECK_EQUAL(driver.waitFor(abi::EVENT_CLOSED).words[abi::WORD_STATUS], abi::CLOSE_PEER_DOES_NOT_READ);
  driver.keep(0);
  driver.release(buffer);
  CHECK_EQUAL(driver.used(), 0u);
}

TEST(sockets_send_what_is_queued_before_they_close) {
  Driver driver;
  Client client(driver.listen(Protocol::FRAMES));
  const uint32_t id = driver.waitFor(abi::EVENT_ACCEPTED).words[abi::WORD_TARGET];
  driver.command(abi::COMMAND_SEND_FRAME | 7 << 8, id);
  driver.command(abi::COMMAND_CLOSE, id);
  CHECK_EQUAL(client.read(driver, 64).substr(0, 4), std::string("BRD1"));
  CHECK_EQUAL(driver.waitFor(abi::EVENT_CLOSED).words[abi::WORD_STATUS], abi::CLOSE_LOCAL);
}

TEST(sockets_close_although_the_peer_does_not_read) {
  Driver driver;
  Client client(driver.listen(Protocol::FRAMES));
  const uint32_t id = driver.waitFor(abi::EVENT_ACCEPTED).words[abi::WORD_TARGET];
  const uint32_t buffer = driver.engine->alloc(131072, abi::POOL_FRONTEND);
  driver.engine->computeChecksums(buffer, 0, 131072);
  for (int i = 0; i < 200; i++) {
    driver.engine->slab().retain(buffer);
    uint32_t* words = driver.command(abi::COMMAND_SEND_FRAME | 16 << 8, id);
    words[abi::WORD_BUFFER] = buffer;
    words[abi::WORD_PAYLOAD_LENGTH] = 131072;
  }
  driver.turn(1000000);
  driver.command(abi::COMMAND_CLOSE, id);
  CHECK_EQUAL(driver.waitFor(abi::EVENT_CLOSED).words[abi::WORD_STATUS], abi::CLOSE_LOCAL);
  driver.release(buffer);
  CHECK_EQUAL(driver.used(), 0u);
}

TEST(sockets_refuse_connections_beyond_the_limit) {
  Limits limits;
  limits.connectionsMax = 2;
  Driver driver(Driver::SLAB_BYTES, limits);
  const uint16_t port = driver.listen(Protocol::FRAMES);
  Client first(port), second(port), third(port);
  char byte;
  for (int i = 0; i < 2000 && driver.engine->stats().connectionsRefused == 0; i++) driver.turn(1000000);
  CHECK_EQUAL(driver.engine->stats().connectionsRefused, 1u);
  CHECK(recv(third.fd, &byte, 1, 0) <= 0);
  CHECK_EQUAL(driver.engine->sockets().connectionCount(), 2u);
}

TEST(sockets_report_a_refused_connection) {
  Driver driver;
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  CHECK(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0);
  const uint32_t id = driver.engine->sockets().reserve();
  driver.engine->sockets().connect(id, reinterpret_cast<sockaddr*>(&address), sizeof address);
  const abi::Record closed = driver.waitFor(abi::EVENT_CLOSED);
  CHECK_EQUAL(closed.words[abi::WORD_TARGET], id);
  CHECK_EQUAL(closed.words[abi::WORD_STATUS], abi::CLOSE_CONNECT_FAILED);
  CHECK_EQUAL(closed.words[abi::WORD_ERRNO], static_cast<uint32_t>(ECONNREFUSED));
  close(fd);
}

TEST(sockets_deliver_more_frames_than_one_batch_holds) {
  Driver driver;
  Client client(driver.listen(Protocol::FRAMES));
  std::string bytes;
  for (uint32_t tag = 0; tag < 3000; tag++) bytes += frameBytes(request(7, tag), "");
  client.send(bytes);
  for (uint32_t tag = 0; tag < 3000; tag++) CHECK_EQUAL(driver.waitFor(abi::EVENT_FRAME).words[abi::WORD_TAG], tag);
}

TEST(sockets_stop_receiving_and_resume) {
  Driver driver;
  Client client(driver.listen(Protocol::FRAMES));
  const uint32_t id = driver.waitFor(abi::EVENT_ACCEPTED).words[abi::WORD_TARGET];
  driver.command(abi::COMMAND_RECEIVING, id)[abi::WORD_STATUS] = 0;
  driver.keep(0);
  client.send(frameBytes(request(7, 1), ""));
  driver.expectSilence();
  driver.command(abi::COMMAND_RECEIVING, id)[abi::WORD_STATUS] = 1;
  CHECK_EQUAL(driver.waitFor(abi::EVENT_FRAME).words[abi::WORD_TAG], 1u);
}

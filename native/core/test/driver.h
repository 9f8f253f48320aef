// Drives an engine as its event loop would, for tests: collects events, and keeps books of the buffers that come with them.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "../engine.h"
#include "test.h"

namespace braid {

class Driver {
 public:
  static constexpr uint64_t SLAB_BYTES = 4 << 20;

  explicit Driver(uint64_t slabBytes = SLAB_BYTES, const Limits& limits = Limits()) {
    int error = 0;
    engine = Engine::create(slabBytes, limits, &error);
    CHECK_EQUAL(error, 0);
  }
  ~Driver() {
    if (!engine) return;
    CHECK(engine->quiesce(5000000000));
    engine->slab().assertConsistent();
  }

  // One turn; returns what happened.
  std::vector<abi::Record> turn(int64_t timeoutNs) {
    engine->takeCommands();
    CHECK_EQUAL(engine->enter(engine->hasBacklog() ? 0 : timeoutNs), 0);
    const uint32_t count = engine->collect();
    std::vector<abi::Record> events(engine->events(), engine->events() + count);
    engine->endBatch();
    return events;
  }

  // One turn; what happened waits in `queue`.
  void keep(int64_t timeoutNs) {
    for (const abi::Record& event : turn(timeoutNs)) queue.push_back(event);
  }

  // Turns until an event of this kind; those before it wait in `queue`.
  abi::Record waitFor(uint32_t kind) {
    for (int i = 0; i < 5000; i++) {
      for (size_t at = 0; at < queue.size(); at++) {
        const abi::Record event = queue[at];
        if ((event.words[abi::WORD_KIND] & 0xff) != kind) continue;
        queue.erase(queue.begin() + at);
        return event;
      }
      keep(1000000);
    }
    std::cerr << "no event " << kind << " in time" << std::endl;
    std::exit(1);
  }
  // Turns for a while in which nothing may happen.
  void expectSilence() {
    for (int i = 0; i < 20; i++) keep(1000000);
    CHECK_EQUAL(queue.size(), 0u);
  }

  uint32_t* command(uint32_t kind, uint32_t target) {
    uint32_t& count = engine->control()[abi::CONTROL_COMMAND_COUNT];
    uint32_t* words = engine->commands()[count++].words;
    std::memset(words, 0, sizeof(abi::Record));
    words[abi::WORD_KIND] = kind;
    words[abi::WORD_TARGET] = target;
    return words;
  }

  uint16_t listen(Protocol protocol) {
    uint16_t port = 0;
    CHECK(engine->sockets().listenTcp(protocol, "127.0.0.1", 0, &port) > 0);
    return port;
  }

  void release(uint32_t buffer) { engine->slab().release(buffer); }
  uint64_t used() const {
    uint64_t total = 0;
    for (uint32_t pool = 0; pool < POOL_COUNT; pool++) total += engine->slab().usedBytes(pool);
    return total;
  }

  std::unique_ptr<Engine> engine;
  std::vector<abi::Record> queue;
};

// A plain blocking TCP client.
class Client {
 public:
  explicit Client(uint16_t port) {
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  }
  ~Client() { end(); }
  void end() {
    if (fd >= 0) close(fd);
    fd = -1;
  }
  void send(const std::string& bytes) { CHECK_EQUAL(::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL), ssize_t(bytes.size())); }
  // Reads exactly `length` bytes while the engine turns.
  std::string read(Driver& driver, size_t length) {
    std::string bytes;
    for (int i = 0; i < 5000 && bytes.size() < length; i++) {
      driver.keep(1000000);
      char chunk[65536];
      const ssize_t count = recv(fd, chunk, std::min(sizeof chunk, length - bytes.size()), MSG_DONTWAIT);
      if (count > 0) bytes.append(chunk, count);
    }
    CHECK_EQUAL(bytes.size(), length);
    return bytes;
  }
  int fd;
};

inline std::string frameBytes(FrameHeader header, const std::string& payload) {
  std::vector<uint32_t> table(blocksOf(static_cast<uint32_t>(payload.size())));
  crc32cBlocks(payload.data(), payload.size(), table.data());
  header.payloadLength = static_cast<uint32_t>(payload.size());
  header.tableChecksum = payload.empty() ? 0 : crc32c(0, table.data(), table.size() * 4);
  std::string bytes(FRAME_HEADER_BYTES, '\0');
  packFrame(header, reinterpret_cast<uint8_t*>(bytes.data()));
  return bytes + std::string(reinterpret_cast<char*>(table.data()), table.size() * 4) + payload;
}

}  // namespace braid

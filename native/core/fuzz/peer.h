// What the fuzz targets share: one engine for all inputs, and a client whose connection an input drives.
#pragma once

#include <fcntl.h>
#include <fuzzer/FuzzedDataProvider.h>
#include <sys/un.h>

#include <cerrno>
#include <deque>

#include "../test/driver.h"

namespace braid::fuzz {

// Inputs are short: what an input sends is bounded by this, not by the length of the input.
constexpr int STEPS_MAX = 24;
constexpr int TURNS_MAX = 4000;
constexpr uint32_t STATUS_FIRST = abi::CLOSE_LOCAL;
constexpr uint32_t STATUS_LAST = abi::CLOSE_RESOLVE_FAILED;

inline std::string patternBytes(size_t length, uint8_t seed) {
  std::string bytes(length, '\0');
  for (size_t at = 0; at < length; at++) bytes[at] = static_cast<char>(seed + at * 31 + (at >> 8));
  return bytes;
}

// A driver and a listener of one protocol, made once: making a ring costs far more than an input.
struct Server {
  explicit Server(Protocol protocol, const Limits& limits) : driver(Driver::SLAB_BYTES, limits) {
    char directory[] = "/tmp/braid-fuzz-XXXXXX";
    CHECK(mkdtemp(directory) != nullptr);
    path = std::string(directory) + "/socket";
    CHECK(driver.engine->sockets().listenUnix(protocol, path.c_str()) > 0);
  }
  ~Server() {
    unlink(path.c_str());
    rmdir(path.substr(0, path.rfind('/')).c_str());
  }
  Driver driver;
  std::string path;
};

// One connection, from its accept to its end. A target says in `onEvent` what may happen.
class Peer {
 public:
  explicit Peer(Server& server) : driver(server.driver) {
    fd_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, server.path.c_str(), server.path.size());
    CHECK(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    fcntl(fd_, F_SETFL, O_NONBLOCK);
    id = driver.waitFor(abi::EVENT_ACCEPTED).words[abi::WORD_TARGET];
  }
  virtual ~Peer() = default;

  // Sends all of it, unless the engine closes the connection before it has taken everything.
  void send(const std::string& bytes) {
    for (size_t done = 0; done < bytes.size() && !isClosed;) {
      const ssize_t count = ::send(fd_, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
      if (count > 0) done += static_cast<size_t>(count);
      if (count < 0) turn(errno == EAGAIN ? 1000000 : 0);
    }
  }

  void turn(int64_t timeoutNs) {
    for (const abi::Record& event : driver.turn(timeoutNs)) dispatch(event);
    onBatch();
    takeReplies();
  }

  // Ends the client's side; everything is parsed, the connection is closed with a reason, and nothing is left of it.
  void finish() {
    shutdown(fd_, SHUT_WR);
    for (int turns = 0; !isClosed; turns++) {
      CHECK(turns < TURNS_MAX);
      turn(1000000);
    }
    close(fd_);
    onFinished();
    turn(0);
    CHECK_EQUAL(driver.used(), 0u);
    CHECK_EQUAL(driver.engine->sockets().connectionCount(), 0u);
    driver.engine->slab().assertConsistent();
  }

 protected:
  virtual void onEvent(const abi::Record& event) = 0;
  // After the events of a turn.
  virtual void onBatch() {}
  virtual void onFinished() = 0;

  Driver& driver;
  uint32_t id = 0;
  bool isClosed = false;
  uint32_t reason = 0;

 private:
  void dispatch(const abi::Record& event) {
    // A pool that was empty has something: whoever asked for it does without by now.
    if ((event.words[abi::WORD_KIND] & 0xff) == abi::EVENT_AVAILABLE) return;
    CHECK_EQUAL(event.words[abi::WORD_TARGET], id);
    CHECK(!isClosed);
    if ((event.words[abi::WORD_KIND] & 0xff) != abi::EVENT_CLOSED) return onEvent(event);
    isClosed = true;
    reason = event.words[abi::WORD_STATUS];
    CHECK(reason >= STATUS_FIRST && reason <= STATUS_LAST);
  }

  // A client that takes no replies is another test's.
  void takeReplies() {
    char bytes[65536];
    while (recv(fd_, bytes, sizeof bytes, MSG_DONTWAIT) > 0) {
    }
  }

  int fd_;
};

// `bytes` as a faulty peer might send them.
inline std::string damaged(std::string bytes, FuzzedDataProvider& input) {
  if (bytes.empty()) return bytes;
  const size_t at = input.ConsumeIntegralInRange<size_t>(0, bytes.size() - 1);
  if (input.ConsumeBool()) return bytes.substr(0, at);
  bytes[at] = static_cast<char>(bytes[at] ^ (1 << input.ConsumeIntegralInRange(0, 7)));
  return bytes;
}

}  // namespace braid::fuzz

// An NBD client that errs or lies, after the handshake: whole requests before the first fault arrive as they were sent, WRITEs cut at
// extents, with no more in flight than the limit; the connection ends with a reason and leaves nothing behind.
#include "peer.h"

using namespace braid;
using namespace braid::fuzz;

namespace {

constexpr uint32_t WRITE_BYTES_MAX = 700000;
constexpr uint32_t REQUESTS_MAX = 4;

Limits smallLimits() {
  Limits limits;
  limits.nbdWriteBytesMax = WRITE_BYTES_MAX;
  limits.nbdRequestsMax = REQUESTS_MAX;
  return limits;
}

struct Request {
  uint16_t type;
  uint32_t cookie;
  uint64_t offset;
  std::string payload;
  size_t done;
};

class NbdPeer : public Peer {
 public:
  explicit NbdPeer(Server& server, FuzzedDataProvider& input) : Peer(server) {
    const std::string leftover = damagedOrWhole(input);
    driver.engine->sockets().startTransmission(id, reinterpret_cast<const uint8_t*>(leftover.data()),
                                               static_cast<uint32_t>(leftover.size()));
  }

  void play(FuzzedDataProvider& input) {
    for (int step = 0; step < STEPS_MAX && input.remaining_bytes() > 0 && !isClosed; step++) {
      switch (input.ConsumeIntegralInRange(0, 4)) {
        case 0:
          isFaulty_ = true;
          send(input.ConsumeBytesAsString(input.ConsumeIntegralInRange<size_t>(1, 100)));
          break;
        case 1:
          send(damagedOrWhole(input));
          break;
        case 2:
          turn(100000);
          break;
        case 3:
          answersLate_ = !answersLate_;
          break;
        default: {
          std::string bytes;
          for (int count = input.ConsumeIntegralInRange(1, 8); count > 0; count--) bytes += whole(input);
          send(bytes);
        }
      }
    }
    answersLate_ = false;
    answerAll();
  }

 protected:
  void onEvent(const abi::Record& event) override {
    const uint32_t* words = event.words;
    CHECK_EQUAL(words[abi::WORD_KIND] & 0xff, abi::EVENT_NBD_REQUEST);
    const uint16_t type = static_cast<uint16_t>(words[abi::WORD_KIND] >> 16);
    const uint32_t length = words[abi::WORD_LENGTH];
    const uint64_t offset = static_cast<uint64_t>(words[abi::WORD_OFFSET_HIGH]) << 32 | words[abi::WORD_OFFSET_LOW];
    const uint32_t buffer = words[abi::WORD_BUFFER];
    const bool isLast = (words[abi::WORD_NBD_FLAGS] & 1u << 17) != 0;
    CHECK(offset <= 1ull << 53);
    if (buffer != NO_BUFFER) {
      CHECK_EQUAL(type, NBD_CMD_WRITE);
      CHECK(length > 0 && length <= abi::BUFFER_BYTES_MAX);
      CHECK(offset % abi::BLOCK_BYTES + length <= driver.engine->slab().sizeOf(buffer));
    }
    if (!expected_.empty()) {
      check(type, words[abi::WORD_COOKIE_LOW], offset, length, buffer, isLast);
    } else {
      CHECK(isFaulty_);
    }
    if (buffer != NO_BUFFER) driver.release(buffer);
    if (!isLast || type == NBD_CMD_DISC) return;
    unanswered_.push_back(words[abi::WORD_COOKIE_LOW]);
    CHECK(unanswered_.size() <= REQUESTS_MAX);
  }

  void onBatch() override {
    if (!answersLate_ || unanswered_.size() == REQUESTS_MAX) answerAll();
  }

  void onFinished() override {
    CHECK(expected_.empty());
    if (!isFaulty_) CHECK_EQUAL(reason, abi::CLOSE_PEER);
  }

 private:
  void check(uint16_t type, uint32_t cookie, uint64_t offset, uint32_t length, uint32_t buffer, bool isLast) {
    Request& next = expected_.front();
    CHECK_EQUAL(type, next.type);
    CHECK_EQUAL(cookie, next.cookie);
    CHECK_EQUAL(offset, std::min<uint64_t>(next.offset + next.done, 1ull << 53));
    if (!next.payload.empty()) {
      CHECK(buffer != NO_BUFFER && length <= next.payload.size() - next.done);
      const uint32_t base = static_cast<uint32_t>((next.offset + next.done) % abi::BLOCK_BYTES);
      const uint8_t* bytes = driver.engine->slab().bytesOf(buffer) + base;
      CHECK(std::memcmp(bytes, next.payload.data() + next.done, length) == 0);
      next.done += length;
    }
    CHECK_EQUAL(isLast, next.done == next.payload.size());
    if (isLast) expected_.pop_front();
  }

  std::string whole(FuzzedDataProvider& input) {
    const bool isWrite = input.ConsumeBool();
    uint16_t type = isWrite ? NBD_CMD_WRITE : input.ConsumeIntegral<uint16_t>();
    const uint64_t offset = input.ConsumeIntegral<uint64_t>();
    const uint32_t cookie = input.ConsumeIntegral<uint32_t>();
    const bool hasPayload = type == NBD_CMD_WRITE;
    const uint32_t length = hasPayload ? input.ConsumeIntegralInRange<uint32_t>(0, WRITE_BYTES_MAX) : input.ConsumeIntegral<uint32_t>();
    std::string payload = hasPayload ? patternBytes(length, input.ConsumeIntegral<uint8_t>()) : "";
    std::string bytes(NBD_REQUEST_BYTES, '\0');
    uint8_t* out = reinterpret_cast<uint8_t*>(bytes.data());
    storeBig<uint32_t>(out, NBD_REQUEST_MAGIC);
    storeBig<uint16_t>(out + 4, input.ConsumeIntegral<uint16_t>());
    storeBig<uint16_t>(out + 6, type);
    storeBig<uint32_t>(out + 12, cookie);
    storeBig<uint64_t>(out + 16, offset);
    storeBig<uint32_t>(out + 24, length);
    bytes += payload;
    if (!isFaulty_) expected_.push_back({type, cookie, offset, std::move(payload), 0});
    // What follows a disconnect is nobody's.
    if (type == NBD_CMD_DISC) isFaulty_ = true;
    return bytes;
  }

  std::string damagedOrWhole(FuzzedDataProvider& input) {
    if (input.ConsumeBool()) return "";
    const bool wasFaulty = isFaulty_;
    isFaulty_ = true;
    const std::string bytes = damaged(whole(input).substr(0, 2 * NBD_REQUEST_BYTES), input);
    if (bytes.empty()) isFaulty_ = wasFaulty;
    return bytes;
  }

  void answerAll() {
    for (const uint32_t cookie : unanswered_) {
      uint32_t* words = driver.command(abi::COMMAND_NBD_SIMPLE, id);
      words[abi::WORD_COOKIE_LOW] = cookie;
      words[abi::WORD_FINAL] = 1;
    }
    unanswered_.clear();
  }

  std::deque<Request> expected_;
  std::vector<uint32_t> unanswered_;
  bool answersLate_ = false;
  // From here on what arrives may be anything, or nothing.
  bool isFaulty_ = false;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Server server(Protocol::NBD, smallLimits());
  FuzzedDataProvider input(data, size);
  NbdPeer peer(server, input);
  peer.play(input);
  peer.finish();
  return 0;
}

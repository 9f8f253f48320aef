// Frames from a peer that errs or lies: whatever it sends, whole frames before the first fault arrive as they were sent, buffers are those
// that their lengths need, and the connection ends with a reason and leaves nothing behind.
#include "peer.h"

using namespace braid;
using namespace braid::fuzz;

namespace {

struct Expected {
  uint8_t opcode;
  uint32_t tag;
  std::string payload;
};

class FramesPeer : public Peer {
 public:
  using Peer::Peer;

  void play(FuzzedDataProvider& input) {
    for (int step = 0; step < STEPS_MAX && input.remaining_bytes() > 0 && !isClosed; step++) {
      switch (input.ConsumeIntegralInRange(0, 5)) {
        case 0:
          isFaulty_ = true;
          send(input.ConsumeBytesAsString(input.ConsumeIntegralInRange<size_t>(1, 200)));
          break;
        case 1:
          isFaulty_ = true;
          send(input.ConsumeBool() ? lying(input) : damaged(frameBytes(header(input), payload(input)), input));
          break;
        case 2:
          announceRead(input.ConsumeIntegralInRange<uint32_t>(1, abi::BUFFER_BYTES_MAX));
          break;
        case 3:
          answerRead(input);
          break;
        case 4:
          turn(100000);
          break;
        default:
          sendWhole(header(input), payload(input));
      }
    }
  }

 protected:
  void onEvent(const abi::Record& event) override {
    const uint32_t kind = event.words[abi::WORD_KIND];
    CHECK_EQUAL(kind & 0xff, abi::EVENT_FRAME);
    const uint8_t opcode = static_cast<uint8_t>(kind >> 8);
    const uint32_t length = event.words[abi::WORD_PAYLOAD_LENGTH];
    const uint32_t buffer = event.words[abi::WORD_BUFFER];
    CHECK(length <= abi::BUFFER_BYTES_MAX);
    CHECK_EQUAL(buffer == NO_BUFFER, length == 0);
    if (buffer != NO_BUFFER) CHECK(driver.engine->slab().sizeOf(buffer) >= length);
    if (!expected_.empty()) {
      const Expected& next = expected_.front();
      CHECK_EQUAL(static_cast<int>(opcode), static_cast<int>(next.opcode));
      CHECK_EQUAL(event.words[abi::WORD_TAG], next.tag);
      CHECK_EQUAL(length, next.payload.size());
      if (length > 0) CHECK(std::memcmp(driver.engine->slab().bytesOf(buffer), next.payload.data(), length) == 0);
      expected_.pop_front();
    } else {
      CHECK(isFaulty_);
    }
    if (buffer != NO_BUFFER) driver.release(buffer);
  }

  void onFinished() override {
    CHECK(expected_.empty());
    if (!isFaulty_) CHECK_EQUAL(reason, abi::CLOSE_PEER);
  }

 private:
  static FrameHeader header(FuzzedDataProvider& input) {
    FrameHeader header = {};
    header.opcode = input.ConsumeIntegral<uint8_t>();
    header.flags = input.ConsumeIntegral<uint16_t>();
    header.tag = input.ConsumeIntegral<uint32_t>();
    header.session = input.ConsumeIntegral<uint32_t>();
    header.offset = input.ConsumeIntegral<uint64_t>();
    header.length = input.ConsumeIntegral<uint32_t>();
    header.replyBuffer = input.ConsumeBool() ? input.ConsumeIntegralInRange<uint32_t>(0, 2048) : NO_BUFFER;
    return header;
  }

  static std::string payload(FuzzedDataProvider& input) {
    if (input.ConsumeBool()) return "";
    return patternBytes(input.ConsumeIntegralInRange<size_t>(1, abi::BUFFER_BYTES_MAX), input.ConsumeIntegral<uint8_t>());
  }

  // A header that is whole, and says of its payload what it likes.
  static std::string lying(FuzzedDataProvider& input) {
    FrameHeader header = FramesPeer::header(input);
    header.payloadLength = input.ConsumeIntegral<uint32_t>();
    header.tableChecksum = input.ConsumeIntegral<uint32_t>();
    std::string bytes(FRAME_HEADER_BYTES, '\0');
    packFrame(header, reinterpret_cast<uint8_t*>(bytes.data()));
    return bytes + payload(input);
  }

  void sendWhole(const FrameHeader& header, const std::string& payload) {
    // Whether a READ reply is in order depends on what was announced: `answerRead` knows.
    if (header.opcode == FRAME_READ_REPLY && (header.replyBuffer != NO_BUFFER || !payload.empty())) isFaulty_ = true;
    if (!isFaulty_) expected_.push_back({header.opcode, header.tag, payload});
    send(frameBytes(header, payload));
  }

  // As JavaScript does: a buffer, announced with the READ that goes out.
  void announceRead(uint32_t length) {
    const uint32_t buffer = driver.engine->alloc(length, abi::POOL_INTERNAL);
    if (buffer == NO_BUFFER) return;
    uint8_t* base = driver.engine->memory()->base() + driver.engine->layout().announced;
    reinterpret_cast<uint32_t*>(base)[buffer - 1] = id;
    uint32_t* words = driver.command(abi::COMMAND_SEND_FRAME | FRAME_READ << 8, id);
    words[abi::WORD_TAG] = ++lastTag_;
    words[abi::WORD_LENGTH] = length;
    words[abi::WORD_REPLY_BUFFER] = buffer;
    reads_.push_back({buffer, lastTag_, length});
    turn(0);
  }

  void answerRead(FuzzedDataProvider& input) {
    if (reads_.empty()) return;
    Read read = reads_.front();
    const uint32_t length = input.ConsumeIntegralInRange<uint32_t>(0, abi::BUFFER_BYTES_MAX);
    const bool lies = input.ConsumeBool();
    if (lies) read.tag ^= 1;
    if (lies || length > read.length) isFaulty_ = true;
    FrameHeader header = {};
    header.opcode = FRAME_READ_REPLY;
    header.tag = read.tag;
    header.replyBuffer = read.buffer;
    const std::string payload = patternBytes(length, input.ConsumeIntegral<uint8_t>());
    reads_.pop_front();
    if (!isFaulty_) expected_.push_back({header.opcode, header.tag, payload});
    send(frameBytes(header, payload));
  }

  struct Read {
    uint32_t buffer, tag, length;
  };
  std::deque<Read> reads_;
  uint32_t lastTag_ = 0;
  std::deque<Expected> expected_;
  // From here on what arrives may be anything, or nothing.
  bool isFaulty_ = false;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Server server(Protocol::FRAMES, Limits());
  FuzzedDataProvider input(data, size);
  FramesPeer peer(server);
  peer.play(input);
  peer.finish();
  return 0;
}

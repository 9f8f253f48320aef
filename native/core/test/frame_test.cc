#include "../frame.h"

#include "test.h"

using namespace braid;

namespace {

// A WRITE with FUA of 5 bytes, "braid", whose CRC-32C is the one entry of its table.
const uint8_t EXAMPLE[FRAME_HEADER_BYTES] = {
    0x42, 0x52, 0x44, 0x31, 0x01, 0x10, 0x01, 0x00, 0x44, 0x33, 0x22, 0x11, 0x07, 0x00, 0x00, 0x00,
    0x03, 0x00, 0x00, 0x00, 0x05, 0x00, 0x00, 0x00, 0x09, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x10, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x00, 0x05, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x86, 0x06, 0x3a, 0x8b, 0x00, 0x00, 0x00, 0x00, 0x8e, 0x55, 0x81, 0xa3,
};

FrameHeader exampleHeader() {
  FrameHeader header = {};
  header.opcode = 16;
  header.flags = 1;
  header.tag = 0x11223344;
  header.session = 7;
  header.segment = 3;
  header.generation = 5;
  header.epoch = 9;
  header.offset = 0x200001000;
  header.length = 4096;
  header.payloadLength = 5;
  const uint32_t table = crc32c(0, "braid", 5);
  header.tableChecksum = crc32c(0, &table, sizeof table);
  return header;
}

// The close reason of the example with one byte changed, and the header checksum repaired if asked for.
uint32_t violation(size_t at, uint8_t value, bool repair) {
  uint8_t bytes[FRAME_HEADER_BYTES];
  std::memcpy(bytes, EXAMPLE, sizeof bytes);
  bytes[at] = value;
  if (repair) store<uint32_t>(bytes + 60, crc32c(0, bytes, FRAME_HEADER_CHECKED_BYTES));
  FrameHeader header;
  return parseFrame(bytes, &header);
}

}  // namespace

TEST(frame_packs_the_worked_example) {
  uint8_t bytes[FRAME_HEADER_BYTES];
  packFrame(exampleHeader(), bytes);
  for (uint32_t i = 0; i < FRAME_HEADER_BYTES; i++) CHECK_EQUAL(static_cast<int>(bytes[i]), static_cast<int>(EXAMPLE[i]));
}

TEST(frame_parses_what_it_packs) {
  FrameHeader header = exampleHeader(), parsed;
  header.opcode = FRAME_READ_REPLY;
  header.replyBuffer = 0xdeadbeef;
  header.status = 4;
  uint8_t bytes[FRAME_HEADER_BYTES];
  packFrame(header, bytes);
  CHECK_EQUAL(parseFrame(bytes, &parsed), 0u);
  CHECK_EQUAL(parsed.opcode, header.opcode);
  CHECK_EQUAL(parsed.flags, header.flags);
  CHECK_EQUAL(parsed.tag, header.tag);
  CHECK_EQUAL(parsed.session, header.session);
  CHECK_EQUAL(parsed.segment, header.segment);
  CHECK_EQUAL(parsed.generation, header.generation);
  CHECK_EQUAL(parsed.epoch, header.epoch);
  CHECK_EQUAL(parsed.replyBuffer, header.replyBuffer);
  CHECK_EQUAL(parsed.offset, header.offset);
  CHECK_EQUAL(parsed.length, header.length);
  CHECK_EQUAL(parsed.payloadLength, header.payloadLength);
  CHECK_EQUAL(parsed.status, header.status);
  CHECK_EQUAL(parsed.tableChecksum, header.tableChecksum);
}

TEST(frame_refuses_malformed_headers_in_the_order_of_the_grammar) {
  CHECK_EQUAL(violation(0, 'X', false), abi::CLOSE_BAD_MAGIC);
  for (size_t at = 4; at < FRAME_HEADER_BYTES; at++) {
    CHECK_EQUAL(violation(at, EXAMPLE[at] ^ 0x10, false), abi::CLOSE_BAD_HEADER_CHECKSUM);
  }
  CHECK_EQUAL(violation(4, 2, true), abi::CLOSE_BAD_VERSION);
  CHECK_EQUAL(violation(46, 0x02, true), abi::CLOSE_PAYLOAD_TOO_LARGE);  // 131072 + 5
  CHECK_EQUAL(violation(47, 0xff, true), abi::CLOSE_PAYLOAD_TOO_LARGE);
  CHECK_EQUAL(violation(5, 200, true), 0u);  // unknown opcodes are for the session to refuse
}

TEST(frame_counts_blocks) {
  CHECK_EQUAL(blocksOf(0), 0u);
  CHECK_EQUAL(blocksOf(1), 1u);
  CHECK_EQUAL(blocksOf(4096), 1u);
  CHECK_EQUAL(blocksOf(4097), 2u);
  CHECK_EQUAL(blocksOf(131072), FRAME_BLOCKS_MAX);
}

// The frame header of the Braid wire protocol: its only packer and its only parser. Grammar and a worked example are in
// daemon/protocol/WIRE.md. Pure functions; any thread.
#pragma once

#include <cstdint>
#include <cstring>

#include "abi.h"
#include "crc32c.h"

namespace braid {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "wire integers are copied as they are");

constexpr uint32_t FRAME_MAGIC = 0x31445242;  // "BRD1"
constexpr uint8_t FRAME_VERSION = 1;
constexpr uint32_t FRAME_HEADER_BYTES = 64;
constexpr uint32_t FRAME_HEADER_CHECKED_BYTES = 60;
constexpr uint8_t FRAME_REPLY = 0x80;
constexpr uint8_t FRAME_READ = 17;
constexpr uint8_t FRAME_READ_REPLY = FRAME_READ | FRAME_REPLY;
constexpr uint32_t FRAME_BLOCKS_MAX = abi::BUFFER_BYTES_MAX / abi::BLOCK_BYTES;

struct FrameHeader {
  uint8_t opcode;
  uint16_t flags;
  uint32_t tag;
  uint32_t session;
  uint32_t segment;
  uint32_t generation;
  uint32_t epoch;
  uint32_t replyBuffer;
  uint64_t offset;
  uint32_t length;
  uint32_t payloadLength;
  uint32_t status;
  uint32_t tableChecksum;
};

inline uint32_t blocksOf(uint32_t lengthBytes) { return (lengthBytes + abi::BLOCK_BYTES - 1) / abi::BLOCK_BYTES; }

template <typename T>
inline void store(uint8_t* target, T value) {
  std::memcpy(target, &value, sizeof value);
}

template <typename T>
inline T load(const uint8_t* source) {
  T value;
  std::memcpy(&value, source, sizeof value);
  return value;
}

// Writes FRAME_HEADER_BYTES to `out`.
inline void packFrame(const FrameHeader& header, uint8_t* out) {
  store<uint32_t>(out, FRAME_MAGIC);
  out[4] = FRAME_VERSION;
  out[5] = header.opcode;
  store<uint16_t>(out + 6, header.flags);
  store<uint32_t>(out + 8, header.tag);
  store<uint32_t>(out + 12, header.session);
  store<uint32_t>(out + 16, header.segment);
  store<uint32_t>(out + 20, header.generation);
  store<uint32_t>(out + 24, header.epoch);
  store<uint32_t>(out + 28, header.replyBuffer);
  store<uint64_t>(out + 32, header.offset);
  store<uint32_t>(out + 40, header.length);
  store<uint32_t>(out + 44, header.payloadLength);
  store<uint32_t>(out + 48, header.status);
  store<uint32_t>(out + 52, header.tableChecksum);
  store<uint32_t>(out + 56, 0);
  store<uint32_t>(out + 60, crc32c(0, out, FRAME_HEADER_CHECKED_BYTES));
}

// Reads FRAME_HEADER_BYTES from `in`. Returns 0, or the close reason of the first rule that is violated, in the order of WIRE.md.
inline uint32_t parseFrame(const uint8_t* in, FrameHeader* header) {
  if (load<uint32_t>(in) != FRAME_MAGIC) return abi::CLOSE_BAD_MAGIC;
  if (load<uint32_t>(in + 60) != crc32c(0, in, FRAME_HEADER_CHECKED_BYTES)) return abi::CLOSE_BAD_HEADER_CHECKSUM;
  if (in[4] != FRAME_VERSION) return abi::CLOSE_BAD_VERSION;
  header->opcode = in[5];
  header->flags = load<uint16_t>(in + 6);
  header->tag = load<uint32_t>(in + 8);
  header->session = load<uint32_t>(in + 12);
  header->segment = load<uint32_t>(in + 16);
  header->generation = load<uint32_t>(in + 20);
  header->epoch = load<uint32_t>(in + 24);
  header->replyBuffer = load<uint32_t>(in + 28);
  header->offset = load<uint64_t>(in + 32);
  header->length = load<uint32_t>(in + 40);
  header->payloadLength = load<uint32_t>(in + 44);
  header->status = load<uint32_t>(in + 48);
  header->tableChecksum = load<uint32_t>(in + 52);
  return header->payloadLength > abi::BUFFER_BYTES_MAX ? abi::CLOSE_PAYLOAD_TOO_LARGE : 0;
}

}  // namespace braid

// NBD transmission phase (NetworkBlockDevice/nbd, doc/proto.md): request and reply headers, and how a WRITE is cut into
// pieces. Integers are big-endian on the wire. Pure functions; any thread.
#pragma once

#include <cstdint>

#include "abi.h"
#include "frame.h"

namespace braid {

constexpr uint32_t NBD_REQUEST_BYTES = 28;
constexpr uint32_t NBD_REQUEST_MAGIC = 0x25609513;
constexpr uint32_t NBD_SIMPLE_REPLY_BYTES = 16;
constexpr uint32_t NBD_SIMPLE_REPLY_MAGIC = 0x67446698;
constexpr uint32_t NBD_CHUNK_HEADER_BYTES = 20;
constexpr uint32_t NBD_STRUCTURED_REPLY_MAGIC = 0x668e33ef;
constexpr uint16_t NBD_CMD_WRITE = 1;
constexpr uint16_t NBD_CMD_DISC = 2;
constexpr uint16_t NBD_REPLY_FLAG_DONE = 1;
constexpr uint16_t NBD_REPLY_TYPE_NONE = 0;
constexpr uint16_t NBD_REPLY_TYPE_OFFSET_DATA = 1;
constexpr uint16_t NBD_REPLY_TYPE_OFFSET_HOLE = 2;
constexpr uint16_t NBD_REPLY_TYPE_ERROR = 0x8001;

struct NbdRequestHeader {
  uint16_t flags;
  uint16_t type;
  uint32_t cookieHigh;
  uint32_t cookieLow;
  uint64_t offset;
  uint32_t length;
};

template <typename T>
inline T swapped(T value) {
  if constexpr (sizeof(T) == 2) return __builtin_bswap16(value);
  if constexpr (sizeof(T) == 4) return __builtin_bswap32(value);
  if constexpr (sizeof(T) == 8) return __builtin_bswap64(value);
}

template <typename T>
inline void storeBig(uint8_t* target, T value) {
  store<T>(target, swapped<T>(value));
}

template <typename T>
inline T loadBig(const uint8_t* source) {
  return swapped<T>(load<T>(source));
}

// Returns 0 or a close reason.
inline uint32_t parseNbdRequest(const uint8_t* in, uint32_t writeBytesMax, NbdRequestHeader* header) {
  if (loadBig<uint32_t>(in) != NBD_REQUEST_MAGIC) return abi::CLOSE_NBD_BAD_MAGIC;
  header->flags = loadBig<uint16_t>(in + 4);
  header->type = loadBig<uint16_t>(in + 6);
  header->cookieHigh = loadBig<uint32_t>(in + 8);
  header->cookieLow = loadBig<uint32_t>(in + 12);
  header->offset = loadBig<uint64_t>(in + 16);
  header->length = loadBig<uint32_t>(in + 24);
  if (header->type == NBD_CMD_WRITE && header->length > writeBytesMax) return abi::CLOSE_NBD_WRITE_TOO_LARGE;
  return 0;
}

// Length of the first piece of a WRITE of `length` bytes at `offset`: up to the next multiple of 128 KiB.
inline uint32_t nbdPieceLength(uint64_t offset, uint32_t length) {
  const uint32_t room = abi::BUFFER_BYTES_MAX - static_cast<uint32_t>(offset % abi::BUFFER_BYTES_MAX);
  return length < room ? length : room;
}

inline void packNbdSimpleReply(uint8_t* out, uint32_t cookieHigh, uint32_t cookieLow, uint32_t error) {
  storeBig<uint32_t>(out, NBD_SIMPLE_REPLY_MAGIC);
  storeBig<uint32_t>(out + 4, error);
  storeBig<uint32_t>(out + 8, cookieHigh);
  storeBig<uint32_t>(out + 12, cookieLow);
}

// `length` counts what follows these NBD_CHUNK_HEADER_BYTES.
inline void packNbdChunk(uint8_t* out, bool done, uint16_t type, uint32_t cookieHigh, uint32_t cookieLow, uint32_t length) {
  storeBig<uint32_t>(out, NBD_STRUCTURED_REPLY_MAGIC);
  storeBig<uint16_t>(out + 4, done ? NBD_REPLY_FLAG_DONE : 0);
  storeBig<uint16_t>(out + 6, type);
  storeBig<uint32_t>(out + 8, cookieHigh);
  storeBig<uint32_t>(out + 12, cookieLow);
  storeBig<uint32_t>(out + 16, length);
}

}  // namespace braid

#include "crc32c.h"

#include <cstring>

#include "abi.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__)
#include <arm_acle.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace braid {
namespace {

constexpr uint32_t POLYNOMIAL = 0x82f63b78;  // reflected
// The instruction has a latency of three cycles and a throughput of one: three stripes in turn keep it busy. Three
// stripes of 1,360 bytes and 16 more are one 4 KiB block.
constexpr size_t STRIPE_BYTES = 1360;

struct Tables {
  uint32_t slice[8][256];
  // shift[k][b]: what byte k of a CRC becomes when STRIPE_BYTES zero bytes follow.
  uint32_t shift[4][256];

  Tables() {
    for (uint32_t n = 0; n < 256; n++) {
      uint32_t crc = n;
      for (int bit = 0; bit < 8; bit++) crc = (crc & 1) ? (crc >> 1) ^ POLYNOMIAL : crc >> 1;
      slice[0][n] = crc;
    }
    for (uint32_t n = 0; n < 256; n++) {
      for (int k = 1; k < 8; k++) slice[k][n] = (slice[k - 1][n] >> 8) ^ slice[0][slice[k - 1][n] & 0xff];
    }
    for (int k = 0; k < 4; k++) {
      for (uint32_t n = 0; n < 256; n++) {
        uint32_t crc = n << (8 * k);
        for (size_t i = 0; i < STRIPE_BYTES; i++) crc = (crc >> 8) ^ slice[0][crc & 0xff];
        shift[k][n] = crc;
      }
    }
  }
};

const Tables tables;

inline uint64_t load64(const uint8_t* bytes) {
  uint64_t value;
  std::memcpy(&value, bytes, 8);
  return value;
}

// On inverted CRCs, like all below.
uint32_t updatePortable(uint32_t crc, const uint8_t* bytes, size_t length) {
  while (length >= 8) {
    const uint64_t word = load64(bytes) ^ crc;
    crc = 0;
    for (int k = 0; k < 8; k++) crc ^= tables.slice[7 - k][(word >> (8 * k)) & 0xff];
    bytes += 8;
    length -= 8;
  }
  while (length-- > 0) crc = (crc >> 8) ^ tables.slice[0][(crc ^ *bytes++) & 0xff];
  return crc;
}

#if defined(__x86_64__)
#define BRAID_CRC_TARGET __attribute__((target("sse4.2")))
BRAID_CRC_TARGET inline uint64_t step8(uint64_t crc, const uint8_t* bytes) { return _mm_crc32_u64(crc, load64(bytes)); }
BRAID_CRC_TARGET inline uint32_t step1(uint32_t crc, uint8_t byte) { return _mm_crc32_u8(crc, byte); }
bool hasInstruction() { return __builtin_cpu_supports("sse4.2") != 0; }
#elif defined(__aarch64__)
#define BRAID_CRC_TARGET __attribute__((target("+crc")))
BRAID_CRC_TARGET inline uint64_t step8(uint64_t crc, const uint8_t* bytes) {
  return __crc32cd(static_cast<uint32_t>(crc), load64(bytes));
}
BRAID_CRC_TARGET inline uint32_t step1(uint32_t crc, uint8_t byte) { return __crc32cb(crc, byte); }
bool hasInstruction() { return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0; }
#else
bool hasInstruction() { return false; }
#endif

#if defined(BRAID_CRC_TARGET)
inline uint32_t shiftStripe(uint32_t crc) {
  return tables.shift[0][crc & 0xff] ^ tables.shift[1][(crc >> 8) & 0xff] ^ tables.shift[2][(crc >> 16) & 0xff] ^
         tables.shift[3][crc >> 24];
}

BRAID_CRC_TARGET uint32_t updateInstruction(uint32_t crc, const uint8_t* bytes, size_t length) {
  while (length >= 3 * STRIPE_BYTES) {
    uint64_t a = crc, b = 0, c = 0;
    for (size_t i = 0; i < STRIPE_BYTES; i += 8) {
      a = step8(a, bytes + i);
      b = step8(b, bytes + STRIPE_BYTES + i);
      c = step8(c, bytes + 2 * STRIPE_BYTES + i);
    }
    crc = shiftStripe(shiftStripe(static_cast<uint32_t>(a)) ^ static_cast<uint32_t>(b)) ^ static_cast<uint32_t>(c);
    bytes += 3 * STRIPE_BYTES;
    length -= 3 * STRIPE_BYTES;
  }
  uint64_t single = crc;
  for (; length >= 8; bytes += 8, length -= 8) single = step8(single, bytes);
  crc = static_cast<uint32_t>(single);
  while (length-- > 0) crc = step1(crc, *bytes++);
  return crc;
}
#else
uint32_t updateInstruction(uint32_t crc, const uint8_t* bytes, size_t length) { return updatePortable(crc, bytes, length); }
#endif

const bool accelerated = hasInstruction();

}  // namespace

uint32_t crc32c(uint32_t crc, const void* data, size_t length) {
  const uint8_t* bytes = static_cast<const uint8_t*>(data);
  return ~(accelerated ? updateInstruction(~crc, bytes, length) : updatePortable(~crc, bytes, length));
}

uint32_t crc32cPortable(uint32_t crc, const void* data, size_t length) {
  return ~updatePortable(~crc, static_cast<const uint8_t*>(data), length);
}

void crc32cBlocks(const void* data, size_t length, uint32_t* table) {
  const uint8_t* bytes = static_cast<const uint8_t*>(data);
  for (size_t at = 0; at < length; at += abi::BLOCK_BYTES) {
    const size_t left = length - at;
    *table++ = crc32c(0, bytes + at, left < abi::BLOCK_BYTES ? left : abi::BLOCK_BYTES);
  }
}

bool crc32cIsAccelerated() { return accelerated; }

}  // namespace braid

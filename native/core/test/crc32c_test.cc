#include "../crc32c.h"

#include <cstring>
#include <random>

#include "test.h"

using namespace braid;

// From RFC 3720, appendix B.4, and the usual check value.
TEST(crc32c_known_vectors) {
  uint8_t zeros[32] = {}, ones[32], rising[32];
  std::memset(ones, 0xff, sizeof ones);
  for (int i = 0; i < 32; i++) rising[i] = static_cast<uint8_t>(i);
  for (const auto function : {crc32c, crc32cPortable}) {
    CHECK_EQUAL(function(0, "123456789", 9), 0xe3069283u);
    CHECK_EQUAL(function(0, zeros, 32), 0x8a9136aau);
    CHECK_EQUAL(function(0, ones, 32), 0x62a8ab43u);
    CHECK_EQUAL(function(0, rising, 32), 0x46dd794eu);
    CHECK_EQUAL(function(0, "", 0), 0u);
  }
}

TEST(crc32c_instruction_and_table_agree_at_every_length_and_alignment) {
  std::mt19937 random(1);
  std::vector<uint8_t> data(20000);
  for (uint8_t& byte : data) byte = static_cast<uint8_t>(random());
  for (int round = 0; round < 3000; round++) {
    const size_t start = random() % 64;
    const size_t length = random() % (round % 10 == 0 ? 19000 : 600);
    const uint32_t seed = random();
    CHECK_EQUAL(crc32c(seed, data.data() + start, length), crc32cPortable(seed, data.data() + start, length));
  }
}

TEST(crc32c_continues_over_parts) {
  std::vector<uint8_t> data(10000);
  for (size_t i = 0; i < data.size(); i++) data[i] = static_cast<uint8_t>(i * 7);
  const uint32_t whole = crc32c(0, data.data(), data.size());
  CHECK_EQUAL(crc32c(crc32c(0, data.data(), 4321), data.data() + 4321, data.size() - 4321), whole);
}

TEST(crc32c_blocks_end_with_a_short_one) {
  std::vector<uint8_t> data(4096 * 2 + 100, 5);
  uint32_t table[4] = {0, 0, 0, 77};
  crc32cBlocks(data.data(), data.size(), table);
  CHECK_EQUAL(table[0], crc32cPortable(0, data.data(), 4096));
  CHECK_EQUAL(table[1], table[0]);
  CHECK_EQUAL(table[2], crc32cPortable(0, data.data(), 100));
  CHECK_EQUAL(table[3], 77u);
}

#include "../slab.h"

#include <memory>
#include <random>

#include "test.h"

using namespace braid;

namespace {

struct TestSlab {
  explicit TestSlab(uint32_t blocks)
      : bytes(static_cast<uint64_t>(blocks) * abi::BLOCK_BYTES),
        checksums(blocks),
        refs(blocks),
        freed(blocks),
        orders(blocks),
        slab({bytes.data(), checksums.data(), refs.data(), freed.data(), orders.data(), &freedCount}, blocks) {}
  std::vector<uint8_t> bytes;
  std::vector<uint32_t> checksums, refs, freed;
  std::vector<uint8_t> orders;
  uint32_t freedCount = 0;
  Slab slab;
};

constexpr uint32_t BLOCKS = 16 * CHUNK_BLOCKS;

}  // namespace

TEST(slab_rounds_sizes_up_and_aligns) {
  TestSlab test(BLOCKS);
  const uint32_t lengths[] = {1, 4096, 4097, 12288, 65536, 65537, 131072};
  const uint32_t sizes[] = {4096, 4096, 8192, 16384, 65536, 131072, 131072};
  for (int i = 0; i < 7; i++) {
    const uint32_t buffer = test.slab.alloc(lengths[i], abi::POOL_FRONTEND);
    CHECK(buffer != NO_BUFFER);
    CHECK_EQUAL(test.slab.sizeOf(buffer), sizes[i]);
    CHECK_EQUAL((buffer - 1) % (sizes[i] / abi::BLOCK_BYTES), 0u);
  }
  test.slab.assertConsistent();
}

TEST(slab_splits_and_merges_buddies) {
  TestSlab test(BLOCKS);
  const uint32_t a = test.slab.alloc(4096, abi::POOL_PEER);
  const uint32_t b = test.slab.alloc(4096, abi::POOL_PEER);
  CHECK_EQUAL(b, a + 1);
  test.slab.assertConsistent();
  test.slab.release(a);
  test.slab.assertConsistent();
  test.slab.release(b);
  test.slab.assertConsistent();
  // All merged again: the pool gives as many whole chunks as it has.
  uint64_t chunks = 0;
  while (test.slab.alloc(131072, abi::POOL_PEER) != NO_BUFFER) chunks++;
  CHECK_EQUAL(chunks, test.slab.poolBytes(abi::POOL_PEER) / 131072);
}

TEST(slab_pools_have_quotas_that_others_cannot_use) {
  TestSlab test(BLOCKS);
  CHECK_EQUAL(test.slab.poolBytes(abi::POOL_FRONTEND), 8u * 131072);
  CHECK_EQUAL(test.slab.poolBytes(abi::POOL_PEER), 5u * 131072);
  CHECK_EQUAL(test.slab.poolBytes(abi::POOL_INTERNAL), 2u * 131072);
  CHECK_EQUAL(test.slab.poolBytes(POOL_RESERVE), 1u * 131072);
  while (test.slab.alloc(4096, abi::POOL_FRONTEND) != NO_BUFFER) {
  }
  CHECK_EQUAL(test.slab.usedBytes(abi::POOL_FRONTEND), test.slab.poolBytes(abi::POOL_FRONTEND));
  CHECK(test.slab.alloc(131072, abi::POOL_PEER) != NO_BUFFER);
  CHECK(test.slab.alloc(131072, abi::POOL_INTERNAL) != NO_BUFFER);
  CHECK(test.slab.alloc(131072, POOL_RESERVE) != NO_BUFFER);
  CHECK_EQUAL(test.slab.alloc(1, POOL_RESERVE), NO_BUFFER);
}

TEST(slab_tells_that_something_became_free) {
  TestSlab test(BLOCKS);
  std::vector<uint32_t> all;
  for (uint32_t buffer; (buffer = test.slab.alloc(65536, abi::POOL_INTERNAL)) != NO_BUFFER;) all.push_back(buffer);
  const uint64_t before = test.slab.freeCount(abi::POOL_INTERNAL);
  test.slab.retain(all[0]);
  test.slab.release(all[0]);
  CHECK_EQUAL(test.slab.freeCount(abi::POOL_INTERNAL), before);
  test.slab.release(all[0]);
  CHECK_EQUAL(test.slab.freeCount(abi::POOL_INTERNAL), before + 1);
  CHECK(test.slab.alloc(65536, abi::POOL_INTERNAL) != NO_BUFFER);
}

TEST(slab_frees_what_javascript_released) {
  TestSlab test(BLOCKS);
  const uint32_t buffer = test.slab.alloc(8192, abi::POOL_PEER);
  test.refs[buffer - 1] = 0;
  test.freed[test.freedCount++] = buffer;
  CHECK_EQUAL(test.slab.usedBytes(abi::POOL_PEER), 8192u);
  test.slab.drainFreed();
  CHECK_EQUAL(test.slab.usedBytes(abi::POOL_PEER), 0u);
  CHECK(!test.slab.isAllocated(buffer));
  test.slab.assertConsistent();
}

TEST(slab_stays_consistent_under_random_use) {
  TestSlab test(BLOCKS);
  std::mt19937 random(7);
  std::vector<uint32_t> held;
  for (int step = 0; step < 20000; step++) {
    if (held.empty() || random() % 100 < 52) {
      const uint32_t buffer = test.slab.alloc(1 + random() % 131072, random() % POOL_COUNT);
      if (buffer != NO_BUFFER) held.push_back(buffer);
    } else {
      const size_t at = random() % held.size();
      test.slab.release(held[at]);
      held[at] = held.back();
      held.pop_back();
    }
    if (step % 500 == 0) test.slab.assertConsistent();
  }
  for (const uint32_t buffer : held) test.slab.release(buffer);
  test.slab.assertConsistent();
  for (uint32_t pool = 0; pool < POOL_COUNT; pool++) CHECK_EQUAL(test.slab.usedBytes(pool), 0u);
}

#include "slab.h"

#include <algorithm>
#include <cstring>

#include "assert.h"

namespace braid {

Slab::Slab(const SlabMemory& memory, uint32_t blockCount)
    : memory_(memory), blockCount_(blockCount), next_(blockCount, NONE), previous_(blockCount, NONE) {
  const uint32_t chunks = blockCount / CHUNK_BLOCKS;
  BRAID_ASSERT(blockCount % CHUNK_BLOCKS == 0 && chunks >= CHUNKS_MIN, "a slab is at least eight whole chunks");
  const uint32_t frontend = chunks * 50 / 100;
  const uint32_t peer = chunks * 35 / 100;
  const uint32_t internal = chunks - frontend - peer;
  const uint32_t reserve = std::clamp<uint32_t>(internal / 4, 1, 16);
  poolEnds_[abi::POOL_FRONTEND] = frontend * CHUNK_BLOCKS;
  poolEnds_[abi::POOL_PEER] = (frontend + peer) * CHUNK_BLOCKS;
  poolEnds_[abi::POOL_INTERNAL] = (chunks - reserve) * CHUNK_BLOCKS;
  poolEnds_[POOL_RESERVE] = blockCount;
  for (auto& heads : freeHeads_) std::fill(std::begin(heads), std::end(heads), NONE);
  std::memset(memory_.orders, ORDER_INSIDE, blockCount);
  // Backwards, so that low addresses are used first.
  for (uint32_t block = blockCount; block > 0; block -= CHUNK_BLOCKS) {
    const uint32_t first = block - CHUNK_BLOCKS;
    pushFree(first, ORDER_MAX, poolOf(first));
  }
}

uint8_t Slab::orderFor(uint32_t lengthBytes) {
  uint8_t order = 0;
  while ((abi::BLOCK_BYTES << order) < lengthBytes) order++;
  return order;
}

uint32_t Slab::poolOf(uint32_t block) const {
  uint32_t pool = 0;
  while (block >= poolEnds_[pool]) pool++;
  return pool;
}

uint64_t Slab::poolBytes(uint32_t pool) const {
  const uint32_t start = pool == 0 ? 0 : poolEnds_[pool - 1];
  return static_cast<uint64_t>(poolEnds_[pool] - start) * abi::BLOCK_BYTES;
}

void Slab::pushFree(uint32_t block, uint8_t order, uint32_t pool) {
  uint32_t& head = freeHeads_[pool][order];
  memory_.orders[block] = order | ORDER_FREE;
  next_[block] = head;
  previous_[block] = NONE;
  if (head != NONE) previous_[head] = block;
  head = block;
}

void Slab::removeFree(uint32_t block, uint8_t order, uint32_t pool) {
  if (previous_[block] != NONE) {
    next_[previous_[block]] = next_[block];
  } else {
    freeHeads_[pool][order] = next_[block];
  }
  if (next_[block] != NONE) previous_[next_[block]] = previous_[block];
  memory_.orders[block] = ORDER_INSIDE;
}

uint32_t Slab::alloc(uint32_t lengthBytes, uint32_t pool) {
  BRAID_ASSERT(lengthBytes > 0 && lengthBytes <= abi::BUFFER_BYTES_MAX, "a buffer is 1 byte to 128 KiB");
  BRAID_ASSERT(pool < POOL_COUNT, "the pool exists");
  const uint8_t order = orderFor(lengthBytes);
  uint8_t from = order;
  while (from <= ORDER_MAX && freeHeads_[pool][from] == NONE) from++;
  if (from > ORDER_MAX) return NO_BUFFER;
  const uint32_t block = freeHeads_[pool][from];
  removeFree(block, from, pool);
  while (from > order) {
    from--;
    pushFree(block + (1u << from), from, pool);
  }
  BRAID_ASSERT(memory_.refs[block] == 0, "a free buffer has no references");
  memory_.orders[block] = order;
  memory_.refs[block] = 1;
  usedBytes_[pool] += abi::BLOCK_BYTES << order;
  return block + 1;
}

bool Slab::isAllocated(uint32_t buffer) const {
  return buffer > 0 && buffer <= blockCount_ && memory_.orders[buffer - 1] <= ORDER_MAX && memory_.refs[buffer - 1] > 0;
}

void Slab::retain(uint32_t buffer) {
  BRAID_ASSERT(isAllocated(buffer), "only a buffer in use can be retained");
  memory_.refs[buffer - 1]++;
}

void Slab::release(uint32_t buffer) {
  BRAID_ASSERT(isAllocated(buffer), "only a buffer in use can be released");
  if (--memory_.refs[buffer - 1] == 0) free(buffer - 1);
}

void Slab::drainFreed() {
  const uint32_t count = *memory_.freedCount;
  if (count == 0) return;
  BRAID_ASSERT(count <= blockCount_, "each buffer is freed once");
  *memory_.freedCount = 0;
  for (uint32_t i = 0; i < count; i++) {
    const uint32_t block = memory_.freed[i] - 1;
    BRAID_ASSERT(block < blockCount_ && memory_.refs[block] == 0 && memory_.orders[block] <= ORDER_MAX,
                 "a freed buffer was in use and has no references");
    free(block);
  }
}

void Slab::free(uint32_t block) {
  const uint32_t pool = poolOf(block);
  uint8_t order = memory_.orders[block];
  usedBytes_[pool] -= abi::BLOCK_BYTES << order;
  freeCount_[pool]++;
  memory_.orders[block] = ORDER_INSIDE;
  while (order < ORDER_MAX) {
    const uint32_t buddy = block ^ (1u << order);
    if (memory_.orders[buddy] != (order | ORDER_FREE)) break;
    removeFree(buddy, order, pool);
    block = std::min(block, buddy);
    order++;
  }
  pushFree(block, order, pool);
}

void Slab::assertConsistent() const {
  uint64_t used[POOL_COUNT] = {};
  uint32_t freeBlocks = 0;
  for (uint32_t block = 0; block < blockCount_;) {
    const uint8_t state = memory_.orders[block];
    BRAID_ASSERT(state != ORDER_INSIDE, "a buffer starts where the one before ends");
    const uint8_t order = state & ~ORDER_FREE;
    BRAID_ASSERT(order <= ORDER_MAX && block % (1u << order) == 0, "a buffer is aligned to its size");
    for (uint32_t i = 1; i < (1u << order); i++) {
      BRAID_ASSERT(memory_.orders[block + i] == ORDER_INSIDE, "buffers do not overlap");
    }
    if (state & ORDER_FREE) {
      BRAID_ASSERT(memory_.refs[block] == 0, "a free buffer has no references");
      BRAID_ASSERT(order == ORDER_MAX || memory_.orders[block ^ (1u << order)] != state, "free buddies are merged");
      freeBlocks += 1u << order;
    } else {
      used[poolOf(block)] += abi::BLOCK_BYTES << order;
    }
    block += 1u << order;
  }
  uint32_t listed = 0;
  for (uint32_t pool = 0; pool < POOL_COUNT; pool++) {
    BRAID_ASSERT(used[pool] == usedBytes_[pool], "the meter of a pool is right");
    for (uint8_t order = 0; order <= ORDER_MAX; order++) {
      for (uint32_t at = freeHeads_[pool][order]; at != NONE; at = next_[at]) {
        BRAID_ASSERT(poolOf(at) == pool && memory_.orders[at] == (order | ORDER_FREE), "free lists hold free buffers");
        listed += 1u << order;
      }
    }
  }
  BRAID_ASSERT(listed == freeBlocks, "every free buffer is listed");
}

}  // namespace braid

// The slab: a fixed arena of 4 KiB-aligned buffers of 4..128 KiB, with one CRC-32C per block beside it.
//
// Invariants (executed by assertConsistent):
//  1. Every block belongs to exactly one free or one allocated buffer, and every buffer lies inside one aligned 128 KiB chunk.
//  2. Pools are disjoint runs of chunks, so that one pool's use or fragmentation cannot starve another.
//  3. A buffer is free exactly when it has no references; only its first block carries a count.
//  4. No two free buddies of one order exist: they would have been merged.
//
// JavaScript on the same thread changes reference counts in place; a buffer whose count it takes to zero stays
// allocated until `drainFreed` sees its id in the `freed` list. All methods: engine thread only.
#pragma once

#include <cstdint>
#include <vector>

#include "abi.h"

namespace braid {

constexpr uint32_t NO_BUFFER = 0;
constexpr uint32_t CHUNK_BLOCKS = abi::BUFFER_BYTES_MAX / abi::BLOCK_BYTES;
// Replies to control requests are received here even when everything else is full; metered as INTERNAL.
constexpr uint32_t POOL_RESERVE = 3;
constexpr uint32_t POOL_COUNT = 4;

struct SlabMemory {
  uint8_t* bytes;       // blockCount * BLOCK_BYTES
  uint32_t* checksums;  // one per block, as the next three
  uint32_t* refs;
  uint32_t* freed;
  uint8_t* orders;  // first block of a buffer: its order, | ORDER_FREE; other blocks: ORDER_INSIDE
  uint32_t* freedCount;
};

class Slab {
 public:
  static constexpr uint8_t ORDER_MAX = 5;
  static constexpr uint8_t ORDER_FREE = 0x40;
  static constexpr uint8_t ORDER_INSIDE = 0xff;
  static constexpr uint32_t CHUNKS_MIN = 8;

  // `blockCount` is a multiple of CHUNK_BLOCKS. Pools get 50, 35 and 15 percent of the chunks.
  Slab(const SlabMemory& memory, uint32_t blockCount);

  // A buffer of at least `lengthBytes` (1..128 KiB) with one reference, or NO_BUFFER.
  uint32_t alloc(uint32_t lengthBytes, uint32_t pool);
  void retain(uint32_t buffer);
  // Frees the buffer when this was its last reference.
  void release(uint32_t buffer);
  // Frees what JavaScript has released.
  void drainFreed();

  uint8_t* bytesOf(uint32_t buffer) const { return memory_.bytes + static_cast<uint64_t>(buffer - 1) * abi::BLOCK_BYTES; }
  uint32_t* checksumsOf(uint32_t buffer) const { return memory_.checksums + (buffer - 1); }
  uint32_t sizeOf(uint32_t buffer) const { return abi::BLOCK_BYTES << memory_.orders[buffer - 1]; }
  bool isAllocated(uint32_t buffer) const;
  uint32_t blockCount() const { return blockCount_; }
  uint64_t usedBytes(uint32_t pool) const { return usedBytes_[pool]; }
  uint64_t poolBytes(uint32_t pool) const;
  // Grows whenever a buffer of the pool becomes free: tells a waiter that trying again may help.
  uint64_t freeCount(uint32_t pool) const { return freeCount_[pool]; }

  // Checks the invariants above; slow, for tests and debugging.
  void assertConsistent() const;

 private:
  static constexpr uint32_t NONE = 0xffffffff;
  static uint8_t orderFor(uint32_t lengthBytes);
  uint32_t poolOf(uint32_t block) const;
  void pushFree(uint32_t block, uint8_t order, uint32_t pool);
  void removeFree(uint32_t block, uint8_t order, uint32_t pool);
  void free(uint32_t block);

  SlabMemory memory_;
  uint32_t blockCount_;
  uint32_t poolEnds_[POOL_COUNT];  // first block behind each pool
  uint32_t freeHeads_[POOL_COUNT][ORDER_MAX + 1];
  std::vector<uint32_t> next_;
  std::vector<uint32_t> previous_;
  uint64_t usedBytes_[POOL_COUNT] = {};
  uint64_t freeCount_[POOL_COUNT] = {};
};

}  // namespace braid

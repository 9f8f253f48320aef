// What a connection has yet to send, as a list of byte runs: headers (packed into 16 KiB blocks, so that neighbouring small
// frames go out as one run), payload in slab buffers (one reference each), and copied control payload. Engine thread only.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <vector>

#include "slab.h"

namespace braid {

// Recycles the blocks that headers are packed into, for all connections of an engine.
class HeadBlocks {
 public:
  static constexpr uint32_t BYTES = 16384;
  struct Block {
    uint32_t usedBytes;
    uint32_t pendingBytes;  // of usedBytes, not yet sent
    uint8_t bytes[BYTES - 8];
  };
  ~HeadBlocks();
  Block* take();
  void give(Block* block);
  static Block* of(const uint8_t* bytes) {
    return reinterpret_cast<Block*>(reinterpret_cast<uintptr_t>(bytes) & ~static_cast<uintptr_t>(BYTES - 1));
  }

 private:
  static constexpr size_t SPARE_MAX = 256;
  std::vector<Block*> spare_;
};

class SendQueue {
 public:
  static constexpr uint32_t RUNS_PER_CALL = 256;
  // Enough per call to keep a socket busy; what it sends is given back, and counts as progress, when the call is over.
  static constexpr uint32_t BYTES_PER_CALL = 1u << 20;

  SendQueue(HeadBlocks& blocks, Slab& slab) : blocks_(blocks), slab_(slab) {}
  ~SendQueue() { clear(); }
  SendQueue(const SendQueue&) = delete;
  SendQueue& operator=(const SendQueue&) = delete;

  // Room for a frame's header of `lengthBytes` (at most 512); the caller fills it at once. Counts one frame.
  uint8_t* appendHead(uint32_t lengthBytes);
  // Takes over one reference of `buffer`.
  void appendBuffer(uint32_t buffer, uint32_t offsetBytes, uint32_t lengthBytes);
  // Copies the bytes.
  void appendCopy(const uint8_t* bytes, uint32_t lengthBytes);

  // The first runs of the queue, for one call; returns how many.
  uint32_t gather(iovec* runs) const;
  // The first `sentBytes` bytes are gone: drops them and what they held.
  void advance(uint64_t sentBytes);
  void clear();

  bool isEmpty() const { return count_ == 0; }
  uint32_t frameCount() const { return frameCount_; }
  uint64_t copiedBytes() const { return copiedBytes_; }
  // Payload in slab buffers.
  uint64_t bufferBytes() const { return bufferBytes_; }

 private:
  enum class Kind : uint32_t { HEAD, BUFFER, COPY };
  struct Run {
    uint8_t* bytes;
    uint8_t* copy;  // what to free, for COPY
    uint32_t lengthBytes;
    uint32_t buffer;
    uint32_t frames;
    Kind kind;
  };
  Run& at(uint32_t index) { return runs_[(first_ + index) & (runs_.size() - 1)]; }
  const Run& at(uint32_t index) const { return runs_[(first_ + index) & (runs_.size() - 1)]; }
  Run& append();
  void drop(Run& run, uint32_t bytes);

  HeadBlocks& blocks_;
  Slab& slab_;
  std::vector<Run> runs_ = std::vector<Run>(64);  // a circle; its size is a power of two
  uint32_t first_ = 0;
  uint32_t count_ = 0;
  uint32_t frameCount_ = 0;
  uint64_t copiedBytes_ = 0;
  uint64_t bufferBytes_ = 0;
  HeadBlocks::Block* tail_ = nullptr;
};

}  // namespace braid

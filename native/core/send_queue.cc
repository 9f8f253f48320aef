#include "send_queue.h"

#include <cstdlib>
#include <cstring>

#include "assert.h"

namespace braid {

HeadBlocks::~HeadBlocks() {
  for (Block* block : spare_) std::free(block);
}

HeadBlocks::Block* HeadBlocks::take() {
  Block* block;
  if (spare_.empty()) {
    block = static_cast<Block*>(std::aligned_alloc(BYTES, BYTES));
    BRAID_ASSERT(block != nullptr, "memory for 16 KiB of headers");
  } else {
    block = spare_.back();
    spare_.pop_back();
  }
  block->usedBytes = 0;
  block->pendingBytes = 0;
  return block;
}

void HeadBlocks::give(Block* block) {
  if (spare_.size() < SPARE_MAX) {
    spare_.push_back(block);
  } else {
    std::free(block);
  }
}

SendQueue::Run& SendQueue::append() {
  if (count_ == runs_.size()) {
    std::vector<Run> larger(runs_.size() * 2);
    for (uint32_t i = 0; i < count_; i++) larger[i] = at(i);
    runs_.swap(larger);
    first_ = 0;
  }
  Run& run = at(count_++);
  run = {};
  return run;
}

uint8_t* SendQueue::appendHead(uint32_t lengthBytes) {
  BRAID_ASSERT(lengthBytes <= 512, "a frame's header is small");
  if (tail_ == nullptr || tail_->usedBytes + lengthBytes > sizeof tail_->bytes) {
    if (tail_ != nullptr && tail_->pendingBytes == 0) blocks_.give(tail_);
    tail_ = blocks_.take();
  }
  uint8_t* bytes = tail_->bytes + tail_->usedBytes;
  tail_->usedBytes += lengthBytes;
  tail_->pendingBytes += lengthBytes;
  frameCount_++;
  // A run that is being sent may grow: what was sent is told in bytes.
  if (count_ > 0) {
    Run& last = at(count_ - 1);
    if (last.kind == Kind::HEAD && last.bytes + last.lengthBytes == bytes && HeadBlocks::of(last.bytes) == tail_) {
      last.lengthBytes += lengthBytes;
      last.frames++;
      return bytes;
    }
  }
  Run& run = append();
  run.bytes = bytes;
  run.lengthBytes = lengthBytes;
  run.frames = 1;
  run.kind = Kind::HEAD;
  return bytes;
}

void SendQueue::appendBuffer(uint32_t buffer, uint32_t offsetBytes, uint32_t lengthBytes) {
  BRAID_ASSERT(lengthBytes > 0 && static_cast<uint64_t>(offsetBytes) + lengthBytes <= slab_.sizeOf(buffer),
               "payload lies inside its buffer");
  Run& run = append();
  run.bytes = slab_.bytesOf(buffer) + offsetBytes;
  run.lengthBytes = lengthBytes;
  run.buffer = buffer;
  run.kind = Kind::BUFFER;
  bufferBytes_ += lengthBytes;
}

void SendQueue::appendCopy(const uint8_t* bytes, uint32_t lengthBytes) {
  if (lengthBytes == 0) return;
  Run& run = append();
  run.copy = static_cast<uint8_t*>(std::malloc(lengthBytes));
  BRAID_ASSERT(run.copy != nullptr, "memory for a control message");
  std::memcpy(run.copy, bytes, lengthBytes);
  run.bytes = run.copy;
  run.lengthBytes = lengthBytes;
  run.kind = Kind::COPY;
  copiedBytes_ += lengthBytes;
}

uint32_t SendQueue::gather(iovec* runs) const {
  uint32_t count = 0;
  for (uint32_t bytes = 0; count < count_ && count < RUNS_PER_CALL && bytes < BYTES_PER_CALL; count++) {
    runs[count] = {at(count).bytes, at(count).lengthBytes};
    bytes += at(count).lengthBytes;
  }
  return count;
}

// The first `bytes` of the run are gone.
void SendQueue::drop(Run& run, uint32_t bytes) {
  if (run.kind == Kind::HEAD) {
    HeadBlocks::Block* block = HeadBlocks::of(run.bytes);
    block->pendingBytes -= bytes;
    if (block->pendingBytes == 0) {
      if (block == tail_) {
        block->usedBytes = 0;
      } else {
        blocks_.give(block);
      }
    }
  }
  run.bytes += bytes;
  run.lengthBytes -= bytes;
  if (run.kind == Kind::COPY) copiedBytes_ -= bytes;
  if (run.kind == Kind::BUFFER) bufferBytes_ -= bytes;
  if (run.lengthBytes > 0) return;
  frameCount_ -= run.frames;
  if (run.kind == Kind::BUFFER) slab_.release(run.buffer);
  if (run.kind == Kind::COPY) std::free(run.copy);
}

void SendQueue::advance(uint64_t sentBytes) {
  while (sentBytes > 0) {
    BRAID_ASSERT(count_ > 0, "only what was queued is sent");
    Run& run = at(0);
    const uint32_t bytes = sentBytes < run.lengthBytes ? static_cast<uint32_t>(sentBytes) : run.lengthBytes;
    sentBytes -= bytes;
    drop(run, bytes);
    if (run.lengthBytes > 0) return;
    first_ = (first_ + 1) & (runs_.size() - 1);
    count_--;
  }
}

void SendQueue::clear() {
  while (count_ > 0) {
    Run& run = at(0);
    drop(run, run.lengthBytes);
    first_ = (first_ + 1) & (runs_.size() - 1);
    count_--;
  }
  if (tail_ != nullptr) blocks_.give(tail_);
  tail_ = nullptr;
}

}  // namespace braid

// One engine: what a data-plane thread owns. It is driven from outside, turn by turn, and knows no event loop:
//
//   for (;;) {
//     engine.takeCommands();          // what was written into the command array since
//     engine.enter(timeoutNs);        // one system call submits all and waits
//     count = engine.collect();       // events in the event array; hand them to their reader
//     engine.endBatch();              // when it has read them
//   }
//
// Everything an engine shares with its reader is in one mapping (`Layout`), which outlives the engine if the reader still
// holds it. All methods: the thread that called `create`, unless they say otherwise.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "core.h"
#include "drives.h"
#include "sockets.h"
#include "spinner.h"

namespace braid {

// Byte offsets in the mapping.
struct Layout {
  uint64_t slab = 0;
  uint64_t slabBytes = 0;
  uint64_t events = 0;
  uint64_t commands = 0;
  uint64_t control = 0;
  uint64_t checksums = 0;
  uint64_t refs = 0;
  uint64_t announced = 0;
  uint64_t unsent = 0;
  uint64_t freed = 0;
  uint64_t orders = 0;
  uint64_t zeroes = 0;
  uint64_t totalBytes = 0;

  explicit Layout(uint64_t slabBytes);
};

// The mapping, shared by the engine and its reader: whoever lets go last unmaps it. Any thread.
class SharedMemory {
 public:
  // nullptr when there is not enough memory.
  static SharedMemory* create(uint64_t lengthBytes);
  void retain() { holders_.fetch_add(1); }
  void release();
  uint8_t* base() const { return base_; }
  uint64_t lengthBytes() const { return lengthBytes_; }

 private:
  SharedMemory(uint8_t* base, uint64_t lengthBytes) : base_(base), lengthBytes_(lengthBytes) {}
  uint8_t* base_;
  uint64_t lengthBytes_;
  std::atomic<uint32_t> holders_{1};
};

class Engine {
 public:
  // nullptr and -errno in `error` when the kernel gives no ring or no memory. `slabBytes`: a multiple of 128 KiB, at least 1 MiB.
  static std::unique_ptr<Engine> create(uint64_t slabBytes, const Limits& limits, int* error);
  ~Engine();

  const Layout& layout() const { return layout_; }
  SharedMemory* memory() const { return memory_; }
  Slab& slab() { return core_.slab; }
  Sockets& sockets() { return sockets_; }
  Drives& drives() { return drives_; }
  Ring& ring() { return core_.ring; }
  const Limits& limits() const { return core_.limits; }
  const Stats& stats() const { return core_.stats; }
  const abi::Record* events() const { return reinterpret_cast<abi::Record*>(memory_->base() + layout_.events); }
  abi::Record* commands() const { return reinterpret_cast<abi::Record*>(memory_->base() + layout_.commands); }
  uint32_t* control() const { return reinterpret_cast<uint32_t*>(memory_->base() + layout_.control); }

  // For JavaScript: NO_BUFFER when the pool is empty or others wait for it; EVENT_AVAILABLE follows then.
  uint32_t alloc(uint32_t lengthBytes, uint32_t pool);
  void computeChecksums(uint32_t buffer, uint32_t offsetBytes, uint32_t lengthBytes);

  // Executes the commands in the array and frees what JavaScript released. Adds no event: may be called while a batch is read.
  void takeCommands();
  bool hasCommands() const { return control()[abi::CONTROL_COMMAND_COUNT] > 0; }
  // Submits, and waits for a completion or `timeoutNs` (< 0: forever, 0: not at all). 0 or -errno.
  int enter(int64_t timeoutNs);
  // Work that needs no completion: do not wait.
  bool hasBacklog() const { return sockets_.hasBacklog() || drives_.hasBacklog(); }
  // Something waits for `enter` or `collect`: whoever blocks elsewhere must give this engine a turn first.
  bool needsTurn() const { return hasCommands() || hasBacklog() || sockets_.hasUnsent() || core_.ring.needsTurn(); }
  // It waits for a time, which only `enter` knows.
  bool hasDeadline() const { return sockets_.nextDeadlineNs() != 0; }
  // Fills the event array; returns the number of events.
  uint32_t collect();
  void endBatch() { core_.waiters.endTurns(); }

  // Another descriptor to wait for, level-triggered: `takeWatchFired` says that it was readable, and it is watched again.
  void watch(int fd) { watchFd_ = fd; }
  bool takeWatchFired();

  // Closes everything. Go on with the turns until `isStopped`: then nothing is in flight and all events were collected.
  void stop();
  bool isStopped() const;
  // Ends without a reader: cancels everything and waits for it, at most `timeoutNs`. False: the kernel may still use the
  // memory, which is then never unmapped.
  bool quiesce(int64_t timeoutNs);

 private:
  Engine(SharedMemory* memory, const Layout& layout, const Limits& limits);
  SlabMemory slabMemory() const;
  void execute(const abi::Record& command);
  void dispatch(const Completion& completion);
  void drain(uint32_t eventsMax);
  void startBatch();
  int waitForClient(int64_t timeoutNs);

  SharedMemory* memory_;
  const Layout layout_;
  Core core_;
  Sockets sockets_;
  Drives drives_;
  int watchFd_ = -1;
  bool isWatching_ = false;
  bool hasWatchFired_ = false;
  bool isStopping_ = false;
  Spinner spinner_;
  int64_t repliedAtNs_ = 0;
};

}  // namespace braid

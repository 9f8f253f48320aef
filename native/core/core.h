// What the parts of an engine share: its ring, slab, event queue, limits and counters. Engine thread only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>

#include "abi.h"
#include "assert.h"
#include "ring.h"
#include "slab.h"

namespace braid {

// From daemon/base/limits.ts.
struct Limits {
  uint32_t connectionsMax = 1024;
  uint32_t framesQueuedMax = 16384;
  uint32_t nbdRequestsMax = 256;
  uint32_t nbdWriteBytesMax = 32u << 20;
  // An NBD connection that falls below half of this is reported as drained.
  uint32_t nbdUnsentBytesMax = 4u << 20;
  // A peer that has taken nothing for this long while something is sent to it is gone.
  int64_t sendStallNs = 30 * 1000000000ll;
};

struct Stats {
  uint64_t framesIn = 0, framesOut = 0, nbdRequests = 0, nbdReplies = 0;
  uint64_t bytesIn = 0, bytesOut = 0, sends = 0, receives = 0;
  uint64_t driveReads = 0, driveWrites = 0, driveOthers = 0, driveReadBytes = 0, driveWriteBytes = 0;
  uint64_t batches = 0, events = 0, commands = 0, poolWaits = 0, connectionsRefused = 0;
};

// The events of one batch. It is small, in number and in the payload that its events bring or ask for: client, thread and
// drive then work side by side; with large ones each waits for the others.
class EventQueue {
 public:
  static constexpr uint32_t PAYLOAD_BYTES_MAX = 256 << 10;

  explicit EventQueue(abi::Record* records) : records_(records) {}
  bool hasRoom() const { return count_ < abi::EVENTS_MAX && payloadBytes_ < PAYLOAD_BYTES_MAX; }
  uint32_t count() const { return count_; }
  void clear() { count_ = payloadBytes_ = 0; }
  // What the last event brings or asks for.
  void weigh(uint32_t payloadBytes) { payloadBytes_ += std::min(payloadBytes, PAYLOAD_BYTES_MAX); }
  // The words of a new event, zero but for its kind and target.
  uint32_t* add(uint32_t kind, uint32_t target) {
    BRAID_ASSERT(hasRoom(), "whoever adds an event has checked that there is room");
    uint32_t* words = records_[count_++].words;
    std::memset(words, 0, sizeof(abi::Record));
    words[abi::WORD_KIND] = kind;
    words[abi::WORD_TARGET] = target;
    return words;
  }

 private:
  abi::Record* records_;
  uint32_t count_ = 0;
  uint32_t payloadBytes_ = 0;
};

// Who waits for a buffer, first come first served per pool: connections by id, and JavaScript as JAVASCRIPT.
class WaitQueue {
 public:
  static constexpr uint32_t JAVASCRIPT = 0;

  explicit WaitQueue(const Slab& slab) : slab_(slab) {}
  bool isEmpty(uint32_t pool) const { return queues_[pool].empty(); }
  uint32_t first(uint32_t pool) const { return queues_[pool].front(); }
  void pop(uint32_t pool) { queues_[pool].pop_front(); }
  void push(uint32_t pool, uint32_t waiter) {
    queues_[pool].push_back(waiter);
    if (queues_[pool].size() == 1) noteFailure(pool);
  }
  void remove(uint32_t waiter) {
    for (auto& queue : queues_) {
      for (auto at = queue.begin(); at != queue.end(); ++at) {
        if (*at != waiter) continue;
        const bool wasFirst = at == queue.begin();
        queue.erase(at);
        // The next one may want less, and has not been tried.
        const uint32_t pool = static_cast<uint32_t>(&queue - queues_);
        if (wasFirst) freeCountSeen_[pool] = slab_.freeCount(pool) - 1;
        return;
      }
    }
  }
  // JavaScript waits at most once per pool. When it is first in the queue it gets one turn, which lasts for one batch of
  // events: then its allocations do not queue up behind the connections that wait.
  void pushJavaScript(uint32_t pool) {
    if (isJavaScriptWaiting_[pool]) return;
    isJavaScriptWaiting_[pool] = true;
    push(pool, JAVASCRIPT);
  }
  void startTurn(uint32_t pool) {
    pop(pool);
    isJavaScriptWaiting_[pool] = false;
    hasTurn_[pool] = true;
  }
  void endTurns() {
    for (bool& turn : hasTurn_) turn = false;
  }
  bool mayJavaScriptAlloc(uint32_t pool) const { return hasTurn_[pool] || isEmpty(pool); }
  // The first waiter was tried in vain: it is not tried again before something is freed.
  void noteFailure(uint32_t pool) { freeCountSeen_[pool] = slab_.freeCount(pool); }
  bool mayTry(uint32_t pool) const { return !queues_[pool].empty() && slab_.freeCount(pool) != freeCountSeen_[pool]; }

 private:
  const Slab& slab_;
  std::deque<uint32_t> queues_[POOL_COUNT];
  uint64_t freeCountSeen_[POOL_COUNT] = {};
  bool isJavaScriptWaiting_[POOL_COUNT] = {};
  bool hasTurn_[POOL_COUNT] = {};
};

struct Core {
  Core(const SlabMemory& memory, uint32_t blockCount, abi::Record* records, const Limits& givenLimits)
      : slab(memory, blockCount), events(records), waiters(slab), limits(givenLimits) {}
  Ring ring;
  Slab slab;
  EventQueue events;
  WaitQueue waiters;
  const Limits limits;
  Stats stats;
};

// File table: connections first, then drives.
constexpr uint32_t CONNECTION_SLOTS = abi::CONNECTION_SLOTS;
constexpr uint32_t DRIVE_SLOTS = 256;

}  // namespace braid

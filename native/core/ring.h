// One io_uring and what is registered with it. All methods: engine thread only.
#pragma once

#if !__has_include(<liburing.h>)
#error "liburing is missing: install the Debian package liburing-dev (apt-get install liburing-dev)"
#endif
#include <liburing.h>

#include <cstdint>
#include <vector>

namespace braid {

// What a completion belongs to; `slot` says which one.
enum class Op : uint8_t { IGNORE, RECEIVE, SEND, CONNECT, ACCEPT, DRIVE, WATCH };

struct Completion {
  Op op;
  uint32_t slot;
  int32_t result;
  uint32_t flags;
};

class Ring {
 public:
  Ring() = default;
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  // 0 or -errno.
  int open();
  // Registers the arena for fixed-buffer I/O and a table of `fileSlots` files. Both are optional: without them plain I/O is used.
  void registerMemory(uint8_t* base, uint64_t lengthBytes);
  void registerFiles(uint32_t fileSlots);
  // Puts `fd` into the table; false when there is no table.
  bool setFile(uint32_t slot, int fd);
  // The index of the registered buffer that holds `address`, or -1.
  int bufferIndexOf(const void* address) const;

  // An empty submission entry; submits when the queue is full.
  io_uring_sqe* entry();
  // Marks what the completion of `sqe` belongs to; the last step of its preparation.
  void tag(io_uring_sqe* sqe, Op op, uint32_t slot);
  static uint64_t userData(Op op, uint32_t slot) { return static_cast<uint64_t>(slot) << 8 | static_cast<uint8_t>(op); }
  // Submits everything, without waiting and without running what has completed.
  void submit();
  // Cancels the request with this tag; its completion says so.
  void cancel(Op op, uint32_t slot);

  // Submits everything and waits for a completion: `timeoutNs` < 0 for as long as it takes, 0 not at all. It looks for one
  // for `spinNs` of this before it blocks. 0 or -errno.
  int submitAndWait(int64_t timeoutNs, int64_t spinNs);
  bool hasCompletions() const { return io_uring_cq_ready(&ring_) > 0; }
  bool needsTurn() const { return hasCompletions() || io_uring_sq_ready(&ring_) > 0; }
  // Takes one completion; false when there is none.
  bool next(Completion* completion);
  // Requests whose final completion has not been taken.
  uint32_t pending() const { return pending_; }
  uint64_t enterCount() const { return enterCount_; }
  // An eventfd that becomes readable when there is something to collect, for callers that block elsewhere; -1 if there is
  // none to be had. (Polling the ring's own descriptor wakes nobody while completions wait for this thread to run them.)
  int startNotifying();
  void clearNotification();
  void stopNotifying();
  bool hasFixedBuffers() const { return !buffers_.empty(); }

 private:
  bool spin(int64_t spinNs);

  io_uring ring_ = {};
  bool isOpen_ = false;
  bool hasFiles_ = false;
  int notifyFd_ = -1;
  uint32_t pending_ = 0;
  uint64_t enterCount_ = 0;
  std::vector<iovec> buffers_;
};

}  // namespace braid

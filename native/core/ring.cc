#include "ring.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "assert.h"
#include "clock.h"

namespace braid {
namespace {

constexpr unsigned SUBMISSIONS = 1024;
constexpr unsigned COMPLETIONS = 8192;
// The clock is read once for so many looks.
constexpr int LOOKS_PER_TIME = 16;
// The kernel's bound on one registered buffer is 1 GiB.
constexpr uint64_t REGISTERED_BYTES_MAX = 1ull << 30;

}  // namespace

Ring::~Ring() {
  if (notifyFd_ >= 0) close(notifyFd_);
  if (isOpen_) io_uring_queue_exit(&ring_);
}

int Ring::open() {
  // Newest first; older kernels refuse flags that they do not know.
  const unsigned flagSets[] = {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
                               IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, 0};
  int result = -EINVAL;
  for (const unsigned flags : flagSets) {
    io_uring_params params = {};
    params.flags = flags | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
    params.cq_entries = COMPLETIONS;
    result = io_uring_queue_init_params(SUBMISSIONS, &ring_, &params);
    if (result != -EINVAL) break;
  }
  if (result < 0) return result;
  isOpen_ = true;
  if ((ring_.features & IORING_FEAT_EXT_ARG) == 0) return -ENOSYS;
  io_uring_register_ring_fd(&ring_);  // optional
  return 0;
}

void Ring::registerMemory(uint8_t* base, uint64_t lengthBytes) {
  std::vector<iovec> buffers;
  for (uint64_t at = 0; at < lengthBytes; at += REGISTERED_BYTES_MAX) {
    const uint64_t left = lengthBytes - at;
    buffers.push_back({base + at, static_cast<size_t>(left < REGISTERED_BYTES_MAX ? left : REGISTERED_BYTES_MAX)});
  }
  if (io_uring_register_buffers(&ring_, buffers.data(), buffers.size()) == 0) buffers_ = buffers;
}

void Ring::registerFiles(uint32_t fileSlots) { hasFiles_ = io_uring_register_files_sparse(&ring_, fileSlots) == 0; }

bool Ring::setFile(uint32_t slot, int fd) {
  return hasFiles_ && io_uring_register_files_update(&ring_, slot, &fd, 1) == 1;
}

int Ring::bufferIndexOf(const void* address) const {
  if (buffers_.empty()) return -1;
  const uint64_t at = static_cast<const uint8_t*>(address) - static_cast<const uint8_t*>(buffers_[0].iov_base);
  const uint64_t index = at / REGISTERED_BYTES_MAX;
  return index < buffers_.size() ? static_cast<int>(index) : -1;
}

io_uring_sqe* Ring::entry() {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  while (sqe == nullptr) {
    submit();
    sqe = io_uring_get_sqe(&ring_);
  }
  return sqe;
}

void Ring::submit() {
  enterCount_++;
  const int result = io_uring_submit(&ring_);
  BRAID_ASSERT(result >= 0 || result == -EBUSY || result == -EAGAIN || result == -EINTR, "the ring takes submissions");
}

void Ring::tag(io_uring_sqe* sqe, Op op, uint32_t slot) {
  sqe->user_data = userData(op, slot);
  pending_++;
}

void Ring::cancel(Op op, uint32_t slot) {
  io_uring_sqe* sqe = entry();
  io_uring_prep_cancel64(sqe, userData(op, slot), 0);
  tag(sqe, Op::IGNORE, 0);
}

// Looks without a system call, but for those that run the kernel's deferred work, which the ring's flags announce.
bool Ring::spin(int64_t spinNs) {
  const int64_t until = monotonicNs() + spinNs;
  io_uring_cqe* cqe = nullptr;
  do {
    for (int i = 0; i < LOOKS_PER_TIME; i++) {
      if (io_uring_peek_cqe(&ring_, &cqe) == 0) return true;
    }
  } while (monotonicNs() < until);
  return false;
}

int Ring::submitAndWait(int64_t timeoutNs, int64_t spinNs) {
  int result;
  enterCount_++;
  if (timeoutNs != 0 && spinNs > 0) {
    io_uring_submit_and_get_events(&ring_);
    if (spin(timeoutNs < 0 ? spinNs : std::min(spinNs, timeoutNs))) return 0;
  }
  if (timeoutNs == 0 || hasCompletions()) {
    result = io_uring_submit_and_get_events(&ring_);
  } else if (timeoutNs < 0) {
    result = io_uring_submit_and_wait(&ring_, 1);
  } else {
    __kernel_timespec timeout = {timeoutNs / 1000000000, timeoutNs % 1000000000};
    io_uring_cqe* cqe = nullptr;
    result = io_uring_submit_and_wait_timeout(&ring_, &cqe, 1, &timeout, nullptr);
  }
  return result < 0 && result != -ETIME && result != -EINTR && result != -EBUSY && result != -EAGAIN ? result : 0;
}

int Ring::startNotifying() {
  BRAID_ASSERT(notifyFd_ < 0, "notifications start once");
  notifyFd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (notifyFd_ >= 0 && io_uring_register_eventfd(&ring_, notifyFd_) < 0) stopNotifying();
  return notifyFd_;
}

void Ring::clearNotification() {
  uint64_t count;
  [[maybe_unused]] const ssize_t result = read(notifyFd_, &count, sizeof count);  // empty when it was cleared before
}

void Ring::stopNotifying() {
  io_uring_unregister_eventfd(&ring_);
  close(notifyFd_);
  notifyFd_ = -1;
}

bool Ring::next(Completion* completion) {
  io_uring_cqe* cqe = nullptr;
  if (io_uring_peek_cqe(&ring_, &cqe) != 0 || cqe == nullptr) return false;
  completion->op = static_cast<Op>(cqe->user_data & 0xff);
  completion->slot = static_cast<uint32_t>(cqe->user_data >> 8);
  completion->result = cqe->res;
  completion->flags = cqe->flags;
  if ((cqe->flags & IORING_CQE_F_MORE) == 0) {
    BRAID_ASSERT(pending_ > 0, "every completion has a request");
    pending_--;
  }
  io_uring_cqe_seen(&ring_, cqe);
  return true;
}

}  // namespace braid

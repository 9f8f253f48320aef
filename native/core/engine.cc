#include "engine.h"

#include <poll.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "clock.h"
#include "crc32c.h"

namespace braid {
namespace {

constexpr uint64_t PAGE = abi::BLOCK_BYTES;
// With more requests in flight there is always something to do, and looking takes time from who does it.
constexpr uint32_t SPIN_IN_FLIGHT_MAX = 2;

uint64_t place(uint64_t* end, uint64_t lengthBytes) {
  const uint64_t at = *end;
  *end += (lengthBytes + PAGE - 1) / PAGE * PAGE;
  return at;
}

}  // namespace

Layout::Layout(uint64_t slabLength) : slabBytes(slabLength) {
  const uint64_t blocks = slabLength / abi::BLOCK_BYTES;
  slab = place(&totalBytes, slabLength);
  zeroes = place(&totalBytes, abi::BUFFER_BYTES_MAX);  // behind the slab: both are registered as one
  events = place(&totalBytes, abi::EVENTS_MAX * sizeof(abi::Record));
  commands = place(&totalBytes, abi::COMMANDS_MAX * sizeof(abi::Record));
  control = place(&totalBytes, abi::CONTROL_WORDS * sizeof(uint32_t));
  checksums = place(&totalBytes, blocks * sizeof(uint32_t));
  refs = place(&totalBytes, blocks * sizeof(uint32_t));
  announced = place(&totalBytes, blocks * sizeof(uint32_t));
  unsent = place(&totalBytes, CONNECTION_SLOTS * sizeof(uint32_t));
  freed = place(&totalBytes, blocks * sizeof(uint32_t));
  orders = place(&totalBytes, blocks);
}

SharedMemory* SharedMemory::create(uint64_t lengthBytes) {
  void* base = mmap(nullptr, lengthBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return nullptr;
  madvise(base, lengthBytes, MADV_HUGEPAGE);  // optional
  madvise(base, lengthBytes, MADV_DONTFORK);  // a child process would get a copy of what is pinned
  return new SharedMemory(static_cast<uint8_t*>(base), lengthBytes);
}

void SharedMemory::release() {
  if (holders_.fetch_sub(1) > 1) return;
  munmap(base_, lengthBytes_);
  delete this;
}

std::unique_ptr<Engine> Engine::create(uint64_t slabBytes, const Limits& limits, int* error) {
  *error = -EINVAL;
  if (slabBytes % abi::BUFFER_BYTES_MAX != 0 || slabBytes < Slab::CHUNKS_MIN * abi::BUFFER_BYTES_MAX) return nullptr;
  const Layout layout(slabBytes);
  SharedMemory* memory = SharedMemory::create(layout.totalBytes);
  *error = -ENOMEM;
  if (memory == nullptr) return nullptr;
  std::unique_ptr<Engine> engine(new Engine(memory, layout, limits));
  *error = engine->core_.ring.open();
  if (*error != 0) return nullptr;
  engine->core_.ring.registerMemory(memory->base() + layout.slab, layout.slabBytes + abi::BUFFER_BYTES_MAX);
  engine->core_.ring.registerFiles(CONNECTION_SLOTS + DRIVE_SLOTS);
  return engine;
}

Engine::Engine(SharedMemory* memory, const Layout& layout, const Limits& limits)
    : memory_(memory),
      layout_(layout),
      core_(slabMemory(), static_cast<uint32_t>(layout.slabBytes / abi::BLOCK_BYTES),
            reinterpret_cast<abi::Record*>(memory->base() + layout.events), limits),
      sockets_(core_, reinterpret_cast<uint32_t*>(memory->base() + layout.announced),
               reinterpret_cast<uint32_t*>(memory->base() + layout.unsent)),
      drives_(core_, memory->base() + layout.zeroes) {}

Engine::~Engine() { memory_->release(); }

SlabMemory Engine::slabMemory() const {
  uint8_t* base = memory_->base();
  const auto words = [base](uint64_t offset) { return reinterpret_cast<uint32_t*>(base + offset); };
  return {base + layout_.slab,    words(layout_.checksums), words(layout_.refs), words(layout_.freed),
          base + layout_.orders, words(layout_.control) + abi::CONTROL_FREED_COUNT};
}

uint32_t Engine::alloc(uint32_t lengthBytes, uint32_t pool) {
  BRAID_ASSERT(pool <= abi::POOL_INTERNAL, "the pool exists");
  core_.slab.drainFreed();
  const uint32_t buffer =
      core_.waiters.mayJavaScriptAlloc(pool) ? core_.slab.alloc(lengthBytes, pool) : NO_BUFFER;
  if (buffer == NO_BUFFER) core_.waiters.pushJavaScript(pool);
  return buffer;
}

void Engine::computeChecksums(uint32_t buffer, uint32_t offsetBytes, uint32_t lengthBytes) {
  BRAID_ASSERT(core_.slab.isAllocated(buffer) && offsetBytes % abi::BLOCK_BYTES == 0 &&
                   static_cast<uint64_t>(offsetBytes) + lengthBytes <= core_.slab.sizeOf(buffer),
               "the range lies inside its buffer, on a block boundary");
  crc32cBlocks(core_.slab.bytesOf(buffer) + offsetBytes, lengthBytes,
               core_.slab.checksumsOf(buffer) + offsetBytes / abi::BLOCK_BYTES);
}

void Engine::execute(const abi::Record& command) {
  const uint32_t* words = command.words;
  switch (words[abi::WORD_KIND] & 0xff) {
    case abi::COMMAND_SEND_FRAME:
      return sockets_.sendFrame(command);
    case abi::COMMAND_DISK_READ:
    case abi::COMMAND_DISK_WRITE:
    case abi::COMMAND_DISK_FLUSH:
    case abi::COMMAND_DISK_PUNCH:
    case abi::COMMAND_DISK_ZERO:
      return drives_.submit(command);
    case abi::COMMAND_NBD_SIMPLE:
    case abi::COMMAND_NBD_DATA:
    case abi::COMMAND_NBD_DATA_CHUNK:
    case abi::COMMAND_NBD_HOLE_CHUNK:
    case abi::COMMAND_NBD_STATUS_CHUNK:
      return sockets_.sendNbd(command);
    case abi::COMMAND_CLOSE:
      return sockets_.close(words[abi::WORD_TARGET]);
    case abi::COMMAND_RECEIVING:
      return sockets_.setReceiving(words[abi::WORD_TARGET], words[abi::WORD_STATUS] != 0);
    default:
      BRAID_ASSERT(false, "a command is one of these");
  }
}

void Engine::takeCommands() {
  uint32_t& count = control()[abi::CONTROL_COMMAND_COUNT];
  BRAID_ASSERT(count <= abi::COMMANDS_MAX, "commands fit their array");
  for (uint32_t i = 0; i < count; i++) execute(commands()[i]);
  core_.stats.commands += count;
  count = 0;
  core_.slab.drainFreed();
}

int Engine::enter(int64_t timeoutNs) {
  sockets_.flush();
  if (watchFd_ >= 0 && !isWatching_) {
    io_uring_sqe* sqe = core_.ring.entry();
    io_uring_prep_poll_add(sqe, watchFd_, POLLIN);
    core_.ring.tag(sqe, Op::WATCH, 0);
    isWatching_ = true;
  }
  const int64_t deadline = sockets_.nextDeadlineNs();
  if (deadline != 0 && timeoutNs != 0) {
    const int64_t left = std::max<int64_t>(deadline - monotonicNs(), 0);
    if (timeoutNs < 0 || left < timeoutNs) timeoutNs = left;
  }
  if (timeoutNs == 0 || sockets_.nbdInFlight() > SPIN_IN_FLIGHT_MAX) return core_.ring.submitAndWait(timeoutNs, 0);
  return waitForClient(timeoutNs);
}

// Few requests are in flight: somebody may be waiting for each step of one, or about to send the next.
int Engine::waitForClient(int64_t timeoutNs) {
  const int64_t startNs = monotonicNs();
  if (sockets_.takeHasReplied()) repliedAtNs_ = startNs;
  const bool isBusy = sockets_.nbdInFlight() > 0 || startNs - repliedAtNs_ < Spinner::WINDOW_MAX_NS;
  const int result = core_.ring.submitAndWait(timeoutNs, isBusy ? spinner_.windowNs() : 0);
  if (isBusy) spinner_.note(monotonicNs() - startNs);
  return result;
}

void Engine::dispatch(const Completion& completion) {
  switch (completion.op) {
    case Op::IGNORE:
      return;
    case Op::WATCH:
      isWatching_ = false;
      hasWatchFired_ = true;
      return;
    case Op::DRIVE:
      return drives_.onCompletion(completion);
    default:
      return sockets_.onCompletion(completion);
  }
}

// Every completion adds at most one event that it did not check for room itself.
void Engine::drain(uint32_t eventsMax) {
  Completion completion;
  while (core_.events.hasRoom() && core_.events.count() < eventsMax && core_.ring.next(&completion)) dispatch(completion);
}

uint32_t Engine::collect() {
  core_.events.clear();
  if (sockets_.nextDeadlineNs() != 0) sockets_.onTime(monotonicNs());
  // Both what completes and what was held up get their share of a batch.
  drain(abi::EVENTS_MAX / 2);
  sockets_.resume();
  drain(abi::EVENTS_MAX);
  sockets_.emitClosed();
  drives_.emitClosed();
  if (core_.events.count() > 0) startBatch();
  core_.stats.events += core_.events.count();
  return core_.events.count();
}

void Engine::startBatch() {
  core_.stats.batches++;
  const double nowMs = static_cast<double>(monotonicNs()) / 1e6;
  std::memcpy(&control()[abi::CONTROL_BATCH_MS], &nowMs, sizeof nowMs);
}

bool Engine::takeWatchFired() {
  const bool fired = hasWatchFired_;
  hasWatchFired_ = false;
  return fired;
}

void Engine::stop() {
  if (isStopping_) return;
  isStopping_ = true;
  sockets_.stop();
  drives_.stop();
}

bool Engine::isStopped() const {
  // The watch uses no memory of ours: it may end with the ring.
  return isStopping_ && sockets_.isIdle() && drives_.isIdle() && core_.ring.pending() == (isWatching_ ? 1 : 0);
}

bool Engine::quiesce(int64_t timeoutNs) {
  stop();
  watchFd_ = -1;
  const int64_t until = monotonicNs() + timeoutNs;
  while (!isStopped()) {
    const int64_t left = until - monotonicNs();
    if (left <= 0 || enter(hasBacklog() ? 0 : left) < 0) {
      memory_->retain();
      return false;
    }
    // Nobody reads these events: buffers that came with them go down with the slab.
    collect();
    endBatch();
  }
  return true;
}

}  // namespace braid

// Drives of an engine: block devices and preallocated files, opened with O_DIRECT. Punching gives space back to a device;
// in a file it zeroes, and the space stays reserved.
//
// Invariants:
//  1. A drive's file stays open until its last operation has completed; then EVENT_DISK_CLOSED follows.
//  2. An operation holds one reference of its buffer from the command to its completion.
//  3. Every operation ends in exactly one EVENT_DISK. Short transfers go on; one that makes no progress is EIO.
//
// All methods: engine thread only.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "core.h"

namespace braid {

class Drives {
 public:
  static constexpr uint32_t OPERATIONS_MAX = 32768;

  // `zeroes`: BUFFER_BYTES_MAX zero bytes inside the registered memory.
  Drives(Core& core, uint8_t* zeroes);
  ~Drives();

  // Duplicates `fd`, an open file of at least one extent. Returns the drive (> 0) or -errno; `sizeBytes` gets whole blocks.
  int open(int fd, uint64_t* sizeBytes);
  // Takes no more commands; EVENT_DISK_CLOSED follows when the last operation is done.
  void close(uint32_t drive);
  // A COMMAND_DISK_*.
  void submit(const abi::Record& command);

  void onCompletion(const Completion& completion);
  void emitClosed();
  bool hasBacklog() const { return !closed_.empty(); }
  void stop();
  bool isIdle() const { return driveCount_ == 0; }
  uint32_t operationCount() const { return operationCount_; }

 private:
  struct Drive {
    int fd = -1;
    bool hasFileSlot = false;
    bool isFile = false;
    bool isClosing = false;
    bool cannotPunch = false;  // found out by trying
    bool cannotZero = false;
    uint32_t inFlight = 0;
  };
  enum class Stage : uint8_t { TRANSFER, FLUSH, ALLOCATE, WRITE_ZEROES };
  struct Operation {
    uint64_t offset;
    uint32_t command;
    uint32_t drive;
    uint32_t tag;
    uint32_t buffer;
    uint32_t bufferOffset;
    uint32_t done;
    uint64_t length;
    Stage stage;
    bool isDurable;
    bool isPunch;
  };

  uint32_t takeOperation();
  void start(uint32_t index);
  void startTransfer(io_uring_sqe* sqe, const Operation& operation, const Drive& drive);
  void finish(uint32_t index, int32_t result);
  void settle(uint32_t index);
  bool advance(Operation& operation, Drive& drive, int32_t result);

  Core& core_;
  uint8_t* zeroes_;
  std::vector<Drive> drives_;  // by slot; drive n is at n - 1
  uint32_t driveCount_ = 0;
  std::vector<Operation> operations_;
  std::vector<uint32_t> freeOperations_;
  uint32_t operationCount_ = 0;
  std::vector<uint32_t> closed_;
};

}  // namespace braid

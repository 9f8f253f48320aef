#include "drives.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "crc32c.h"

namespace braid {
namespace {

// Reads that lie side by side and are submitted together become one request of the drive: all would wait for the last of
// them, and client, thread and drive for each other in turn. From here on a system call for each costs less than that.
constexpr uint64_t PROMPT_READ_BYTES_MIN = 65536;

}  // namespace

Drives::Drives(Core& core, uint8_t* zeroes) : core_(core), zeroes_(zeroes), drives_(DRIVE_SLOTS) {}

Drives::~Drives() {
  for (const Drive& drive : drives_) {
    if (drive.fd >= 0) ::close(drive.fd);
  }
}

int Drives::open(int fd, uint64_t* sizeBytes) {
  struct stat status;
  if (fstat(fd, &status) < 0) return -errno;
  uint64_t size = static_cast<uint64_t>(status.st_size);
  if (S_ISBLK(status.st_mode)) {
    int sectorBytes = 0;
    if (ioctl(fd, BLKGETSIZE64, &size) < 0 || ioctl(fd, BLKSSZGET, &sectorBytes) < 0) return -errno;
    if (sectorBytes > static_cast<int>(abi::BLOCK_BYTES)) return -EMEDIUMTYPE;
  } else if (!S_ISREG(status.st_mode)) {
    return -ENOTBLK;
  }
  if (size < abi::BUFFER_BYTES_MAX) return -ENOSPC;
  uint32_t slot = 0;
  while (slot < DRIVE_SLOTS && drives_[slot].fd >= 0) slot++;
  if (slot == DRIVE_SLOTS) return -EMFILE;
  const int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (own < 0) return -errno;
  Drive& drive = drives_[slot];
  drive = Drive();
  drive.fd = own;
  drive.isFile = S_ISREG(status.st_mode);
  drive.hasFileSlot = core_.ring.setFile(CONNECTION_SLOTS + slot, own);
  driveCount_++;
  *sizeBytes = size / abi::BLOCK_BYTES * abi::BLOCK_BYTES;
  return static_cast<int>(slot + 1);
}

void Drives::close(uint32_t id) {
  BRAID_ASSERT(id > 0 && id <= DRIVE_SLOTS && drives_[id - 1].fd >= 0, "the drive is open");
  Drive& drive = drives_[id - 1];
  if (drive.isClosing) return;
  drive.isClosing = true;
  settle(id - 1);
}

// Closes the file of a closing drive once nothing is in flight.
void Drives::settle(uint32_t slot) {
  Drive& drive = drives_[slot];
  if (!drive.isClosing || drive.inFlight > 0) return;
  closed_.push_back(slot);
}

void Drives::emitClosed() {
  uint32_t done = 0;
  for (; done < closed_.size() && core_.events.hasRoom(); done++) {
    Drive& drive = drives_[closed_[done]];
    if (drive.hasFileSlot) core_.ring.setFile(CONNECTION_SLOTS + closed_[done], -1);
    ::close(drive.fd);
    drive = Drive();
    driveCount_--;
    core_.events.add(abi::EVENT_DISK_CLOSED, closed_[done] + 1);
  }
  closed_.erase(closed_.begin(), closed_.begin() + done);
}

void Drives::stop() {
  for (uint32_t slot = 0; slot < DRIVE_SLOTS; slot++) {
    if (drives_[slot].fd >= 0) close(slot + 1);
  }
}

uint32_t Drives::takeOperation() {
  operationCount_++;
  if (!freeOperations_.empty()) {
    const uint32_t index = freeOperations_.back();
    freeOperations_.pop_back();
    return index;
  }
  BRAID_ASSERT(operations_.size() < OPERATIONS_MAX, "drive operations in flight are bounded by their senders");
  operations_.push_back({});
  return static_cast<uint32_t>(operations_.size()) - 1;
}

void Drives::submit(const abi::Record& command) {
  const uint32_t* words = command.words;
  const uint32_t id = words[abi::WORD_TARGET];
  BRAID_ASSERT(id > 0 && id <= DRIVE_SLOTS && drives_[id - 1].fd >= 0 && !drives_[id - 1].isClosing, "the drive is open");
  const uint32_t index = takeOperation();
  Operation& operation = operations_[index];
  operation.command = words[abi::WORD_KIND] & 0xff;
  operation.drive = id;
  operation.tag = words[abi::WORD_TAG];
  operation.buffer = words[abi::WORD_BUFFER];
  operation.bufferOffset = words[abi::WORD_BUFFER_OFFSET];
  operation.offset = static_cast<uint64_t>(words[abi::WORD_OFFSET_HIGH]) << 32 | words[abi::WORD_OFFSET_LOW];
  // Ranges to punch or zero may be longer than 4 GiB: their upper half is where transfers say how long their payload is.
  operation.length = static_cast<uint64_t>(words[abi::WORD_PAYLOAD_LENGTH]) << 32 | words[abi::WORD_LENGTH];
  operation.done = 0;
  operation.isDurable = words[abi::WORD_STATUS] != 0;
  BRAID_ASSERT(operation.offset % abi::BLOCK_BYTES == 0 && operation.length % abi::BLOCK_BYTES == 0, "drive I/O is whole blocks");
  Drive& drive = drives_[id - 1];
  switch (operation.command) {
    case abi::COMMAND_DISK_FLUSH:
      operation.stage = Stage::FLUSH;
      break;
    case abi::COMMAND_DISK_PUNCH:
    case abi::COMMAND_DISK_ZERO:
      // A file was preallocated so that no write runs out of space: it keeps what it has.
      operation.isPunch = operation.command == abi::COMMAND_DISK_PUNCH && !drive.isFile;
      operation.stage = (operation.isPunch ? drive.cannotPunch : drive.cannotZero) ? Stage::WRITE_ZEROES : Stage::ALLOCATE;
      break;
    default:
      operation.stage = Stage::TRANSFER;
      BRAID_ASSERT(core_.slab.isAllocated(operation.buffer) && operation.length > 0 &&
                       operation.bufferOffset % abi::BLOCK_BYTES == 0 &&
                       operation.bufferOffset + operation.length <= core_.slab.sizeOf(operation.buffer),
                   "drive I/O lies inside its buffer");
  }
  drive.inFlight++;
  start(index);
}

void Drives::startTransfer(io_uring_sqe* sqe, const Operation& operation, const Drive& drive) {
  const bool isRead = operation.command == abi::COMMAND_DISK_READ;
  const bool isZeroes = operation.stage == Stage::WRITE_ZEROES;
  uint8_t* memory = isZeroes ? zeroes_ : core_.slab.bytesOf(operation.buffer) + operation.bufferOffset + operation.done;
  const uint64_t left = operation.length - (isZeroes ? 0 : operation.done);
  const uint32_t length = static_cast<uint32_t>(std::min<uint64_t>(left, abi::BUFFER_BYTES_MAX));
  const uint64_t offset = operation.offset + (isZeroes ? 0 : operation.done);
  const int index = core_.ring.bufferIndexOf(memory);
  if (isRead) {
    if (index >= 0) {
      io_uring_prep_read_fixed(sqe, drive.fd, memory, length, offset, index);
    } else {
      io_uring_prep_read(sqe, drive.fd, memory, length, offset);
    }
  } else if (index >= 0) {
    io_uring_prep_write_fixed(sqe, drive.fd, memory, length, offset, index);
  } else {
    io_uring_prep_write(sqe, drive.fd, memory, length, offset);
  }
  if (operation.isDurable && !isRead) sqe->rw_flags = RWF_DSYNC;
}

void Drives::start(uint32_t index) {
  const Operation& operation = operations_[index];
  const Drive& drive = drives_[operation.drive - 1];
  io_uring_sqe* sqe = core_.ring.entry();
  switch (operation.stage) {
    case Stage::FLUSH:
      io_uring_prep_fsync(sqe, drive.fd, IORING_FSYNC_DATASYNC);
      break;
    case Stage::ALLOCATE: {
      const int mode = (operation.isPunch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE) | FALLOC_FL_KEEP_SIZE;
      io_uring_prep_fallocate(sqe, drive.fd, mode, static_cast<off_t>(operation.offset), static_cast<off_t>(operation.length));
      break;
    }
    case Stage::TRANSFER:
    case Stage::WRITE_ZEROES:
      startTransfer(sqe, operation, drive);
      break;
  }
  if (drive.hasFileSlot) {
    sqe->fd = static_cast<int>(CONNECTION_SLOTS + operation.drive - 1);
    sqe->flags |= IOSQE_FIXED_FILE;
  }
  core_.ring.tag(sqe, Op::DRIVE, index);
  if (operation.command == abi::COMMAND_DISK_READ && operation.length >= PROMPT_READ_BYTES_MIN) core_.ring.submit();
}

// What follows from one completion; false when the operation is over with success.
bool Drives::advance(Operation& operation, Drive& drive, int32_t result) {
  switch (operation.stage) {
    case Stage::FLUSH:
      return false;
    case Stage::ALLOCATE:
      if (result == 0) return false;
      (operation.isPunch ? drive.cannotPunch : drive.cannotZero) = true;
      operation.stage = Stage::WRITE_ZEROES;
      return operation.length > 0;
    case Stage::TRANSFER:
      operation.done += static_cast<uint32_t>(result);
      return operation.done < operation.length;
    case Stage::WRITE_ZEROES:
      operation.offset += static_cast<uint32_t>(result);
      operation.length -= static_cast<uint32_t>(result);
      return operation.length > 0;
  }
  return false;
}

void Drives::onCompletion(const Completion& completion) {
  const uint32_t index = completion.slot;
  Operation& operation = operations_[index];
  Drive& drive = drives_[operation.drive - 1];
  const bool isTransfer = operation.stage == Stage::TRANSFER || operation.stage == Stage::WRITE_ZEROES;
  const bool isUnsupported = operation.stage == Stage::ALLOCATE && (completion.result == -EOPNOTSUPP || completion.result == -ENOSYS);
  if (completion.result == -EINTR || completion.result == -EAGAIN) return start(index);
  if (completion.result < 0 && !isUnsupported) return finish(index, completion.result);
  // O_DIRECT goes on from a block boundary only.
  if (isTransfer && (completion.result == 0 || completion.result % abi::BLOCK_BYTES != 0)) return finish(index, -EIO);
  if (advance(operation, drive, completion.result)) return start(index);
  finish(index, 0);
}

void Drives::finish(uint32_t index, int32_t result) {
  const Operation& operation = operations_[index];
  Stats& stats = core_.stats;
  if (operation.command == abi::COMMAND_DISK_READ) {
    stats.driveReads++;
    stats.driveReadBytes += operation.done;
    if (result == 0) {
      crc32cBlocks(core_.slab.bytesOf(operation.buffer) + operation.bufferOffset, operation.length,
                   core_.slab.checksumsOf(operation.buffer) + operation.bufferOffset / abi::BLOCK_BYTES);
    }
  } else if (operation.command == abi::COMMAND_DISK_WRITE) {
    stats.driveWrites++;
    stats.driveWriteBytes += operation.done;
  } else {
    stats.driveOthers++;
  }
  uint32_t* words = core_.events.add(abi::EVENT_DISK, operation.drive);
  words[abi::WORD_TAG] = operation.tag;
  words[abi::WORD_STATUS] = static_cast<uint32_t>(result);
  core_.events.weigh(operation.done);
  if (operation.buffer != NO_BUFFER) core_.slab.release(operation.buffer);
  const uint32_t slot = operation.drive - 1;
  drives_[slot].inFlight--;
  freeOperations_.push_back(index);
  operationCount_--;
  settle(slot);
}

}  // namespace braid

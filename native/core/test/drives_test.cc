// Drive I/O through a real ring, on a temporary file with O_DIRECT.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "driver.h"

using namespace braid;

namespace {

constexpr uint64_t FILE_BYTES = 4 << 20;

struct DriveFixture {
  DriveFixture() {
    char path[] = "./drive-test-XXXXXX";
    fd = mkstemp(path);
    unlink(path);
    CHECK(fd >= 0 && ftruncate(fd, FILE_BYTES) == 0);
    CHECK(fcntl(fd, F_SETFL, O_DIRECT) == 0);
    drive = static_cast<uint32_t>(driver.engine->drives().open(fd, &sizeBytes));
    CHECK_EQUAL(drive, 1u);
  }
  ~DriveFixture() { close(fd); }
  uint32_t* command(uint32_t kind, uint32_t tag, uint64_t offset, uint32_t length) {
    uint32_t* words = driver.command(kind, drive);
    words[abi::WORD_TAG] = tag;
    words[abi::WORD_OFFSET_LOW] = static_cast<uint32_t>(offset);
    words[abi::WORD_LENGTH] = length;
    return words;
  }
  void transfer(uint32_t kind, uint32_t tag, uint64_t offset, uint32_t length, uint32_t buffer) {
    driver.engine->slab().retain(buffer);
    command(kind, tag, offset, length)[abi::WORD_BUFFER] = buffer;
  }
  int32_t result(uint32_t tag) {
    const abi::Record event = driver.waitFor(abi::EVENT_DISK);
    CHECK_EQUAL(event.words[abi::WORD_TAG], tag);
    return static_cast<int32_t>(event.words[abi::WORD_STATUS]);
  }
  int fd;
  uint64_t sizeBytes = 0;
  uint32_t drive;
  Driver driver;
};

}  // namespace

TEST(drives_write_flush_and_read_back_with_checksums) {
  DriveFixture test;
  Slab& slab = test.driver.engine->slab();
  CHECK_EQUAL(test.sizeBytes, FILE_BYTES);
  const uint32_t buffer = test.driver.engine->alloc(131072, abi::POOL_PEER);
  for (uint32_t i = 0; i < 131072; i++) slab.bytesOf(buffer)[i] = static_cast<uint8_t>(i >> 8);
  test.transfer(abi::COMMAND_DISK_WRITE, 1, 131072, 131072, buffer);
  CHECK_EQUAL(test.result(1), 0);
  test.command(abi::COMMAND_DISK_FLUSH, 2, 0, 0);
  CHECK_EQUAL(test.result(2), 0);
  const uint32_t copy = test.driver.engine->alloc(131072, abi::POOL_PEER);
  test.transfer(abi::COMMAND_DISK_READ, 3, 131072, 131072, copy);
  CHECK_EQUAL(test.result(3), 0);
  CHECK(std::memcmp(slab.bytesOf(buffer), slab.bytesOf(copy), 131072) == 0);
  CHECK_EQUAL(slab.checksumsOf(copy)[31], crc32c(0, slab.bytesOf(buffer) + 31 * 4096, 4096));
  test.driver.release(buffer);
  test.driver.release(copy);
  CHECK_EQUAL(test.driver.used(), 0u);
}

TEST(drives_punch_and_zero) {
  DriveFixture test;
  Slab& slab = test.driver.engine->slab();
  const uint32_t buffer = test.driver.engine->alloc(16384, abi::POOL_PEER);
  std::memset(slab.bytesOf(buffer), 'q', 16384);
  test.transfer(abi::COMMAND_DISK_WRITE, 1, 0, 16384, buffer);
  CHECK_EQUAL(test.result(1), 0);
  test.command(abi::COMMAND_DISK_PUNCH, 2, 0, 4096);
  CHECK_EQUAL(test.result(2), 0);
  test.command(abi::COMMAND_DISK_ZERO, 3, 8192, 4096);
  CHECK_EQUAL(test.result(3), 0);
  test.transfer(abi::COMMAND_DISK_READ, 4, 0, 16384, buffer);
  CHECK_EQUAL(test.result(4), 0);
  const char expected[] = {0, 'q', 0, 'q'};
  for (int block = 0; block < 4; block++) {
    for (int at : {0, 4095}) CHECK_EQUAL(static_cast<char>(slab.bytesOf(buffer)[block * 4096 + at]), expected[block]);
  }
  test.driver.release(buffer);
}

TEST(drives_punch_a_file_without_giving_its_space_back) {
  DriveFixture test;
  CHECK_EQUAL(fallocate(test.fd, 0, 0, FILE_BYTES), 0);
  struct stat before, after;
  CHECK_EQUAL(fstat(test.fd, &before), 0);
  test.command(abi::COMMAND_DISK_PUNCH, 1, 131072, 1 << 20);
  CHECK_EQUAL(test.result(1), 0);
  CHECK_EQUAL(fstat(test.fd, &after), 0);
  CHECK_EQUAL(after.st_blocks, before.st_blocks);
}

// Shared memory files cannot zero a range in place.
TEST(drives_write_zeroes_where_the_file_system_cannot_zero) {
  Driver driver;
  const int fd = memfd_create("drive", MFD_CLOEXEC);
  CHECK(ftruncate(fd, FILE_BYTES) == 0);
  const std::string ones(FILE_BYTES, '\x01');
  CHECK_EQUAL(pwrite(fd, ones.data(), ones.size(), 0), ssize_t(FILE_BYTES));
  uint64_t sizeBytes = 0;
  const int drive = driver.engine->drives().open(fd, &sizeBytes);
  for (uint32_t tag = 0; tag < 2; tag++) {
    uint32_t* words = driver.command(abi::COMMAND_DISK_ZERO, static_cast<uint32_t>(drive));
    words[abi::WORD_TAG] = tag;
    words[abi::WORD_OFFSET_LOW] = 4096 + tag * (1 << 20);
    words[abi::WORD_LENGTH] = 300 * 1024;
    CHECK_EQUAL(driver.waitFor(abi::EVENT_DISK).words[abi::WORD_STATUS], 0u);
  }
  std::string bytes(FILE_BYTES, '\0');
  CHECK_EQUAL(pread(fd, bytes.data(), bytes.size(), 0), ssize_t(FILE_BYTES));
  std::string expected = ones;
  for (const size_t start : {size_t(4096), size_t(4096 + (1 << 20))}) expected.replace(start, 300 * 1024, 300 * 1024, '\0');
  CHECK(bytes == expected);
  close(fd);
}

TEST(drives_report_a_read_past_the_end_as_an_error) {
  DriveFixture test;
  const uint32_t buffer = test.driver.engine->alloc(131072, abi::POOL_PEER);
  test.transfer(abi::COMMAND_DISK_READ, 1, FILE_BYTES - 65536, 131072, buffer);
  CHECK_EQUAL(test.result(1), -EIO);
  test.driver.release(buffer);
  CHECK_EQUAL(test.driver.used(), 0u);
}

TEST(drives_close_after_their_last_operation) {
  DriveFixture test;
  const uint32_t buffer = test.driver.engine->alloc(4096, abi::POOL_PEER);
  for (uint32_t tag = 0; tag < 50; tag++) test.transfer(abi::COMMAND_DISK_WRITE, tag, tag * 4096, 4096, buffer);
  test.driver.engine->takeCommands();
  test.driver.engine->drives().close(test.drive);
  uint32_t done = 0;
  for (bool isClosed = false; !isClosed;) {
    for (const abi::Record& event : test.driver.turn(1000000)) {
      isClosed = event.words[abi::WORD_KIND] == abi::EVENT_DISK_CLOSED;
      if (!isClosed) done++;
    }
  }
  CHECK_EQUAL(done, 50u);
  test.driver.release(buffer);
  CHECK_EQUAL(test.driver.used(), 0u);
}

TEST(drives_refuse_what_is_no_drive) {
  Driver driver;
  uint64_t sizeBytes = 0;
  int pipes[2];
  CHECK(pipe(pipes) == 0);
  CHECK_EQUAL(driver.engine->drives().open(pipes[0], &sizeBytes), -ENOTBLK);
  close(pipes[0]);
  close(pipes[1]);
  char path[] = "./drive-test-XXXXXX";
  const int fd = mkstemp(path);
  unlink(path);
  CHECK(ftruncate(fd, 4096) == 0);
  CHECK_EQUAL(driver.engine->drives().open(fd, &sizeBytes), -ENOSPC);
  close(fd);
}

TEST(engine_stops_with_everything_in_flight) {
  for (const bool isOrderly : {false, true}) {
    DriveFixture test;
    Driver& driver = test.driver;
    Client client(driver.listen(Protocol::FRAMES));
    const uint32_t id = driver.waitFor(abi::EVENT_ACCEPTED).words[abi::WORD_TARGET];
    const uint32_t buffer = driver.engine->alloc(131072, abi::POOL_PEER);
    driver.engine->computeChecksums(buffer, 0, 131072);
    FrameHeader header = {};
    header.opcode = 16;
    client.send(frameBytes(header, std::string(100000, 'x')).substr(0, 90000));
    for (uint32_t i = 0; i < 100; i++) {
      test.transfer(i % 2 ? abi::COMMAND_DISK_WRITE : abi::COMMAND_DISK_READ, i, i % 30 * 131072, 131072, buffer);
      driver.engine->slab().retain(buffer);
      uint32_t* words = driver.command(abi::COMMAND_SEND_FRAME | 16 << 8, id);
      words[abi::WORD_BUFFER] = buffer;
      words[abi::WORD_PAYLOAD_LENGTH] = 131072;
    }
    test.command(abi::COMMAND_DISK_FLUSH, 100, 0, 0);
    driver.engine->takeCommands();
    CHECK_EQUAL(driver.engine->enter(0), 0);
    if (isOrderly) {
      driver.engine->stop();
      while (!driver.engine->isStopped()) driver.turn(1000000);
    } else {
      CHECK(driver.engine->quiesce(5000000000));
    }
    driver.release(buffer);
    CHECK_EQUAL(driver.used(), 0u);
  }
}

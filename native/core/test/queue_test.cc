#include <random>
#include <unordered_map>

#include "../core.h"
#include "../send_queue.h"
#include "../tag_table.h"
#include "test.h"

using namespace braid;

namespace {

struct QueueFixture {
  static constexpr uint32_t BLOCKS = 8 * CHUNK_BLOCKS;
  std::vector<uint8_t> bytes = std::vector<uint8_t>(static_cast<uint64_t>(BLOCKS) * abi::BLOCK_BYTES);
  std::vector<uint32_t> words = std::vector<uint32_t>(BLOCKS * 3);
  std::vector<uint8_t> orders = std::vector<uint8_t>(BLOCKS);
  uint32_t freedCount = 0;
  Slab slab{{bytes.data(), words.data(), words.data() + BLOCKS, words.data() + 2 * BLOCKS, orders.data(), &freedCount}, BLOCKS};
  HeadBlocks blocks;
  SendQueue queue{blocks, slab};
};

}  // namespace

TEST(send_queue_joins_neighbouring_headers) {
  QueueFixture test;
  iovec runs[SendQueue::RUNS_PER_CALL];
  for (int i = 0; i < 10; i++) test.queue.appendHead(64);
  CHECK_EQUAL(test.queue.gather(runs), 1u);
  CHECK_EQUAL(runs[0].iov_len, 640u);
  const uint32_t buffer = test.slab.alloc(4096, 0);
  test.queue.appendBuffer(buffer, 0, 4096);
  test.queue.appendHead(64);
  CHECK_EQUAL(test.queue.gather(runs), 3u);
  CHECK_EQUAL(test.queue.frameCount(), 11u);
  test.queue.advance(640 + 4095);
  CHECK_EQUAL(test.slab.usedBytes(0), 4096u);
  CHECK_EQUAL(test.queue.frameCount(), 1u);
  test.queue.advance(1);
  CHECK_EQUAL(test.slab.usedBytes(0), 0u);
  test.queue.advance(64);
  CHECK(test.queue.isEmpty());
}

TEST(send_queue_keeps_order_through_partial_sends) {
  QueueFixture test;
  std::mt19937 random(3);
  std::string queued, sent;
  uint8_t next = 0;
  const auto fill = [&](uint8_t* bytes, uint32_t length) {
    for (uint32_t i = 0; i < length; i++) queued.push_back(static_cast<char>(bytes[i] = next++));
  };
  for (int step = 0; step < 20000; step++) {
    const uint32_t choice = random() % 5;
    if (choice == 0) {
      const uint32_t length = 16 + random() % 180;
      fill(test.queue.appendHead(length), length);
    } else if (choice == 1) {
      const uint32_t buffer = test.slab.alloc(4096, 0);
      if (buffer == NO_BUFFER) continue;
      const uint32_t length = 1 + random() % 4000;
      fill(test.slab.bytesOf(buffer) + 96, length);
      test.queue.appendBuffer(buffer, 96, length);
    } else if (choice == 2) {
      uint8_t copy[300];
      const uint32_t length = 1 + random() % 300;
      fill(copy, length);
      test.queue.appendCopy(copy, length);
    } else {
      iovec runs[SendQueue::RUNS_PER_CALL];
      const uint32_t count = test.queue.gather(runs);
      uint64_t total = 0;
      for (uint32_t i = 0; i < count; i++) total += runs[i].iov_len;
      if (total == 0) continue;
      uint64_t bytes = 1 + random() % total;
      const uint64_t advanced = bytes;
      for (uint32_t i = 0; i < count && bytes > 0; i++) {
        const size_t part = std::min<uint64_t>(bytes, runs[i].iov_len);
        sent.append(static_cast<char*>(runs[i].iov_base), part);
        bytes -= part;
      }
      test.queue.advance(advanced);
    }
  }
  CHECK(sent == queued.substr(0, sent.size()));
  CHECK(sent.size() > 100000);
  test.queue.clear();
  CHECK_EQUAL(test.queue.frameCount(), 0u);
  CHECK_EQUAL(test.queue.copiedBytes(), 0u);
  CHECK_EQUAL(test.slab.usedBytes(0), 0u);
}

TEST(batch_ends_with_its_last_event_or_with_enough_payload) {
  std::vector<abi::Record> records(abi::EVENTS_MAX);
  EventQueue events(records.data());
  for (uint32_t i = 0; i < abi::EVENTS_MAX; i++) {
    CHECK(events.hasRoom());
    events.add(abi::EVENT_DISK, 1);
    events.weigh(abi::BLOCK_BYTES);
  }
  CHECK(!events.hasRoom());
  events.clear();
  events.add(abi::EVENT_DISK, 1);
  events.weigh(abi::BUFFER_BYTES_MAX);
  CHECK(events.hasRoom());
  events.add(abi::EVENT_NBD_REQUEST, 1);
  events.weigh(UINT32_MAX);
  CHECK(!events.hasRoom());
  events.clear();
  CHECK(events.hasRoom());
}

TEST(tag_table_matches_a_map_under_random_use) {
  TagTable table;
  std::unordered_map<uint32_t, uint32_t> model;
  std::mt19937 random(5);
  for (int step = 0; step < 100000; step++) {
    const uint32_t tag = random() % 300 * 65536;
    if (random() % 2 == 0) {
      const uint32_t value = 1 + random() % 1000;
      table.put(tag, value);
      model[tag] = value;
    } else {
      const auto found = model.find(tag);
      CHECK_EQUAL(table.take(tag), found == model.end() ? 0 : found->second);
      if (found != model.end()) model.erase(found);
    }
    CHECK_EQUAL(table.count(), model.size());
  }
}

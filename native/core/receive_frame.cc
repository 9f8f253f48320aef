// What arrives on a connection between agents: frames, as in daemon/protocol/WIRE.md.
#include "sockets.h"

namespace braid {
namespace {

constexpr uint32_t LARGE_BYTES = 32768;

}  // namespace

// Replies to control requests have a reserve, so that they can always be received; requests compete for the peers' pool.
uint32_t Sockets::framePool(const FrameHeader& header) {
  return (header.opcode & FRAME_REPLY) != 0 ? POOL_RESERVE : abi::POOL_PEER;
}

Sockets::Step Sockets::parseFrameHeader(Connection& connection) {
  if (connection.available() < FRAME_HEADER_BYTES) return Step::NEED_BYTES;
  FrameHeader& header = connection.frame;
  const uint8_t* bytes = connection.staging + connection.head;
  const uint32_t violation = parseFrame(bytes, &header);
  if (violation != 0) {
    startClose(connection, violation, 0);
    return Step::BLOCKED;
  }
  const bool isReadReply = header.opcode == FRAME_READ_REPLY;
  if (isReadReply && !acceptReadReply(connection, header)) {
    startClose(connection, abi::CLOSE_UNANNOUNCED_REPLY, 0);
    return Step::BLOCKED;
  }
  const uint32_t tableBytes = blocksOf(header.payloadLength) * sizeof(uint32_t);
  if (connection.available() < FRAME_HEADER_BYTES + tableBytes) return Step::NEED_BYTES;
  if (tableBytes > 0) {
    std::memcpy(connection.table, bytes + FRAME_HEADER_BYTES, tableBytes);
    if (crc32c(0, connection.table, tableBytes) != header.tableChecksum) {
      startClose(connection, abi::CLOSE_BAD_TABLE_CHECKSUM, 0);
      return Step::BLOCKED;
    }
  }
  connection.head += FRAME_HEADER_BYTES + tableBytes;
  connection.payloadBase = 0;
  connection.payloadLength = header.payloadLength;
  connection.payloadDone = 0;
  connection.wasLarge = header.payloadLength >= LARGE_BYTES;
  connection.phase = ReceivePhase::DELIVER;
  if (isReadReply && header.replyBuffer != NO_BUFFER) {
    // From here on nobody else can be sent this buffer. Without payload its use ends here.
    withdraw(connection, header.replyBuffer);
    if (header.payloadLength == 0) {
      core_.slab.release(header.replyBuffer);
    } else {
      connection.payloadBuffer = header.replyBuffer;
      connection.phase = ReceivePhase::PAYLOAD;
    }
  } else if (header.payloadLength > 0) {
    connection.phase = ReceivePhase::ALLOCATE;
  }
  return Step::PROGRESS;
}

// A READ reply must name the buffer that was announced with its tag on this connection, and fit into it.
bool Sockets::acceptReadReply(Connection& connection, const FrameHeader& header) {
  const uint32_t buffer = header.replyBuffer;
  if (buffer == NO_BUFFER) return header.payloadLength == 0;
  if (buffer > core_.slab.blockCount() || announced_[buffer - 1] != connection.id) return false;
  const Announcement& announcement = announcements_[buffer - 1];
  return announcement.tag == header.tag && header.payloadLength <= announcement.capacityBytes;
}

// Computes the checksums of what has arrived into the slab's table and compares them with those that came along.
bool Sockets::verifyFramePayload(Connection& connection) {
  uint32_t* checksums = core_.slab.checksumsOf(connection.payloadBuffer);
  crc32cBlocks(core_.slab.bytesOf(connection.payloadBuffer), connection.payloadLength, checksums);
  return std::memcmp(checksums, connection.table, blocksOf(connection.payloadLength) * sizeof(uint32_t)) == 0;
}

void Sockets::deliverFrame(Connection& connection) {
  const FrameHeader& header = connection.frame;
  const bool isReadRequest = header.opcode == FRAME_READ;
  if (isReadRequest && header.replyBuffer != NO_BUFFER) {
    if (connection.echoes.count() >= core_.limits.framesQueuedMax) {
      return startClose(connection, abi::CLOSE_TOO_MANY_READS, 0);
    }
    connection.echoes.put(header.tag, header.replyBuffer);
  }
  uint32_t* words = core_.events.add(abi::EVENT_FRAME | header.opcode << 8 | static_cast<uint32_t>(header.flags) << 16,
                                     connection.id);
  words[abi::WORD_BUFFER] = connection.payloadBuffer;  // with its reference
  words[abi::WORD_TAG] = header.tag;
  words[abi::WORD_SESSION] = header.session;
  words[abi::WORD_SEGMENT] = header.segment;
  words[abi::WORD_GENERATION] = header.generation;
  words[abi::WORD_EPOCH] = header.epoch;
  words[abi::WORD_OFFSET_LOW] = static_cast<uint32_t>(header.offset);
  words[abi::WORD_OFFSET_HIGH] = static_cast<uint32_t>(header.offset >> 32);
  words[abi::WORD_LENGTH] = header.length;
  words[abi::WORD_PAYLOAD_LENGTH] = header.payloadLength;
  words[abi::WORD_STATUS] = header.status;
  connection.payloadBuffer = NO_BUFFER;
  connection.phase = ReceivePhase::HEADER;
  core_.stats.framesIn++;
}

}  // namespace braid

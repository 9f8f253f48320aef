// Sending: frames and NBD replies are packed into a connection's queue, and one call sends all that is queued.
#include <cerrno>

#include "clock.h"
#include "sockets.h"

namespace braid {
namespace {

// Copied payload (control messages, handshakes) that may wait for one peer.
constexpr uint64_t COPIED_BYTES_MAX = 8ull << 20;
constexpr uint32_t NBD_ERROR_PAYLOAD_BYTES = 6;
// From here on copying costs more than having a kernel thread do it beside us. It does not block there either: the kernel
// polls the socket instead.
constexpr uint64_t ASYNC_SEND_BYTES_MIN = 65536;

FrameHeader headerOf(const abi::Record& command) {
  const uint32_t* words = command.words;
  FrameHeader header;
  header.opcode = static_cast<uint8_t>(words[abi::WORD_KIND] >> 8);
  header.flags = static_cast<uint16_t>(words[abi::WORD_KIND] >> 16);
  header.tag = words[abi::WORD_TAG];
  header.session = words[abi::WORD_SESSION];
  header.segment = words[abi::WORD_SEGMENT];
  header.generation = words[abi::WORD_GENERATION];
  header.epoch = words[abi::WORD_EPOCH];
  header.replyBuffer = words[abi::WORD_REPLY_BUFFER];
  header.offset = static_cast<uint64_t>(words[abi::WORD_OFFSET_HIGH]) << 32 | words[abi::WORD_OFFSET_LOW];
  header.length = words[abi::WORD_LENGTH];
  header.payloadLength = words[abi::WORD_PAYLOAD_LENGTH];
  header.status = words[abi::WORD_STATUS];
  header.tableChecksum = 0;
  return header;
}

}  // namespace

void Sockets::makeDirty(Connection& connection) {
  if (connection.isDirty) return;
  connection.isDirty = true;
  dirty_.push_back(connection.id);
}

void Sockets::flush() {
  if (dirty_.empty()) return;
  const int64_t nowNs = monotonicNs();
  for (const uint32_t id : dirty_) {
    Connection* connection = find(id);
    if (connection == nullptr) continue;
    connection->isDirty = false;
    const bool maySend = connection->isUp() || connection->state == ConnectionState::LINGERING;
    if (maySend && !connection->isSending && !connection->queue.isEmpty()) send(*connection, nowNs);
  }
  dirty_.clear();
}

void Sockets::send(Connection& connection, int64_t nowNs) {
  const uint32_t count = connection.queue.gather(connection.runs);
  io_uring_sqe* sqe = core_.ring.entry();
  if (count == 1) {
    io_uring_prep_send(sqe, connection.fd, connection.runs[0].iov_base, connection.runs[0].iov_len,
                       MSG_NOSIGNAL | MSG_WAITALL);
  } else {
    connection.message.msg_iov = connection.runs;
    connection.message.msg_iovlen = count;
    io_uring_prep_sendmsg(sqe, connection.fd, &connection.message, MSG_NOSIGNAL | MSG_WAITALL);
  }
  useFile(connection, sqe);
  if (connection.queue.bufferBytes() >= ASYNC_SEND_BYTES_MIN) sqe->flags |= IOSQE_ASYNC;
  core_.ring.tag(sqe, Op::SEND, connection.slot);
  connection.isSending = true;
  connection.sendStartedNs = nowNs;
  if (stallCheckAtNs_ == 0) stallCheckAtNs_ = nowNs + core_.limits.sendStallNs;
  connection.pending++;
  core_.stats.sends++;
}

void Sockets::onSent(Connection& connection, int32_t result) {
  connection.isSending = false;
  const uint64_t queuedBefore = connection.queue.bufferBytes();
  if (result > 0) {
    connection.queue.advance(static_cast<uint32_t>(result));
    core_.stats.bytesOut += static_cast<uint32_t>(result);
  }
  if (connection.state == ConnectionState::CLOSING) return settle(connection);
  if (result < 0 && result != -EINTR && result != -EAGAIN) {
    return startClose(connection, abi::CLOSE_SEND_FAILED, static_cast<uint32_t>(-result));
  }
  if (connection.protocol == Protocol::NBD) {
    noteSent(connection, static_cast<uint32_t>(queuedBefore - connection.queue.bufferBytes()));
  }
  if (!connection.queue.isEmpty()) return makeDirty(connection);
  if (connection.state == ConnectionState::LINGERING) startClose(connection, abi::CLOSE_LOCAL, 0);
}

// Keeps the table that JavaScript reads, and tells it when a connection that had much to send has little.
void Sockets::noteSent(Connection& connection, uint32_t bytes) {
  uint32_t& unsent = unsent_[connection.slot];
  BRAID_ASSERT(unsent >= bytes, "JavaScript has counted what it queued");
  const uint32_t half = core_.limits.nbdUnsentBytesMax / 2;
  const bool wasMuch = unsent >= half;
  unsent -= bytes;
  if (wasMuch && unsent < half) core_.events.add(abi::EVENT_DRAINED, connection.id);
}

// Closes the connections whose peers have taken nothing for too long, and looks again when the next one could be.
void Sockets::closeStalled(int64_t nowNs) {
  stallCheckAtNs_ = 0;
  for (const auto& connection : connections_) {
    if (!connection || !connection->isSending) continue;
    const int64_t at = connection->sendStartedNs + core_.limits.sendStallNs;
    if (at <= nowNs) {
      startClose(*connection, abi::CLOSE_PEER_DOES_NOT_READ, 0);
    } else if (stallCheckAtNs_ == 0 || at < stallCheckAtNs_) {
      stallCheckAtNs_ = at;
    }
  }
}

// Closes a connection whose peer lets replies pile up. What may wait for it is bounded besides: payload by the slab's pools.
bool Sockets::checkQueue(Connection& connection) {
  const bool isFull = connection.queue.frameCount() > core_.limits.framesQueuedMax ||
                      connection.queue.copiedBytes() > COPIED_BYTES_MAX;
  if (isFull) startClose(connection, abi::CLOSE_PEER_DOES_NOT_READ, 0);
  return !isFull;
}

// The command's connection is gone: drops the references that came with it.
void Sockets::releaseAll(const abi::Record& command) {
  const uint32_t buffer = command.words[abi::WORD_BUFFER];
  const uint32_t replyBuffer = command.words[abi::WORD_REPLY_BUFFER];
  if (buffer != NO_BUFFER) core_.slab.release(buffer);
  if (replyBuffer == NO_BUFFER) return;
  announced_[replyBuffer - 1] = 0;
  core_.slab.release(replyBuffer);
}

void Sockets::sendFrame(const abi::Record& command) {
  const uint32_t id = command.words[abi::WORD_TARGET];
  Connection* connection = find(id);
  const bool maySend = connection != nullptr && connection->state <= ConnectionState::OPEN;
  if (!maySend || !checkQueue(*connection)) return releaseAll(command);
  FrameHeader header = headerOf(command);
  BRAID_ASSERT(connection->protocol == Protocol::FRAMES, "frames go to agents");
  if (header.replyBuffer != NO_BUFFER) {
    BRAID_ASSERT(header.opcode == FRAME_READ, "only READ has a reply buffer");
    announce(*connection, header.replyBuffer, header.tag, header.length);
  } else if (header.opcode == FRAME_READ_REPLY) {
    header.replyBuffer = connection->echoes.take(header.tag);
  }
  const uint32_t buffer = command.words[abi::WORD_BUFFER];
  const uint32_t offset = command.words[abi::WORD_BUFFER_OFFSET];
  const uint32_t tableBytes = blocksOf(header.payloadLength) * sizeof(uint32_t);
  BRAID_ASSERT((buffer == NO_BUFFER) == (header.payloadLength == 0), "payload has a buffer");
  BRAID_ASSERT(header.payloadLength <= abi::BUFFER_BYTES_MAX && offset % abi::BLOCK_BYTES == 0,
               "payload is block-aligned and at most 128 KiB");
  uint8_t* bytes = connection->queue.appendHead(FRAME_HEADER_BYTES + tableBytes);
  if (tableBytes > 0) {
    const uint32_t* table = core_.slab.checksumsOf(buffer) + offset / abi::BLOCK_BYTES;
    std::memcpy(bytes + FRAME_HEADER_BYTES, table, tableBytes);
    header.tableChecksum = crc32c(0, table, tableBytes);
    connection->queue.appendBuffer(buffer, offset, header.payloadLength);
  }
  packFrame(header, bytes);
  core_.stats.framesOut++;
  makeDirty(*connection);
}

void Sockets::sendControl(const abi::Record& command, const uint8_t* payload, size_t payloadBytes) {
  Connection* connection = find(command.words[abi::WORD_TARGET]);
  if (connection == nullptr || connection->state > ConnectionState::OPEN || !checkQueue(*connection)) return;
  BRAID_ASSERT(connection->protocol == Protocol::FRAMES, "frames go to agents");
  BRAID_ASSERT(payloadBytes <= abi::BUFFER_BYTES_MAX, "a control message fits one frame");
  FrameHeader header = headerOf(command);
  header.replyBuffer = NO_BUFFER;
  header.payloadLength = static_cast<uint32_t>(payloadBytes);
  const uint32_t tableBytes = blocksOf(header.payloadLength) * sizeof(uint32_t);
  uint32_t table[FRAME_BLOCKS_MAX];
  crc32cBlocks(payload, header.payloadLength, table);
  header.tableChecksum = tableBytes > 0 ? crc32c(0, table, tableBytes) : 0;
  uint8_t* bytes = connection->queue.appendHead(FRAME_HEADER_BYTES + tableBytes);
  packFrame(header, bytes);
  std::memcpy(bytes + FRAME_HEADER_BYTES, table, tableBytes);
  connection->queue.appendCopy(payload, header.payloadLength);
  core_.stats.framesOut++;
  makeDirty(*connection);
}

void Sockets::sendBytes(uint32_t id, const uint8_t* bytes, uint32_t length, bool isFinal) {
  Connection* connection = find(id);
  if (connection == nullptr || connection->state > ConnectionState::OPEN || !checkQueue(*connection)) return;
  BRAID_ASSERT(connection->protocol == Protocol::NBD, "raw bytes go to NBD clients");
  connection->queue.appendCopy(bytes, length);
  if (isFinal) finishNbdRequest(*connection);
  makeDirty(*connection);
}

void Sockets::sendNbd(const abi::Record& command) {
  const uint32_t* words = command.words;
  Connection* connection = find(words[abi::WORD_TARGET]);
  const bool maySend = connection != nullptr && connection->state <= ConnectionState::OPEN;
  if (!maySend || !checkQueue(*connection)) return releaseAll(command);
  BRAID_ASSERT(connection->protocol == Protocol::NBD, "NBD replies go to NBD clients");
  SendQueue& queue = connection->queue;
  const uint32_t high = words[abi::WORD_COOKIE_HIGH];
  const uint32_t low = words[abi::WORD_COOKIE_LOW];
  const uint32_t length = words[abi::WORD_LENGTH];
  const uint32_t status = words[abi::WORD_STATUS];
  const bool isFinal = words[abi::WORD_FINAL] != 0;
  const uint64_t offset = static_cast<uint64_t>(words[abi::WORD_OFFSET_HIGH]) << 32 | words[abi::WORD_OFFSET_LOW];
  uint8_t* bytes;
  switch (words[abi::WORD_KIND] & 0xff) {
    case abi::COMMAND_NBD_SIMPLE:
      packNbdSimpleReply(queue.appendHead(NBD_SIMPLE_REPLY_BYTES), high, low, status);
      break;
    case abi::COMMAND_NBD_DATA:
      queue.appendBuffer(words[abi::WORD_BUFFER], words[abi::WORD_BUFFER_OFFSET], length);
      break;
    case abi::COMMAND_NBD_DATA_CHUNK:
      bytes = queue.appendHead(NBD_CHUNK_HEADER_BYTES + 8);
      packNbdChunk(bytes, isFinal, NBD_REPLY_TYPE_OFFSET_DATA, high, low, 8 + length);
      storeBig<uint64_t>(bytes + NBD_CHUNK_HEADER_BYTES, offset);
      queue.appendBuffer(words[abi::WORD_BUFFER], words[abi::WORD_BUFFER_OFFSET], length);
      break;
    case abi::COMMAND_NBD_HOLE_CHUNK:
      bytes = queue.appendHead(NBD_CHUNK_HEADER_BYTES + 12);
      packNbdChunk(bytes, isFinal, NBD_REPLY_TYPE_OFFSET_HOLE, high, low, 12);
      storeBig<uint64_t>(bytes + NBD_CHUNK_HEADER_BYTES, offset);
      storeBig<uint32_t>(bytes + NBD_CHUNK_HEADER_BYTES + 8, length);
      break;
    case abi::COMMAND_NBD_STATUS_CHUNK:
      bytes = queue.appendHead(NBD_CHUNK_HEADER_BYTES + (status == 0 ? 0 : NBD_ERROR_PAYLOAD_BYTES));
      packNbdChunk(bytes, true, status == 0 ? NBD_REPLY_TYPE_NONE : NBD_REPLY_TYPE_ERROR, high, low,
                   status == 0 ? 0 : NBD_ERROR_PAYLOAD_BYTES);
      if (status == 0) break;
      storeBig<uint32_t>(bytes + NBD_CHUNK_HEADER_BYTES, status);
      storeBig<uint16_t>(bytes + NBD_CHUNK_HEADER_BYTES + 4, 0);  // no message
      break;
    default:
      BRAID_ASSERT(false, "an NBD reply is one of these");
  }
  if (isFinal) finishNbdRequest(*connection);
  makeDirty(*connection);
}

void Sockets::finishNbdRequest(Connection& connection) {
  BRAID_ASSERT(connection.nbdInFlight > 0, "each NBD request has one final reply");
  core_.stats.nbdReplies++;
  nbdInFlight_--;
  hasReplied_ = true;
  if (connection.nbdInFlight-- == core_.limits.nbdRequestsMax) makeRunnable(connection);
}

// Remembers where the reply to a READ is to land; takes over the reference that came with the command.
void Sockets::announce(Connection& connection, uint32_t buffer, uint32_t tag, uint32_t capacityBytes) {
  BRAID_ASSERT(core_.slab.isAllocated(buffer) && announced_[buffer - 1] == connection.id, "the reply buffer is announced once");
  const uint32_t sizeBytes = core_.slab.sizeOf(buffer);
  Announcement& announcement = announcements_[buffer - 1];
  announcement = {tag, capacityBytes < sizeBytes ? capacityBytes : sizeBytes, connection.announcedFirst, NO_BUFFER};
  if (connection.announcedFirst != NO_BUFFER) announcements_[connection.announcedFirst - 1].previous = buffer;
  connection.announcedFirst = buffer;
}

void Sockets::withdraw(Connection& connection, uint32_t buffer) {
  const Announcement& announcement = announcements_[buffer - 1];
  announced_[buffer - 1] = 0;
  if (announcement.previous != NO_BUFFER) {
    announcements_[announcement.previous - 1].next = announcement.next;
  } else {
    connection.announcedFirst = announcement.next;
  }
  if (announcement.next != NO_BUFFER) announcements_[announcement.next - 1].previous = announcement.previous;
}

}  // namespace braid

// Receiving: from the socket through the staging area into slab buffers. What the bytes mean is in receive_frame.cc and
// receive_nbd.cc.
#include <algorithm>
#include <cerrno>

#include "sockets.h"

namespace braid {
namespace {

// Less than this is received through the staging area, together with what follows it.
constexpr uint32_t DIRECT_BYTES_MIN = 16384;
// Behind a large payload the next header is likely to announce another one: receive little of it by way of the staging area.
constexpr uint32_t AFTER_LARGE_BYTES = 4096;

}  // namespace

void Sockets::receive(Connection& connection) {
  BRAID_ASSERT(!connection.isReceiving, "one receive at a time");
  io_uring_sqe* sqe = core_.ring.entry();
  const uint32_t missing = connection.phase == ReceivePhase::PAYLOAD ? connection.payloadLength - connection.payloadDone : 0;
  connection.isReceivingPayload = connection.isUp() && missing >= DIRECT_BYTES_MIN;
  if (connection.isReceivingPayload) {
    uint8_t* target = core_.slab.bytesOf(connection.payloadBuffer) + connection.payloadBase + connection.payloadDone;
    io_uring_prep_recv(sqe, connection.fd, target, missing, MSG_WAITALL);
  } else {
    if (connection.available() == 0) {
      connection.head = connection.tail = connection.phase == ReceivePhase::HANDSHAKE ? Connection::HANDSHAKE_BASE : 0;
    } else if (Connection::STAGING_BYTES - connection.tail < AFTER_LARGE_BYTES) {
      std::memmove(connection.staging, connection.staging + connection.head, connection.available());
      connection.tail = connection.available();
      connection.head = 0;
    }
    uint32_t room = Connection::STAGING_BYTES - connection.tail;
    BRAID_ASSERT(room > 0, "whoever receives has consumed enough");
    if (connection.wasLarge) room = std::min(room, AFTER_LARGE_BYTES);
    io_uring_prep_recv(sqe, connection.fd, connection.staging + connection.tail, room, 0);
  }
  useFile(connection, sqe);
  core_.ring.tag(sqe, Op::RECEIVE, connection.slot);
  connection.isReceiving = true;
  connection.pending++;
}

void Sockets::onReceived(Connection& connection, int32_t result) {
  connection.isReceiving = false;
  core_.stats.receives++;
  if (connection.state == ConnectionState::CLOSING) return settle(connection);
  if (result == -EINTR || result == -EAGAIN) return receive(connection);
  if (result < 0) return startClose(connection, abi::CLOSE_RECEIVE_FAILED, static_cast<uint32_t>(-result));
  if (result == 0) {
    const bool isBetween = connection.phase == ReceivePhase::HANDSHAKE || connection.phase == ReceivePhase::DISCONNECTED ||
                           (connection.phase == ReceivePhase::HEADER && connection.available() == 0);
    return startClose(connection, isBetween ? abi::CLOSE_PEER : abi::CLOSE_PEER_MID_FRAME, 0);
  }
  core_.stats.bytesIn += static_cast<uint32_t>(result);
  if (connection.state == ConnectionState::LINGERING) {
    connection.head = connection.tail = 0;  // nobody wants it any more
    return receive(connection);
  }
  if (connection.isReceivingPayload) {
    connection.payloadDone += static_cast<uint32_t>(result);
  } else {
    connection.tail += static_cast<uint32_t>(result);
  }
  run(connection);
}

void Sockets::makeRunnable(Connection& connection) {
  if (connection.isRunnable) return;
  connection.isRunnable = true;
  runnable_.push_back(connection.id);
}

// Parses what has arrived as far as it goes, then asks for more, unless something else must happen first.
void Sockets::run(Connection& connection) {
  Step result = Step::PROGRESS;
  while (result == Step::PROGRESS) {
    if (!connection.isUp() || connection.isPaused || connection.isWaiting) return;
    result = step(connection);
  }
  if (result == Step::NEED_BYTES && !connection.isReceiving) receive(connection);
}

Sockets::Step Sockets::step(Connection& connection) {
  switch (connection.phase) {
    case ReceivePhase::HANDSHAKE:
      if (connection.available() == 0) return Step::NEED_BYTES;
      return deliver(connection);
    case ReceivePhase::HEADER:
      return connection.protocol == Protocol::NBD ? parseNbdHeader(connection) : parseFrameHeader(connection);
    case ReceivePhase::ALLOCATE:
      return allocate(connection);
    case ReceivePhase::PAYLOAD:
      return fillPayload(connection);
    case ReceivePhase::DELIVER:
      return deliver(connection);
    case ReceivePhase::DISCONNECTED:
      // The client has said goodbye: nothing of it is parsed, and its end of stream is the end.
      connection.head = connection.tail;
      return Step::NEED_BYTES;
  }
  BRAID_ASSERT(false, "the phase is one of these");
}

// Both sides of the wait for a buffer: tried here first, and by `resume` when it is this connection's turn.
Sockets::Step Sockets::allocate(Connection& connection) {
  const uint32_t pool = connection.protocol == Protocol::NBD ? abi::POOL_FRONTEND : framePool(connection.frame);
  const bool isFirst = connection.isWaiting || core_.waiters.isEmpty(pool);
  const uint32_t lengthBytes = connection.payloadBase + connection.payloadLength;
  const uint32_t buffer = isFirst ? core_.slab.alloc(lengthBytes, pool) : NO_BUFFER;
  if (buffer == NO_BUFFER) {
    if (connection.isWaiting) return Step::BLOCKED;
    connection.isWaiting = true;
    core_.waiters.push(pool, connection.id);
    core_.stats.poolWaits++;
    return Step::BLOCKED;
  }
  connection.isWaiting = false;
  connection.payloadBuffer = buffer;
  connection.payloadDone = 0;
  connection.phase = ReceivePhase::PAYLOAD;
  return Step::PROGRESS;
}

Sockets::Step Sockets::fillPayload(Connection& connection) {
  const uint32_t missing = connection.payloadLength - connection.payloadDone;
  const uint32_t bytes = std::min(missing, connection.available());
  if (bytes > 0) {
    uint8_t* target = core_.slab.bytesOf(connection.payloadBuffer) + connection.payloadBase + connection.payloadDone;
    std::memcpy(target, connection.staging + connection.head, bytes);
    connection.head += bytes;
    connection.payloadDone += bytes;
  }
  if (connection.payloadDone < connection.payloadLength) return Step::NEED_BYTES;
  if (connection.protocol == Protocol::NBD) {
    const bool isWholeBlocks = connection.payloadBase == 0 && connection.payloadLength % abi::BLOCK_BYTES == 0;
    if (isWholeBlocks) {
      crc32cBlocks(core_.slab.bytesOf(connection.payloadBuffer), connection.payloadLength,
                   core_.slab.checksumsOf(connection.payloadBuffer));
    }
  } else if (!verifyFramePayload(connection)) {
    startClose(connection, abi::CLOSE_BAD_PAYLOAD_CHECKSUM, 0);
    return Step::BLOCKED;
  }
  connection.phase = ReceivePhase::DELIVER;
  return Step::PROGRESS;
}

Sockets::Step Sockets::deliver(Connection& connection) {
  if (!core_.events.hasRoom()) {
    makeRunnable(connection);
    return Step::BLOCKED;
  }
  if (connection.phase == ReceivePhase::HANDSHAKE) {
    core_.events.add(abi::EVENT_BYTES, connection.id);
    return Step::BLOCKED;  // until JavaScript has taken them
  }
  if (connection.protocol == Protocol::NBD) {
    deliverNbd(connection);
  } else {
    deliverFrame(connection);
  }
  return Step::PROGRESS;
}

void Sockets::resume() {
  running_.swap(runnable_);
  for (const uint32_t id : running_) {
    Connection* connection = find(id);
    if (connection == nullptr) continue;
    connection->isRunnable = false;
    run(*connection);
  }
  running_.clear();
  for (uint32_t pool = 0; pool < POOL_COUNT; pool++) {
    while (core_.waiters.mayTry(pool)) {
      if (core_.waiters.first(pool) == WaitQueue::JAVASCRIPT) {
        if (!core_.events.hasRoom()) break;
        core_.waiters.startTurn(pool);
        core_.events.add(abi::EVENT_AVAILABLE, pool);
        break;  // the others go on after JavaScript had its turn
      }
      Connection* connection = find(core_.waiters.first(pool));
      BRAID_ASSERT(connection != nullptr && connection->isWaiting, "a connection that ends stops waiting");
      if (allocate(*connection) == Step::BLOCKED) {
        core_.waiters.noteFailure(pool);
        break;
      }
      core_.waiters.pop(pool);
      run(*connection);
    }
  }
}

bool Sockets::hasBacklog() const {
  if (!runnable_.empty() || !closed_.empty()) return true;
  for (uint32_t pool = 0; pool < POOL_COUNT; pool++) {
    if (core_.waiters.mayTry(pool)) return true;
  }
  return false;
}

void Sockets::setReceiving(uint32_t id, bool receiving) {
  Connection* connection = find(id);
  if (connection == nullptr || connection->isPaused == !receiving) return;
  connection->isPaused = !receiving;
  if (receiving) makeRunnable(*connection);
}

}  // namespace braid

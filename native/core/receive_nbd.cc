// What arrives on an NBD connection: handshake bytes for JavaScript, then requests.
#include <algorithm>

#include "sockets.h"

namespace braid {
namespace {

constexpr uint32_t LARGE_BYTES = 32768;
// Offsets from here on are no exact numbers in JavaScript; all of them are out of every export's range.
constexpr uint64_t OFFSET_MAX = 1ull << 53;

}  // namespace

uint32_t Sockets::handshakeBytes(uint32_t id) const {
  const Connection* connection = find(id);
  const bool isHandshake = connection != nullptr && connection->isUp() && connection->phase == ReceivePhase::HANDSHAKE;
  return isHandshake ? connection->available() : 0;
}

void Sockets::takeHandshakeBytes(uint32_t id, uint8_t* out) {
  Connection* connection = find(id);
  BRAID_ASSERT(connection != nullptr && connection->phase == ReceivePhase::HANDSHAKE, "there are handshake bytes");
  std::memcpy(out, connection->staging + connection->head, connection->available());
  connection->head = connection->tail = Connection::HANDSHAKE_BASE;
  makeRunnable(*connection);
}

void Sockets::startTransmission(uint32_t id, const uint8_t* leftover, uint32_t length) {
  Connection* connection = find(id);
  if (connection == nullptr || !connection->isUp()) return;
  BRAID_ASSERT(connection->phase == ReceivePhase::HANDSHAKE, "transmission starts once");
  if (length > Connection::HANDSHAKE_BASE) return startClose(*connection, abi::CLOSE_NBD_LEFTOVER_TOO_LARGE, 0);
  BRAID_ASSERT(connection->head == Connection::HANDSHAKE_BASE, "there is room in front of what arrives");
  connection->head -= length;
  if (length > 0) std::memcpy(connection->staging + connection->head, leftover, length);
  connection->phase = ReceivePhase::HEADER;
  makeRunnable(*connection);
}

Sockets::Step Sockets::parseNbdHeader(Connection& connection) {
  if (connection.nbdInFlight >= core_.limits.nbdRequestsMax) return Step::BLOCKED;  // until a final reply
  if (connection.available() < NBD_REQUEST_BYTES) return Step::NEED_BYTES;
  NbdRequestHeader& request = connection.nbd;
  const uint32_t violation =
      parseNbdRequest(connection.staging + connection.head, core_.limits.nbdWriteBytesMax, &request);
  if (violation != 0) {
    startClose(connection, violation, 0);
    return Step::BLOCKED;
  }
  connection.head += NBD_REQUEST_BYTES;
  connection.nbdOffset = request.offset;
  connection.nbdRemaining = request.length;
  connection.nbdIsFirst = true;
  connection.wasLarge = false;
  if (request.type != NBD_CMD_DISC) {
    connection.nbdInFlight++;
    nbdInFlight_++;
  }
  startNbdPiece(connection);
  return Step::PROGRESS;
}

void Sockets::startNbdPiece(Connection& connection) {
  const bool hasPayload = connection.nbd.type == NBD_CMD_WRITE && connection.nbdRemaining > 0;
  connection.payloadDone = 0;
  connection.payloadBase = hasPayload ? static_cast<uint32_t>(connection.nbdOffset % abi::BLOCK_BYTES) : 0;
  connection.payloadLength = hasPayload ? nbdPieceLength(connection.nbdOffset, connection.nbdRemaining) : 0;
  connection.wasLarge = connection.wasLarge || connection.payloadLength >= LARGE_BYTES;
  connection.phase = hasPayload ? ReceivePhase::ALLOCATE : ReceivePhase::DELIVER;
}

void Sockets::deliverNbd(Connection& connection) {
  const NbdRequestHeader& request = connection.nbd;
  const bool isPiece = connection.payloadLength > 0;
  const uint32_t length = isPiece ? connection.payloadLength : request.length;
  const uint64_t offset = std::min(connection.nbdOffset, OFFSET_MAX);
  const bool isLast = !isPiece || connection.nbdRemaining == length;
  uint32_t* words = core_.events.add(abi::EVENT_NBD_REQUEST | static_cast<uint32_t>(request.type) << 16, connection.id);
  core_.events.weigh(length);
  words[abi::WORD_BUFFER] = connection.payloadBuffer;  // with its reference
  words[abi::WORD_NBD_FLAGS] =
      request.flags | static_cast<uint32_t>(connection.nbdIsFirst) << 16 | static_cast<uint32_t>(isLast) << 17;
  words[abi::WORD_COOKIE_HIGH] = request.cookieHigh;
  words[abi::WORD_COOKIE_LOW] = request.cookieLow;
  words[abi::WORD_OFFSET_LOW] = static_cast<uint32_t>(offset);
  words[abi::WORD_OFFSET_HIGH] = static_cast<uint32_t>(offset >> 32);
  words[abi::WORD_LENGTH] = length;
  words[abi::WORD_PAYLOAD_LENGTH] = request.length;
  connection.payloadBuffer = NO_BUFFER;
  if (connection.nbdIsFirst) core_.stats.nbdRequests++;
  if (!isLast) {
    connection.nbdOffset += length;
    connection.nbdRemaining -= length;
    connection.nbdIsFirst = false;
    return startNbdPiece(connection);
  }
  connection.phase = request.type == NBD_CMD_DISC ? ReceivePhase::DISCONNECTED : ReceivePhase::HEADER;
}

}  // namespace braid

// State of one connection. It belongs to `Sockets`; engine thread only.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <cstdint>
#include <cstdlib>

#include "frame.h"
#include "nbd.h"
#include "send_queue.h"
#include "tag_table.h"

namespace braid {

enum class Protocol : uint8_t { FRAMES, NBD };

// CONNECTING -> OPEN -> (LINGERING ->) CLOSING -> gone. LINGERING sends what is queued and drops what arrives;
// CLOSING waits for the kernel to give back what it still uses.
enum class ConnectionState : uint8_t { CONNECTING, OPEN, LINGERING, CLOSING };

// What the next bytes are. A unit is a frame, or an NBD request, or one piece of an NBD WRITE.
enum class ReceivePhase : uint8_t { HANDSHAKE, HEADER, ALLOCATE, PAYLOAD, DELIVER, DISCONNECTED };

struct Connection {
  static constexpr uint32_t STAGING_BYTES = 65536;
  // Handshake bytes land behind this much room for leftovers that come back.
  static constexpr uint32_t HANDSHAKE_BASE = STAGING_BYTES / 2;

  Connection(HeadBlocks& blocks, Slab& slab) : queue(blocks, slab) {}
  ~Connection() { std::free(staging); }

  uint32_t id = 0;
  uint32_t slot = 0;
  int fd = -1;
  bool hasFileSlot = false;
  bool isAccepted = false;
  Protocol protocol = Protocol::FRAMES;
  ConnectionState state = ConnectionState::CONNECTING;
  uint32_t closeReason = 0;
  uint32_t closeErrno = 0;
  // Requests that the kernel holds: they use this object's memory and buffers.
  uint32_t pending = 0;
  sockaddr_storage address = {};

  // Receiving: bytes [head, tail) of `staging` have arrived and were not consumed.
  uint8_t* staging = nullptr;
  uint32_t head = 0;
  uint32_t tail = 0;
  ReceivePhase phase = ReceivePhase::HEADER;
  bool isReceiving = false;         // a receive is with the kernel
  bool isReceivingPayload = false;  // and it goes straight to the payload's buffer
  bool isPaused = false;            // by setReceiving
  bool isRunnable = false;          // in the list of connections to parse further
  bool isWaiting = false;           // in a pool's queue
  bool wasLarge = false;            // the last payload was: receive the next header without too much of its payload
  FrameHeader frame = {};
  uint32_t table[FRAME_BLOCKS_MAX] = {};
  uint32_t payloadBuffer = NO_BUFFER;  // one reference
  uint32_t payloadBase = 0;            // where in the buffer the payload starts
  uint32_t payloadLength = 0;
  uint32_t payloadDone = 0;

  NbdRequestHeader nbd = {};
  uint64_t nbdOffset = 0;      // of the current piece
  uint32_t nbdRemaining = 0;   // of the request, the current piece included
  uint32_t nbdInFlight = 0;    // requests without their final reply
  bool nbdIsFirst = false;

  // Replies to READs: the buffers that the peer announced, by tag; and the list of buffers that we did.
  TagTable echoes;
  uint32_t announcedFirst = NO_BUFFER;

  SendQueue queue;
  bool isSending = false;
  bool isDirty = false;  // in the list of connections with something new to send
  int64_t sendStartedNs = 0;  // while isSending
  int64_t lingerUntilNs = 0;
  msghdr message = {};
  iovec runs[SendQueue::RUNS_PER_CALL];

  uint32_t available() const { return tail - head; }
  bool isUp() const { return state == ConnectionState::OPEN; }
};

}  // namespace braid

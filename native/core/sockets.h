// Connections and listeners of an engine.
//
// Invariants:
//  1. At most one receive and one send of a connection are with the kernel.
//  2. A connection is closed to JavaScript (EVENT_CLOSED) only when the kernel holds nothing of it and its buffers are released.
//  3. A connection that cannot go on (no room for events, no buffer, paused, too many NBD requests) has no receive with the
//     kernel: what it has not parsed stays in the socket.
//  4. A buffer is announced for at most one READ reply at a time.
//
// All methods: engine thread only. Where lengths and ids come from JavaScript, asserts; where they come from a peer, closes.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "connection.h"
#include "core.h"

namespace braid {

class Sockets {
 public:
  // `announced`: one word per block, the connection on which the buffer is announced, or 0; shared with JavaScript, which
  // sets it when it writes the command.
  // `unsent`: one word per slot, the bytes of slab buffers that wait to be sent on an NBD connection; JavaScript adds when it
  // writes a command, the engine subtracts when they are sent.
  Sockets(Core& core, uint32_t* announced, uint32_t* unsent);
  ~Sockets();

  // Listeners. Return the listener (> 0) or -errno; `port` gets the bound port.
  int listenTcp(Protocol protocol, const char* host, uint16_t port, uint16_t* boundPort);
  int listenUnix(Protocol protocol, const char* path);
  void closeListener(uint32_t listener);

  // A connection that is not connected yet; 0 when there are too many. `connect` or `fail` follows.
  uint32_t reserve();
  void connect(uint32_t id, const sockaddr* address, socklen_t length);
  void fail(uint32_t id, uint32_t reason, uint32_t error);
  // Sends what is queued, for a bounded time, then closes.
  void close(uint32_t id);
  void setReceiving(uint32_t id, bool receiving);

  void sendFrame(const abi::Record& command);
  // A COMMAND_SEND_FRAME whose payload is not in the slab but copied from `payload`.
  void sendControl(const abi::Record& command, const uint8_t* payload, size_t payloadBytes);
  void sendBytes(uint32_t id, const uint8_t* bytes, uint32_t length, bool isFinal);
  void sendNbd(const abi::Record& command);
  // Handshake bytes that have arrived: how many, and taking them. None once transmission has started.
  uint32_t handshakeBytes(uint32_t id) const;
  void takeHandshakeBytes(uint32_t id, uint8_t* out);
  void startTransmission(uint32_t id, const uint8_t* leftover, uint32_t length);

  // The loop's turns.
  void onCompletion(const Completion& completion);
  void resume();   // parses what was held up
  void flush();    // starts sending what was queued
  void emitClosed();
  bool hasBacklog() const;
  // NBD requests without their final reply, over all connections.
  uint32_t nbdInFlight() const { return nbdInFlight_; }
  // Whether a request has got its final reply since this was last asked.
  bool takeHasReplied() {
    const bool hasReplied = hasReplied_;
    hasReplied_ = false;
    return hasReplied;
  }
  bool hasUnsent() const { return !dirty_.empty(); }
  // 0 when nothing is timed.
  int64_t nextDeadlineNs() const;
  void onTime(int64_t nowNs);

  void stop();
  bool isIdle() const { return connectionCount_ == 0 && listenerCount_ == 0; }
  uint32_t connectionCount() const { return connectionCount_; }

 private:
  enum class Step { PROGRESS, NEED_BYTES, BLOCKED };
  struct Listener {
    uint32_t id;
    int fd;
    Protocol protocol;
    bool isAccepting;
    bool isClosing;
    int64_t retryAtNs;  // after the process ran out of descriptors
    std::string path;
  };

  // sockets.cc
  Connection* find(uint32_t id) const;
  Connection* create(Protocol protocol);
  void open(Connection& connection, int fd);
  void startClose(Connection& connection, uint32_t reason, uint32_t error);
  void finishClose(Connection& connection);
  void settle(Connection& connection);
  void onConnected(Connection& connection, int32_t result);
  int addListener(int fd, Protocol protocol, const char* path);
  void accept(Listener& listener);
  void onAccepted(uint32_t index, const Completion& completion);
  void useFile(const Connection& connection, io_uring_sqe* sqe) const;

  // receive.cc
  void receive(Connection& connection);
  void onReceived(Connection& connection, int32_t result);
  void run(Connection& connection);
  void makeRunnable(Connection& connection);
  Step step(Connection& connection);
  Step allocate(Connection& connection);
  Step fillPayload(Connection& connection);
  Step deliver(Connection& connection);
  bool hasResumedWithBuffer(Connection& connection);

  // receive_frame.cc
  Step parseFrameHeader(Connection& connection);
  bool acceptReadReply(Connection& connection, const FrameHeader& header);
  bool verifyFramePayload(Connection& connection);
  void deliverFrame(Connection& connection);
  static uint32_t framePool(const FrameHeader& header);

  // receive_nbd.cc
  Step parseNbdHeader(Connection& connection);
  void startNbdPiece(Connection& connection);
  void deliverNbd(Connection& connection);

  // transmit.cc
  void makeDirty(Connection& connection);
  void send(Connection& connection, int64_t nowNs);
  void noteSent(Connection& connection, uint32_t bytes);
  void closeStalled(int64_t nowNs);
  void onSent(Connection& connection, int32_t result);
  bool checkQueue(Connection& connection);
  void finishNbdRequest(Connection& connection);
  void announce(Connection& connection, uint32_t buffer, uint32_t tag, uint32_t capacityBytes);
  void withdraw(Connection& connection, uint32_t buffer);
  void releaseAll(const abi::Record& command);

  Core& core_;
  HeadBlocks blocks_;
  std::vector<std::unique_ptr<Connection>> connections_{CONNECTION_SLOTS};
  std::vector<uint32_t> generations_ = std::vector<uint32_t>(CONNECTION_SLOTS, 0);
  std::deque<uint32_t> freeSlots_;
  uint32_t connectionCount_ = 0;
  uint32_t acceptedCount_ = 0;
  uint32_t nbdInFlight_ = 0;
  bool hasReplied_ = false;
  std::vector<Listener> listeners_;
  uint32_t listenerCount_ = 0;
  bool isStopping_ = false;
  std::vector<uint32_t> runnable_;
  std::vector<uint32_t> running_;
  std::vector<uint32_t> dirty_;
  std::vector<uint32_t> closed_;
  std::vector<uint32_t> lingering_;
  int64_t stallCheckAtNs_ = 0;  // 0 when nothing is being sent
  uint32_t* unsent_;

  // Announced buffers by block: who, with what tag and room, and the connection's list of them.
  uint32_t* announced_;
  struct Announcement {
    uint32_t tag;
    uint32_t capacityBytes;
    uint32_t next;
    uint32_t previous;
  };
  std::vector<Announcement> announcements_;
};

}  // namespace braid

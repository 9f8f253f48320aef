// Life of connections and listeners. Receiving is in receive*.cc, sending in transmit.cc.
#include "clock.h"
#include "sockets.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace braid {
namespace {

// A connection's id is its slot and a generation, below 2^31 so that it stays a small integer in JavaScript.
constexpr uint32_t SLOT_BITS = abi::CONNECTION_SLOT_BITS;
constexpr uint32_t GENERATION_MAX = (1u << (30 - SLOT_BITS)) - 1;
static_assert(CONNECTION_SLOTS <= (1u << SLOT_BITS), "slots fit their bits");
constexpr int BACKLOG = 512;
// How long `close` waits for the peer to take what is queued. A peer that is gone must not hold buffers for long.
constexpr int64_t LINGER_FRAMES_NS = 200 * 1000000ll;
constexpr int64_t LINGER_NBD_NS = 2000 * 1000000ll;
constexpr int64_t ACCEPT_RETRY_NS = 100 * 1000000ll;

}  // namespace

Sockets::Sockets(Core& core, uint32_t* announced, uint32_t* unsent)
    : core_(core), unsent_(unsent), announced_(announced), announcements_(core.slab.blockCount()) {
  BRAID_ASSERT(core.limits.connectionsMax <= CONNECTION_SLOTS / 2, "accepted connections leave slots for our own");
  for (uint32_t slot = 0; slot < CONNECTION_SLOTS; slot++) freeSlots_.push_back(slot);
}

Sockets::~Sockets() {
  for (const auto& connection : connections_) {
    if (connection && connection->fd >= 0) ::close(connection->fd);
  }
  for (const Listener& listener : listeners_) {
    if (listener.fd >= 0) ::close(listener.fd);
  }
}

Connection* Sockets::find(uint32_t id) const {
  const uint32_t slot = id & ((1u << SLOT_BITS) - 1);
  if (slot >= CONNECTION_SLOTS) return nullptr;
  Connection* connection = connections_[slot].get();
  return connection != nullptr && connection->id == id ? connection : nullptr;
}

Connection* Sockets::create(Protocol protocol) {
  if (freeSlots_.empty()) return nullptr;
  const uint32_t slot = freeSlots_.front();
  freeSlots_.pop_front();
  generations_[slot] = generations_[slot] % GENERATION_MAX + 1;
  connections_[slot] = std::make_unique<Connection>(blocks_, core_.slab);
  Connection* connection = connections_[slot].get();
  connection->slot = slot;
  connection->id = generations_[slot] << SLOT_BITS | slot;
  connection->protocol = protocol;
  unsent_[slot] = 0;
  connectionCount_++;
  return connection;
}

void Sockets::open(Connection& connection, int fd) {
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);  // fails on unix sockets, where it is not needed
  connection.fd = fd;
  connection.hasFileSlot = core_.ring.setFile(connection.slot, fd);
  connection.state = ConnectionState::OPEN;
  connection.staging = static_cast<uint8_t*>(std::aligned_alloc(abi::BLOCK_BYTES, Connection::STAGING_BYTES));
  BRAID_ASSERT(connection.staging != nullptr, "memory for a connection");
  if (connection.protocol == Protocol::NBD) {
    connection.phase = ReceivePhase::HANDSHAKE;
    connection.head = connection.tail = Connection::HANDSHAKE_BASE;
  }
}

void Sockets::useFile(const Connection& connection, io_uring_sqe* sqe) const {
  if (!connection.hasFileSlot) return;
  sqe->fd = static_cast<int>(connection.slot);
  sqe->flags |= IOSQE_FIXED_FILE;
}

uint32_t Sockets::reserve() {
  Connection* connection = isStopping_ ? nullptr : create(Protocol::FRAMES);
  return connection == nullptr ? 0 : connection->id;
}

void Sockets::connect(uint32_t id, const sockaddr* address, socklen_t length) {
  Connection* connection = find(id);
  if (connection == nullptr || connection->state != ConnectionState::CONNECTING) return;
  BRAID_ASSERT(connection->fd < 0, "a connection is connected once");
  const int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return startClose(*connection, abi::CLOSE_CONNECT_FAILED, errno);
  connection->fd = fd;
  std::memcpy(&connection->address, address, length);
  io_uring_sqe* sqe = core_.ring.entry();
  io_uring_prep_connect(sqe, fd, reinterpret_cast<sockaddr*>(&connection->address), length);
  core_.ring.tag(sqe, Op::CONNECT, connection->slot);
  connection->pending++;
}

void Sockets::onConnected(Connection& connection, int32_t result) {
  if (connection.state != ConnectionState::CONNECTING) return settle(connection);
  if (result < 0) return startClose(connection, abi::CLOSE_CONNECT_FAILED, static_cast<uint32_t>(-result));
  open(connection, connection.fd);
  core_.events.add(abi::EVENT_CONNECTED, connection.id);
  makeDirty(connection);
  run(connection);
}

void Sockets::fail(uint32_t id, uint32_t reason, uint32_t error) {
  Connection* connection = find(id);
  if (connection != nullptr) startClose(*connection, reason, error);
}

void Sockets::close(uint32_t id) {
  Connection* connection = find(id);
  if (connection == nullptr || connection->state >= ConnectionState::LINGERING) return;
  const bool hasUnsent = connection->isUp() && (connection->isSending || !connection->queue.isEmpty());
  if (!hasUnsent) return startClose(*connection, abi::CLOSE_LOCAL, 0);
  connection->state = ConnectionState::LINGERING;
  connection->closeReason = abi::CLOSE_LOCAL;
  connection->lingerUntilNs =
      monotonicNs() + (connection->protocol == Protocol::NBD ? LINGER_NBD_NS : LINGER_FRAMES_NS);
  lingering_.push_back(connection->id);
  makeDirty(*connection);
}

void Sockets::startClose(Connection& connection, uint32_t reason, uint32_t error) {
  if (connection.state == ConnectionState::CLOSING) return;
  // A connection that we were closing anyway ends for that reason.
  if (connection.state != ConnectionState::LINGERING) {
    connection.closeReason = reason;
    connection.closeErrno = error;
  }
  const bool wasConnecting = connection.state == ConnectionState::CONNECTING;
  connection.state = ConnectionState::CLOSING;
  if (connection.isWaiting) core_.waiters.remove(connection.id);
  connection.isWaiting = false;
  if (connection.pending > 0) {
    if (wasConnecting) core_.ring.cancel(Op::CONNECT, connection.slot);
    ::shutdown(connection.fd, SHUT_RDWR);  // ends a receive and a send that wait
  }
  settle(connection);
}

// Once the kernel holds nothing of a closing connection, gives back all that it has and queues its last event.
void Sockets::settle(Connection& connection) {
  if (connection.state != ConnectionState::CLOSING || connection.pending > 0) return;
  if (connection.fd >= 0) {
    if (connection.hasFileSlot) core_.ring.setFile(connection.slot, -1);
    ::close(connection.fd);
    connection.fd = -1;
  }
  nbdInFlight_ -= connection.nbdInFlight;  // nobody waits for these replies
  connection.nbdInFlight = 0;
  connection.queue.clear();
  if (connection.payloadBuffer != NO_BUFFER) core_.slab.release(connection.payloadBuffer);
  connection.payloadBuffer = NO_BUFFER;
  while (connection.announcedFirst != NO_BUFFER) {
    const uint32_t buffer = connection.announcedFirst;
    withdraw(connection, buffer);
    core_.slab.release(buffer);
  }
  closed_.push_back(connection.id);
}

void Sockets::emitClosed() {
  uint32_t done = 0;
  for (; done < closed_.size() && core_.events.hasRoom(); done++) {
    Connection* connection = find(closed_[done]);
    BRAID_ASSERT(connection != nullptr && connection->pending == 0, "a closed connection stays until it was reported");
    uint32_t* words = core_.events.add(abi::EVENT_CLOSED, connection->id);
    words[abi::WORD_STATUS] = connection->closeReason;
    words[abi::WORD_ERRNO] = connection->closeErrno;
    words[abi::WORD_PROTOCOL] = static_cast<uint32_t>(connection->protocol);
    if (connection->isAccepted) acceptedCount_--;
    connectionCount_--;
    freeSlots_.push_back(connection->slot);
    connections_[connection->slot].reset();
  }
  closed_.erase(closed_.begin(), closed_.begin() + done);
}

int Sockets::listenTcp(Protocol protocol, const char* host, uint16_t port, uint16_t* boundPort) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (getaddrinfo(host, std::to_string(port).c_str(), &hints, &found) != 0) return -EADDRNOTAVAIL;
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> guard(found, freeaddrinfo);
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  const int one = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  sockaddr_storage bound = {};
  socklen_t length = sizeof bound;
  if (bind(fd, found->ai_addr, found->ai_addrlen) < 0 || ::listen(fd, BACKLOG) < 0 ||
      getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &length) < 0) {
    const int error = errno;
    ::close(fd);
    return -error;
  }
  *boundPort = ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                                 : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
  return addListener(fd, protocol, "");
}

int Sockets::listenUnix(Protocol protocol, const char* path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (std::strlen(path) >= sizeof address.sun_path) return -ENAMETOOLONG;
  std::strcpy(address.sun_path, path);
  const sockaddr* name = reinterpret_cast<sockaddr*>(&address);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  int result = bind(fd, name, sizeof address);
  if (result < 0 && errno == EADDRINUSE) {
    // A socket on which nobody listens was left behind by a process that died.
    const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const bool isDead = probe >= 0 && ::connect(probe, name, sizeof address) < 0 && errno == ECONNREFUSED;
    if (probe >= 0) ::close(probe);
    errno = EADDRINUSE;
    if (isDead && unlink(path) == 0) result = bind(fd, name, sizeof address);
  }
  if (result < 0 || ::listen(fd, BACKLOG) < 0) {
    const int error = errno;
    ::close(fd);
    return -error;
  }
  return addListener(fd, protocol, path);
}

int Sockets::addListener(int fd, Protocol protocol, const char* path) {
  const uint32_t id = static_cast<uint32_t>(listeners_.size()) + 1;
  listeners_.push_back({id, fd, protocol, false, false, 0, path});
  listenerCount_++;
  accept(listeners_.back());
  return static_cast<int>(id);
}

void Sockets::accept(Listener& listener) {
  io_uring_sqe* sqe = core_.ring.entry();
  io_uring_prep_multishot_accept(sqe, listener.fd, nullptr, nullptr, SOCK_CLOEXEC);
  core_.ring.tag(sqe, Op::ACCEPT, listener.id);
  listener.isAccepting = true;
  listener.retryAtNs = 0;
}

void Sockets::onAccepted(uint32_t id, const Completion& completion) {
  Listener& listener = listeners_[id - 1];
  listener.isAccepting = (completion.flags & IORING_CQE_F_MORE) != 0;
  if (completion.result >= 0) {
    Connection* connection =
        acceptedCount_ < core_.limits.connectionsMax && !listener.isClosing && !isStopping_ ? create(listener.protocol) : nullptr;
    if (connection == nullptr) {
      core_.stats.connectionsRefused++;
      ::close(completion.result);
    } else {
      acceptedCount_++;
      connection->isAccepted = true;
      open(*connection, completion.result);
      uint32_t* words = core_.events.add(abi::EVENT_ACCEPTED, connection->id);
      words[abi::WORD_LISTENER] = listener.id;
      words[abi::WORD_PROTOCOL] = static_cast<uint32_t>(listener.protocol);
      run(*connection);
    }
  }
  if (listener.isAccepting) return;
  if (listener.isClosing) {
    ::close(listener.fd);
    listener.fd = -1;
    listenerCount_--;
  } else if (completion.result == -EMFILE || completion.result == -ENFILE || completion.result == -ENOMEM) {
    listener.retryAtNs = monotonicNs() + ACCEPT_RETRY_NS;
  } else {
    accept(listener);
  }
}

void Sockets::closeListener(uint32_t id) {
  BRAID_ASSERT(id > 0 && id <= listeners_.size(), "the listener exists");
  Listener& listener = listeners_[id - 1];
  if (listener.isClosing) return;
  listener.isClosing = true;
  listener.retryAtNs = 0;
  if (!listener.path.empty()) unlink(listener.path.c_str());
  if (listener.isAccepting) return core_.ring.cancel(Op::ACCEPT, id);
  ::close(listener.fd);
  listener.fd = -1;
  listenerCount_--;
}

void Sockets::onCompletion(const Completion& completion) {
  if (completion.op == Op::ACCEPT) return onAccepted(completion.slot, completion);
  Connection* connection = connections_[completion.slot].get();
  BRAID_ASSERT(connection != nullptr && connection->pending > 0, "a connection outlives its requests");
  connection->pending--;
  switch (completion.op) {
    case Op::RECEIVE:
      return onReceived(*connection, completion.result);
    case Op::SEND:
      return onSent(*connection, completion.result);
    case Op::CONNECT:
      return onConnected(*connection, completion.result);
    default:
      BRAID_ASSERT(false, "sockets get completions of sockets");
  }
}

int64_t Sockets::nextDeadlineNs() const {
  int64_t next = 0;
  const auto consider = [&next](int64_t at) {
    if (at != 0 && (next == 0 || at < next)) next = at;
  };
  for (const uint32_t id : lingering_) {
    const Connection* connection = find(id);
    if (connection != nullptr) consider(connection->lingerUntilNs);
  }
  for (const Listener& listener : listeners_) consider(listener.retryAtNs);
  consider(stallCheckAtNs_);
  return next;
}

void Sockets::onTime(int64_t nowNs) {
  std::vector<uint32_t> still;
  for (const uint32_t id : lingering_) {
    Connection* connection = find(id);
    if (connection == nullptr || connection->state != ConnectionState::LINGERING) continue;
    if (connection->lingerUntilNs > nowNs) {
      still.push_back(id);
    } else {
      startClose(*connection, abi::CLOSE_LOCAL, 0);
    }
  }
  lingering_.swap(still);
  for (Listener& listener : listeners_) {
    if (listener.retryAtNs != 0 && listener.retryAtNs <= nowNs && !listener.isClosing) accept(listener);
  }
  if (stallCheckAtNs_ != 0 && stallCheckAtNs_ <= nowNs) closeStalled(nowNs);
}

void Sockets::stop() {
  isStopping_ = true;
  for (const Listener& listener : listeners_) {
    if (!listener.isClosing) closeListener(listener.id);
  }
  for (const auto& connection : connections_) {
    if (connection) startClose(*connection, abi::CLOSE_STOPPED, 0);
  }
}

}  // namespace braid

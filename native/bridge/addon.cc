// The addon's functions: they convert arguments and results and hold no logic. But for `create` and `closeOnExec`, each takes the
// engine's handle first, runs on the thread that created it, and drains the command array before anything whose order against commands matters.
// Results are plain data: a negative number is -errno. native/index.ts types them.
#include <arpa/inet.h>
#include <linux/close_range.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "loop.h"

namespace braid {
namespace {

// The engine that the first argument names; null once it has stopped.
Engine* engineOf(const Napi::CallbackInfo& info) {
  const EngineHandle* handle = info[0].As<Napi::External<EngineHandle>>().Data();
  BRAID_ASSERT(handle != nullptr, "the first argument is an engine's handle");
  return handle->engine.get();
}

uint32_t u32(const Napi::Value& value) {
  BRAID_ASSERT(value.IsNumber(), "the argument is a number");
  return value.As<Napi::Number>().Uint32Value();
}

std::string text(const Napi::Value& value) {
  BRAID_ASSERT(value.IsString(), "the argument is a string");
  return value.As<Napi::String>().Utf8Value();
}

// The contents of a typed array, while its function runs.
struct Bytes {
  explicit Bytes(const Napi::Value& value) {
    BRAID_ASSERT(value.IsTypedArray(), "the argument is a typed array");
    // Of whatever type: its data starts in the same place.
    const Napi::Uint8Array array = value.As<Napi::Uint8Array>();
    data = array.Data();
    length = array.ByteLength();
  }
  const uint8_t* data;
  size_t length;
};

Napi::Number number(const Napi::CallbackInfo& info, double value) { return Napi::Number::New(info.Env(), value); }

Napi::Array pair(const Napi::CallbackInfo& info, double first, double second) {
  Napi::Array result = Napi::Array::New(info.Env(), 2);
  result.Set(0u, first);
  result.Set(1u, second);
  return result;
}

double optionOf(const Napi::Object& options, const char* name) {
  const Napi::Value value = options.Get(name);
  BRAID_ASSERT(value.IsNumber(), "every option is a number");
  return value.As<Napi::Number>().DoubleValue();
}

Napi::Object layoutOf(Napi::Env env, const Layout& layout) {
  Napi::Object object = Napi::Object::New(env);
  const auto set = [&](const char* name, size_t offset) { object.Set(name, static_cast<double>(offset)); };
  set("slab", layout.slab);
  set("slabBytes", layout.slabBytes);
  set("events", layout.events);
  set("commands", layout.commands);
  set("control", layout.control);
  set("checksums", layout.checksums);
  set("refs", layout.refs);
  set("announced", layout.announced);
  set("unsent", layout.unsent);
  set("freed", layout.freed);
  set("orders", layout.orders);
  return object;
}

// The memory that JavaScript and the engine share; the last of them unmaps it.
Napi::ArrayBuffer share(Napi::Env env, SharedMemory* memory) {
  memory->retain();
  const auto unmap = [](Napi::BasicEnv, void*, SharedMemory* hint) { hint->release(); };
  return Napi::ArrayBuffer::New(env, memory->base(), memory->lengthBytes(), unmap, memory);
}

// An engine that nobody can name any more goes on until it is stopped or the environment ends; both leave `engine` null.
void forget(Napi::BasicEnv, EngineHandle* handle) {
  handle->isForgotten = true;
  if (!handle->engine) delete handle;
}

// create(options, onEvents, onStopped): {handle, memory, layout}, or -errno.
Napi::Value create(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Object options = info[0].As<Napi::Object>();
  Limits limits;
  limits.connectionsMax = static_cast<uint32_t>(optionOf(options, "connectionsMax"));
  limits.framesQueuedMax = static_cast<uint32_t>(optionOf(options, "framesQueuedMax"));
  limits.nbdRequestsMax = static_cast<uint32_t>(optionOf(options, "nbdRequestsMax"));
  limits.nbdWriteBytesMax = static_cast<uint32_t>(optionOf(options, "nbdWriteBytesMax"));
  limits.nbdUnsentBytesMax = static_cast<uint32_t>(optionOf(options, "nbdUnsentBytesMax"));
  limits.sendStallNs = static_cast<int64_t>(optionOf(options, "sendStallMs")) * 1000000;
  Loop* loop = Loop::of(env);
  if (loop == nullptr) return Napi::Value();
  int error = 0;
  auto engine = Engine::create(static_cast<uint64_t>(optionOf(options, "slabBytes")), limits, &error);
  if (!engine) return number(info, error);
  EngineHandle* handle = new EngineHandle;
  handle->engine = std::move(engine);
  handle->onEvents = Napi::Persistent(info[1].As<Napi::Function>());
  handle->onStopped = Napi::Persistent(info[2].As<Napi::Function>());
  Napi::Object result = Napi::Object::New(env);
  result.Set("handle", Napi::External<EngineHandle>::New(env, handle, forget));
  result.Set("memory", share(env, handle->engine->memory()));
  result.Set("layout", layoutOf(env, handle->engine->layout()));
  loop->add(handle);
  return result;
}

// submit(handle): executes the commands in the array.
void submit(const Napi::CallbackInfo& info) {
  if (Engine* engine = engineOf(info)) engine->takeCommands();
}

// alloc(handle, lengthBytes, pool): a buffer or 0.
Napi::Value alloc(const Napi::CallbackInfo& info) {
  Engine* engine = engineOf(info);
  return number(info, engine ? engine->alloc(u32(info[1]), u32(info[2])) : NO_BUFFER);
}

// usedBytes(handle, pool).
Napi::Value usedBytes(const Napi::CallbackInfo& info) {
  Engine* engine = engineOf(info);
  if (!engine) return number(info, 0);
  Slab& slab = engine->slab();
  slab.drainFreed();
  const uint32_t pool = u32(info[1]);
  const uint64_t reserve = pool == abi::POOL_INTERNAL ? slab.usedBytes(POOL_RESERVE) : 0;
  return number(info, static_cast<double>(slab.usedBytes(pool) + reserve));
}

// computeChecksums(handle, buffer, offsetBytes, lengthBytes).
void computeChecksums(const Napi::CallbackInfo& info) {
  if (Engine* engine = engineOf(info)) engine->computeChecksums(u32(info[1]), u32(info[2]), u32(info[3]));
}

// listenTcp(handle, protocol, host, port): [listener or -errno, bound port].
Napi::Value listenTcp(const Napi::CallbackInfo& info) {
  Engine* engine = engineOf(info);
  if (!engine) return pair(info, -ESHUTDOWN, 0);
  uint16_t port = 0;
  const Protocol protocol = static_cast<Protocol>(u32(info[1]));
  const int listener =
      engine->sockets().listenTcp(protocol, text(info[2]).c_str(), static_cast<uint16_t>(u32(info[3])), &port);
  return pair(info, listener, port);
}

// listenUnix(handle, protocol, path): listener or -errno.
Napi::Value listenUnix(const Napi::CallbackInfo& info) {
  Engine* engine = engineOf(info);
  if (!engine) return number(info, -ESHUTDOWN);
  return number(info, engine->sockets().listenUnix(static_cast<Protocol>(u32(info[1])), text(info[2]).c_str()));
}

// closeListener(handle, listener).
void closeListener(const Napi::CallbackInfo& info) {
  if (Engine* engine = engineOf(info)) engine->sockets().closeListener(u32(info[1]));
}

// reserve(handle): a connection, or 0 when there are too many.
Napi::Value reserve(const Napi::CallbackInfo& info) {
  Engine* engine = engineOf(info);
  return number(info, engine ? engine->sockets().reserve() : 0);
}

// connect(handle, connection, ip, port).
void connect(const Napi::CallbackInfo& info) {
  Engine* engine = engineOf(info);
  if (!engine) return;
  const uint32_t connection = u32(info[1]);
  const std::string ip = text(info[2]);
  const uint16_t port = htons(static_cast<uint16_t>(u32(info[3])));
  Sockets& sockets = engine->sockets();
  sockaddr_in v4 = {};
  sockaddr_in6 v6 = {};
  if (inet_pton(AF_INET, ip.c_str(), &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = port;
    sockets.connect(connection, reinterpret_cast<sockaddr*>(&v4), sizeof v4);
  } else if (inet_pton(AF_INET6, ip.c_str(), &v6.sin6_addr) == 1) {
    v6.sin6_family = AF_INET6;
    v6.sin6_port = port;
    sockets.connect(connection, reinterpret_cast<sockaddr*>(&v6), sizeof v6);
  } else {
    sockets.fail(connection, abi::CLOSE_RESOLVE_FAILED, 0);
  }
}

// failConnect(handle, connection): its name could not be resolved.
void failConnect(const Napi::CallbackInfo& info) {
  if (Engine* engine = engineOf(info)) engine->sockets().fail(u32(info[1]), abi::CLOSE_RESOLVE_FAILED, 0);
}

// sendControl(handle, record, payload): `record` as for COMMAND_SEND_FRAME.
void sendControl(const Napi::CallbackInfo& info) {
  Engine* engine = engineOf(info);
  if (!engine) return;
  engine->takeCommands();
  const Bytes record(info[1]);
  const Bytes payload(info[2]);
  BRAID_ASSERT(record.length == sizeof(abi::Record), "a command is one record");
  engine->sockets().sendControl(*reinterpret_cast<const abi::Record*>(record.data), payload.data, payload.length);
}

// sendBytes(handle, connection, bytes, final).
void sendBytes(const Napi::CallbackInfo& info) {
  Engine* engine = engineOf(info);
  if (!engine) return;
  engine->takeCommands();
  const Bytes bytes(info[2]);
  const bool isFinal = info[3].As<Napi::Boolean>();
  engine->sockets().sendBytes(u32(info[1]), bytes.data, static_cast<uint32_t>(bytes.length), isFinal);
}

// takeBytes(handle, connection): an ArrayBuffer with the handshake bytes that have arrived.
Napi::Value takeBytes(const Napi::CallbackInfo& info) {
  Engine* engine = engineOf(info);
  const uint32_t connection = u32(info[1]);
  const uint32_t length = engine ? engine->sockets().handshakeBytes(connection) : 0;
  Napi::ArrayBuffer result = Napi::ArrayBuffer::New(info.Env(), length);
  if (length > 0) engine->sockets().takeHandshakeBytes(connection, static_cast<uint8_t*>(result.Data()));
  return result;
}

// startTransmission(handle, connection, leftover).
void startTransmission(const Napi::CallbackInfo& info) {
  Engine* engine = engineOf(info);
  if (!engine) return;
  engine->takeCommands();
  const Bytes leftover(info[2]);
  engine->sockets().startTransmission(u32(info[1]), leftover.data, static_cast<uint32_t>(leftover.length));
}

// openDrive(handle, fd): [drive or -errno, size in bytes].
Napi::Value openDrive(const Napi::CallbackInfo& info) {
  Engine* engine = engineOf(info);
  if (!engine) return pair(info, -ESHUTDOWN, 0);
  uint64_t sizeBytes = 0;
  const int drive = engine->drives().open(static_cast<int>(u32(info[1])), &sizeBytes);
  return pair(info, drive, static_cast<double>(sizeBytes));
}

// closeDrive(handle, drive): EVENT_DISK_CLOSED follows.
void closeDrive(const Napi::CallbackInfo& info) {
  Engine* engine = engineOf(info);
  if (!engine) return;
  engine->takeCommands();
  engine->drives().close(u32(info[1]));
}

// stats(handle): counters since the start.
Napi::Value stats(const Napi::CallbackInfo& info) {
  Engine* engine = engineOf(info);
  Napi::Object object = Napi::Object::New(info.Env());
  if (!engine) return object;
  const Stats& stats = engine->stats();
  const auto set = [&](const char* name, uint64_t value) { object.Set(name, static_cast<double>(value)); };
  set("framesIn", stats.framesIn);
  set("framesOut", stats.framesOut);
  set("nbdRequests", stats.nbdRequests);
  set("nbdReplies", stats.nbdReplies);
  set("bytesIn", stats.bytesIn);
  set("bytesOut", stats.bytesOut);
  set("receives", stats.receives);
  set("sends", stats.sends);
  set("driveReads", stats.driveReads);
  set("driveReadBytes", stats.driveReadBytes);
  set("driveWrites", stats.driveWrites);
  set("driveWriteBytes", stats.driveWriteBytes);
  set("driveOthers", stats.driveOthers);
  set("driveOperationsInFlight", engine->drives().operationCount());
  set("batches", stats.batches);
  set("events", stats.events);
  set("commands", stats.commands);
  set("enters", engine->ring().enterCount());
  set("poolWaits", stats.poolWaits);
  set("connections", engine->sockets().connectionCount());
  set("connectionsRefused", stats.connectionsRefused);
  return object;
}

// stop(handle): `onStopped` follows.
void stop(const Napi::CallbackInfo& info) {
  Engine* engine = engineOf(info);
  if (!engine) return;
  engine->takeCommands();
  engine->stop();
}

// closeOnExec(): keeps every descriptor that this process has open now, but for stdin, stdout and stderr, from the programs that it
// starts; those that are handed to them by number still arrive. 0 or -errno.
Napi::Value closeOnExec(const Napi::CallbackInfo& info) {
  const int result = close_range(STDERR_FILENO + 1, ~0u, CLOSE_RANGE_CLOEXEC);
  return number(info, result == 0 ? 0 : -errno);
}

Napi::Object abiTable(Napi::Env env) {
  Napi::Object table = Napi::Object::New(env);
#define BRAID_ABI_EXPORT(name, value) table.Set(#name, static_cast<double>(value));
  BRAID_ABI(BRAID_ABI_EXPORT)
#undef BRAID_ABI_EXPORT
  return table;
}

template <auto function>
void add(Napi::Object& exports, const char* name) {
  exports.Set(name, Napi::Function::New<function>(exports.Env(), name));
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  add<create>(exports, "create");
  add<submit>(exports, "submit");
  add<alloc>(exports, "alloc");
  add<usedBytes>(exports, "usedBytes");
  add<computeChecksums>(exports, "computeChecksums");
  add<listenTcp>(exports, "listenTcp");
  add<listenUnix>(exports, "listenUnix");
  add<closeListener>(exports, "closeListener");
  add<reserve>(exports, "reserve");
  add<connect>(exports, "connect");
  add<failConnect>(exports, "failConnect");
  add<sendControl>(exports, "sendControl");
  add<sendBytes>(exports, "sendBytes");
  add<takeBytes>(exports, "takeBytes");
  add<startTransmission>(exports, "startTransmission");
  add<openDrive>(exports, "openDrive");
  add<closeDrive>(exports, "closeDrive");
  add<stats>(exports, "stats");
  add<stop>(exports, "stop");
  add<closeOnExec>(exports, "closeOnExec");
  exports.Set("abi", abiTable(env));
  return exports;
}

}  // namespace

NODE_API_MODULE(braid, init)

}  // namespace braid

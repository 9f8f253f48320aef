// The addon's functions: they convert arguments and results and hold no logic. But for `create` and `closeOnExec`, each takes the
// engine's handle first, runs on the thread that created it, and drains the command array before anything whose order against commands matters.
// Results are plain data: a negative number is -errno. native/index.ts types them.
#include <arpa/inet.h>
#include <linux/close_range.h>
#include <node_api.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "loop.h"

namespace braid {
namespace {

constexpr size_t ARGUMENTS_MAX = 6;

struct Call {
  Call(napi_env callEnv, napi_callback_info info) : env(callEnv) {
    size_t count = ARGUMENTS_MAX;
    napi_get_cb_info(env, info, &count, arguments, nullptr, nullptr);
    void* data = nullptr;
    napi_get_value_external(env, arguments[0], &data);
    handle = static_cast<EngineHandle*>(data);
    BRAID_ASSERT(handle != nullptr, "the first argument is an engine's handle");
  }
  // Null once the engine has stopped.
  Engine* engine() const { return handle->engine.get(); }

  uint32_t u32(size_t index) const {
    uint32_t value = 0;
    const napi_status status = napi_get_value_uint32(env, arguments[index], &value);
    BRAID_ASSERT(status == napi_ok, "the argument is a number");
    return value;
  }
  bool boolean(size_t index) const {
    bool value = false;
    napi_get_value_bool(env, arguments[index], &value);
    return value;
  }
  std::string text(size_t index) const {
    size_t length = 0;
    napi_get_value_string_utf8(env, arguments[index], nullptr, 0, &length);
    std::string value(length, '\0');
    napi_get_value_string_utf8(env, arguments[index], value.data(), length + 1, &length);
    return value;
  }
  const uint8_t* bytes(size_t index, size_t* length) const {
    void* data = nullptr;
    napi_typedarray_type type;
    const napi_status status = napi_get_typedarray_info(env, arguments[index], &type, length, &data, nullptr, nullptr);
    BRAID_ASSERT(status == napi_ok, "the argument is a typed array");
    if (type == napi_uint32_array) *length *= sizeof(uint32_t);
    return static_cast<const uint8_t*>(data);
  }
  napi_value number(double value) const {
    napi_value result = nullptr;
    napi_create_double(env, value, &result);
    return result;
  }
  napi_value pair(double first, double second) const {
    napi_value result = nullptr;
    napi_create_array_with_length(env, 2, &result);
    napi_set_element(env, result, 0, number(first));
    napi_set_element(env, result, 1, number(second));
    return result;
  }

  napi_env env;
  EngineHandle* handle = nullptr;
  napi_value arguments[ARGUMENTS_MAX] = {};
};

void setNumber(napi_env env, napi_value object, const char* name, double value) {
  napi_value number;
  napi_create_double(env, value, &number);
  napi_set_named_property(env, object, name, number);
}

double optionOf(napi_env env, napi_value options, const char* name) {
  napi_value value;
  double number = 0;
  napi_get_named_property(env, options, name, &value);
  const napi_status status = napi_get_value_double(env, value, &number);
  BRAID_ASSERT(status == napi_ok, "every option is a number");
  return number;
}

napi_value layoutOf(napi_env env, const Layout& layout) {
  napi_value object;
  napi_create_object(env, &object);
  setNumber(env, object, "slab", static_cast<double>(layout.slab));
  setNumber(env, object, "slabBytes", static_cast<double>(layout.slabBytes));
  setNumber(env, object, "events", static_cast<double>(layout.events));
  setNumber(env, object, "commands", static_cast<double>(layout.commands));
  setNumber(env, object, "control", static_cast<double>(layout.control));
  setNumber(env, object, "checksums", static_cast<double>(layout.checksums));
  setNumber(env, object, "refs", static_cast<double>(layout.refs));
  setNumber(env, object, "announced", static_cast<double>(layout.announced));
  setNumber(env, object, "unsent", static_cast<double>(layout.unsent));
  setNumber(env, object, "freed", static_cast<double>(layout.freed));
  setNumber(env, object, "orders", static_cast<double>(layout.orders));
  return object;
}

// create(options, onEvents, onStopped): {handle, memory, layout}, or -errno.
napi_value create(napi_env env, napi_callback_info info) {
  napi_value arguments[3];
  size_t count = 3;
  napi_get_cb_info(env, info, &count, arguments, nullptr, nullptr);
  Limits limits;
  limits.connectionsMax = static_cast<uint32_t>(optionOf(env, arguments[0], "connectionsMax"));
  limits.framesQueuedMax = static_cast<uint32_t>(optionOf(env, arguments[0], "framesQueuedMax"));
  limits.nbdRequestsMax = static_cast<uint32_t>(optionOf(env, arguments[0], "nbdRequestsMax"));
  limits.nbdWriteBytesMax = static_cast<uint32_t>(optionOf(env, arguments[0], "nbdWriteBytesMax"));
  limits.nbdUnsentBytesMax = static_cast<uint32_t>(optionOf(env, arguments[0], "nbdUnsentBytesMax"));
  limits.sendStallNs = static_cast<int64_t>(optionOf(env, arguments[0], "sendStallMs")) * 1000000;
  napi_value result;
  Loop* loop = Loop::of(env);
  if (loop == nullptr) return nullptr;
  int error = 0;
  auto engine = Engine::create(static_cast<uint64_t>(optionOf(env, arguments[0], "slabBytes")), limits, &error);
  if (!engine) {
    napi_create_int32(env, error, &result);
    return result;
  }
  EngineHandle* handle = new EngineHandle;
  handle->engine = std::move(engine);
  napi_create_reference(env, arguments[1], 1, &handle->onEvents);
  napi_create_reference(env, arguments[2], 1, &handle->onStopped);
  SharedMemory* memory = handle->engine->memory();
  memory->retain();
  napi_value buffer, external;
  const auto unmap = [](napi_env, void*, void* hint) { static_cast<SharedMemory*>(hint)->release(); };
  napi_create_external_arraybuffer(env, memory->base(), memory->lengthBytes(), unmap, memory, &buffer);
  // An engine that nobody can name any more goes on until it is stopped or the environment ends; both leave `engine` null.
  const auto forget = [](napi_env, void* data, void*) {
    EngineHandle* forgotten = static_cast<EngineHandle*>(data);
    forgotten->isForgotten = true;
    if (!forgotten->engine) delete forgotten;
  };
  napi_create_external(env, handle, forget, nullptr, &external);
  napi_create_object(env, &result);
  napi_set_named_property(env, result, "handle", external);
  napi_set_named_property(env, result, "memory", buffer);
  napi_set_named_property(env, result, "layout", layoutOf(env, handle->engine->layout()));
  loop->add(handle);
  return result;
}

// submit(handle): executes the commands in the array.
napi_value submit(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  if (call.engine()) call.engine()->takeCommands();
  return nullptr;
}

// alloc(handle, lengthBytes, pool): a buffer or 0.
napi_value alloc(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  const uint32_t buffer = call.engine() ? call.engine()->alloc(call.u32(1), call.u32(2)) : NO_BUFFER;
  napi_value result;
  napi_create_uint32(env, buffer, &result);
  return result;
}

// usedBytes(handle, pool).
napi_value usedBytes(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  if (!call.engine()) return call.number(0);
  Slab& slab = call.engine()->slab();
  slab.drainFreed();
  const uint32_t pool = call.u32(1);
  const uint64_t reserve = pool == abi::POOL_INTERNAL ? slab.usedBytes(POOL_RESERVE) : 0;
  return call.number(static_cast<double>(slab.usedBytes(pool) + reserve));
}

// computeChecksums(handle, buffer, offsetBytes, lengthBytes).
napi_value computeChecksums(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  if (call.engine()) call.engine()->computeChecksums(call.u32(1), call.u32(2), call.u32(3));
  return nullptr;
}

// listenTcp(handle, protocol, host, port): [listener or -errno, bound port].
napi_value listenTcp(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  if (!call.engine()) return call.pair(-ESHUTDOWN, 0);
  uint16_t port = 0;
  const Protocol protocol = static_cast<Protocol>(call.u32(1));
  const int listener =
      call.engine()->sockets().listenTcp(protocol, call.text(2).c_str(), static_cast<uint16_t>(call.u32(3)), &port);
  return call.pair(listener, port);
}

// listenUnix(handle, protocol, path): listener or -errno.
napi_value listenUnix(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  if (!call.engine()) return call.number(-ESHUTDOWN);
  return call.number(call.engine()->sockets().listenUnix(static_cast<Protocol>(call.u32(1)), call.text(2).c_str()));
}

// closeListener(handle, listener).
napi_value closeListener(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  if (call.engine()) call.engine()->sockets().closeListener(call.u32(1));
  return nullptr;
}

// reserve(handle): a connection, or 0 when there are too many.
napi_value reserve(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  return call.number(call.engine() ? call.engine()->sockets().reserve() : 0);
}

// connect(handle, connection, ip, port).
napi_value connect(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  if (!call.engine()) return nullptr;
  const std::string ip = call.text(2);
  const uint16_t port = htons(static_cast<uint16_t>(call.u32(3)));
  Sockets& sockets = call.engine()->sockets();
  sockaddr_in v4 = {};
  sockaddr_in6 v6 = {};
  if (inet_pton(AF_INET, ip.c_str(), &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = port;
    sockets.connect(call.u32(1), reinterpret_cast<sockaddr*>(&v4), sizeof v4);
  } else if (inet_pton(AF_INET6, ip.c_str(), &v6.sin6_addr) == 1) {
    v6.sin6_family = AF_INET6;
    v6.sin6_port = port;
    sockets.connect(call.u32(1), reinterpret_cast<sockaddr*>(&v6), sizeof v6);
  } else {
    sockets.fail(call.u32(1), abi::CLOSE_RESOLVE_FAILED, 0);
  }
  return nullptr;
}

// failConnect(handle, connection): its name could not be resolved.
napi_value failConnect(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  if (call.engine()) call.engine()->sockets().fail(call.u32(1), abi::CLOSE_RESOLVE_FAILED, 0);
  return nullptr;
}

// sendControl(handle, record, payload): `record` as for COMMAND_SEND_FRAME.
napi_value sendControl(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  if (!call.engine()) return nullptr;
  call.engine()->takeCommands();
  size_t recordBytes = 0, payloadBytes = 0;
  const uint8_t* record = call.bytes(1, &recordBytes);
  const uint8_t* payload = call.bytes(2, &payloadBytes);
  BRAID_ASSERT(recordBytes == sizeof(abi::Record), "a command is one record");
  call.engine()->sockets().sendControl(*reinterpret_cast<const abi::Record*>(record), payload, payloadBytes);
  return nullptr;
}

// sendBytes(handle, connection, bytes, final).
napi_value sendBytes(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  if (!call.engine()) return nullptr;
  call.engine()->takeCommands();
  size_t length = 0;
  const uint8_t* bytes = call.bytes(2, &length);
  call.engine()->sockets().sendBytes(call.u32(1), bytes, static_cast<uint32_t>(length), call.boolean(3));
  return nullptr;
}

// takeBytes(handle, connection): an ArrayBuffer with the handshake bytes that have arrived.
napi_value takeBytes(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  const uint32_t length = call.engine() ? call.engine()->sockets().handshakeBytes(call.u32(1)) : 0;
  void* data = nullptr;
  napi_value result;
  napi_create_arraybuffer(env, length, &data, &result);
  if (length > 0) call.engine()->sockets().takeHandshakeBytes(call.u32(1), static_cast<uint8_t*>(data));
  return result;
}

// startTransmission(handle, connection, leftover).
napi_value startTransmission(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  if (!call.engine()) return nullptr;
  call.engine()->takeCommands();
  size_t length = 0;
  const uint8_t* bytes = call.bytes(2, &length);
  call.engine()->sockets().startTransmission(call.u32(1), bytes, static_cast<uint32_t>(length));
  return nullptr;
}

// openDrive(handle, fd): [drive or -errno, size in bytes].
napi_value openDrive(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  if (!call.engine()) return call.pair(-ESHUTDOWN, 0);
  uint64_t sizeBytes = 0;
  const int drive = call.engine()->drives().open(static_cast<int>(call.u32(1)), &sizeBytes);
  return call.pair(drive, static_cast<double>(sizeBytes));
}

// closeDrive(handle, drive): EVENT_DISK_CLOSED follows.
napi_value closeDrive(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  if (!call.engine()) return nullptr;
  call.engine()->takeCommands();
  call.engine()->drives().close(call.u32(1));
  return nullptr;
}

// stats(handle): counters since the start.
napi_value stats(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  napi_value object;
  napi_create_object(env, &object);
  if (!call.engine()) return object;
  const Stats& stats = call.engine()->stats();
  const auto set = [&](const char* name, uint64_t value) { setNumber(env, object, name, static_cast<double>(value)); };
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
  set("driveOperationsInFlight", call.engine()->drives().operationCount());
  set("batches", stats.batches);
  set("events", stats.events);
  set("commands", stats.commands);
  set("enters", call.engine()->ring().enterCount());
  set("poolWaits", stats.poolWaits);
  set("connections", call.engine()->sockets().connectionCount());
  set("connectionsRefused", stats.connectionsRefused);
  return object;
}

// stop(handle): `onStopped` follows.
napi_value stop(napi_env env, napi_callback_info info) {
  const Call call(env, info);
  if (!call.engine()) return nullptr;
  call.engine()->takeCommands();
  call.engine()->stop();
  return nullptr;
}

// closeOnExec(): keeps every descriptor that this process has open now, but for stdin, stdout and stderr, from the programs that it
// starts; those that are handed to them by number still arrive. 0 or -errno.
napi_value closeOnExec(napi_env env, napi_callback_info) {
  const int result = close_range(STDERR_FILENO + 1, ~0u, CLOSE_RANGE_CLOEXEC);
  napi_value value;
  napi_create_int32(env, result == 0 ? 0 : -errno, &value);
  return value;
}

napi_value abiTable(napi_env env) {
  napi_value table;
  napi_create_object(env, &table);
#define BRAID_ABI_EXPORT(name, value) setNumber(env, table, #name, value);
  BRAID_ABI(BRAID_ABI_EXPORT)
#undef BRAID_ABI_EXPORT
  return table;
}

}  // namespace

NAPI_MODULE_INIT() {
  const struct {
    const char* name;
    napi_callback function;
  } functions[] = {
      {"create", create},           {"submit", submit},
      {"alloc", alloc},             {"usedBytes", usedBytes},
      {"listenTcp", listenTcp},     {"computeChecksums", computeChecksums},
      {"listenUnix", listenUnix},   {"closeListener", closeListener},
      {"reserve", reserve},         {"connect", connect},
      {"failConnect", failConnect}, {"sendControl", sendControl},
      {"sendBytes", sendBytes},     {"takeBytes", takeBytes},
      {"openDrive", openDrive},     {"startTransmission", startTransmission},
      {"closeDrive", closeDrive},   {"stats", stats},
      {"stop", stop},               {"closeOnExec", closeOnExec},
  };
  for (const auto& entry : functions) {
    napi_value function;
    napi_create_function(env, entry.name, NAPI_AUTO_LENGTH, entry.function, nullptr, &function);
    napi_set_named_property(env, exports, entry.name, function);
  }
  napi_set_named_property(env, exports, "abi", abiTable(env));
  return exports;
}

}  // namespace braid

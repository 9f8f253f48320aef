#include "loop.h"

#include <algorithm>

#include "../core/assert.h"

namespace braid {
namespace {

// Turns before libuv gets one in any case.
constexpr int TURNS_MAX = 1000;
// A drive that does not answer must not keep a process from ending.
constexpr int64_t QUIESCE_NS = 5 * 1000000000ll;

void keep(Napi::Env, Loop*) {}

}  // namespace

Loop* Loop::of(Napi::Env env) {
  if (Loop* existing = env.GetInstanceData<Loop>()) return existing;
  std::unique_ptr<Loop> loop(new Loop(env));
  if (!loop->init()) {
    Napi::Error::New(env, "the event loop of this thread takes no hooks").ThrowAsJavaScriptException();
    return nullptr;
  }
  // It deletes itself when its handles are closed, at the end of the environment.
  env.SetInstanceData<Loop, keep>(loop.get());
  return loop.release();
}

// Raw Node-API here and in `call`: node-addon-api has nothing for libuv's loop or for cleanup that takes time, and its callbacks make
// exceptions of a failure that only means that JavaScript cannot run any more.
bool Loop::init() {
  if (napi_get_uv_event_loop(env_, &loop_) != napi_ok) return false;
  const auto onEnd = [](napi_async_cleanup_hook_handle, void* data) { static_cast<Loop*>(data)->onEnvironmentEnd(); };
  if (napi_add_async_cleanup_hook(env_, onEnd, this, &cleanup_) != napi_ok) return false;
  uv_prepare_init(loop_, &prepare_);
  uv_idle_init(loop_, &idle_);
  prepare_.data = this;
  idle_.data = this;
  openHandles_ = 2;
  return true;
}

void Loop::add(EngineHandle* handle) {
  handle->loop = this;
  handle->engine->watch(uv_backend_fd(loop_));
  handles_.push_back(handle);
  if (handles_.size() == 1) uv_prepare_start(&prepare_, [](uv_prepare_t* hook) { static_cast<Loop*>(hook->data)->onPrepare(); });
  updateMode();
}

// Alone, an engine blocks and libuv must not; several are polled by libuv.
void Loop::updateMode() {
  const bool isShared = handles_.size() > 1;
  for (EngineHandle* handle : handles_) {
    handle->engine->watch(isShared ? -1 : uv_backend_fd(loop_));
    if (isShared) {
      share(*handle);
    } else {
      unshare(*handle);
    }
  }
  setIdle(handles_.size() == 1);
  if (handles_.empty()) uv_prepare_stop(&prepare_);
}

void Loop::share(EngineHandle& handle) {
  if (handle.poll != nullptr) return;
  const int fd = handle.engine->ring().startNotifying();
  handle.poll = new uv_poll_t;
  handle.poll->data = this;
  openHandles_++;
  const int result = uv_poll_init(loop_, handle.poll, fd);
  BRAID_ASSERT(fd >= 0 && result == 0, "a ring can notify");
  uv_poll_start(handle.poll, UV_READABLE, [](uv_poll_t*, int, int) {});  // the prepare hook does the work
}

void Loop::unshare(EngineHandle& handle) {
  if (handle.poll == nullptr) return;
  uv_close(reinterpret_cast<uv_handle_t*>(handle.poll), onHandleClosed);
  handle.poll = nullptr;
  handle.engine->ring().stopNotifying();
}

void Loop::setIdle(bool isIdle) {
  if (isIdle) {
    uv_idle_start(&idle_, [](uv_idle_t*) {});
  } else {
    uv_idle_stop(&idle_);
  }
}

// How long libuv would wait now, were it not for our idle handle.
int64_t Loop::idleTimeoutNs() {
  uv_idle_stop(&idle_);
  uv_update_time(loop_);
  const int timeoutMs = uv_backend_timeout(loop_);
  setIdle(true);
  return timeoutMs < 0 ? -1 : timeoutMs * 1000000ll;
}

void Loop::onPrepare() {
  if (isEnding_ || isRunningJavaScript_) return;
  if (handles_.size() == 1) return runAlone(*handles_[0]);
  runTogether();
}

void Loop::runAlone(EngineHandle& handle) {
  for (int turn = 0; turn < TURNS_MAX; turn++) {
    Engine& engine = *handle.engine;
    engine.takeCommands();
    if (engine.isStopped()) return finish(handle);
    const bool hasBacklog = engine.hasBacklog();
    const int64_t timeoutNs = hasBacklog ? 0 : idleTimeoutNs();
    if (!runOnce(handle, timeoutNs)) return;
    if (handles_.size() != 1) return;
    const bool isLibuvDue = engine.takeWatchFired() || (timeoutNs == 0 && !hasBacklog);
    if (isLibuvDue) return;
  }
}

void Loop::runTogether() {
  const std::vector<EngineHandle*> handles = handles_;
  for (EngineHandle* handle : handles) {
    handle->engine->ring().clearNotification();
    handle->engine->takeCommands();
    if (handle->engine->isStopped()) {
      finish(*handle);
    } else if (!runOnce(*handle, 0)) {
      return;
    }
  }
  const bool isBusy = std::any_of(handles_.begin(), handles_.end(), [](const EngineHandle* handle) {
    return handle->engine->needsTurn() || handle->engine->hasDeadline() || handle->engine->isStopped();
  });
  setIdle(isBusy || handles_.size() == 1);
}

// Submits, waits, delivers one batch. False when JavaScript cannot run any more.
bool Loop::runOnce(EngineHandle& handle, int64_t timeoutNs) {
  const int result = handle.engine->enter(timeoutNs);
  BRAID_ASSERT(result == 0, "the ring can be entered");
  const uint32_t count = handle.engine->collect();
  const bool isRunning = count == 0 || call(handle.onEvents, count);
  handle.engine->endBatch();
  return isRunning;
}

// Calls a function of ours and runs the promises and ticks that follow from it. What it throws is uncaught.
bool Loop::call(const Napi::FunctionReference& reference, uint32_t argument) {
  napi_handle_scope scope;
  if (napi_open_handle_scope(env_, &scope) != napi_ok) return false;
  napi_value receiver, function, value;
  napi_get_global(env_, &receiver);
  napi_get_reference_value(env_, reference, &function);
  napi_create_uint32(env_, argument, &value);
  isRunningJavaScript_ = true;
  const napi_status status = napi_make_callback(env_, nullptr, receiver, function, 1, &value, nullptr);
  isRunningJavaScript_ = false;
  if (status == napi_pending_exception) {
    napi_value thrown;
    if (napi_get_and_clear_last_exception(env_, &thrown) == napi_ok) napi_fatal_exception(env_, thrown);
  }
  napi_close_handle_scope(env_, scope);
  return status == napi_ok;
}

// The engine has stopped: lets go of it, and tells.
void Loop::finish(EngineHandle& handle) {
  handles_.erase(std::find(handles_.begin(), handles_.end(), &handle));
  unshare(handle);
  updateMode();
  const Napi::FunctionReference onStopped = std::move(handle.onStopped);
  handle.onEvents.Reset();
  release(&handle);
  call(onStopped, 0);
}

void Loop::release(EngineHandle* handle) {
  handle->engine.reset();
  if (handle->isForgotten) delete handle;
}

void Loop::onEnvironmentEnd() {
  isEnding_ = true;
  for (EngineHandle* handle : handles_) {
    handle->engine->quiesce(QUIESCE_NS);
    unshare(*handle);
    release(handle);
  }
  handles_.clear();
  uv_close(reinterpret_cast<uv_handle_t*>(&prepare_), onHandleClosed);
  uv_close(reinterpret_cast<uv_handle_t*>(&idle_), onHandleClosed);
}

void Loop::onHandleClosed(uv_handle_t* handle) {
  Loop* loop = static_cast<Loop*>(handle->data);
  if (handle->type == UV_POLL) delete reinterpret_cast<uv_poll_t*>(handle);
  if (--loop->openHandles_ > 0) return;
  napi_remove_async_cleanup_hook(loop->cleanup_);
  delete loop;
}

}  // namespace braid

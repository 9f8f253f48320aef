// Ties the engines of one thread to that thread's libuv loop. One `Loop` per environment, made with its first engine.
//
// One engine: the thread blocks in io_uring, from a prepare hook, with libuv's own descriptor watched through the ring; an idle
// handle keeps libuv's poll from blocking. Thus one system call submits and waits, and libuv is visited only when it
// has something to do. Several engines on one loop (tests): libuv blocks, and the rings tell it by eventfd.
//
// All methods and hooks: the environment's thread.
#pragma once

#include <napi.h>
#include <uv.h>

#include <memory>
#include <vector>

#include "../core/engine.h"

namespace braid {

class Loop;

// What JavaScript holds of an engine. `engine` is null once it has stopped; the last of engine and JavaScript deletes it.
struct EngineHandle {
  Loop* loop = nullptr;
  std::unique_ptr<Engine> engine;
  Napi::FunctionReference onEvents;
  Napi::FunctionReference onStopped;
  bool isForgotten = false;  // collected by JavaScript
  uv_poll_t* poll = nullptr;  // only while several engines share the loop
};

class Loop {
 public:
  // The environment's loop; nullptr (with a pending exception) when it cannot be had.
  static Loop* of(Napi::Env env);

  void add(EngineHandle* handle);

 private:
  explicit Loop(Napi::Env env) : env_(env) {}
  bool init();
  void onPrepare();
  void runAlone(EngineHandle& handle);
  void runTogether();
  bool runOnce(EngineHandle& handle, int64_t timeoutNs);
  int64_t idleTimeoutNs();
  void setIdle(bool isIdle);
  bool call(const Napi::FunctionReference& function, uint32_t argument);
  void finish(EngineHandle& handle);
  static void release(EngineHandle* handle);
  void share(EngineHandle& handle);
  static void unshare(EngineHandle& handle);
  void updateMode();
  void onEnvironmentEnd();
  static void onHandleClosed(uv_handle_t* handle);

  Napi::Env env_;
  uv_loop_t* loop_ = nullptr;
  uv_prepare_t prepare_;
  uv_idle_t idle_;
  napi_async_cleanup_hook_handle cleanup_ = nullptr;
  std::vector<EngineHandle*> handles_;
  bool isEnding_ = false;
  bool isRunningJavaScript_ = false;
  int openHandles_ = 0;
};

}  // namespace braid

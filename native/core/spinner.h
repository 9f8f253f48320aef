// How long to look for completions before blocking, as KVM's halt polling adapts it (Documentation/virt/kvm/halt-polling.rst):
// the window grows while what is waited for comes soon, and is gone when it does not. A thread that blocks pays for being
// woken, some 10 to 20 µs on a virtual CPU that has gone to sleep meanwhile; one that looks pays with CPU time.
#pragma once

#include <algorithm>
#include <cstdint>

namespace braid {

class Spinner {
 public:
  static constexpr int64_t WINDOW_MAX_NS = 200000;  // KVM's, too
  static constexpr int64_t WINDOW_START_NS = 20000;

  int64_t windowNs() const { return windowNs_; }
  // Something came after `waitedNs`, blocked or not.
  void note(int64_t waitedNs) {
    windowNs_ = waitedNs > WINDOW_MAX_NS ? 0 : std::min(WINDOW_MAX_NS, std::max(WINDOW_START_NS, windowNs_ * 2));
  }

 private:
  int64_t windowNs_ = 0;
};

}  // namespace braid

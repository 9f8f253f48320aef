// Assertions stay on in production: a violated invariant stops the process before it can damage data.
#pragma once

namespace braid {
// Any thread.
[[noreturn]] void assertionFailed(const char* condition, const char* message, const char* file, int line);
}  // namespace braid

#define BRAID_ASSERT(condition, message)                                             \
  do {                                                                               \
    if (__builtin_expect(!(condition), 0)) {                                         \
      ::braid::assertionFailed(#condition, message, __FILE__, __LINE__);             \
    }                                                                                \
  } while (0)

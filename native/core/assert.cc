#include "assert.h"

#include <cstdio>
#include <cstdlib>

namespace braid {

void assertionFailed(const char* condition, const char* message, const char* file, int line) {
  std::fprintf(stderr, "braid: assertion failed: %s (%s) at %s:%d\n", message, condition, file, line);
  std::abort();
}

}  // namespace braid

#include "../spinner.h"

#include "test.h"

namespace braid {

TEST(spinner_looks_longer_while_something_comes_soon) {
  Spinner spinner;
  CHECK_EQUAL(spinner.windowNs(), 0);
  spinner.note(5000);
  CHECK_EQUAL(spinner.windowNs(), Spinner::WINDOW_START_NS);
  int64_t before = spinner.windowNs();
  for (int i = 0; i < 10; i++) {
    spinner.note(Spinner::WINDOW_MAX_NS);
    CHECK(spinner.windowNs() >= before && spinner.windowNs() <= Spinner::WINDOW_MAX_NS);
    before = spinner.windowNs();
  }
  CHECK_EQUAL(spinner.windowNs(), Spinner::WINDOW_MAX_NS);
}

TEST(spinner_blocks_at_once_when_nothing_came) {
  Spinner spinner;
  for (int i = 0; i < 10; i++) spinner.note(1000);
  spinner.note(Spinner::WINDOW_MAX_NS + 1);
  CHECK_EQUAL(spinner.windowNs(), 0);
}

}  // namespace braid

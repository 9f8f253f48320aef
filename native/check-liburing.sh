#!/bin/sh
# Prints the linker flag of liburing; fails with what to do when its header is missing.
if echo '#include <liburing.h>' | ${CXX:-c++} -E -x c++ - >/dev/null 2>&1; then
  echo -luring
else
  echo 'braid: liburing is missing. Install the Debian package liburing-dev: apt-get install liburing-dev' >&2
  exit 1
fi

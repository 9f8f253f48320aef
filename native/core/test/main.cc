// Runs all tests, or those whose name contains the first argument; TAP on stdout. A failed check ends the run.
#include <cstring>

#include "test.h"

int main(int count, char** arguments) {
  int number = 0;
  for (const TestCase& each : testCases()) {
    if (count > 1 && std::strstr(each.name, arguments[1]) == nullptr) continue;
    std::cerr << "# " << each.name << std::endl;
    each.run();
    std::cout << "ok " << ++number << " - " << each.name << std::endl;
  }
  std::cout << "1.." << number << std::endl;
  return number == 0 ? 1 : 0;
}

// A tiny test frame: TEST(name) { CHECK(...); CHECK_EQUAL(a, b); } in any file of this folder.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

struct TestCase {
  const char* name;
  void (*run)();
};

inline std::vector<TestCase>& testCases() {
  static std::vector<TestCase> cases;
  return cases;
}

struct TestRegistration {
  TestRegistration(const char* name, void (*run)()) { testCases().push_back({name, run}); }
};

#define TEST(name)                                                  \
  static void test_##name();                                        \
  static const TestRegistration registration_##name(#name, test_##name); \
  static void test_##name()

#define CHECK(condition)                                                               \
  do {                                                                                 \
    if (!(condition)) {                                                                \
      std::cerr << __FILE__ << ":" << __LINE__ << ": " << #condition << std::endl;     \
      std::exit(1);                                                                    \
    }                                                                                  \
  } while (0)

#define CHECK_EQUAL(actual, expected)                                                  \
  do {                                                                                 \
    const auto actualValue = (actual);                                                 \
    const auto expectedValue = (expected);                                             \
    if (!(actualValue == expectedValue)) {                                             \
      std::cerr << __FILE__ << ":" << __LINE__ << ": " << #actual << " is " << actualValue << ", not " << expectedValue \
                << std::endl;                                                          \
      std::exit(1);                                                                    \
    }                                                                                  \
  } while (0)

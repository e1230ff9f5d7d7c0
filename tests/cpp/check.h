// All that these tests need of a framework.
#pragma once

#include <cstdio>
#include <cstdlib>

#define CHECK(condition)                                                             \
  do {                                                                               \
    if (!(condition)) {                                                              \
      std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                  \
    }                                                                                \
  } while (false)

namespace unify {

void test_validation_names_what_breaks_a_rule();
void test_faults_come_when_they_are_asked_for();

}  // namespace unify

// What tells this process from another one of the same number: two containers may give processes of theirs one number.
#pragma once

#include <sys/random.h>

#include <cstdint>

namespace unify {

// Random; a child of a fork has its parent's, and another number.
inline uint64_t mark_of_process() {
  static const uint64_t mark = [] {
    uint64_t random = 0;
    if (getrandom(&random, sizeof random, 0) != sizeof random) random = 0;
    return random;
  }();
  return mark;
}

}  // namespace unify

// How a backend fills a struct of its caller's.
#pragma once

#include <algorithm>
#include <cstring>

namespace unify {

// Fills as much of a caller's struct as the caller knows.
template <typename Struct>
void answer(Struct* out, Struct filled) {
  filled.struct_size = out->struct_size;
  filled.extension = out->extension;
  std::memcpy(out, &filled, std::min(out->struct_size, sizeof filled));
}

}  // namespace unify

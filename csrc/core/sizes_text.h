// Three sizes, of a grid, a block or a cluster, in messages and traces: "4×2×1".
#pragma once

#include <string>

namespace unify {

template <typename Sizes>
std::string sizes_text(const Sizes& sizes) {
  return std::to_string(sizes[0]) + "×" + std::to_string(sizes[1]) + "×" + std::to_string(sizes[2]);
}

}  // namespace unify

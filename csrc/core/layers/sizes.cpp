#include "sizes.h"

#include <algorithm>

#include "../sizes_text.h"

namespace unify::layers {

std::string why_wrong_sizes(const unify_launch_args& args, const unify_device_info& info) {
  for (int axis = 0; axis < 3; ++axis) {
    if (args.grid[axis] == 0 || args.grid[axis] > info.max_grid[axis]) {
      return "grid[" + std::to_string(axis) + "] is " + std::to_string(args.grid[axis]) + ", possible are 1 to " +
             std::to_string(info.max_grid[axis]);
    }
  }
  if (args.threads == 0 || args.threads > info.max_threads) {
    return std::to_string(args.threads) + " threads, possible are 1 to " + std::to_string(info.max_threads);
  }
  if (args.shared_bytes > info.shared_bytes) {
    return std::to_string(args.shared_bytes) + " bytes of scratch memory, at most " +
           std::to_string(info.shared_bytes) + " are there";
  }
  return {};
}

std::string why_wrong_shape(const unify_launch_args& args, uint32_t abi_minor) {
  const auto is_set = [](const uint32_t(&sizes)[3]) { return (sizes[0] | sizes[1] | sizes[2]) != 0; };
  constexpr uint32_t kKnown = UNIFY_LAUNCH_COOPERATIVE | UNIFY_LAUNCH_OVERLAPPING;
  if ((args.flags & ~kKnown) != 0) {
    return "flags " + std::to_string(args.flags) + "; known are the bits of " + std::to_string(kKnown);
  }
  if (abi_minor < 1 && (is_set(args.block) || is_set(args.cluster) || args.flags != 0)) {
    return "a block, a cluster or flags for a backend of version 1.0, which has none";
  }
  if (is_set(args.block) && uint64_t{args.block[0]} * args.block[1] * args.block[2] != args.threads) {
    return "block " + sizes_text(args.block) + " for " + std::to_string(args.threads) + " threads";
  }
  if (!is_set(args.cluster)) return {};
  for (int axis = 0; axis < 3; ++axis) {
    if (args.cluster[axis] == 0 || args.grid[axis] % args.cluster[axis] != 0) {
      return "cluster " + sizes_text(args.cluster) + " does not divide grid " + sizes_text(args.grid);
    }
  }
  return {};
}

size_t span_of(size_t bytes, size_t rows, size_t pitch) {
  size_t span = 0;
  if (__builtin_mul_overflow(rows - 1, pitch, &span) || __builtin_add_overflow(span, bytes, &span)) return 0;
  return span;
}

bool rows_overlap(const unify_copy_rows_args& args) {
  for (size_t row = 0; row < args.rows; ++row) {
    const unify_address dst = args.dst + row * args.dst_pitch;
    // The source's rows around it.
    const size_t before = dst < args.src ? 0 : std::min<size_t>((dst - args.src) / args.src_pitch, args.rows - 1);
    for (size_t near = before; near < std::min(before + 2, args.rows); ++near) {
      const unify_address src = args.src + near * args.src_pitch;
      if (dst < src + args.bytes && src < dst + args.bytes) return true;
    }
  }
  return false;
}

}  // namespace unify::layers

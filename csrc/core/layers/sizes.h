// Sizes that the ABI forbids, in words: what is wrong with them, or nothing.
#pragma once

#include <unify/backend.h>

#include <cstddef>
#include <string>

namespace unify::layers {

[[nodiscard]] std::string why_wrong_sizes(const unify_launch_args& args, const unify_device_info& info);
// What 1.1 added, of arguments that have it. `abi_minor`: the backend's.
[[nodiscard]] std::string why_wrong_shape(const unify_launch_args& args, uint32_t abi_minor);

// Bytes from the first row's begin to the last one's end; 0 where they are more than an address can count.
[[nodiscard]] size_t span_of(size_t bytes, size_t rows, size_t pitch);
// Whether a row that is read is also written.
[[nodiscard]] bool rows_overlap(const unify_copy_rows_args& args);

}  // namespace unify::layers

// What module_load is given: an ELF object of the vendor's assembler, alone or behind a header of our compiler that
// says what the launch has to know.
#pragma once

#include <unify/backend.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace unify::ascend {

// Which cores run a kernel.
enum class Mode : uint32_t { kVector = 0, kCube = 1, kMixed = 2 };

struct Image {
  const void* object = nullptr;
  size_t object_bytes = 0;
  Mode mode =
      Mode::kMixed;  // the magic for mixed kernels also takes those of cubes only: triton-ascend's npu_utils.cpp
  // Whether the arguments begin with what the vendor's launcher puts there (triton-ascend's driver.py): the address
  // where cores meet, the lock, the workspace; the user's arguments; at the end the grid.
  bool has_prefix = false;
  uint64_t lock_count = 0;  // words of 8 bytes
  int64_t lock_init = 0;
  uint32_t grid_offset = 0;
  uint32_t logical_grid_offset = 0;  // 0: the kernel runs once for each block of the grid
  std::string chip;                  // that it was compiled for: "910B", "910C", "950"; empty: it does not say
};

// Reads an image. Not OK: out_why says why it cannot be loaded.
unify_status read_image(const void* bytes, size_t size, Image& out, std::string& out_why);

// Whether a chip, by the name that ACL gives it, may run it: chips with the same cores run each other's kernels.
bool is_for(const Image& image, const std::string& soc);

}  // namespace unify::ascend

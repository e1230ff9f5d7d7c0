// Whether what an ELF file refers to lies inside of it: drivers follow its offsets without a doubt.
#pragma once

#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

namespace unify::elf {

// Copies what lies at an offset of a file. False if it would lie beyond the end.
template <typename T>
[[nodiscard]] bool read(const void* file, size_t bytes, uint64_t offset, T& out) {
  if (bytes < sizeof out || offset > bytes - sizeof out) return false;
  std::memcpy(&out, static_cast<const char*>(file) + offset, sizeof out);
  return true;
}

// Why this is no 64-bit little-endian ELF file whose sections and segments lie inside of it, or nothing.
std::string why_not_elf(const void* file, size_t bytes, Elf64_Ehdr& out_header);

}  // namespace unify::elf

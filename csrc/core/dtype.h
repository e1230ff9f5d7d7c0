// Element types and the conversions between them, for the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace unify {

enum class DType : uint8_t {
  kBool,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kUInt8,
  kUInt16,
  kUInt32,
  kUInt64,
  kFloat16,
  kBFloat16,
  kFloat32,
  kFloat64,
  kFloat8E4M3,
  kFloat8E5M2,
};  // clang-format keeps the order that the tables below have

[[nodiscard]] uint32_t itemsize(DType dtype) noexcept;
[[nodiscard]] const char* name(DType dtype) noexcept;         // "float32"
[[nodiscard]] const char* triton_name(DType dtype) noexcept;  // "fp32", as in Triton signatures
[[nodiscard]] bool is_triton_name(const std::string& name) noexcept;
[[nodiscard]] DType dtype_from_name(const std::string& name);  // throws DTypeError naming near names
[[nodiscard]] std::string dtype_names();                       // of all: "bool, int8, …"

// Converts `count` elements, `dst_step` and `src_step` elements apart. Floats round to nearest even; what is too large
// for a float8_e4m3, infinity too, becomes its largest number, for the others infinity. Floats become integers by
// truncation, and what an integer cannot hold saturates; NaN becomes 0. Anything but zero is true.
void convert(DType to, void* dst, int64_t dst_step, DType from, const void* src, int64_t src_step, size_t count);

}  // namespace unify

#include "dtype.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "error.h"

namespace unify {
namespace {

struct Names {
  const char* name;
  const char* triton_name;
  uint32_t itemsize;
};

constexpr std::array<Names, 15> kNames = {{
    {"bool", "i1", 1},
    {"int8", "i8", 1},
    {"int16", "i16", 2},
    {"int32", "i32", 4},
    {"int64", "i64", 8},
    {"uint8", "u8", 1},
    {"uint16", "u16", 2},
    {"uint32", "u32", 4},
    {"uint64", "u64", 8},
    {"float16", "fp16", 2},
    {"bfloat16", "bf16", 2},
    {"float32", "fp32", 4},
    {"float64", "fp64", 8},
    {"float8_e4m3", "fp8e4nv", 1},
    {"float8_e5m2", "fp8e5", 1},
}};

const Names& names_of(DType dtype) noexcept { return kNames[static_cast<size_t>(dtype)]; }

// An IEEE-like float in few bits. Without infinity (e4m3fn) the largest exponent holds numbers, all ones is NaN.
template <typename Bits, int kExponent, int kMantissa, bool kHasInfinity>
struct Small {
  Bits bits;

  static constexpr int kBias = (1 << (kExponent - 1)) - 1;
  static constexpr uint32_t kMagnitude = (1U << (kExponent + kMantissa)) - 1;
  static constexpr uint32_t kInfinity = ((1U << kExponent) - 1) << kMantissa;
  static constexpr uint32_t kNaN = kHasInfinity ? kInfinity | 1U << (kMantissa - 1) : kMagnitude;
  static constexpr uint32_t kOverflow = kHasInfinity ? kInfinity : kNaN - 1;  // e4m3fn saturates, as on chips

  static Small from(double value) {
    const uint32_t sign = std::signbit(value) ? 1U << (kExponent + kMantissa) : 0;
    const double magnitude = std::fabs(value);
    if (magnitude == 0) return {static_cast<Bits>(sign)};
    if (std::isnan(value)) return {static_cast<Bits>(sign | kNaN)};
    if (std::isinf(value)) return {static_cast<Bits>(sign | kOverflow)};
    int exponent = 0;
    std::frexp(magnitude, &exponent);                     // magnitude < 2^exponent
    const int place = std::max(exponent - 1, 1 - kBias);  // subnormals share the smallest exponent
    const double units = std::nearbyint(std::ldexp(magnitude, kMantissa - place));  // to nearest even
    // A carry out of the mantissa goes into the exponent by plain addition.
    const double code = units + std::ldexp(static_cast<double>(place + kBias - 1), kMantissa);
    const uint32_t limit = kHasInfinity ? kInfinity : kNaN;
    if (code >= static_cast<double>(limit)) return {static_cast<Bits>(sign | kOverflow)};
    return {static_cast<Bits>(sign | static_cast<uint32_t>(code))};
  }

  [[nodiscard]] double value() const {
    const uint32_t magnitude = bits & kMagnitude;
    double result = 0;
    if (kHasInfinity ? magnitude > kInfinity : magnitude == kNaN) {
      result = std::numeric_limits<double>::quiet_NaN();
    } else if (kHasInfinity && magnitude == kInfinity) {
      result = std::numeric_limits<double>::infinity();
    } else {
      const auto exponent = static_cast<int>(magnitude >> kMantissa);
      const uint32_t mantissa = magnitude & ((1U << kMantissa) - 1);
      const uint32_t whole = exponent == 0 ? mantissa : mantissa | 1U << kMantissa;
      result = std::ldexp(static_cast<double>(whole), std::max(exponent, 1) - kBias - kMantissa);
    }
    return (static_cast<uint32_t>(bits) >> (kExponent + kMantissa)) != 0 ? -result : result;
  }
};

using Float16 = Small<uint16_t, 5, 10, true>;
using BFloat16 = Small<uint16_t, 8, 7, true>;
using Float8E4M3 = Small<uint8_t, 4, 3, false>;
using Float8E5M2 = Small<uint8_t, 5, 2, true>;

// Calls `use` with a null pointer of the element's type.
template <typename Use>
void with_type(DType dtype, Use use) {
  switch (dtype) {
    case DType::kBool:
      return use(static_cast<bool*>(nullptr));
    case DType::kInt8:
      return use(static_cast<int8_t*>(nullptr));
    case DType::kInt16:
      return use(static_cast<int16_t*>(nullptr));
    case DType::kInt32:
      return use(static_cast<int32_t*>(nullptr));
    case DType::kInt64:
      return use(static_cast<int64_t*>(nullptr));
    case DType::kUInt8:
      return use(static_cast<uint8_t*>(nullptr));
    case DType::kUInt16:
      return use(static_cast<uint16_t*>(nullptr));
    case DType::kUInt32:
      return use(static_cast<uint32_t*>(nullptr));
    case DType::kUInt64:
      return use(static_cast<uint64_t*>(nullptr));
    case DType::kFloat16:
      return use(static_cast<Float16*>(nullptr));
    case DType::kBFloat16:
      return use(static_cast<BFloat16*>(nullptr));
    case DType::kFloat32:
      return use(static_cast<float*>(nullptr));
    case DType::kFloat64:
      return use(static_cast<double*>(nullptr));
    case DType::kFloat8E4M3:
      return use(static_cast<Float8E4M3*>(nullptr));
    case DType::kFloat8E5M2:
      return use(static_cast<Float8E5M2*>(nullptr));
  }
}

template <typename T>
constexpr bool kIsSmall = std::is_class_v<T>;

template <typename T>
auto widened(T value) {
  if constexpr (kIsSmall<T>) {
    return value.value();
  } else if constexpr (std::is_floating_point_v<T>) {
    return static_cast<double>(value);
  } else {
    return value;
  }
}

template <typename To, typename From>
To converted(From value) {
  if constexpr (std::is_same_v<To, bool>) {
    return value != From{};
  } else if constexpr (kIsSmall<To>) {
    return To::from(static_cast<double>(value));
  } else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    if (std::isnan(value)) return To{0};
    // Compared as floats: the largest integers round up to a power of two, which is out of range.
    if (value <= static_cast<From>(std::numeric_limits<To>::min())) return std::numeric_limits<To>::min();
    if (value >= static_cast<From>(std::numeric_limits<To>::max())) return std::numeric_limits<To>::max();
    return static_cast<To>(value);
  } else {
    return static_cast<To>(value);
  }
}

template <typename To, typename From>
void convert_loop(void* dst, int64_t dst_step, const void* src, int64_t src_step, size_t count) {
  auto* out = static_cast<unsigned char*>(dst);
  const auto* in = static_cast<const unsigned char*>(src);
  for (size_t i = 0; i < count; ++i) {
    From value;
    std::memcpy(&value, in, sizeof value);  // foreign memory need not be aligned
    const To result = converted<To>(widened(value));
    std::memcpy(out, &result, sizeof result);
    in += src_step * static_cast<int64_t>(sizeof(From));
    out += dst_step * static_cast<int64_t>(sizeof(To));
  }
}

size_t edit_distance(const std::string& a, const std::string& b) {
  size_t differing = a.size() > b.size() ? a.size() - b.size() : b.size() - a.size();
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) differing += a[i] == b[i] ? 0 : 1;
  return differing;
}

}  // namespace

uint32_t itemsize(DType dtype) noexcept { return names_of(dtype).itemsize; }
const char* name(DType dtype) noexcept { return names_of(dtype).name; }
const char* triton_name(DType dtype) noexcept { return names_of(dtype).triton_name; }
bool is_triton_name(const std::string& name) noexcept {
  return std::any_of(kNames.begin(), kNames.end(), [&](const Names& names) { return name == names.triton_name; });
}

std::string dtype_names() {
  std::string text;
  for (const Names& names : kNames) text += std::string(text.empty() ? "" : ", ") + names.name;
  return text;
}

DType dtype_from_name(const std::string& name) {
  std::string near;
  size_t nearest = 3;  // further away, a name is no slip of the pen
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (name == kNames[i].name) return static_cast<DType>(i);
    const size_t distance = edit_distance(name, kNames[i].name);
    if (distance < nearest) {
      near = kNames[i].name;
      nearest = distance;
    }
  }
  throw Error(ErrorKind::kDType, "no dtype '" + name + "'." + (near.empty() ? "" : " Did you mean '" + near + "'?") +
                                     " Known: " + dtype_names() + ".");
}

void convert(DType to, void* dst, int64_t dst_step, DType from, const void* src, int64_t src_step, size_t count) {
  with_type(to, [&](auto* to_tag) {
    using To = std::remove_pointer_t<decltype(to_tag)>;
    with_type(from, [&](auto* from_tag) {
      using From = std::remove_pointer_t<decltype(from_tag)>;
      convert_loop<To, From>(dst, dst_step, src, src_step, count);
    });
  });
}

}  // namespace unify

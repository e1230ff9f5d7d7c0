#include "hccl_reduce.h"

#include <cstring>
#include <type_traits>

namespace unify::simulator {
namespace {

struct Type {
  const char* name;
  size_t bytes;
  bool is_reducible;
};
constexpr Type kTypes[] = {
    {"int8", 1, true},     {"int16", 2, true},    {"int32", 4, true},    {"float16", 2, true}, {"float32", 4, true},
    {"int64", 8, true},    {"uint64", 8, true},   {"uint8", 1, true},    {"uint16", 2, true},  {"uint32", 4, true},
    {"float64", 8, true},  {"bfloat16", 2, true}, {"int128", 16, false}, {"?", 0, false},      {"hif8", 1, false},
    {"fp8e4m3", 1, false}, {"fp8e5m2", 1, false}, {"fp8e8m0", 1, false},
};

template <typename To, typename From>
To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// Without branches, so that compilers vectorise them.
struct Half {
  using Stored = uint16_t;
  using Computed = float;
  static float load(uint16_t half) {
    // The exponent moves to float32's bias by a multiplication, which makes subnormal numbers normal too.
    const uint32_t magnitude = uint32_t{half & 0x7fffU} << 13;
    uint32_t out = bits<uint32_t>(bits<float>(magnitude) * 0x1p112F);
    out |= magnitude >= 0x0f800000U ? 0x7f800000U : 0U;  // infinity, NaN
    return bits<float>(out | uint32_t{half & 0x8000U} << 16);
  }
  static uint16_t store(float value) {
    const uint32_t all = bits<uint32_t>(value);
    const uint32_t magnitude = all & 0x7fffffffU;
    const uint32_t sign = all >> 16 & 0x8000U;
    // Normal: half a unit, less for an even one, carries into the exponent and up to infinity.
    const uint32_t normal = (magnitude - (112U << 23) + 0xfffU + (magnitude >> 13 & 1U)) >> 13;
    // Subnormal: an addition rounds to multiples of 2 to the -24.
    const uint32_t small = bits<uint32_t>(bits<float>(magnitude) + 0.5F) - 0x3f000000U;
    const uint32_t special = magnitude > 0x7f800000U ? 0x7e00U : 0x7c00U;
    uint32_t out = magnitude < 0x38800000U ? small : normal;
    out = magnitude >= 0x477ff000U ? special : out;
    return static_cast<uint16_t>(out | sign);
  }
};

struct Bfloat {
  using Stored = uint16_t;
  using Computed = float;
  static float load(uint16_t value) { return bits<float>(uint32_t{value} << 16); }
  static uint16_t store(float value) {
    const uint32_t all = bits<uint32_t>(value);
    const uint32_t rounded = (all + 0x7fffU + (all >> 16 & 1U)) >> 16;
    const bool is_nan = (all & 0x7fffffffU) > 0x7f800000U;
    return static_cast<uint16_t>(is_nan ? (all >> 16 | 0x40U) : rounded);
  }
};

template <typename T>
struct Plain {
  using Stored = T;
  using Computed = T;
  static T load(T value) { return value; }
  static T store(T value) { return value; }
};

template <HcclReduceOp op, typename T>
T combine(T a, T b) {
  if constexpr (op == HCCL_REDUCE_MAX) return a < b || b != b ? b : a;
  if constexpr (op == HCCL_REDUCE_MIN) return b < a || b != b ? b : a;
  if constexpr (std::is_integral_v<T>) {  // as unsigned numbers, which wrap around; of 64 bits, as short ones become
                                          // int
    const auto x = static_cast<uint64_t>(a);
    const auto y = static_cast<uint64_t>(b);
    return static_cast<T>(op == HCCL_REDUCE_SUM ? x + y : x * y);
  } else {
    return op == HCCL_REDUCE_SUM ? a + b : a * b;
  }
}

template <typename Format, HcclReduceOp op>
void reduce_as(char* out, const std::vector<const char*>& ranks, size_t count) {
  using Stored = typename Format::Stored;
  typename Format::Computed sums[kMostReduced];
  const auto* first = reinterpret_cast<const Stored*>(ranks.front());
  for (size_t i = 0; i < count; ++i) sums[i] = Format::load(first[i]);
  for (size_t rank = 1; rank < ranks.size(); ++rank) {
    const auto* from = reinterpret_cast<const Stored*>(ranks[rank]);
    for (size_t i = 0; i < count; ++i) sums[i] = combine<op>(sums[i], Format::load(from[i]));
  }
  auto* to = reinterpret_cast<Stored*>(out);
  for (size_t i = 0; i < count; ++i) to[i] = Format::store(sums[i]);
}

template <typename Format>
void reduce_by(char* out, const std::vector<const char*>& ranks, size_t count, HcclReduceOp op) {
  switch (op) {
    case HCCL_REDUCE_SUM:
      return reduce_as<Format, HCCL_REDUCE_SUM>(out, ranks, count);
    case HCCL_REDUCE_PROD:
      return reduce_as<Format, HCCL_REDUCE_PROD>(out, ranks, count);
    case HCCL_REDUCE_MAX:
      return reduce_as<Format, HCCL_REDUCE_MAX>(out, ranks, count);
    case HCCL_REDUCE_MIN:
      return reduce_as<Format, HCCL_REDUCE_MIN>(out, ranks, count);
  }
}

using Reduction = void (*)(char*, const std::vector<const char*>&, size_t, HcclReduceOp);
constexpr Reduction kReductions[] = {
    reduce_by<Plain<int8_t>>,   reduce_by<Plain<int16_t>>,  reduce_by<Plain<int32_t>>,  reduce_by<Half>,
    reduce_by<Plain<float>>,    reduce_by<Plain<int64_t>>,  reduce_by<Plain<uint64_t>>, reduce_by<Plain<uint8_t>>,
    reduce_by<Plain<uint16_t>>, reduce_by<Plain<uint32_t>>, reduce_by<Plain<double>>,   reduce_by<Bfloat>,
};

const Type& type_at(uint32_t type) { return kTypes[type < std::size(kTypes) ? type : 13]; }

}  // namespace

size_t bytes_of(HcclDataType type) { return type_at(type).bytes; }
bool is_reducible(HcclDataType type) { return type_at(type).is_reducible; }
const char* name_of(HcclDataType type) noexcept { return type_at(type).name; }

const char* name_of(HcclReduceOp op) noexcept {
  constexpr const char* kNames[] = {"sum", "prod", "max", "min"};
  return op < std::size(kNames) ? kNames[op] : "?";
}

void reduce(char* out, const std::vector<const char*>& ranks, size_t count, HcclDataType type, HcclReduceOp op) {
  kReductions[type](out, ranks, count, op);
}

}  // namespace unify::simulator

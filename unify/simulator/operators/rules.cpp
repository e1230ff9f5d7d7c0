#include "rules.h"

#include <cstring>
#include <sstream>

extern "C" const char* aclrtGetSocName();

namespace unify::operators {

namespace {

using c10::ScalarType;

// Of the 910B, the 910C and the 950.
enum Chips : uint8_t { kAtlasA2 = 1, kAtlasA3 = 2, kAtlasA5 = 4, kAll = 7 };
constexpr size_t kAny = SIZE_MAX;

constexpr uint64_t bit(ScalarType type) { return uint64_t{1} << static_cast<unsigned>(type); }

struct Type {
  const char* name;
  uint64_t bit;
};
// In the vendor's words; torch has none of the last ones.
#define TYPES(TYPE)                                   \
  TYPE(FLOAT, bit(ScalarType::Float))                 \
  TYPE(FLOAT16, bit(ScalarType::Half))                \
  TYPE(BF16, bit(ScalarType::BFloat16))               \
  TYPE(DOUBLE, bit(ScalarType::Double))               \
  TYPE(INT8, bit(ScalarType::Char))                   \
  TYPE(INT16, bit(ScalarType::Short))                 \
  TYPE(INT32, bit(ScalarType::Int))                   \
  TYPE(INT64, bit(ScalarType::Long))                  \
  TYPE(UINT8, bit(ScalarType::Byte))                  \
  TYPE(UINT16, bit(ScalarType::UInt16))               \
  TYPE(UINT32, bit(ScalarType::UInt32))               \
  TYPE(UINT64, bit(ScalarType::UInt64))               \
  TYPE(BOOL, bit(ScalarType::Bool))                   \
  TYPE(COMPLEX32, bit(ScalarType::ComplexHalf))       \
  TYPE(COMPLEX64, bit(ScalarType::ComplexFloat))      \
  TYPE(COMPLEX128, bit(ScalarType::ComplexDouble))    \
  TYPE(FLOAT8_E5M2, bit(ScalarType::Float8_e5m2))     \
  TYPE(FLOAT8_E4M3FN, bit(ScalarType::Float8_e4m3fn)) \
  TYPE(FLOAT8_E8M0, bit(ScalarType::Float8_e8m0fnu))  \
  TYPE(HIFLOAT8, 0)                                   \
  TYPE(INT4, 0)                                       \
  TYPE(FLOAT4_E2M1, 0)                                \
  TYPE(FLOAT4_E1M2, 0)
#define TYPE(name, bits) constexpr uint64_t name = bits;
TYPES(TYPE)
#undef TYPE
constexpr Type kTypes[] = {
#define TYPE(name, bits) {"DT_" #name, bits},
    TYPES(TYPE)
#undef TYPE
};
#undef TYPES

struct Said {
  const char* function;
  uint8_t chips;
  const char* parameters;
  size_t most_dimensions;
  uint64_t types;
};
constexpr Said kSaid[] = {
#define RULE(function, chips, parameters, most_dimensions, types) \
  {#function, chips, parameters, most_dimensions, types},
#include "rules.inc"
#undef RULE
};

uint8_t this_chip() {
  const char* soc = aclrtGetSocName();
  if (soc == nullptr) return 0;
  if (std::strncmp(soc, "Ascend950", 9) == 0) return kAtlasA5;
  return std::strncmp(soc, "Ascend910_93", 12) == 0 ? kAtlasA3 : kAtlasA2;
}

const char* name_of(ScalarType type) {
  for (const Type& each : kTypes) {
    if (each.bit == bit(type)) return each.name;
  }
  return c10::toString(type);
}

}  // namespace

Rules::Rules(const std::string& call) {
  static const uint8_t chip = this_chip();
  const std::string function = call.substr(0, call.rfind("GetWorkspaceSize"));
  for (const Said& said : kSaid) {
    if ((said.chips & chip) == 0 || function != said.function) continue;
    std::istringstream parameters(said.parameters);
    Rule rule{0, "", said.types, said.most_dimensions};
    while (parameters >> rule.parameter >> rule.name) {
      if (rule.name.back() == ',') rule.name.pop_back();
      rules_.push_back(rule);
    }
  }
}

std::string Rules::refuse(size_t parameter, const aclTensor* given) const {
  if (given == nullptr) return {};
  for (const Rule& rule : rules_) {
    if (rule.parameter != parameter) continue;
    const size_t dimensions = given->sizes.size();
    if ((rule.types & bit(given->type)) != 0 && dimensions <= rule.most_dimensions) continue;
    std::ostringstream text;
    text << "Tensor " << rule.name;
    if (dimensions > rule.most_dimensions) {
      text << " has " << dimensions << " dimensions; it may have at most " << rule.most_dimensions << ".";
      return text.str();
    }
    text << " not implemented for " << name_of(given->type) << ", should be in dtype support list [";
    for (const Type& each : kTypes) {
      if ((rule.types & each.bit) != 0) text << each.name << ",";
    }
    text << "].";
    return text.str();
  }
  return {};
}

std::string Rules::refuse(size_t parameter, const aclTensorList* given) const {
  if (given == nullptr) return {};
  for (const aclTensor* each : given->values) {
    if (each == nullptr || each->bytes() == 0) continue;  // torch_npu's way to leave out an index
    if (std::string why = refuse(parameter, each); !why.empty()) return why;
  }
  return {};
}

}  // namespace unify::operators

#include "descriptor.h"

#include <algorithm>
#include <cstring>
#include <new>

using c10::ScalarType;

namespace unify::operators {

ScalarType type_of(int acl_type) {
  switch (acl_type) {
    case 0:
      return ScalarType::Float;
    case 1:
      return ScalarType::Half;
    case 2:
      return ScalarType::Char;
    case 3:
      return ScalarType::Int;
    case 4:
      return ScalarType::Byte;
    case 6:
      return ScalarType::Short;
    case 7:
      return ScalarType::UInt16;
    case 8:
      return ScalarType::UInt32;
    case 9:
      return ScalarType::Long;
    case 10:
      return ScalarType::UInt64;
    case 11:
      return ScalarType::Double;
    case 12:
      return ScalarType::Bool;
    case 16:
      return ScalarType::ComplexFloat;
    case 17:
      return ScalarType::ComplexDouble;
    case 27:
      return ScalarType::BFloat16;
    case 33:
      return ScalarType::ComplexHalf;
    case 35:
      return ScalarType::Float8_e5m2;
    case 36:
      return ScalarType::Float8_e4m3fn;
    case 37:
      return ScalarType::Float8_e8m0fnu;
    default:
      return ScalarType::Undefined;
  }
}

namespace {

template <typename T>
c10::Scalar read(const void* value) {
  T result;
  std::memcpy(&result, value, sizeof result);
  return result;
}

bool read_scalar(const void* value, ScalarType type, c10::Scalar& out) {
  switch (type) {
#define READ(T, NAME)     \
  case ScalarType::NAME:  \
    out = read<T>(value); \
    return true;
    READ(bool, Bool)
    READ(uint8_t, Byte)
    READ(int8_t, Char)
    READ(int16_t, Short)
    READ(int32_t, Int)
    READ(int64_t, Long)
    READ(c10::Half, Half)
    READ(c10::BFloat16, BFloat16)
    READ(float, Float)
    READ(double, Double)
    READ(c10::complex<float>, ComplexFloat)
    READ(c10::complex<double>, ComplexDouble)
#undef READ
    default:
      return false;
  }
}

template <typename Array, typename Value>
Array* make_array(const Value* values, uint64_t size) {
  if (size > 0 && values == nullptr) return nullptr;
  return new (std::nothrow) Array{decltype(Array::values)(values, values + size)};
}

}  // namespace
}  // namespace unify::operators

using namespace unify::operators;

uint64_t aclTensor::bytes() const {
  int64_t last = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == 0) return 0;
    last += (sizes[i] - 1) * strides[i];
  }
  return static_cast<uint64_t>(last + 1) * c10::elementSize(type);
}

UNIFY_EXPORT aclTensor* aclCreateTensor(const int64_t* sizes, uint64_t dimensions, int acl_type, const int64_t* strides,
                                        int64_t offset, int format, const int64_t*, uint64_t, void* data) {
  const ScalarType type = type_of(acl_type);
  if (type == ScalarType::Undefined || (dimensions > 0 && (sizes == nullptr || strides == nullptr))) return nullptr;
  auto* tensor = new (std::nothrow) aclTensor;
  if (tensor == nullptr) return nullptr;
  tensor->type = type;
  tensor->sizes.assign(sizes, sizes + dimensions);
  tensor->strides.assign(strides, strides + dimensions);
  tensor->address = reinterpret_cast<uintptr_t>(data) + static_cast<uint64_t>(offset) * c10::elementSize(type);
  tensor->format = format;
  return tensor;
}

UNIFY_EXPORT aclScalar* aclCreateScalar(void* value, int acl_type) {
  auto* scalar = new (std::nothrow) aclScalar;
  if (scalar == nullptr || (value != nullptr && read_scalar(value, type_of(acl_type), scalar->value))) return scalar;
  delete scalar;
  return nullptr;
}

UNIFY_EXPORT aclIntArray* aclCreateIntArray(const int64_t* values, uint64_t size) {
  return make_array<aclIntArray>(values, size);
}
UNIFY_EXPORT aclFloatArray* aclCreateFloatArray(const float* values, uint64_t size) {
  return make_array<aclFloatArray>(values, size);
}
UNIFY_EXPORT aclBoolArray* aclCreateBoolArray(const bool* values, uint64_t size) {
  return make_array<aclBoolArray>(values, size);
}
UNIFY_EXPORT aclTensorList* aclCreateTensorList(const aclTensor* const* values, uint64_t size) {
  return make_array<aclTensorList>(values, size);
}
UNIFY_EXPORT aclScalarList* aclCreateScalarList(const aclScalar* const* values, uint64_t size) {
  return make_array<aclScalarList>(values, size);
}

#define DESTROY(Type)                                        \
  UNIFY_EXPORT int aclDestroy##Type(const acl##Type* made) { \
    delete made;                                             \
    return 0;                                                \
  }
DESTROY(Tensor)
DESTROY(Scalar)
DESTROY(IntArray)
DESTROY(FloatArray)
DESTROY(BoolArray)
#undef DESTROY

// A list owns what is in it.
UNIFY_EXPORT int aclDestroyTensorList(const aclTensorList* list) {
  if (list != nullptr) {
    for (const aclTensor* each : list->values) delete each;
  }
  delete list;
  return 0;
}
UNIFY_EXPORT int aclDestroyScalarList(const aclScalarList* list) {
  if (list != nullptr) {
    for (const aclScalar* each : list->values) delete each;
  }
  delete list;
  return 0;
}

// The sizes are the caller's, to be freed by delete[].
UNIFY_EXPORT int aclGetViewShape(const aclTensor* tensor, int64_t** sizes, uint64_t* dimensions) {
  if (tensor == nullptr || sizes == nullptr || dimensions == nullptr) return 161001;
  const auto& shape = tensor->found == nullptr ? tensor->sizes : *tensor->found;
  *sizes = new (std::nothrow) int64_t[shape.size() + 1];
  if (*sizes == nullptr) return 200000;
  std::copy(shape.begin(), shape.end(), *sizes);
  *dimensions = shape.size();
  return 0;
}

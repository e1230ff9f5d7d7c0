#include "op_tensor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>

#include "launch.h"

using namespace unify::simulator;

struct aclOpExecutor {
  unify_host_kernel kernel;
  std::vector<char> arguments;
  size_t views;
};

namespace unify::simulator {
namespace {

float from_half(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000U) << 16;
  const uint32_t exponent = (bits >> 10) & 31U;
  const uint32_t fraction = bits & 1023U;
  uint32_t out = sign;
  if (exponent == 31) {
    out |= 0x7f800000U | fraction << 13;
  } else if (exponent != 0) {
    out |= (exponent + 112) << 23 | fraction << 13;
  } else {  // a multiple of 2 to the -24
    const float value = static_cast<float>(fraction) * 0x1p-24F;
    return sign != 0 ? -value : value;
  }
  float value = 0;
  std::memcpy(&value, &out, sizeof value);
  return value;
}

// To the nearest value with `kept` bits after the first, of those that differ by at least `step`; ties go to the even
// one. Correct from a double, which has more than twice the bits.
double rounded(double value, int kept, double step) {
  if (value == 0 || !std::isfinite(value)) return value;
  const double unit = std::max(std::ldexp(1.0, std::ilogb(value) - kept), step);
  return std::nearbyint(value / unit) * unit;
}

uint16_t to_half(double value) {
  value = rounded(value, 10, 0x1p-24);
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  value = std::fabs(value);
  uint32_t bits = 0;
  if (std::isnan(value)) {
    bits = 0x7e00;
  } else if (value >= 65536) {
    bits = 0x7c00;
  } else if (value < 0x1p-14) {
    bits = static_cast<uint32_t>(value * 0x1p24);
  } else {
    const int exponent = std::ilogb(value);
    bits =
        static_cast<uint32_t>(std::ldexp(value, 10 - exponent)) - 1024 + (static_cast<uint32_t>(exponent + 15) << 10);
  }
  return static_cast<uint16_t>(sign | bits);
}

float from_bfloat(uint16_t bits) {
  const uint32_t out = uint32_t{bits} << 16;
  float value = 0;
  std::memcpy(&value, &out, sizeof value);
  return value;
}

uint16_t to_bfloat(double value) {
  const auto single = static_cast<float>(rounded(value, 7, 0x1p-133));
  uint32_t bits = 0;
  std::memcpy(&bits, &single, sizeof bits);
  if (std::isnan(value)) bits |= 0x400000U;
  return static_cast<uint16_t>(bits >> 16);
}

template <typename T>
T at(const char* element) {
  T value;
  std::memcpy(&value, element, sizeof value);
  return value;
}

template <typename T>
void put(char* element, T value) {
  std::memcpy(element, &value, sizeof value);
}

Number whole(int64_t value) { return {value, static_cast<double>(value)}; }
Number real(double value) { return {std::fabs(value) < 0x1p63 ? static_cast<int64_t>(value) : 0, value}; }

}  // namespace

bool is_whole(aclDataType type) {
  return type == ACL_INT8 || type == ACL_UINT8 || type == ACL_INT16 || type == ACL_INT32 || type == ACL_INT64 ||
         type == ACL_BOOL;
}

size_t bytes_of(aclDataType type) {
  switch (type) {
    case ACL_INT8:
    case ACL_UINT8:
    case ACL_BOOL:
      return 1;
    case ACL_FLOAT16:
    case ACL_BF16:
    case ACL_INT16:
      return 2;
    case ACL_FLOAT:
    case ACL_INT32:
      return 4;
    case ACL_DOUBLE:
    case ACL_INT64:
      return 8;
    default:
      return 0;
  }
}

Number load(const char* element, aclDataType type) {
  switch (type) {
    case ACL_INT8:
      return whole(at<int8_t>(element));
    case ACL_UINT8:
    case ACL_BOOL:
      return whole(at<uint8_t>(element));
    case ACL_INT16:
      return whole(at<int16_t>(element));
    case ACL_INT32:
      return whole(at<int32_t>(element));
    case ACL_INT64:
      return whole(at<int64_t>(element));
    case ACL_FLOAT16:
      return real(from_half(at<uint16_t>(element)));
    case ACL_BF16:
      return real(from_bfloat(at<uint16_t>(element)));
    case ACL_FLOAT:
      return real(at<float>(element));
    default:
      return real(at<double>(element));
  }
}

void store(char* element, aclDataType type, const Number& value) {
  switch (type) {
    case ACL_INT8:
    case ACL_UINT8:
      return put(element, static_cast<uint8_t>(value.whole));
    case ACL_BOOL:
      return put(element, static_cast<uint8_t>(value.whole != 0));
    case ACL_INT16:
      return put(element, static_cast<int16_t>(value.whole));
    case ACL_INT32:
      return put(element, static_cast<int32_t>(value.whole));
    case ACL_INT64:
      return put(element, value.whole);
    case ACL_FLOAT16:
      return put(element, to_half(value.real));
    case ACL_BF16:
      return put(element, to_bfloat(value.real));
    case ACL_FLOAT:
      return put(element, static_cast<float>(value.real));
    default:
      return put(element, value.real);
  }
}

bool broadcast(const View& to, View& view) {
  if (view.dimensions > to.dimensions) return false;
  const uint32_t missing = to.dimensions - view.dimensions;
  View out = view;
  out.dimensions = to.dimensions;
  for (uint32_t i = 0; i < to.dimensions; ++i) {
    const bool is_new = i < missing;
    const int64_t size = is_new ? 1 : view.sizes[i - missing];
    if (size != to.sizes[i] && size != 1) return false;
    out.sizes[i] = to.sizes[i];
    out.strides[i] = size == 1 ? 0 : view.strides[i - missing];
  }
  view = out;
  return true;
}

aclOpExecutor* make_executor(unify_host_kernel kernel, const void* arguments, size_t bytes, size_t views) {
  const auto* first = static_cast<const char*>(arguments);
  return new aclOpExecutor{kernel, {first, first + bytes}, views};
}

aclnnStatus run(const char* name, aclOpExecutor* executor, aclrtStream handle) {
  const std::unique_ptr<aclOpExecutor> made(executor);
  return with_work(name, handle, [&](Call& call, Stream& stream) -> Result {
    if (made == nullptr) return ACLNN_ERR_PARAM_NULLPTR;
    auto function = std::make_shared<AclFunction>();
    function->context = call.context;
    function->magic = ACL_RT_BINARY_MAGIC_ELF_AICORE;
    KernelImage& kernel = function->kernel;
    kernel.name = name;
    kernel.args_bytes = static_cast<uint32_t>(made->arguments.size());
    kernel.entry = reinterpret_cast<void*>(made->kernel);
    for (size_t i = 0; i < made->views; ++i) {
      kernel.parameters.push_back({static_cast<uint32_t>(i * sizeof(View)), sizeof(uint64_t), 1});
    }
    Arguments arguments;
    arguments.host = made->arguments;
    return submit_launch(call, stream, function, 1, std::move(arguments));
  });
}

aclnnStatus refuse_operator(const char* name, aclnnStatus status, std::string why) {
  return finish(name, refuse(status, std::move(why)));
}

}  // namespace unify::simulator

UNIFY_SIMULATOR_EXPORT aclTensor* aclCreateTensor(const int64_t* sizes, uint64_t dimensions, aclDataType type,
                                                  const int64_t* strides, int64_t offset, aclFormat, const int64_t*,
                                                  uint64_t, void* data) {
  if (dimensions > kMostDimensions || (dimensions > 0 && (sizes == nullptr || strides == nullptr))) return nullptr;
  auto* tensor = new (std::nothrow) aclTensor;
  if (tensor == nullptr) return nullptr;
  View& view = tensor->view;
  view.address = reinterpret_cast<uintptr_t>(data) + static_cast<uint64_t>(offset) * bytes_of(type);
  view.type = type;
  view.dimensions = static_cast<uint32_t>(dimensions);
  for (uint64_t i = 0; i < dimensions; ++i) {
    view.sizes[i] = sizes[i];
    view.strides[i] = strides[i];
  }
  return tensor;
}

UNIFY_SIMULATOR_EXPORT aclnnStatus aclDestroyTensor(const aclTensor* tensor) {
  delete tensor;
  return ACL_SUCCESS;
}

UNIFY_SIMULATOR_EXPORT aclnnStatus aclGetViewShape(const aclTensor* tensor, int64_t** sizes, uint64_t* dimensions) {
  if (tensor == nullptr || sizes == nullptr || dimensions == nullptr) return ACLNN_ERR_PARAM_NULLPTR;
  *sizes = new (std::nothrow) int64_t[kMostDimensions];
  if (*sizes == nullptr) return ACL_ERROR_BAD_ALLOC;
  std::copy(tensor->view.sizes.begin(), tensor->view.sizes.end(), *sizes);
  *dimensions = tensor->view.dimensions;
  return ACL_SUCCESS;
}

UNIFY_SIMULATOR_EXPORT aclScalar* aclCreateScalar(void* value, aclDataType type) {
  if (value == nullptr || bytes_of(type) == 0) return nullptr;
  return new (std::nothrow) aclScalar{type, load(static_cast<const char*>(value), type)};
}

UNIFY_SIMULATOR_EXPORT aclnnStatus aclDestroyScalar(const aclScalar* scalar) {
  delete scalar;
  return ACL_SUCCESS;
}

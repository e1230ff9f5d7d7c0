// Tensors as operators see them, and how an operator becomes work of a stream.
#pragma once

#include <unify/host_kernel.h>

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include "op_api.h"
#include "simulator/result.h"

namespace unify::simulator {

constexpr size_t kMostDimensions = 8;  // of a tensor of the vendor's

// Elements anywhere in memory; also what a kernel gets among its arguments.
struct View {
  uint64_t address = 0;  // of its first element
  aclDataType type = ACL_FLOAT;
  uint32_t dimensions = 0;
  std::array<int64_t, kMostDimensions> sizes{};
  std::array<int64_t, kMostDimensions> strides{};  // in elements
};

// A number in the two ways to compute with it.
struct Number {
  int64_t whole = 0;
  double real = 0;
};

bool is_whole(aclDataType type);
size_t bytes_of(aclDataType type);  // 0: not served
Number load(const char* element, aclDataType type);
void store(char* element, aclDataType type, const Number& value);

// Lets a view have the shape of a larger one, by broadcasting. False if it does not fit.
bool broadcast(const View& to, View& view);

// Calls `work(pointers)` with the addresses of one element each of several views of a shape, for all elements.
template <size_t kCount, typename Work>
void for_each(const std::array<View, kCount>& views, Work&& work) {
  std::array<int64_t, kMostDimensions> at{};
  std::array<char*, kCount> pointers;
  const View& shape = views[0];
  int64_t elements = 1;
  for (uint32_t i = 0; i < shape.dimensions; ++i) elements *= shape.sizes[i];
  for (int64_t n = 0; n < elements; ++n) {
    for (size_t v = 0; v < kCount; ++v) {
      int64_t offset = 0;
      for (uint32_t i = 0; i < shape.dimensions; ++i) offset += at[i] * views[v].strides[i];
      pointers[v] = reinterpret_cast<char*>(views[v].address) + offset * static_cast<int64_t>(bytes_of(views[v].type));
    }
    work(pointers);
    for (uint32_t i = shape.dimensions; i-- > 0 && ++at[i] == shape.sizes[i];) at[i] = 0;
  }
}

// An executor: a kernel of this library, and its arguments, at whose beginning there are `views` Views.
aclOpExecutor* make_executor(unify_host_kernel kernel, const void* arguments, size_t bytes, size_t views);
template <typename Arguments>
aclOpExecutor* make_executor(unify_host_kernel kernel, const Arguments& arguments) {
  static_assert(offsetof(Arguments, views) == 0);
  return make_executor(kernel, &arguments, sizeof arguments, arguments.views.size());
}

// Enqueues it, and frees it.
aclnnStatus run(const char* name, aclOpExecutor* executor, aclrtStream stream);
// An answer to a call that looks at an operator's tensors.
aclnnStatus refuse_operator(const char* name, aclnnStatus status, std::string why);

}  // namespace unify::simulator

struct aclTensor {
  unify::simulator::View view;
};

struct aclScalar {
  aclDataType type;
  unify::simulator::Number value;
};

// What torch_npu makes of a tensor, a number or a list before it calls an operator: the vendor's opaque types.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Scalar.h>
#include <c10/core/ScalarType.h>
#include <c10/util/SmallVector.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#pragma GCC visibility push(default)  // also for libraries of the user's

#define UNIFY_EXPORT extern "C" __attribute__((visibility("default")))

// Elements in memory of the device.
struct aclTensor {
  c10::ScalarType type = c10::ScalarType::Undefined;
  c10::SmallVector<int64_t, 5> sizes;
  c10::SmallVector<int64_t, 5> strides;  // in elements
  uint64_t address = 0;                  // of the first element
  int format = 2;                        // ND
  // What an operator finds the sizes to be, where only its work knows them. Shared: the caller may not wait for it.
  mutable std::shared_ptr<c10::SmallVector<int64_t, 5>> found;

  [[nodiscard]] uint64_t bytes() const;  // from the first to the last
};

struct aclScalar {
  c10::Scalar value;
};

struct aclIntArray {
  std::vector<int64_t> values;
};
struct aclFloatArray {
  std::vector<float> values;
};
struct aclBoolArray {
  std::vector<bool> values;
};
struct aclTensorList {
  std::vector<const aclTensor*> values;
};
struct aclScalarList {
  std::vector<const aclScalar*> values;
};

namespace unify::operators {

// torch's type for one of ACL's (aclDataType, acl_base_rt.h); Undefined: torch has none.
c10::ScalarType type_of(int acl_type);

}  // namespace unify::operators

#pragma GCC visibility pop

// What a call of an older operator is made of: the vendor's opaque types.
#pragma once

#include <string>

#include "aclop.h"

struct aclTensorDesc {
  int acl_type = -1;  // ACL_DT_UNDEFINED: an input that is absent
  int format = -1;
  c10::SmallVector<int64_t, 5> sizes;
  int stored_format = -1;  // in which room it lies, where that is another one
  std::string name;
  bool is_on_host = false;
  // What the operator found the sizes of an output to be.
  std::shared_ptr<c10::SmallVector<int64_t, 5>> found;

  [[nodiscard]] const c10::SmallVector<int64_t, 5>& now() const { return found == nullptr ? sizes : *found; }
};

struct aclDataBuffer {
  void* data;
  size_t bytes;
};

struct aclopAttr : unify::operators::Attributes {};

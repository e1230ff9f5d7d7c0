// What torch_npu tells of the tensors and attributes of an older operator before it calls it.
#include "aclop_describe.h"

#include <new>

using namespace unify::operators;

namespace {

constexpr int32_t kInvalidParameter = 100000;  // ACL_ERROR_INVALID_PARAM

template <typename Value>
int32_t set(aclopAttr* attributes, const char* name, Value value) {
  if (attributes == nullptr || name == nullptr) return kInvalidParameter;
  attributes->set(name, std::move(value));
  return 0;
}

template <typename List, typename Value>
int32_t set_list(aclopAttr* attributes, const char* name, int count, const Value* values) {
  if (count < 0 || (count > 0 && values == nullptr)) return kInvalidParameter;
  return set(attributes, name, List(values, values + count));
}

}  // namespace

UNIFY_EXPORT aclTensorDesc* aclCreateTensorDesc(int acl_type, int dimensions, const int64_t* sizes, int format) {
  if (dimensions < 0 || (dimensions > 0 && sizes == nullptr)) return nullptr;
  auto* description = new (std::nothrow) aclTensorDesc;
  if (description == nullptr) return nullptr;
  description->acl_type = acl_type;
  description->sizes.assign(sizes, sizes + dimensions);
  description->format = description->stored_format = format;
  return description;
}
UNIFY_EXPORT void aclDestroyTensorDesc(const aclTensorDesc* description) { delete description; }

UNIFY_EXPORT int32_t aclSetTensorFormat(aclTensorDesc* description, int format) {
  if (description == nullptr) return kInvalidParameter;
  description->stored_format = format;
  return 0;
}
// The sizes of its room in that format, which its elements do not fill.
UNIFY_EXPORT int32_t aclSetTensorShape(aclTensorDesc* description, int dimensions, const int64_t* sizes) {
  if (description == nullptr || dimensions < 0 || (dimensions > 0 && sizes == nullptr)) return kInvalidParameter;
  return 0;
}
UNIFY_EXPORT int32_t aclSetTensorPlaceMent(aclTensorDesc* description, int memory) {
  if (description == nullptr) return kInvalidParameter;
  description->is_on_host = memory != 0;  // ACL_MEMTYPE_DEVICE
  return 0;
}
UNIFY_EXPORT void aclSetTensorDescName(aclTensorDesc* description, const char* name) {
  if (description != nullptr && name != nullptr) description->name = name;
}

UNIFY_EXPORT int aclGetTensorDescType(const aclTensorDesc* description) {
  return description == nullptr ? -1 : description->acl_type;
}
UNIFY_EXPORT int aclGetTensorDescFormat(const aclTensorDesc* description) {
  return description == nullptr ? -1 : description->format;
}
UNIFY_EXPORT size_t aclGetTensorDescNumDims(const aclTensorDesc* description) {
  return description == nullptr ? 0 : description->now().size();
}
UNIFY_EXPORT int32_t aclGetTensorDescDimV2(const aclTensorDesc* description, size_t dimension, int64_t* out_size) {
  if (description == nullptr || out_size == nullptr || dimension >= description->now().size()) return kInvalidParameter;
  *out_size = description->now()[dimension];
  return 0;
}

UNIFY_EXPORT aclDataBuffer* aclCreateDataBuffer(void* data, size_t bytes) {
  return new (std::nothrow) aclDataBuffer{data, bytes};
}
UNIFY_EXPORT int32_t aclDestroyDataBuffer(const aclDataBuffer* buffer) {
  delete buffer;
  return 0;
}

UNIFY_EXPORT aclopAttr* aclopCreateAttr() { return new (std::nothrow) aclopAttr; }
UNIFY_EXPORT void aclopDestroyAttr(const aclopAttr* attributes) { delete attributes; }

UNIFY_EXPORT int32_t aclopSetAttrBool(aclopAttr* attributes, const char* name, uint8_t value) {
  return set(attributes, name, value != 0);
}
UNIFY_EXPORT int32_t aclopSetAttrInt(aclopAttr* attributes, const char* name, int64_t value) {
  return set(attributes, name, value);
}
UNIFY_EXPORT int32_t aclopSetAttrFloat(aclopAttr* attributes, const char* name, float value) {
  return set(attributes, name, double{value});
}
UNIFY_EXPORT int32_t aclopSetAttrString(aclopAttr* attributes, const char* name, const char* value) {
  return value == nullptr ? kInvalidParameter : set(attributes, name, std::string(value));
}
UNIFY_EXPORT int32_t aclopSetAttrDataType(aclopAttr* attributes, const char* name, int acl_type) {
  return set(attributes, name, type_of(acl_type));
}
UNIFY_EXPORT int32_t aclopSetAttrListBool(aclopAttr* attributes, const char* name, int count, const uint8_t* values) {
  return set_list<Bools>(attributes, name, count, values);
}
UNIFY_EXPORT int32_t aclopSetAttrListInt(aclopAttr* attributes, const char* name, int count, const int64_t* values) {
  return set_list<Ints>(attributes, name, count, values);
}
UNIFY_EXPORT int32_t aclopSetAttrListFloat(aclopAttr* attributes, const char* name, int count, const float* values) {
  return set_list<Floats>(attributes, name, count, values);
}
UNIFY_EXPORT int32_t aclopSetAttrListListInt(aclopAttr* attributes, const char* name, int count, const int* sizes,
                                             const int64_t* const* values) {
  if (count < 0 || (count > 0 && (sizes == nullptr || values == nullptr))) return kInvalidParameter;
  IntLists lists;
  for (int i = 0; i < count; ++i) lists.emplace_back(values[i], values[i] + sizes[i]);
  return set(attributes, name, std::move(lists));
}
